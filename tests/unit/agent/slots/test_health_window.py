"""The gates of a version: what undoes it before it is confirmed, and what undoes it afterwards."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from adapters.base import Reading
from agent.inference.decoders import Result
from agent.pipeline.model_run import Answer, Inference
from agent.slots.health_window import Gates
from agent.slots.slot_state import Confirm
from wire.messages import ClockState, Quality
from wire.reasons import NO_REASON, Reason, because


def answer(*, nan: bool = False, ms: float = 1.0, quality: Quality = Quality.GOOD) -> Answer:
    result = Result({"y": None if nan else 1.0}, nan=nan)
    result.infer_ms = ms
    return Answer(Inference(Reading("rows", 0), result, True, quality, (ClockState.NTP, None)))


FAILED = Answer(None)


def first(gates: Gates, answers: list[Answer]) -> tuple[int, str]:
    """The number of the answer that undoes the version, and why; 0 for none."""
    for number, each in enumerate(answers, 1):
        if (why := gates.add(each)).why:
            return number, why.code
    return 0, ""


CASES: dict[str, tuple[dict[str, Any], list[Answer], tuple[int, str], int]] = {
    "good": ({}, [answer()] * 100, (0, ""), 100),
    "one nan is above a share of 0.001": ({}, [answer()] * 5 + [answer(nan=True)], (6, "slot-nan"), 5),
    "one nan is within a share of 0.01": ({"nan": 0.01}, [answer(nan=True)], (0, ""), 0),
    "two are not": ({"nan": 0.01}, [answer(nan=True)] * 2, (2, "slot-nan"), 0),
    "nan on flagged input": ({}, [answer(nan=True, quality=Quality.UNCERTAIN)] * 9, (0, ""), 0),
    "failed runs": ({"errors": 0.02}, [FAILED] * 3, (3, "slot-errors"), 0),
    "one of 100 may be slow": ({}, [answer(ms=99)] + [answer()] * 99, (0, ""), 100),
    "two of 100 may not": ({}, [answer()] * 50 + [answer(ms=99)] * 2, (52, "slot-slow"), 52),
    "more results, more may be slow": ({"results": 10}, [*[answer()] * 99, answer(ms=99)], (0, ""), 100),
}


@pytest.mark.parametrize("case", CASES)
def test_before_the_confirmation_every_answer_counts(case: str) -> None:
    keys, answers, expected, good = CASES[case]
    gates = Gates(Confirm(**keys), 50.0)
    assert first(gates, answers) == expected
    assert gates.good == good
    assert gates.enough == (good >= gates._confirm.results)


def test_right_for_an_hour_and_then_nan() -> None:
    """50 results a second for an hour; a confirmed version ends with the third NaN."""
    gates = Gates(Confirm(), 50.0)
    assert first(gates, [answer()] * 100) == (0, "")
    gates.confirm()
    assert first(gates, [answer()] * (3_600 * 50)) == (0, "")
    assert first(gates, [answer(nan=True)] * 10) == (3, "slot-nan")


def test_a_bad_moment_now_and_then_ends_no_confirmed_version() -> None:
    gates = Gates(Confirm(), 50.0)
    gates.confirm()
    hour = ([answer()] * 60 + [answer(nan=True), FAILED] + [answer(ms=99)] * 20) * 100
    assert first(gates, hour) == (0, "")
    assert first(gates, [answer(ms=99)] * 100)[1] == "slot-slow"


def test_the_trial_does_not_hide_a_confirmed_version_that_is_slow() -> None:
    """100 good results of the trial, then only slow ones: half of the newest 100 is enough."""
    gates = Gates(Confirm(), 50.0)
    assert first(gates, [answer()] * 100) == (0, "")
    gates.confirm()
    assert first(gates, [answer(ms=99)] * 100) == (51, "slot-slow")


def test_what_was_judged_is_counted() -> None:
    """NaN on flagged input is not judged; p99 is of the results alone."""
    gates = Gates(Confirm(nan=1, errors=1), 0.0)
    answers = [answer(ms=ms) for ms in range(1, 98)] + [answer(nan=True, ms=1)] * 3 + [FAILED]
    assert first(gates, [*answers, answer(nan=True, quality=Quality.UNCERTAIN, ms=999)]) == (0, "")
    gates.confirm()
    shown = gates.ran.shown()
    assert (shown.n, shown.nan, shown.failed, shown.p99_ms) == (100, 3, 1, 96.0)


def test_what_a_watch_of_drift_finds_counts() -> None:
    seen: list[float] = []

    def drift(inference: Inference) -> Reason:
        seen.append(inference.result.infer_ms)
        return because("its input has changed") if len(seen) == 3 else NO_REASON

    gates = Gates(Confirm(), 0.0, drift)
    assert [gates.add(each).why for each in [answer(), FAILED, answer(), answer()]] == [
        "", "", "", "its input has changed",
    ]  # fmt: skip


def test_drift_undoes_a_version_on_trial_and_not_one_that_was_confirmed() -> None:
    drifted = because("its inputs differ", "model-input-drift", features="a")
    inference = replace(answer().inference, drift=drifted)  # type: ignore[type-var]
    gates = Gates(Confirm(results=5), 0)
    assert gates.add(Answer(inference)) == drifted
    gates.confirm()
    assert gates.add(Answer(inference)) == NO_REASON
