"""Values of periods as arrays: missing ones left out, units scaled, means and t intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from collector.pilots.effects import student_t
from collector.pilots.effects.effect import Refused
from collector.pilots.effects.student_t import Floats

Values = Sequence[float | None] | Floats


def array(values: Values) -> Floats:
    """The values as floats; None and what is not finite are NaN, which is missing."""
    found = np.array([math.nan if each is None else float(each) for each in values], dtype=np.float64)
    found[~np.isfinite(found)] = math.nan
    return found


def whole(*columns: Values) -> tuple[list[Floats], int]:
    """The rows in which no column is missing, and how many were left out."""
    arrays = [array(each) for each in columns]
    if len({len(each) for each in arrays}) > 1:
        raise ValueError(f"columns of {sorted({len(each) for each in arrays})} periods; give equal ones")
    kept = ~np.any([np.isnan(each) for each in arrays], axis=0)
    return [each[kept] for each in arrays], int((~kept).sum())


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
    return len(values) > 1 and float(values.max() - values.min()) > 1e-12 * size


def mean(values: Floats) -> float:
    """The mean, summed exactly."""
    return math.fsum(values.tolist()) / len(values)


def sd(values: Floats) -> float:
    """The standard deviation with n - 1."""
    centre = mean(values)
    return math.sqrt(math.fsum((float(each) - centre) ** 2 for each in values) / (len(values) - 1))


def t_interval(estimate: float, error: float, df: int, alpha: float) -> tuple[float, float, float]:
    """The (low, high, p) of an estimate with a standard error."""
    half = student_t.quantile(1 - alpha / 2, df) * error
    return estimate - half, estimate + half, student_t.two_sided_p(estimate / error, df) if error else 1.0
