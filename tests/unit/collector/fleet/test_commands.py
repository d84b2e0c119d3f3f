"""Commands from the request to their last answer, on a real `state.db`, without a broker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from collector.fleet.commands import (
    AGAIN_S,
    ANSWER_MS,
    AT_ONCE,
    LATE_MS,
    TRAVEL_MS,
    CommandDispatch,
    NotQueued,
)
from collector.fleet.fleet import Fleet
from collector.ledger.ledger import Ledger
from collector.state.audit import Audit
from collector.state.commands import CommandRecord, CommandRecords
from collector.state.state_file import StateFile
from wire.messages import Cmd, Res, Status
from wire.topics import parse

NODE, HERS = "acme/trial/hall/cobot-01", "hanbit/trial/hall/cobot-02"
NOW_MS = 1_795_356_000_000
TTL_MS = 30_000


class HandClock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.ms = NOW_MS

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000


class Site:
    """A collector's commands; `restart` is what a kill leaves: `state.db` alone."""

    def __init__(self, folder: Path) -> None:
        self.clock: Any = HandClock()
        self.state = StateFile(folder, owns_store=True)
        self.records = CommandRecords(self.state)
        self.sent: list[tuple[str, Cmd]] = []
        self.shown: list[str] = []
        self.restart()

    def restart(self) -> None:
        self.fleet = Fleet(self.clock, Ledger({}, {}))
        self.commands = CommandDispatch(
            self.records,
            self.fleet,
            self.clock,
            lambda topic, body: self.sent.append((topic, body)),
            lambda record: self.shown.append(record.state),
        )

    def online(self, node: str = NODE, state: Any = "online") -> None:
        status = Status(state=state, ts=self.clock.ms, boot="deadbeef", sess=self.clock.ms // 1000)
        self.fleet.on_status(node, status, self.clock.ms, retained=False)

    def request(self, number: int = 1, node: str = NODE, ttl_ms: int = TTL_MS) -> CommandRecord:
        wanted = CommandRecord(node, f"{number:026}", "_", "ping", {}, "kim", self.clock.ms, ttl_ms)
        return self.commands.request(wanted, "127.0.0.1")[0]

    def step(self, seconds: float = 0.0, *, online: bool = True) -> None:
        self.clock.ms += int(1000 * seconds)
        self.commands.step(online=online)

    def answer(
        self, state: Any, number: int = 1, *, tail: str = "_/ping", node: str = NODE, **more: Any
    ) -> None:
        answer = Res(id=f"{number:026}", state=state, ts=self.clock.ms, **more)
        self.commands.on_answer(parse(f"tb1/{node}/res/{tail}"), answer, self.clock.ms)

    def now(self, number: int = 1) -> CommandRecord:
        found = self.records.get(NODE, f"{number:026}")
        assert found is not None
        return found

    def audit(self) -> list[tuple[str, str]]:
        return [(each.what, each.result) for each in reversed(Audit(self.state).newest(99))]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    with closing(made.state):
        yield made


def test_from_the_request_to_the_answer(site: Site) -> None:
    site.online()
    site.request()
    site.step()
    assert [(topic, body.id, body.steps) for topic, body in site.sent] == [
        (f"tb1/{NODE}/cmd/_/ping", f"{1:026}", True)
    ]
    for state in ("accepted", "running", "done"):
        site.answer(state, result={"pong": 1} if state == "done" else {})
        site.step()
    found = site.now()
    assert [state for state, _ in found.changes] == ["queued", "delivered", "running", "done"]
    assert found.answer is not None
    assert found.answer["result"] == {"pong": 1}
    assert site.shown == ["queued", "queued", "delivered", "running", "done"]
    site.step(100)
    assert len(site.sent) == 1
    assert site.audit() == [("command", "queued"), ("command ended", "done")]


def test_it_is_sent_again_until_the_answer_and_after_a_kill_of_the_collector(site: Site) -> None:
    site.online()
    site.request()
    site.step()
    site.step()
    assert len(site.sent) == 1, "not at each step"
    site.step(AGAIN_S)
    assert len(site.sent) == 2
    site.restart()
    site.step(1)
    assert len(site.sent) == 2, "its status is not known yet"
    site.online()
    site.step()
    assert {body.id for _, body in site.sent} == {f"{1:026}"}
    assert len(site.sent) == 3
    site.answer("done")
    site.restart()  # the answer was not on disk yet
    site.online()
    site.step(AGAIN_S)
    assert len(site.sent) == 4
    site.answer("done")
    site.step()
    assert site.now().state == "done"


def test_nothing_is_sent_without_the_broker_or_to_a_node_that_is_away(site: Site) -> None:
    site.request()
    site.step()
    site.online(state="lost")
    site.step(1)
    site.online()
    site.step(1, online=False)
    assert (site.sent, site.now().sent_ms) == ([], 0)
    site.step()
    assert len(site.sent) == 1
    assert site.now().state == "queued"


def test_a_node_that_is_away_too_long_never_gets_it(site: Site) -> None:
    site.request()
    site.step(TTL_MS / 1000)
    assert site.now().state == "queued"
    site.step(0.001)
    found = site.now()
    assert (found.state, found.answer and found.answer["err_code"]) == ("expired", "command-not-taken")
    site.online()
    site.step(1)
    assert site.sent == []
    assert site.audit()[-1] == ("command ended", "expired: the node did not take the command within its time")


def test_one_on_its_way_is_not_sent_after_its_time_and_expires(site: Site) -> None:
    site.online()
    site.request()
    site.step()
    site.step(TTL_MS / 1000 + 1)
    assert (len(site.sent), site.now().state) == (1, "queued")
    site.step(TRAVEL_MS / 1000)
    assert site.now().state == "expired"
    site.answer("done")  # the node took it in its time, and its answer was late
    site.step()
    assert site.now().state == "done"
    assert site.audit()[-1] == ("command ended", "done")


def test_the_answer_of_one_that_the_node_has_is_asked_for_after_its_time(site: Site) -> None:
    site.online()
    site.request()
    site.step()
    site.answer("accepted")
    site.step(TTL_MS / 1000 + 1)
    site.step(AGAIN_S)
    assert len(site.sent) == 3
    site.step(ANSWER_MS / 1000)
    found = site.now()
    assert (found.state, found.answer and found.answer["err_code"]) == ("failed", "command-unanswered")
    site.answer("expired")  # of an agent that has forgotten it
    site.step()
    assert site.now() == found
    site.step(LATE_MS / 1000 + 1)
    site.answer("done")
    site.step()
    assert site.now() == found, "too late"


@pytest.mark.parametrize("first", ["accepted", "running", "duplicate"])
def test_a_duplicate_replaces_nothing(site: Site, first: str) -> None:
    site.online()
    site.request()
    site.step()
    site.answer(first)
    site.step()
    site.answer("duplicate", code=409)
    site.answer("expired", code=408)
    site.step()
    assert site.now().is_open
    assert site.now().answer is None
    site.answer("failed", code=500, err="the arm is busy", err_code="command-failed")
    site.answer("duplicate", code=409)
    site.answer("done")
    site.step()
    found = site.now()
    assert (found.state, found.answer and found.answer["err"]) == ("failed", "the arm is busy")


def test_answers_that_do_not_fit_are_ignored(site: Site) -> None:
    site.online()
    site.online(HERS)
    site.request()
    site.answer("done")  # before it was sent
    site.step()
    assert site.now().state == "queued"
    site.answer("done", node=HERS)  # of another node
    site.answer("done", tail="arm/ping")
    site.answer("done", tail="_/rebirth")
    site.answer("done", number=2)
    site.answer("rejected", code=429, err="too many commands", err_code="commands-too-many")
    site.step()
    assert (site.now().state, site.now().answer) == ("queued", None)
    site.answer("running")
    site.answer("accepted")  # the broker delivered it late
    site.step()
    assert site.now().state == "running"


def test_a_flood_of_answers_is_not_kept(site: Site) -> None:
    site.online()
    site.request()
    site.step()
    for _ in range(500):
        for state in ("accepted", "running", "duplicate", "done", "failed"):
            site.answer(state)
    assert len(site.commands._answers) == 3
    site.step()
    assert [state for state, _ in site.now().changes] == ["queued", "delivered", "running", "done"]


def test_a_node_gets_a_few_at_once(site: Site) -> None:
    site.online()
    for number in range(AT_ONCE + 2):
        site.request(number)
    site.step()
    site.step(AGAIN_S)
    assert {int(body.id) for _, body in site.sent} == set(range(AT_ONCE))
    site.answer("done", 0)
    site.step()
    assert int(site.sent[-1][1].id) == AT_ONCE


def test_only_what_was_not_sent_can_be_withdrawn(site: Site) -> None:
    made = site.request()
    site.request(2)
    ended = site.commands.withdraw(NODE, made.id, "lee", "127.0.0.1")
    assert ended is not None
    assert ended.state == "withdrawn"
    assert site.commands.withdraw(NODE, made.id, "lee", "127.0.0.1") == ended
    assert site.commands.withdraw(NODE, f"{9:026}", "lee", "127.0.0.1") is None
    site.online()
    site.step()
    assert [int(body.id) for _, body in site.sent] == [2]
    with pytest.raises(NotQueued, match="it is in flight to the node"):
        site.commands.withdraw(NODE, f"{2:026}", "lee", "127.0.0.1")
    site.answer("done", 2)
    site.step()
    with pytest.raises(NotQueued, match="it is done"):
        site.commands.withdraw(NODE, f"{2:026}", "lee", "127.0.0.1")
    entry = next(each for each in Audit(site.state).newest(9) if each.what == "command withdrawn")
    assert (entry.who, entry.subject) == ("lee", f"{NODE} _/ping {made.id}")


def test_answers_wait_for_a_state_file_that_cannot_be_written(site: Site) -> None:
    site.online()
    site.request()
    site.step()
    site.answer("done")
    path = site.state.path
    aside = path.with_name("aside")
    site.state.close()
    path.rename(aside)
    path.mkdir()
    site.step()
    assert site.shown[-1] == "queued"
    path.rmdir()
    aside.rename(path)
    site.step()
    assert site.now().state == "done"
