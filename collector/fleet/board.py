"""Every node's view, encoded once and kept in the order of the page; made again only where it changed."""

from __future__ import annotations

import heapq
import threading
import time
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from collector.fleet.fleet import Fleet
from collector.fleet.node_view import NodeView, Rank
from collector.ledger.balance import Totals
from collector.rights.user import covers
from wire.clock import Clock

URGENT_SHARE = 0.75  # of a budget, so that figures are not left out when states change without end
KEPT_TOTALS = 50
ALL_NODES = 0  # the limit of an `Ask` without one
CLOCK_NEVER_SET = "clock-never-set"


class FleetTotals(Struct):
    """What is counted over all nodes; `severities` has each node once, under its worst problem."""

    nodes: int = 0
    states: Counter[str] = msgspec.field(default_factory=Counter)
    severities: Counter[int] = msgspec.field(default_factory=Counter)
    alarms: int = 0
    clocks_never_set: int = 0
    ledger: Totals = msgspec.field(default_factory=Totals)


@dataclass(slots=True, frozen=True)
class Card:
    """The view of a node as pages get it."""

    body: bytes  # JSON
    rank: Rank
    words: str  # that a filter searches, in lower case
    state: str
    ledger: Totals
    clock_never_set: bool
    made_s: float
    due_s: float  # when it changes by time alone


@dataclass(slots=True, frozen=True)
class Ask:
    """Which nodes a page shows: `limit` of those with all `words`, in order, behind `after`; or `node`."""

    limit: int = 200
    after: Rank | None = None
    words: tuple[str, ...] = ()
    node: str = ""
    under: tuple[str, ...] | None = None  # prefixes of the nodes that its user may see; None for all

    def sees(self, name: str) -> bool:
        """Whether the user of the page may see a node."""
        return self.under is None or any(covers(prefix, name) for prefix in self.under)


class Page(Struct, frozen=True):
    """The nodes of a page; `found` of all fit its filter, `first` of them come before this page."""

    shown: tuple[str, ...]
    found: int
    first: int
    next: Rank | None


