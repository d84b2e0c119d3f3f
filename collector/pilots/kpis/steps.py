"""Values over time: a value holds until the next row, for a stated time at most, but not over lost rows."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.int64]  # us
Floats = NDArray[np.float64]
Span = tuple[int, int]  # us, half-open

LEAST_HOLD_US = 10_000_000
MOST_HOLD_US = 3_600_000_000  # unless the plan states how long a value holds
_STEPS = 3  # of the usual step between rows
_LIKE = 4  # a step over a power of two that is not longer than this many ordinary ones is a wrap
_REGISTERS = (2.0**16, 2.0**32)


@dataclass(frozen=True, slots=True)
class Steps:
    """A value over spans of time that do not overlap, in order; between them it is not known."""

    starts: Times
    ends: Times
    values: Floats

    @property
    def time_us(self) -> int:
        """For how long the value is known."""
        return int((self.ends - self.starts).sum())

    def where(self, chosen: NDArray[np.bool_]) -> Steps:
        """Some of the spans."""
        return Steps(self.starts[chosen], self.ends[chosen], self.values[chosen])

    def between(self, start_us: int, end_us: int) -> Steps:
        """What is within a span."""
        cut = Steps(np.maximum(self.starts, start_us), np.minimum(self.ends, end_us), self.values)
        return cut.where(cut.ends > cut.starts)

    def weighted(self) -> Floats:
        """Each value times its time in us."""
        with np.errstate(over="ignore"):  # inf: no value
            return np.asarray(self.values * (self.ends - self.starts))


def total(values: Floats) -> float:
    """The sum, rounded once; NaN if it is beyond all floats."""
    try:
        return math.fsum(values.tolist())
    except (OverflowError, ValueError):  # ValueError: inf and -inf
        return math.nan


def over(spans: Iterable[Span]) -> Steps:
    """The value 1 in spans that do not overlap, in order."""
    found = np.array(list(spans), np.int64).reshape(-1, 2)
    return Steps(found[:, 0], found[:, 1], np.ones(len(found)))


def hold_us(times: Times) -> int:
    """How long a value holds without another row: three times the usual step, 10 s to 1 h.

    `times` are in order.
    """
    steps = np.diff(times)
    steps = steps[steps > 0]
    usual = int(np.median(steps)) if len(steps) else 0
    return min(max(_STEPS * usual, LEAST_HOLD_US), MOST_HOLD_US)


def held(times: Times, values: Floats, end_us: int, longest_us: int) -> Steps:
    """Each value until the next row, `longest_us` at most; a value that is NaN is not known."""
    ends = np.minimum(np.append(times[1:], np.int64(end_us)), times + longest_us)
    found = Steps(times, np.minimum(ends, end_us), values)
    return found.where((found.ends > found.starts) & ~np.isnan(values))


def both(one: Steps, other: Steps) -> tuple[Steps, Floats]:
    """Where both are known: the first with its values there, and the values of the other."""
    edges = np.sort(np.concatenate([one.starts, one.ends, other.starts, other.ends]))
    edges = edges[np.append(True, np.diff(edges) != 0)] if len(edges) else edges  # np.unique takes longer
    lefts, rights = edges[:-1], edges[1:]
    known = np.ones(len(lefts), np.bool_)
    columns: list[Floats] = []
    for each in (one, other):
        if not len(each.starts):
            return Steps(lefts[:0], rights[:0], np.empty(0)), np.empty(0)
        at = np.searchsorted(each.starts, lefts, side="right") - 1
        known &= (at >= 0) & (each.ends[at] >= rights)
        columns.append(each.values[at])
    return Steps(lefts, rights, columns[0]).where(known), columns[1][known]


def without(one: Steps, lost: Iterable[Span]) -> Steps:
    """Without what is within lost spans."""
    gone = joined(lost)
    if not gone or not len(one.starts):
        return one
    first, last = int(one.starts[0]), int(one.ends.max())
    edges = [first, *(edge for span in gone for edge in span), last]
    kept = [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b > a]
    return both(one, over(kept))[0]


def joined(spans: Iterable[Span]) -> list[Span]:
    """Spans in order; those that touch are one."""
    found: list[Span] = []
    for first, last in sorted(span for span in spans if span[1] > span[0]):
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return found


def length_us(spans: Iterable[Span], within: Span) -> int:
    """How much of a span others cover."""
    cut = ((max(first, within[0]), min(last, within[1])) for first, last in spans)
    return sum(last - first for first, last in joined(cut))


def moved(times: Times, values: Floats, start_us: int, end_us: int) -> float | None:
    """How far a counter moved within a span, from the last row before it; None with one row or none.

    A counter that starts again goes on from 0. One that passes 65,536 or 4,294,967,296 in a step like its
    other steps goes on.
    """
    kept = ~np.isnan(values) & (times < end_us)
    times, values = times[kept], values[kept]
    first = max(0, int(np.searchsorted(times, start_us)) - 1)
    if len(values) - first < 2:
        return None
    with np.errstate(over="ignore"):  # inf: no value
        steps = np.diff(values[first:])
    down = steps < 0
    if down.any():
        usual = float(np.max(steps[~down], initial=0.0))
        after = np.maximum(values[first + 1 :], 0.0)
        passed = after.copy()
        for size in _REGISTERS:
            wrapped = steps + size
            passed = np.where((wrapped >= 0) & (wrapped <= _LIKE * usual), wrapped, passed)
        steps = np.where(down, passed, steps)
    return total(steps)


def falls(one: Steps, beside: Floats, start_us: int) -> int:
    """How often a true value became false from `start_us` on, where the value beside is true."""
    if len(one.starts) < 2:
        return 0
    follows = one.ends[:-1] == one.starts[1:]
    fell = (one.values[:-1] != 0) & (one.values[1:] == 0) & follows
    return int((fell & (beside[1:] != 0) & (one.starts[1:] >= start_us)).sum())
