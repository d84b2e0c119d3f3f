"""Sends open pages what changed of the nodes that they show: made once for all pages that show the same."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from collector.fleet.board import ALL_NODES, Ask, Board, FleetTotals, Page
from collector.fleet.node_view import Rank
from collector.web.event_stream import Hub, encode

MANY_NODES = 50  # with more nodes, the figures of one are made again less often
FIGURES_EVERY_S = 5.0
UNSEEN_FIGURES_EVERY_S = 30.0  # without an open page; an answer has the newest ones all the same
BUDGET_S = 0.1  # CPU time of one turn: views are made in the process that receives and stores
UNSEEN_BUDGET_S = 0.02
PAGES_BUDGET_S = 0.05
FRAME_BYTES = 256_000
NOTHING = Page((), 0, 0, None)


@dataclass(slots=True)
class _Shown:
    """What the viewers of one page have."""

    page: Page
    totals: FleetTotals | None = None
    shape: int = -1  # of the board when the page was looked at
    news: dict[str, None] = field(default_factory=dict)  # nodes that changed since their last frames


class FleetPages:
    """The frames of the fleet; `turn` makes those of one second, in a thread of its own."""

    def __init__(self, board: Board, hub: Hub, cpu_s: Callable[[], float] = time.thread_time) -> None:
        self._board = board
        self._hub = hub
        self._cpu_s = cpu_s
        self._lock = threading.Lock()  # of `_pages`
        self._pages: dict[Ask, _Shown] = {}  # those whose frames wait longest first

    async def turn(self) -> None:
        """Make the views again that changed, and send every viewer those that it shows."""
        asks = self._hub.asks()
        frames = await asyncio.to_thread(self.frames, asks)
        for ask, frame in frames:
            self._hub.show(ask, frame)

    def follow(self, ask: Ask) -> None:
        """Note what a viewer that joined will find: it gets the changes from now on."""
        page = self._board.fresh_page(ask, BUDGET_S)
        with self._lock:
            self._pages.setdefault(ask, _Shown(page))

    def answer(self, ask: Ask | None) -> dict[str, Any]:
        """The nodes of a page with the totals, or all nodes."""
        if ask is None or ask.limit == ALL_NODES:
            return {"nodes": [msgspec.Raw(body) for body in self._board.everything(ask)]}
        page = self._board.fresh_page(ask, BUDGET_S)
        nodes = [msgspec.Raw(body) for body in self._board.bodies(page.shown)]
        return {"nodes": nodes, **page_head(page), "totals": self._board.totals(ask)}

    def frames(self, asks: set[Ask | None]) -> list[tuple[Ask | None, bytes]]:
        """What the viewers of each page get now."""
        many = len(self._board) > MANY_NODES
        if asks:
            self._board.refresh(BUDGET_S, FIGURES_EVERY_S if many else 0.0)
        else:
            self._board.refresh(UNSEEN_BUDGET_S, UNSEEN_FIGURES_EVERY_S)
        news = self._board.take_news()
        found: list[tuple[Ask | None, bytes]] = []
        for ask in asks:
            if ask is None or ask.limit == ALL_NODES:
                names = news if ask is None else filter(ask.sees, news)
                found += [(ask, frame) for frame in _lists(self._board.bodies(names))]
        with self._lock:
            pages = {ask: self._pages.get(ask) or _Shown(NOTHING) for ask in self._in_turn(asks)}
            self._pages = dict(pages)
        for shown in pages.values():
            shown.news.update(dict.fromkeys(news))
        end_s = self._cpu_s() + PAGES_BUDGET_S
        for ask, shown in pages.items():
            found += [(ask, frame) for frame in self._changes(ask, shown)]
            with self._lock:
                self._pages[ask] = self._pages.pop(ask)  # the others go first next time
            if self._cpu_s() >= end_s:
                break
        return found

    def _in_turn(self, asks: set[Ask | None]) -> list[Ask]:
        """The pages that viewers show, those whose frames wait longest first."""
        known = [ask for ask in self._pages if ask in asks]
        pages = (ask for ask in asks if ask is not None and ask.limit != ALL_NODES)
        return [*known, *(ask for ask in pages if ask not in self._pages)]

    def _changes(self, ask: Ask, shown: _Shown) -> Iterator[bytes]:
        before, shape = shown.page, self._board.shape
        if shape != shown.shape:
            shown.page, shown.shape = self._board.page(ask), shape
        page, had = shown.page, set(before.shown)
        changed = [name for name in page.shown if name in shown.news or name not in had]
        shown.news.clear()
        *parts, last = _parts(self._board.bodies(changed))
        for part in parts:
            yield encode("fleet", {"nodes": part})
        head: dict[str, Any] = {} if page == before else page_head(page)
        totals = self._board.totals(ask)
        if totals != shown.totals:
            head["totals"] = shown.totals = totals
        if last or head:
            yield encode("fleet", {"nodes": last, **head})


def page_head(page: Page) -> dict[str, Any]:
    """Which nodes a page shows, and of how many."""
    more = None if page.next is None else cursor(page.next)
    return {"shown": page.shown, "found": page.found, "first": page.first, "next": more}


def cursor(rank: Rank) -> str:
    """The place of a node in the order, as `after` takes it."""
    return f"{1 - rank[0]}.{-rank[1]}.{rank[2]}"


def _lists(bodies: list[bytes]) -> Iterator[bytes]:
    return (encode("fleet", part) for part in _parts(bodies) if part)


def _parts(bodies: Iterable[bytes]) -> list[list[msgspec.Raw]]:
    """The bodies in lists of about `FRAME_BYTES`; the last one may be empty."""
    parts: list[list[msgspec.Raw]] = [[]]
    size = 0
    for body in bodies:
        if size and size + len(body) > FRAME_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(msgspec.Raw(body))
        size += len(body)
    return parts
