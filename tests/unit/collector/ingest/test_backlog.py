"""The backlog: factor and age from what can be known, fair refusals that bound the age, and the way back."""

from __future__ import annotations

import random
from collections import Counter, defaultdict, deque
from collections.abc import Iterator

import pytest

from collector.health import CollectorProblems
from collector.ingest import backlog as module
from collector.ingest.backlog import CALM_REFUSED_S, CALM_S, REFUSE_S, SLOW_S, Backlog
from tests.unit.collector.conftest import SetClock

AGENT_SENDS_AGAIN_S = 30.0
PROBE_S = 2
WINDOW = 1_000  # messages that the broker gives without a PUBACK


class Line:
    """Nodes, a broker's queue and a collector that stores `per_s`, in steps of 0.1 s of a set clock."""

    def __init__(self, clock: SetClock, per_s: float) -> None:
        self.clock = clock
        self.problems = CollectorProblems(clock)
        self.backlog = Backlog(clock, self.problems)
        self.per_s = per_s
        self.broker: deque[tuple[bytes | int, int]] = (
            deque()
        )  # node or number of a probe, number of a message
        self.here: deque[tuple[bytes, int]] = deque()
        self.stored: Counter[tuple[bytes, int]] = Counter()
        self.passed: Counter[bytes] = Counter()
        self.refused: Counter[bytes] = Counter()
        self.outbox: dict[bytes, deque[int]] = defaultdict(deque)
        self.back_s: dict[bytes, float] = {}
        self.heads: Counter[bytes] = Counter()
        self.careful: dict[bytes, set[int]] = {}  # nodes after a refusal -> what they sent since
        self._steps = self._probes = 0
        self._credit = 0.0

    @property
    def offered(self) -> int:
        return self.heads.total()

    def run(self, seconds: float, rates: dict[bytes, float]) -> Iterator[int]:
        """One value a second: how many passed since the start of the run."""
        owed = dict.fromkeys(rates, 0.0)
        for step in range(int(10 * seconds)):
            self.clock.ms += 100
            for node, rate in rates.items():
                owed[node] += rate / 10
                while owed[node] >= 1:
                    owed[node] -= 1
                    self.heads[node] += 1
                    self.outbox[node].append(self.heads[node])
                    if node not in self.careful:
                        self.broker.append((node, self.heads[node]))
            self._come_back()
            self._steps += 1
            if self._steps % (10 * PROBE_S) == 0:
                self._probes += 1
                self.backlog.asked(self._probes)
                self.broker.append((self._probes, 0))
            self._receive()
            self._store()
            if step % 10 == 9:
                self.backlog.watch(is_blocked=False)
                yield (step + 1) // 10

    def _come_back(self) -> None:
        """A held node sends a few again, the oldest first, and two more for each that is acknowledged."""
        for node, back_s in list(self.back_s.items()):
            if self.clock.ms / 1000 >= back_s:
                del self.back_s[node]
                self.careful[node] = set()
                self._send_more(node, 16)

    def _send_more(self, node: bytes, count: int) -> None:
        sent = self.careful[node]
        more = [number for number in self.outbox[node] if number not in sent][:count]
        sent.update(more)
        self.broker.extend((node, number) for number in more)

    def _receive(self) -> None:
        while self.broker and len(self.here) < WINDOW:
            node, number = self.broker.popleft()
            if isinstance(node, int):
                self.backlog.answered(node)
                continue
            wait_s = self.backlog.wait_s(node) if self.backlog.is_refusing else 0.0
            self.backlog.arrived += 1
            if wait_s:
                self.refused[node] += 1
                self.back_s[node] = self.clock.ms / 1000 + wait_s * random.uniform(1, 1.25)
                self.careful.setdefault(node, set())
            else:
                self.backlog.queued += 1
                self.here.append((node, number))

    def _store(self) -> None:
        self._credit += self.per_s / 10
        while self.here and self._credit >= 1:
            self._credit -= 1
            node, number = self.here.popleft()
            self.backlog.handled += 1
            self.stored[node, number] += 1
            self.passed[node] += 1
            if number in self.outbox[node]:
                self.outbox[node].remove(number)
            if node in self.careful and node not in self.back_s:
                self._send_more(node, 2)
                if not self.outbox[node]:
                    del self.careful[node]
        self._credit = min(self._credit, self.per_s)

    def codes(self) -> list[str]:
        return [one.code for one in self.problems.current()]


def test_in_time_there_is_nothing_to_report(clock: SetClock) -> None:
    line = Line(clock, 200)
    for _ in line.run(60, {b"n%d" % n: 1.0 for n in range(150)}):
        assert line.backlog.now.state == "none"
        assert line.codes() == []
    assert line.backlog.now.oldest_s < 2
    assert line.backlog.now.arriving == pytest.approx(150, rel=0.1)
    assert line.backlog.now.stored == pytest.approx(150, rel=0.1)


def test_twice_as_much_as_can_be_stored_is_reported_bounded_and_arrives_at_last(clock: SetClock) -> None:
    random.seed(1)
    line = Line(clock, 100)
    rates = {b"n%d" % n: 1.0 for n in range(200)}
    first_s, oldest = 0, []
    for second in line.run(120, rates):
        oldest.append(line.backlog.now.oldest_s)
        if line.codes() and not first_s:
            first_s = second
            (problem,) = line.problems.current()
            assert problem.code == "overloaded"
            assert problem.args["factor"] == pytest.approx(2.0, abs=0.4)
            assert problem.args["stored"] == pytest.approx(100, rel=0.2)
            assert problem.args["oldest_s"] >= SLOW_S
    assert 0 < first_s <= 15
    assert line.backlog.is_refusing
    assert max(oldest) < AGENT_SENDS_AGAIN_S - 5, "no agent sends again what waits here"
    assert len(line.stored) > 0.85 * 120 * 100, "the writer never waits for long"
    assert set(line.refused) == set(rates), "all send more than their part"
    assert 0 < line.backlog.now.nodes <= 200
    for _ in line.run(400, {}):
        if line.backlog.now.state == "none":
            break
    assert line.codes() == []
    assert not line.backlog.is_refusing
    assert len(line.stored) == line.offered > 23_000
    assert clock.ms / 1000 - line.backlog.ended_s < 2
    assert line.backlog.explains_silence, "a node may still be waiting"
    clock.ms += 61_000
    assert not line.backlog.explains_silence


