"""95 % confidence intervals for the figures on model cards."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

_Z = 1.959964  # of the normal distribution, for 95 %
_DRAWS = 4000


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return the interval of a share of `n` independent cases (Wilson, 1927); valid for small `n` too."""
    share, z2 = hits / n, _Z**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap(sums: ArrayLike, counts: ArrayLike, digits: int) -> list[float]:
    """Return the interval of `sum(sums) / sum(counts)`, resampling whole groups (cars, patients, ...).

    Cases of one group are similar, so resampling single cases gives a too narrow interval. Rounded to
    `digits`.
    """
    over, under = np.asarray(sums, float), np.asarray(counts, float)
    drawn = np.random.default_rng(0).integers(0, len(over), (_DRAWS, len(over)))
    ends: Sequence[float] = np.quantile(over[drawn].sum(axis=1) / under[drawn].sum(axis=1), (0.025, 0.975))
    return [round(float(end), digits) for end in ends]
