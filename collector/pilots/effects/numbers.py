"""Values of periods as arrays: missing ones left out, units scaled, means and t intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from collector.pilots.effects import student_t
from collector.pilots.effects.effect import Refused
from collector.pilots.effects.student_t import Floats

Values = Sequence[float | None] | Floats

SHORTEST_STEP = 1e-6  # of a period


def array(values: Values) -> Floats:
    """The values as floats; None and what is not finite are NaN, which is missing."""
    found = np.array([math.nan if each is None else each for each in values], dtype=np.float64)
    found[~np.isfinite(found)] = math.nan
    return found


def whole(*columns: Values) -> tuple[list[Floats], int]:
    """The rows in which no column is missing, and how many were left out."""
    arrays = [array(each) for each in columns]
    if len({len(each) for each in arrays}) > 1:
        raise ValueError(f"columns of {sorted({len(each) for each in arrays})} periods; give equal ones")
    kept = ~np.any([np.isnan(each) for each in arrays], axis=0)
    return [each[kept] for each in arrays], int((~kept).sum())


def by_time(values: Values, times: Values | None, *columns: Values) -> tuple[list[Floats], int]:
    """The (values, times, *columns) of the rows in which none is missing, in the order of their times.

    Without times the rows are numbered. The last is how many rows were left out.
    """
    numbered = np.arange(len(values), dtype=float) if times is None else times
    arrays, missing = whole(values, numbered, *columns)
    order = np.argsort(arrays[1], kind="stable")
    return [each[order] for each in arrays], missing


def overlap(times: Floats) -> bool:
    """Whether two periods have the same number; times are in periods and in order."""
    with np.errstate(over="ignore"):
        return bool((np.diff(times) < SHORTEST_STEP).any())


def too_far_apart() -> Refused:
    """The refusal of values that differ too much in size."""
    sentence = "The values are too far apart to calculate with: check that the KPI is measured."
    return Refused("values-do-not-vary", sentence)


def too_few_pairs(pairs: int, least: int) -> Refused:
    """The refusal of fewer whole pairs than the least."""
    sentence = f"{pairs} whole pairs of periods; an interval needs {least}."
    return Refused("too-few-periods", sentence, {"n": pairs})


def unit(*columns: Floats) -> int:
    """The power of two of the largest value: scaling by it is exact, and squares do not overflow."""
    return max((math.frexp(float(np.abs(each).max()))[1] for each in columns if len(each)), default=0)


def varies(values: Floats, beside: Floats | None = None) -> bool:
    """Whether the values differ by more than the rounding of the numbers they came from."""
    size = float(np.abs(values if beside is None else beside).max(initial=0.0))
    return len(values) > 1 and float(values.max()) - float(values.min()) > 1e-12 * size


def scaled(value: float, power: int) -> float:
    """The value times 2**power: infinite if it is too large, and exact unless it is too small."""
    try:
        return math.ldexp(value, power)
    except OverflowError:
        return math.copysign(math.inf, value)


def total(values: Floats) -> float:
    """The sum, rounded once; infinite if it is too large."""
    power = unit(values)
    return scaled(math.fsum(np.ldexp(values, -power).tolist()), power)


def mean(values: Floats) -> float:
    """The mean, summed exactly."""
    power = unit(values)
    return scaled(math.fsum(np.ldexp(values, -power).tolist()) / len(values), power)


def sd(values: Floats) -> float:
    """The standard deviation with n - 1."""
    power = unit(values)  # squares do not overflow
    levelled = np.ldexp(values, -power)
    squares = math.fsum((levelled - mean(levelled)) ** 2)
    return scaled(math.sqrt(squares / (len(values) - 1)), power)


def t_interval(estimate: float, error: float, df: int, alpha: float) -> tuple[float, float, float]:
    """The (low, high, p) of an estimate with a standard error."""
    half = student_t.quantile(1 - alpha / 2, df) * error
    return estimate - half, estimate + half, student_t.two_sided_p(estimate / error, df) if error else 1.0
