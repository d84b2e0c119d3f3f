"""The problems of the collector: how long each stays, and how often it is logged."""

from __future__ import annotations

import logging

import pytest
from msgspec import UNSET

from collector.health import MOST, CollectorProblems
from tests.unit.collector.conftest import T0, SetClock
from wire.reasons import because


def test_a_problem_stays_until_it_is_cleared_and_keeps_when_it_began(
    clock: SetClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    problems = CollectorProblems(clock)
    assert problems.current() == []
    for _ in range(3):
        problems.report(because("day file 1 is damaged", "day-file-damaged", day="1"), "1")
        clock.ms += 1000
    (one,) = problems.current()
    assert (one.code, one.args, one.why, one.part) == (
        "day-file-damaged", {"day": "1"}, "day file 1 is damaged", "1",
    )  # fmt: skip
    assert one.since == T0
    assert caplog.messages == ["day file 1 is damaged"]
    problems.clear("day-file-damaged")
    assert problems.current() == [one], "the part belongs to the problem"
    problems.clear("day-file-damaged", "1")
    problems.clear("day-file-damaged", "1")
    assert problems.current() == []
    assert caplog.messages == ["day file 1 is damaged", "the problem day-file-damaged 1 has ended after 3 s"]


def test_a_problem_for_a_time_ends_after_its_last_report(clock: SetClock) -> None:
    problems = CollectorProblems(clock)
    problems.report(because("refused", "messages-refused"), for_s=60)
    clock.ms += 50_000
    problems.report(because("refused", "messages-refused"), for_s=60)
    clock.ms += 50_000
    (one,) = problems.current()
    assert (one.since, one.part) == (T0, UNSET)
    clock.ms += 10_001
    assert problems.current() == []


def test_a_sender_that_invents_names_gets_a_bounded_list(clock: SetClock) -> None:
    problems = CollectorProblems(clock)
    for at in range(10 * MOST):
        problems.report(because("refused", "messages-refused"), f"node {at}", for_s=60)
    assert len(problems.current()) == MOST
    clock.ms += 60_001
    problems.report(because("refused", "messages-refused"), "a later node", for_s=60)
    assert [one.part for one in problems.current()] == ["a later node"]


def test_the_heaviest_of_many_come_first_and_a_full_list_takes_what_is_worse(clock: SetClock) -> None:
    problems = CollectorProblems(clock)
    for at in range(MOST):
        problems.report(because("refused", "messages-refused"), f"node {at}", weight=10 + at)
    problems.report(because("refused", "messages-refused"), "a light node", weight=10)
    assert "a light node" not in {one.part for one in problems.current()}
    problems.report(because("refused", "messages-refused"), "a heavy node", weight=1_000)
    problems.report(because("no room on the disk", "store-blocked"))
    shown = problems.current()
    assert [(one.code, one.part) for one in shown[:3]] == [
        ("store-blocked", UNSET), ("messages-refused", "a heavy node"), ("messages-refused", "node 99"),
    ]  # fmt: skip
    assert len(shown) == MOST
    assert shown[-1].part == "node 2", "the two lightest are gone"
