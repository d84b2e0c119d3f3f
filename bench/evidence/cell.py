"""A cell: one setting, simulated many times; what share of the intervals holds the truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from collector.pilots.effects.student_t import Floats

LEAST_COVERAGE = 0.935
LARGEST_FALSE_MET = 0.033
TOLERANCE, HALF_TOLERANCE = 0.02, 0.05  # of coverage, half-width
BIAS_TOLERANCE = 0.02
FEW_RUNS = 1000


class Found(NamedTuple):
    """What the runs of a cell gave. Coverage and half-width: of the runs that were given an interval."""

    coverage: float
    half: float = math.nan  # the median
    given: float = 1.0
    false_met: float = math.nan  # share of all runs whose interval is above the truth, the worst target
    runs: int = 0
    met: float = math.nan  # share of all runs that the target of a plan finds met
    bias: float = math.nan  # mean of the middle of the interval less the truth

    @property
    def error(self) -> float:
        """The Monte Carlo standard error of the coverage."""
        judged = max(self.runs * self.given, 1)
        return math.sqrt(max(self.coverage * (1 - self.coverage), 0) / judged)


Run = Callable[[Generator, int], Found]


@dataclass(frozen=True)
class Cell:
    """A setting with the numbers to compare. `rule`: a verdict is allowed, so the limits of the rule hold."""

    section: str
    name: str
    run: Run
    expected: tuple[float, float] | None = None  # coverage, or the share that the section names
    half: float | None = None
    rule: bool = True
    limit: str = ""  # a known limit of the rule, printed beside
    runs: int = 2000
    tolerance: float = TOLERANCE
    most_met: float = 1.0
    bias: float | None = None  # the one that the design found


def found(low: Floats, high: Floats, truth: float, allowed: NDArray[Any] | None = None) -> Found:
    """The summary of many intervals."""
    judged = np.ones(len(low), bool) if allowed is None else np.asarray(allowed, bool)
    inside = (low <= truth) & (truth <= high)
    return Found(
        coverage=float(inside[judged].mean()) if judged.any() else math.nan,
        half=float(np.median((high - low)[judged]) / 2) if judged.any() else math.nan,
        given=float(judged.mean()),
        false_met=float((judged & (low > truth)).mean()),
        runs=len(low),
        bias=float(((low + high) / 2 - truth)[judged].mean()) if judged.any() else math.nan,
    )


def share(values: NDArray[Any]) -> Found:
    """A plain share, such as that of refusals or of false claims."""
    return Found(coverage=float(np.mean(values)), runs=len(values))
