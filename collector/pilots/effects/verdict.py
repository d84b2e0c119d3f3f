"""The verdict on a KPI and on a pilot: from the interval alone, never from a p."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from collector.pilots.effects.effect import Effect, Result

Word = Literal["met", "not-met", "not-shown"]
GuardrailWord = Literal["kept", "broken", "not-shown"]

LARGEST_OFF_SCHEDULE = 0.05  # of the rows
LARGEST_PLACEBO = 0.30  # of the fake dates; sound pilots are above it in at most 2.5 % of cases


@dataclass(frozen=True, slots=True)
class Conduct:
    """How the pilot was run, as far as a verdict depends on it."""

    off_schedule: float = 0.0  # share of rows in which what was applied was not what was planned
    complete: bool = True
    washout_covers: bool = True  # the wash-out is at least the carry-over that the plan states
    placebo: float = 0.0  # share of fake dates with an effect


@dataclass(frozen=True, slots=True)
class Verdict:
    """A word, and for `not-shown` and a pilot that is `not-met` the reason."""

    word: Word
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Guarded:
    """Whether a guardrail held."""

    word: GuardrailWord
    reason: str | None = None


def judge(result: Result, *, target: float, sign: Literal[1, -1], conduct: Conduct | None = None) -> Verdict:
    """Compare the interval with the target.

    `target` is the improvement asked for, in the scale of the result; `sign` is -1 where less is better.
    """
    conduct = conduct or Conduct()
    if held := _held_back(result, conduct):
        return Verdict("not-shown", held)
    assert isinstance(result, Effect)  # noqa: S101  # a refusal is held back
    low, high = improvement(result.low, result.high, sign)
    if low >= target:
        if "trend_low" in result.extras and not _with_trend(result, sign) >= target:  # NaN: not shown
            return Verdict("not-shown", "trend-could-explain")
        return Verdict("met")
    if high < target:
        return Verdict("not-met") if conduct.washout_covers else Verdict("not-shown", "washout-too-short")
    return Verdict("not-shown", "interval-holds-target")


def guard(
    result: Result, *, worse_than: float, sign: Literal[1, -1], conduct: Conduct | None = None
) -> Guarded:
    """Whether the KPI became worse by more than `worse_than`: broken if the whole interval is beyond it.

    A KPI that became worse counts however the pilot was run. That it did not cannot be said of a change that
    did not act, of data that are not there, or where carry-over hides it.
    """
    if unusable := _unusable(result):
        return Guarded("not-shown", unusable)
    assert isinstance(result, Effect)  # noqa: S101  # a refusal is unusable
    low, high = improvement(result.low, result.high, sign)
    if high < -worse_than:
        return Guarded("broken")
    conduct = conduct or Conduct()
    if held := _held_back(result, conduct) or (None if conduct.washout_covers else "washout-too-short"):
        return Guarded("not-shown", held)
    return Guarded("kept") if low >= -worse_than else Guarded("not-shown", "interval-holds-limit")


def overall(primary: Verdict, guardrails: Iterable[Guarded]) -> Verdict:
    """The verdict on the pilot: met if the primary KPI is met and no guardrail is broken."""
    if any(each.word == "broken" for each in guardrails):
        return Verdict("not-met", "guardrail-broken")
    return primary


def improvement(low: float, high: float, sign: Literal[1, -1]) -> tuple[float, float]:
    """The limits of the interval as improvements: positive is better."""
    return (low, high) if sign > 0 else (-high, -low)


def _held_back(result: Result, conduct: Conduct) -> str | None:
    """The reason for which no verdict is given, whatever the interval is. NaN is too large."""
    if unusable := _unusable(result):
        return unusable
    if not conduct.complete:
        return "data-incomplete"
    if not conduct.off_schedule <= LARGEST_OFF_SCHEDULE:
        return "schedule-not-kept"
    return None if conduct.placebo <= LARGEST_PLACEBO else "placebo-dates"


def _unusable(result: Result) -> str | None:
    """The reason for which there is no interval."""
    if not isinstance(result, Effect):
        return result.code
    return "values-do-not-vary" if math.isnan(result.low) or math.isnan(result.high) else None


def _with_trend(result: Effect, sign: Literal[1, -1]) -> float:
    """The worse limit of the same analysis with a linear trend, as an improvement."""
    low, high = float(result.extras["trend_low"]), float(result.extras["trend_high"])
    return improvement(low, high, sign)[0]
