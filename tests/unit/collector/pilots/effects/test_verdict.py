"""Verdicts of KPIs and of a pilot."""

from __future__ import annotations

import math
from typing import Literal

import pytest

from collector.pilots.effects import Effect, Refused
from collector.pilots.effects.verdict import Conduct, Guarded, Verdict, guard, judge, overall


def between(low: float, high: float, **extras: float) -> Effect:
    return Effect((low + high) / 2, low, high, 0.05, "m", 20, extras=extras)


@pytest.mark.parametrize(
    ("low", "high", "sign", "word", "reason"),
    [
        (0.1, 0.3, 1, "met", None),
        (0.05, 0.3, 1, "not-shown", "interval-holds-target"),
        (0.1 - 1e-9, 0.3, 1, "not-shown", "interval-holds-target"),
        (-0.2, 0.1 - 1e-9, 1, "not-met", None),
        (-0.2, 0.1, 1, "not-shown", "interval-holds-target"),
        (-0.3, -0.1, -1, "met", None),
        (-0.05, 0.2, -1, "not-met", None),
        (0.1, 0.3, -1, "not-met", None),
        (-1.0, math.inf, -1, "not-shown", "interval-holds-target"),
        (0.4, math.inf, 1, "met", None),
    ],
)
def test_the_interval_alone_decides(
    low: float, high: float, sign: Literal[1, -1], word: str, reason: str | None
) -> None:
    found = judge(between(low, high), target=0.1, sign=sign)
    assert (found.word, found.reason) == (word, reason)


def test_a_refusal_is_not_shown_with_its_code() -> None:
    found = judge(Refused("too-few-events", "..."), target=0, sign=1)
    assert found == Verdict("not-shown", "too-few-events")


@pytest.mark.parametrize(
    ("conduct", "reason"),
    [
        (Conduct(complete=False), "data-incomplete"),
        (Conduct(off_schedule=0.051), "schedule-not-kept"),
        (Conduct(placebo=0.31), "placebo-dates"),
    ],
)
@pytest.mark.parametrize("low", [0.2, -0.9])
def test_a_pilot_not_run_as_planned_gets_no_verdict(conduct: Conduct, reason: str, low: float) -> None:
    assert judge(between(low, low + 0.2), target=0.1, sign=1, conduct=conduct) == Verdict("not-shown", reason)


def test_limits_of_conduct_are_allowed() -> None:
    conduct = Conduct(off_schedule=0.05, placebo=0.30)
    assert judge(between(0.2, 0.3), target=0.1, sign=1, conduct=conduct).word == "met"


def test_not_met_needs_a_washout_that_covers_the_carry_over() -> None:
    short = Conduct(washout_covers=False)
    assert judge(between(-0.1, 0.0), target=0.1, sign=1, conduct=short) == Verdict(
        "not-shown", "washout-too-short"
    )
    assert judge(between(0.2, 0.3), target=0.1, sign=1, conduct=short).word == "met"  # carry-over only hides


@pytest.mark.parametrize("sign", [1, -1])
def test_met_needs_the_interval_with_trend_too(sign: Literal[1, -1]) -> None:
    def found(trend: float) -> Verdict:
        low, high = sorted((0.2 * sign, 0.4 * sign))
        trend_low, trend_high = sorted((trend * sign, 0.9 * sign))
        result = between(low, high, trend_low=trend_low, trend_high=trend_high)
        return judge(result, target=0.1, sign=sign)

    assert found(0.1) == Verdict("met")
    assert found(0.05) == Verdict("not-shown", "trend-could-explain")


def test_guardrails() -> None:
    assert guard(between(-0.04, 0.1), worse_than=0.05, sign=1) == Guarded("kept")
    assert guard(between(-0.3, -0.06), worse_than=0.05, sign=1) == Guarded("broken")
    assert guard(between(-0.3, 0.1), worse_than=0.05, sign=1) == Guarded("not-shown", "interval-holds-limit")
    assert guard(between(0.06, 0.1), worse_than=0.05, sign=-1) == Guarded("broken")
    assert guard(Refused("too-few-periods", ""), worse_than=0, sign=1) == Guarded(
        "not-shown", "too-few-periods"
    )


def test_the_pilot_is_met_if_its_primary_is_and_no_guardrail_is_broken() -> None:
    met, kept, unclear, broken = Verdict("met"), Guarded("kept"), Guarded("not-shown"), Guarded("broken")
    assert overall(met, []) == met
    assert overall(met, [kept, unclear]) == met
    assert overall(met, [kept, broken]) == Verdict("not-met", "guardrail-broken")
    assert overall(Verdict("not-shown", "too-few-events"), [kept]).word == "not-shown"


def test_a_result_that_is_not_a_number_gets_no_verdict() -> None:
    assert judge(between(math.nan, math.nan), target=0, sign=1).word == "not-shown"
