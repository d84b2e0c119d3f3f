"""What open pages get of the fleet: the changes of the nodes that they show, in frames of bounded size."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from collector.fleet.board import Ask, Board
from collector.fleet.fleet import Fleet
from collector.ledger.ledger import Ledger
from collector.web import fleet_pages as module
from collector.web.event_stream import Hub, Viewer
from collector.web.fleet_pages import FleetPages
from tests.unit.collector.conftest import T0, SetClock
from wire.messages import Status


class Site:
    """A fleet without a collector, its pages, and what each viewer got."""

    def __init__(self, clock: SetClock) -> None:
        self.clock = clock
        self.fleet = Fleet(clock, Ledger())
        self.hub = Hub()
        self.pages = FleetPages(Board(self.fleet, clock), self.hub)

    def status(self, name: str, state: Any = "online") -> None:
        said = Status(state=state, ts=T0, boot="deadbeef", sess=1, agent="0.1.0")
        self.fleet.on_status(f"acme/trial/hall/{name}", said, self.clock.ms, retained=False)

    async def join(self, ask: Ask | None) -> Viewer:
        viewer = self.hub.join("", "", "", ask)
        if ask is not None:
            await asyncio.to_thread(self.pages.follow, ask)
        return viewer

    async def turn(self, *viewers: Viewer) -> list[list[Any]]:
        """One second later: the data of the frames that each viewer got."""
        self.clock.ms += 1_000
        await self.pages.turn()
        return [taken(viewer) for viewer in viewers]


def taken(viewer: Viewer) -> list[Any]:
    frames = [frame for frame in viewer._frames if frame.startswith(b"event: fleet\n")]
    viewer._frames.clear()
    return [json.loads(frame.split(b"data: ", 1)[1]) for frame in frames]


def names(nodes: list[Any]) -> str:
    return "".join(one["node"][-1] for one in nodes)


@pytest.fixture
async def site(clock: SetClock) -> AsyncIterator[Site]:
    made = Site(clock)
    made.hub.open()
    for name in "abcd":
        made.status(name)
    await made.pages.turn()
    yield made
    made.hub.close()


async def test_a_viewer_without_a_page_gets_lists_of_the_nodes_that_changed(site: Site) -> None:
    viewer = await site.join(None)
    assert await site.turn(viewer) == [[]], "nothing changed since it joined"
    for name in "ca":
        site.fleet.saw(f"acme/trial/hall/{name}", site.clock.ms)
    (frames,) = await site.turn(viewer)
    assert [names(frame) for frame in frames] == ["ca"]


async def test_a_page_gets_its_own_nodes_and_where_they_stand(site: Site) -> None:
    first, second = await site.join(Ask(limit=2)), await site.join(Ask(2, (1, 0, "acme/trial/hall/b")))
    (at_once,), _ = await site.turn(first, second)
    assert (at_once["nodes"], at_once["totals"]["states"]) == ([], {"online": 4})
    for name in "ac":
        site.fleet.saw(f"acme/trial/hall/{name}", site.clock.ms)
    assert [[names(one["nodes"]) for one in got] for got in await site.turn(first, second)] == [["a"], ["c"]]
    site.status("d", "lost")
    (one,), (other,) = await site.turn(first, second)
    assert (names(one["nodes"]), [name[-1] for name in one["shown"]]) == ("d", ["d", "a"])
    assert (one["found"], one["first"], one["totals"]["severities"]) == (4, 0, {"0": 3, "4": 1})
    assert one["next"] == "0.0.acme/trial/hall/a"
    assert ([name[-1] for name in other["shown"]], other["first"], other["next"]) == (["c"], 3, None)


async def test_a_change_between_joining_and_asking_is_not_lost(site: Site) -> None:
    ask = Ask(limit=4)
    viewer = await site.join(ask)
    site.status("b", "lost")
    answer = json.loads(msgspec.json.encode(site.pages.answer(ask)))
    assert names(answer["nodes"]) == "bacd"
    ((frame,),) = await site.turn(viewer)
    assert names(frame["nodes"]) == "b"


async def test_a_page_that_shows_the_same_is_made_once(site: Site) -> None:
    viewers = [await site.join(Ask(limit=3)) for _ in range(3)]
    site.status("a", "lost")
    await site.pages.turn()
    frames = [viewer._frames[-1] for viewer in viewers]
    assert all(frame is frames[0] for frame in frames)


async def test_frames_have_a_bounded_size(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRAME_BYTES", 600)
    everything, page = await site.join(None), await site.join(Ask(limit=3))
    for name in "abcd":
        site.status(name, "offline")
    lists, parts = await site.turn(everything, page)
    assert [len(part) for part in lists] == [1, 1, 1, 1]
    assert ["shown" in part or "totals" in part for part in parts] == [False, False, True]
    assert "".join(names(part["nodes"]) for part in parts) == "abc"


async def test_pages_beyond_the_budget_are_sent_the_next_time(site: Site) -> None:
    site.pages._cpu_s = iter(range(1000)).__next__  # each look at the time costs a second
    viewers = [await site.join(Ask(limit=limit)) for limit in (1, 2, 3)]
    got: list[str] = []
    for _ in range(6):
        site.status("a", "lost" if len(got) % 2 else "online")
        got.append("".join(str(len(frames)) for frames in await site.turn(*viewers)))
    assert got == ["100", "010", "001", "100", "010", "001"]


async def test_without_viewers_nothing_is_kept_for_them(site: Site) -> None:
    viewer = await site.join(Ask(limit=2, words=("online",)))
    await site.turn(viewer)
    assert site.pages._pages
    site.hub.leave(viewer)
    await site.turn()
    assert not site.pages._pages
