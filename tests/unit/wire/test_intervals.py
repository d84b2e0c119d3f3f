"""The interval of a share."""

from __future__ import annotations

import pytest

from wire.intervals import wilson


def test_the_wilson_interval_is_wide_for_few_cases() -> None:
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)  # Newcombe 1998 has the formula
