"""The 95 % confidence interval of a share."""

from __future__ import annotations

import math

_Z = 1.959964  # of the normal distribution, for 95 %


def wilson(hits: float, n: int) -> tuple[float, float]:
    """Return the interval of a share of `n` independent cases (Wilson, 1927); valid for small `n` too."""
    share, z2 = hits / n, _Z**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)
