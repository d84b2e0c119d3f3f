"""Which of two qualities a row travels with."""

from __future__ import annotations

from itertools import combinations

import pytest

from wire.messages import Quality

FROM_THE_GRAVEST = (
    Quality.BAD,
    Quality.WRONG_TYPE,
    Quality.NOT_FINITE,
    Quality.TIME_BACKWARD,
    Quality.TIME_REPEATED,
    Quality.OUT_OF_RANGE,
    Quality.UNCERTAIN,
    Quality.GOOD,
)


def test_every_quality_has_a_place() -> None:
    assert sorted(FROM_THE_GRAVEST) == sorted(Quality)


@pytest.mark.parametrize(("graver", "other"), list(combinations(FROM_THE_GRAVEST, 2)))
def test_the_graver_one_travels_in_either_order(graver: Quality, other: Quality) -> None:
    assert graver.worse(other) is graver
    assert other.worse(graver) is graver


@pytest.mark.parametrize("quality", Quality)
def test_two_of_one_kind_stay(quality: Quality) -> None:
    assert quality.worse(quality) is quality