def test_nodes_below_their_part_are_never_refused(clock: SetClock) -> None:
    random.seed(2)
    line = Line(clock, 100)
    busy, quiet = [b"busy%d" % n for n in range(5)], [b"quiet%d" % n for n in range(95)]
    rates = {**dict.fromkeys(busy, 40.0), **dict.fromkeys(quiet, 0.5)}
    for _ in line.run(90, rates):
        pass
    assert sum(line.refused[node] for node in busy) > 100
    assert [node for node in quiet if line.refused[node]] == []
    shares = [line.passed[node] for node in busy]
    assert max(shares) < 3 * min(shares), "the busy ones share what the others leave"
    assert len(line.stored) > 0.85 * 90 * 100


def test_a_wide_fleet_that_sends_rarely_is_refused_in_turn(clock: SetClock) -> None:
    """1,000 nodes with a message each 20 s: the part of a node is one message in 40 s."""
    random.seed(3)
    line = Line(clock, 25)
    for _ in line.run(300, {b"n%d" % n: 0.05 for n in range(1_000)}):
        pass
    assert line.backlog.is_refusing
    assert line.backlog.now.oldest_s < AGENT_SENDS_AGAIN_S - 5
    assert max(line.passed.values()) <= 4 * max(1, min(line.passed[b"n%d" % n] for n in range(1_000)))


def test_what_waits_at_the_broker_counts_although_little_waits_here(clock: SetClock) -> None:
    """The broker gives few messages at once: only the own probe shows how long the others wait."""
    backlog = Backlog(clock, CollectorProblems(clock))
    backlog.asked(1)
    backlog.answered(1)
    for second in range(1, 8):
        clock.ms += 1_000
        if second == 1:
            backlog.asked(2)
        backlog.arrived += 20
        backlog.queued += 20
        backlog.handled += 20
        backlog.watch(is_blocked=False)
    assert backlog.now.oldest_s == 6
    assert backlog.now.state == "slow"


def test_a_silent_broker_and_forbidden_probes_are_not_an_overload(clock: SetClock) -> None:
    for came_back, arrives in ((True, 0), (False, 20)):
        backlog = Backlog(clock, CollectorProblems(clock))
        if came_back:
            backlog.asked(1)
            backlog.answered(1)
        backlog.asked(2)
        for _ in range(700):
            clock.ms += 1_000
            for name in ("arrived", "queued", "handled"):
                setattr(backlog, name, getattr(backlog, name) + arrives)
            backlog.watch(is_blocked=False)
            assert backlog.now.state == "none"
        assert not backlog.explains_silence
        backlog.disconnected()
        backlog.asked(3)
        clock.ms += 10_000
        if not came_back:
            assert backlog.explains_silence, "after a connection its probe may stand behind many messages"


def test_messages_that_wait_for_a_blocked_store_are_a_problem_of_the_store(clock: SetClock) -> None:
    backlog = Backlog(clock, CollectorProblems(clock))
    backlog.arrived = backlog.queued = 100
    for _ in range(30):
        clock.ms += 1_000
        backlog.watch(is_blocked=True)
        assert (backlog.now.state, backlog.is_refusing, backlog.explains_silence) == ("none", False, True)


def test_a_step_of_the_wall_clock_changes_nothing(clock: SetClock, monkeypatch: pytest.MonkeyPatch) -> None:
    backlog = Backlog(clock, CollectorProblems(clock))
    monkeypatch.setattr(clock, "now_ns", lambda: 0)
    backlog.arrived = backlog.queued = 5
    backlog.watch(is_blocked=False)
    assert backlog.now.oldest_s == 0


def test_after_a_short_wait_it_catches_up_and_refuses_no_node(clock: SetClock) -> None:
    problems = CollectorProblems(clock)
    backlog = Backlog(clock, problems)
    backlog.arrived = backlog.queued = 700
    codes = []
    for second in range(20):
        backlog.handled = min(700, 100 * second)
        backlog.watch(is_blocked=False)
        codes.append([one.code for one in problems.current()])
        assert not backlog.is_refusing or second > REFUSE_S
        clock.ms += 1_000
    assert ["catching-up"] in codes
    assert ["overloaded"] not in codes, "nothing arrives any more"
    assert codes[-1] == []
    assert CALM_S < CALM_REFUSED_S


def test_a_node_waits_until_what_it_sent_is_acknowledged(
    clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.random, "uniform", lambda low, _: low)
    line = Line(clock, 100)
    for _ in line.run(20, {b"n%d" % n: 1.0 for n in range(200)}):
        if line.backlog.is_refusing:
            break
    line.backlog.queued += 100_000  # no room
    waits = [line.backlog.wait_s(b"n1") for _ in range(5)]
    assert waits[0] == 0, "the part of a node is one message at least"
    assert min(waits[1:]) >= line.backlog.now.oldest_s + module.MARGIN_S
    assert max(waits) <= module.HOLD_S
