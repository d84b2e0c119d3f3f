"""The board: views in the order of the page, made again only for nodes that changed, within a budget."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from collector.fleet.board import Ask, Board
from collector.fleet.fleet import Fleet
from collector.fleet.node_state import SILENT_MS
from collector.ledger.ledger import Draft, Ledger
from collector.store.marks import Claim
from tests.unit.collector.conftest import EP, T0, SetClock
from wire.messages import Live, ModelState, Status
from wire.reasons import because
from wire.topics import parse

FOREVER = float("inf")


class Site:
    """A fleet, its ledger and its board, and messages of nodes named by one letter."""

    def __init__(self, clock: SetClock) -> None:
        self.clock = clock
        self.ledger = Ledger()
        self.fleet = Fleet(clock, self.ledger)
        self.spent_s = 0.0
        self.board = Board(self.fleet, clock, self._cpu_s)

    def _cpu_s(self) -> float:
        """Each view takes one second of CPU time."""
        self.spent_s += 1.0
        return self.spent_s

    def status(self, name: str, state: Any = "online", **more: Any) -> None:
        said = Status(state=state, ts=T0, boot="deadbeef", sess=1, agent="0.1.0", **more)
        self.fleet.on_status(node(name), said, self.clock.ms, retained=False)

    def beat(self, name: str, **values: Any) -> None:
        beat: Live = {"ts": self.clock.ms, "clk": 1, **values}
        self.fleet.on_live(parse(f"tb1/{node(name)}/live/_/agent"), beat, self.clock.ms, retained=False)

    def store(self, name: str, *numbers: int) -> None:
        draft = Draft(self.ledger)
        for seq in numbers:
            draft.add(node(name), EP, seq, 1, self.clock.ms)
        self.ledger.accept(draft.accounts.values())
        self.fleet.on_data(node(name), self.clock.ms)

    def shown(self, ask: Ask = Ask()) -> list[str]:  # noqa: B008  # an Ask is frozen
        return [name[-1] for name in self.board.page(ask).shown]

    def news(self) -> list[str]:
        return [name[-1] for name in self.board.take_news()]

    def cards(self) -> dict[str, Any]:
        names = self.board.page(Ask(limit=1000)).shown
        return {one["node"][-1]: one for one in map(json.loads, self.board.bodies(names))}


def node(name: str) -> str:
    return f"acme/trial/hall/{name}"


@pytest.fixture
def site(clock: SetClock) -> Site:
    return Site(clock)


@pytest.fixture
def three(site: Site) -> Site:
    for name in "abc":
        site.status(name)
    site.board.refresh(FOREVER)
    site.news()
    return site


def test_only_what_changed_is_made_again(three: Site) -> None:
    three.board.refresh(FOREVER)
    assert three.news() == []
    three.clock.ms += 1_000
    three.store("b", 1)
    three.fleet.saw(node("c"), three.clock.ms)
    three.board.refresh(FOREVER)
    assert sorted(three.news()) == ["b", "c"]
    assert three.cards()["b"]["ledger"]["stored"] == 1
    assert three.cards()["c"]["last_seen"] == three.clock.ms


def test_each_view_is_the_one_that_the_fleet_makes(three: Site) -> None:
    """Whatever changes a view by a message or by time, the board has it after its next turn."""
    said = ModelState(state="ok", name="rhythm", ver="1", device="arm")
    three.status("a", models={"rhythm": said})
    topic = parse(f"tb1/{node('a')}/live/arm/rhythm")
    why = because("it exceeds shares.node.streams", "share-streams", share="shares.node.streams")
    steps: list[Any] = [
        lambda: three.fleet.on_live(topic, {"ts": T0, "alarm": True}, three.clock.ms, retained=False),
        lambda: three.fleet.forget_live(topic),
        lambda: three.fleet.on_live(topic, {"ts": T0, "label": "AF"}, three.clock.ms, retained=False),
        lambda: three.fleet.on_quarantine(node("b"), three.clock.ms),
        lambda: three.fleet.on_refused(node("b"), why, three.clock.ms + 5_000, three.clock.ms),
        lambda: three.beat("c", ep=EP, head=9, depth=0, oldest_s=90, refused_code="share-streams"),
        lambda: three.store("c", 1, 2, 5),
        lambda: three.ledger.claim(node("z"), EP, Claim(head=3, depth=1, at_ms=three.clock.ms)),
        lambda: three.ledger.forget((node("c"), EP), three.ledger.stored()[(node("c"), EP)][0].copy(), 3, 1),
        lambda: three.fleet.reset(node("b")),
        lambda: three.ledger.reset(node("c")),
        lambda: three.status("a", "lost"),
    ]
    for step in [*steps, *[lambda: None] * 30]:
        step()
        for _ in range(3):
            three.fleet.judge()
            three.board.refresh(FOREVER)
            made = {view.node[-1]: view for view in three.fleet.views()}
            cards = three.cards()
            assert cards.keys() == made.keys()
            for name, card in cards.items():
                view = made[name]
                assert [one["code"] for one in card["trouble"]] == [one.code for one in view.problems], name
                assert (card["state"], card["last_seen"]) == (view.state, view.last_seen)
                assert card["ledger"]["stored"] == view.ledger.stored
                assert [one["verdict"] for one in card["models"]] == [one["verdict"] for one in view.models]
            three.clock.ms += 7_001
    assert list(three.board.page(Ask()).shown) == [view.node for view in three.fleet.views()]


def test_silence_is_seen_without_a_message(three: Site) -> None:
    three.clock.ms += SILENT_MS
    three.beat("a")
    three.board.refresh(FOREVER)
    three.news()
    three.clock.ms += 1
    three.board.refresh(FOREVER)
    assert (sorted(three.news()), three.shown()) == (["b", "c"], ["b", "c", "a"])
    three.fleet.saw(node("b"), three.clock.ms)
    three.board.refresh(FOREVER, figures_s=1_000)
    assert three.cards()["b"]["state"] == "online", "it is more than a figure"


def test_what_the_budget_does_not_reach_waits_and_the_longest_waiting_goes_first(site: Site) -> None:
    for name in "dacb":
        site.status(name)
    made = []
    for _ in range(5):
        site.board.refresh(4.0)
        made.append("".join(site.news()))
        site.status("d", "lost" if len(made) % 2 else "online")
    assert "".join(made[:2]).startswith("da"), made
    assert set("".join(made)) == set("abcd"), "a node that changes without end displaces no other"


def test_figures_are_made_seldom_and_also_while_states_change_without_end(three: Site) -> None:
    three.clock.ms += 4_000
    three.fleet.saw(node("a"), three.clock.ms)
    three.board.refresh(FOREVER, figures_s=5.0)
    assert three.news() == []
    three.clock.ms += 1_000
    for name in "bc":
        three.status(name, "lost")
    three.board.refresh(4.0, figures_s=5.0)
    assert "a" in three.news()


def test_the_order_is_by_alarm_then_severity_then_name(three: Site) -> None:
    said = ModelState(state="ok", name="rhythm", ver="1", device="arm")
    three.status("d", models={"rhythm": said})
    three.beat("a", depth=3, oldest_s=90)
    three.status("b", "lost")
    three.board.refresh(FOREVER)
    assert three.shown() == ["b", "a", "c", "d"]
    topic = parse(f"tb1/{node('d')}/live/arm/rhythm")
    three.fleet.on_live(topic, {"ts": T0, "alarm": True}, three.clock.ms, retained=False)
    three.board.refresh(FOREVER, figures_s=1_000)
    assert three.shown() == ["d", "b", "a", "c"]


def test_pages_are_one_whole_list_and_a_filter_finds_every_node(three: Site) -> None:
    for name in "ghfed":
        three.status(name, "offline" if name == "f" else "online")
    three.status("b", "lost")
    three.board.refresh(FOREVER)

    def pages() -> Iterator[str]:
        after = None
        while True:
            page = three.board.page(Ask(3, after))
            assert (page.found, page.first) == (8, len(seen))
            yield from (name[-1] for name in page.shown)
            if page.next is None:
                return
            after = page.next

    seen: list[str] = []
    for name in pages():
        seen += name
    assert "".join(seen) == "bacdefgh"
    assert three.shown(Ask(words=("offline",))) == ["f"]
    assert three.shown(Ask(words=("lost", "hall/b", "node-lost"))) == ["b"]
    assert three.shown(Ask(words=("nowhere",))) == []
    assert (three.shown(Ask(node=node("e"))), three.shown(Ask(node=node("x")))) == (["e"], [])


def test_a_page_shows_the_newest_views_of_its_own_nodes(three: Site) -> None:
    three.clock.ms += 500
    for name in "abc":
        three.fleet.saw(node(name), three.clock.ms)
    three.status("new")
    page = three.board.fresh_page(Ask(limit=2), 0.0)
    assert (page.found, len(page.shown)) == (4, 2), "a new node is on it, whatever the budget"
    fresh = [json.loads(body)["last_seen"] for body in three.board.bodies(page.shown)]
    assert fresh == [three.clock.ms] * 2
    assert [json.loads(body)["last_seen"] for body in three.board.everything()] == [three.clock.ms] * 4


def test_who_sees_some_nodes_gets_their_pages_and_totals_alone(three: Site) -> None:
    three.store("a", 1, 2, 4)
    three.beat("b", ep=EP, head=7, depth=7, clk=0)
    three.board.refresh(FOREVER)
    names = [rank[2] for rank in three.board._order]
    hers = names[0]
    ask = Ask(under=(hers,))
    page = three.board.page(ask)
    assert (page.shown, page.found, page.first, page.next) == ((hers,), 1, 0, None)
    assert len(three.board.everything(ask)) == 1
    assert three.board.page(Ask(node=names[1], under=())).shown == ()
    totals = three.board.totals(ask)
    assert totals.nodes == 1
    for short in "abc":  # they are kept up to date
        three.status(short, "lost")
    three.board.refresh(FOREVER)
    assert three.board.totals(ask).states == {"lost": 1}
    assert three.board.totals(Ask(under=tuple(names))) == three.board.totals(Ask())
    assert three.board.totals(Ask(under=("other/*",))).nodes == 0


def test_two_calls_at_once_make_a_view_once(three: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    view = three.fleet.view

    def counted(name: str) -> Any:
        if not made:
            made.append(name)
            three.board._lock.release()  # the other call comes here
            three.board.refresh(FOREVER)
            three.board._lock.acquire()
        else:
            made.append(name)
        return view(name)

    monkeypatch.setattr(three.fleet, "view", counted)
    for name in "abc":
        three.status(name, "lost")
    three.board.refresh(FOREVER)
    assert sorted(made) == [node(name) for name in "abc"]


def test_the_totals_are_those_of_all_views(three: Site) -> None:
    three.store("a", 1, 2, 4)
    three.beat("b", ep=EP, head=7, depth=7, clk=0)
    three.status("c", "lost")
    three.board.refresh(FOREVER)
    for _ in range(2):
        found = three.board.totals(Ask())
        views = three.fleet.views()
        assert (found.nodes, found.states, found.severities) == (
            3,
            {"online": 2, "lost": 1},
            {0: 1, 2: 1, 4: 1},
        )
        assert found.ledger.taken == sum(view.ledger.taken for view in views) == 4 + 7
        assert (found.ledger.stored, found.ledger.waiting) == (3, 7)
        assert (found.clocks_never_set, found.alarms) == (1, 0)
        three.board.refresh(FOREVER)
