"""95 % confidence intervals for the figures on model cards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from wire.intervals import wilson

__all__ = ["bootstrap", "wilson"]

_DRAWS = 4000


def bootstrap(sums: ArrayLike, counts: ArrayLike, digits: int) -> list[float]:
    """Return the interval of `sum(sums) / sum(counts)`, resampling whole groups (cars, patients, ...).

    Cases of one group are similar, so resampling single cases gives a too narrow interval. Rounded to
    `digits`.
    """
    over, under = np.asarray(sums, float), np.asarray(counts, float)
    drawn = np.random.default_rng(0).integers(0, len(over), (_DRAWS, len(over)))
    ends: Sequence[float] = np.quantile(over[drawn].sum(axis=1) / under[drawn].sum(axis=1), (0.025, 0.975))
    return [round(float(end), digits) for end in ends]