class Board:
    """The cards of all nodes; any thread may call every method.

    No method holds a lock for longer than one view or one page takes, because the threads that receive and
    store need the lock of the fleet and the interpreter.
    """

    def __init__(self, fleet: Fleet, clock: Clock, cpu_s: Callable[[], float] = time.thread_time) -> None:
        self._fleet = fleet
        self._clock = clock
        self._cpu_s = cpu_s
        self._lock = threading.Lock()
        self._cards: dict[str, Card] = {}
        self._order: list[Rank] = []
        self._totals = FleetTotals()
        self._under: dict[Ask, FleetTotals] = {}  # those of users who see some nodes, the last used last
        self._urgent: dict[str, None] = {}  # whose views changed, those that wait longest first
        self._figures: dict[str, None] = {}  # the same where only figures changed
        self._due: list[tuple[float, str]] = []  # when a view changes by time alone
        self._due_at: dict[str, float] = {}  # the earliest of them for each node
        self._news: dict[str, None] = {}  # nodes whose cards changed since `take_news`
        self.shape = 0  # rises when an order or a word that a filter finds changed

    def __len__(self) -> int:
        return len(self._cards)

    def refresh(self, budget_s: float, figures_s: float = 0.0) -> None:
        """Make views again for at most `budget_s` of CPU time; figures of one only each `figures_s`.

        What the budget does not reach waits for the next call, longest waiting first.
        """
        end_s = self._cpu_s() + budget_s
        with self._lock:
            self._collect()
            urgent, figures = list(self._urgent), list(self._figures)
        self._renew(urgent, end_s - budget_s * (1 - URGENT_SHARE))
        before_s = self._clock.monotonic() - figures_s
        self._renew((name for name in figures if self._cards[name].made_s <= before_s), end_s)

    def _collect(self) -> None:
        """Sort what changed, and what changes by time, into the two queues."""
        for name, urgent in self._fleet.take_changed().items():
            self._queue(name, urgent=urgent or name not in self._cards)
        now_s = self._clock.monotonic()
        while self._due and self._due[0][0] <= now_s:
            due_s, name = heapq.heappop(self._due)
            if self._due_at.get(name) != due_s:
                continue
            del self._due_at[name]
            card = self._cards[name]
            if card.due_s > now_s:  # it was made again meanwhile
                self._wait(name, card.due_s)
            else:  # of a node that is unknown already, only the time of its silence changes
                self._queue(name, urgent=card.state != "unknown")

    def _queue(self, name: str, *, urgent: bool) -> None:
        if urgent:
            self._figures.pop(name, None)
            self._urgent.setdefault(name)
        elif name not in self._urgent:
            self._figures.setdefault(name)

    def _renew(self, names: Iterable[str], end_s: float) -> None:
        for name in names:
            if self._cpu_s() >= end_s:
                return
            with self._lock:
                self._make(name)

    def _make(self, name: str) -> None:
        if name not in self._urgent and name not in self._figures:
            return  # another call made it meanwhile
        self._urgent.pop(name, None)
        self._figures.pop(name, None)
        view, due_ms = self._fleet.view(name)
        now_s = self._clock.monotonic()
        card = _card(view, now_s, now_s + (due_ms - self._clock.now_ms()) / 1000)
        before = self._cards.get(name)
        self._cards[name] = card
        self._wait(name, card.due_s)
        if before is not None and before.body == card.body:
            return
        self._news[name] = None
        for totals in (self._totals, *(one for ask, one in self._under.items() if ask.sees(name))):
            _count(totals, card, 1)
            if before is not None:
                _count(totals, before, -1)
        if before is not None and (before.rank, before.words) == (card.rank, card.words):
            return
        self.shape += 1
        if before is not None:
            del self._order[bisect_left(self._order, before.rank)]
        insort(self._order, card.rank)

    def _wait(self, name: str, due_s: float) -> None:
        # an entry that comes too early is put back; one for each change of a view would be many
        known_s = self._due_at.get(name)
        if known_s is None or due_s < known_s:
            self._due_at[name] = due_s
            heapq.heappush(self._due, (due_s, name))

    def take_news(self) -> list[str]:
        """The nodes whose cards changed since the last call."""
        with self._lock:
            found, self._news = self._news, {}
        return list(found)

    def page(self, ask: Ask) -> Page:
        """The nodes that a page shows."""
        with self._lock:
            if ask.node:
                is_shown = ask.node in self._cards and ask.sees(ask.node)
                shown = [self._cards[ask.node].rank] if is_shown else []
                return Page(tuple(rank[2] for rank in shown), len(shown), 0, None)
            found = self._order
            if ask.under is not None:
                found = [rank for rank in found if ask.sees(rank[2])]
            if ask.words:
                found = [rank for rank in found if self._fits(rank[2], ask.words)]
            first = 0 if ask.after is None else bisect_right(found, ask.after)
            shown = found[first : first + ask.limit]
            more = first + ask.limit < len(found)
            return Page(tuple(rank[2] for rank in shown), len(found), first, shown[-1] if more else None)

    def _fits(self, name: str, words: tuple[str, ...]) -> bool:
        text = self._cards[name].words
        return all(word in text for word in words)

    def fresh_page(self, ask: Ask, budget_s: float) -> Page:
        """The nodes that a page shows, with the newest views of them."""
        with self._lock:
            self._collect()
            unknown = [name for name in self._urgent if name not in self._cards]
        self._renew(unknown, float("inf"))
        self._renew(list(self._urgent), self._cpu_s() + budget_s)
        shown = self.page(ask).shown
        self._renew([name for name in shown if name in self._figures or name in self._urgent], float("inf"))
        return self.page(ask)

    def bodies(self, names: Iterable[str]) -> list[bytes]:
        """The encoded views of nodes."""
        return [self._cards[name].body for name in names if name in self._cards]

    def everything(self, ask: Ask | None = None) -> list[bytes]:
        """The newest encoded views of all nodes, in order; of those that `ask` sees."""
        self.refresh(float("inf"))
        with self._lock:
            names = [rank[2] for rank in self._order]
        return self.bodies(name for name in names if ask is None or ask.sees(name))

    def totals(self, ask: Ask) -> FleetTotals:
        """What is counted over all nodes that `ask` sees, as a copy."""
        with self._lock:
            now = self._totals if ask.under is None else self._totals_under(ask)
            return replace(now, states=+now.states, severities=+now.severities, ledger=replace(now.ledger))

    def _totals_under(self, ask: Ask) -> FleetTotals:
        """The totals of some prefixes: counted once, then kept up to date with the others."""
        ask = Ask(under=ask.under)
        found = self._under.pop(ask, None)
        if found is None:
            found = FleetTotals()
            for name, card in self._cards.items():
                if ask.sees(name):
                    _count(found, card, 1)
        self._under[ask] = found
        if len(self._under) > KEPT_TOTALS:
            del self._under[next(iter(self._under))]
        return found


def _card(view: NodeView, made_s: float, due_s: float) -> Card:
    return Card(
        body=msgspec.json.encode(view),
        rank=view.rank,
        words=_words(view),
        state=view.state,
        ledger=view.ledger,
        clock_never_set=any(
            one.reason is not msgspec.UNSET and one.reason["code"] == CLOCK_NEVER_SET for one in view.problems
        ),
        made_s=made_s,
        due_s=due_s,
    )


def _words(view: NodeView) -> str:
    found = [view.node, view.state]
    for device in view.devices:
        found += (device["id"], device["type"], device["state"])
    for model in view.models:
        found += (model["name"], model["verdict"].get("label", ""))
    if view.has_alarm:
        found.append("alarm")
    found += [one.code for one in view.problems]
    return "\n".join(found).lower()


def _count(totals: FleetTotals, card: Card, by: int) -> None:
    totals.nodes += by
    totals.states[card.state] += by
    totals.severities[-card.rank[1]] += by
    totals.alarms += by * (not card.rank[0])
    totals.clocks_never_set += by * card.clock_never_set
    for name in Totals.__struct_fields__:
        setattr(totals.ledger, name, getattr(totals.ledger, name) + by * getattr(card.ledger, name))
