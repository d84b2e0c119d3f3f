"""Whatever the periods have: an effect whose limits are numbers, or a refusal by a known code."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.pilots.effects import (
    Effect,
    Refused,
    before_after,
    clusters,
    counts,
    numbers,
    parallel,
    placebo,
    planning,
    ratios,
    switchback,
)
from collector.pilots.effects.verdict import Conduct, guard, judge

ROOT = Path(__file__).parents[5]
CODES = set(re.findall(r"^\| `([a-z-]+)` \|", (ROOT / "docs/pilots.md").read_text(), re.MULTILINE))
DRAWN = np.random.default_rng(12)


def series(periods: int) -> dict[str, list[Any]]:
    """Hostile series of a length, by name."""
    noise = DRAWN.normal(size=periods)
    sizes = 10.0 ** DRAWN.uniform(-307, 307, periods)
    return {
        "sound": (noise + 5).tolist(),
        "none": [None] * periods,
        "nan": [math.nan] * periods,
        "infinite": [math.inf, -math.inf] * (periods // 2) + [math.inf] * (periods % 2),
        "some missing": [None if each < -0.8 else float(each) for each in noise],
        "huge": (noise * 4e307).tolist(),
        "largest": [1.7976931348623157e308 * (1 if each > 0 else -1) for each in noise],
        "denormal": [5e-324 * round(10 * abs(each)) for each in noise],
        "any size": sizes.tolist(),
        "any size and sign": (sizes * np.sign(noise)).tolist(),
        "one is huge": [1.0] * (periods - 1) + [1e308] if periods else [],
        "equal": [7.0] * periods,
        "zero": [0.0] * periods,
        "negative": (-np.abs(noise) - 1).tolist(),
        "huge counts": [10.0**300 * round(3 * abs(each)) for each in noise],
        "many counts": DRAWN.poisson(1e9, periods).astype(float).tolist(),
        "counts": DRAWN.poisson(3, periods).astype(float).tolist(),
        "large level": (1e15 + np.round(noise)).tolist(),
    }


def is_sound(found: object) -> None:
    """The promise of every analysis."""
    assert isinstance(found, Effect | Refused), found
    if isinstance(found, Refused):
        assert found.code in CODES
        assert found.sentence
        return
    assert not math.isnan(found.estimate)
    assert found.low <= found.high
    msgspec.json.encode([found.n, found.df, found.p, found.sd, found.extras])
    for sign in (1, -1):
        judge(found, target=0.1, sign=sign, conduct=Conduct())  # type: ignore[arg-type]
        guard(found, worse_than=0.1, sign=sign)  # type: ignore[arg-type]


IN_PAIRS: dict[str, Callable[[Any, Any], object]] = {
    "switchback": lambda a, b: switchback.effect(a, b, seed=1),
    "switchback, relative": lambda a, b: switchback.effect(a, b, seed=1, relative=True),
    "ratios": lambda a, b: ratios.pairs(a, b, b, a),
    "ratios, the other way": lambda a, b: ratios.pairs(a, a, b, b),
    "counts": counts.pairs,
    "counts with exposure": lambda a, b: counts.pairs(
        DRAWN.poisson(5, len(a)), DRAWN.poisson(5, len(b)), on_exposure=a, off_exposure=b
    ),
    "parallel": lambda a, b: parallel.effect(a, b, seed=1),
    "parallel, relative": lambda a, b: parallel.effect(a, b, seed=1, relative=True),
    "clusters": lambda a, b: clusters.effect([[each] for each in [*a, *b]], seed=1),
    "clusters, relative": lambda a, b: clusters.effect([a, b] * 5, seed=1, relative=True),
}
IN_TIME: dict[str, Callable[[Any, Any], object]] = {
    "difference": before_after.effect,
    "relative": lambda y, on: before_after.effect(y, on, relative=True),
    "linear trend": lambda y, on: before_after.effect(y, on, trend="linear"),
    "ratio above": lambda y, on: before_after.ratio(y, [2.0] * len(y), on),
    "ratio below": lambda y, on: before_after.ratio([2.0] * len(y), y, on),
    "ratio": lambda y, on: before_after.ratio(y, y[::-1], on),
}


@pytest.mark.parametrize("name", IN_PAIRS)
def test_pairs(name: str) -> None:
    for pairs in (0, 1, 6, 9):
        found = series(pairs)
        for one in found:
            for other in {one, "sound", "any size", "zero"}:
                is_sound(IN_PAIRS[name](found[one], found[other]))
                is_sound(IN_PAIRS[name](found[other], found[one]))


@pytest.mark.parametrize("name", IN_TIME)
def test_periods(name: str) -> None:
    for periods in (0, 1, 44):
        for values in series(periods).values():
            is_sound(IN_TIME[name](values, [at >= periods // 2 for at in range(periods)]))


@pytest.mark.parametrize("which", ["effect", "noise"])
def test_covariates_and_times(which: str) -> None:
    on = [at >= 22 for at in range(44)]
    found = series(44)
    at = [float(each) for each in range(44)]
    values = found["sound"]
    all_times = [
        at[::-1],
        [0.0] * 44,
        [0.0, *at[:-1]],
        [each * 1e-300 for each in at],
        [each * 1e300 for each in at],
        *found.values(),
    ]
    columns = [[each] for each in found.values()]
    columns += [[values, values], [values, [2 * each + 1 for each in values]], [on], [at], [at, at, on]]
    for times in all_times:
        is_sound_in_time(which, values, on, times=times)
    for covariates in columns:
        is_sound_in_time(which, values, on, covariates=covariates)


def is_sound_in_time(which: str, values: Any, on: Any, **options: Any) -> None:
    if which == "effect":
        is_sound(before_after.effect(values, on, **options))
        return
    found = planning.noise(values, **options)
    if isinstance(found, Refused):
        assert found.code in CODES
    else:
        assert np.isfinite([*found.weights, *found.scales, found.sd, found.step_sd, found.correlation]).all()


@pytest.mark.parametrize("size", [5e-324, 1e-300, 1e300, 1.7e308])
def test_mean_and_sd_of_any_size(size: float) -> None:
    values = np.array([size, size, -size, -size])
    assert numbers.mean(values) == 0
    assert numbers.sd(values) == pytest.approx(min(size * math.sqrt(4 / 3), math.inf), rel=1e-12, abs=5e-324)
    assert numbers.total(values[:2]) == 2 * size


def test_placebo_dates_and_noise_of_any_baseline() -> None:
    for values in series(41).values():
        found = placebo.placebo(values)
        assert 0 <= found.shown <= found.dates <= 2
        plan = planning.noise(values)
        assert isinstance(plan, planning.Noise) or plan.code in CODES
    backwards = placebo.placebo(series(42)["sound"], times=list(range(42))[::-1])
    assert backwards.dates == 3


numbers_of_any_kind = st.one_of(
    st.none(), st.floats(), st.integers(-5, 5).map(float), st.sampled_from([1e308, -1e308, 5e-324, 0.1, 1e15])
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.sampled_from(sorted(IN_PAIRS)),
    st.lists(st.tuples(numbers_of_any_kind, numbers_of_any_kind), max_size=9),
)
def test_any_pairs(name: str, pairs: list[tuple[float | None, float | None]]) -> None:
    on, off = ([each[side] for each in pairs] for side in (0, 1))
    if name == "counts with exposure" or name.startswith("clusters") or pairs:
        is_sound(IN_PAIRS[name](on, off))


@pytest.mark.parametrize("sign", [1, -1])
def test_limits_that_are_no_numbers_give_no_verdict(sign: Any) -> None:
    for low, high in ((math.nan, 1.0), (-1.0, math.nan), (math.nan, math.nan)):
        found = Effect(0.0, low, high, 0.05, "m", 20)
        assert judge(found, target=0.1, sign=sign).reason == "values-do-not-vary"
        assert guard(found, worse_than=0.1, sign=sign).reason == "values-do-not-vary"
    trend = {"trend_low": math.nan, "trend_high": math.nan}
    better = sorted((sign * 0.2, sign * 0.4))
    found = Effect(sign * 0.3, *better, 0.05, "m", 20, extras=trend)
    assert judge(found, target=0.1, sign=sign).reason == "trend-could-explain"
    found = Effect(sign * 0.3, *better, 0.05, "m", 20)
    assert judge(found, target=0.1, sign=sign, conduct=Conduct(off_schedule=math.nan)).word == "not-shown"
    assert judge(found, target=0.1, sign=sign, conduct=Conduct(placebo=math.nan)).word == "not-shown"


def test_limits_that_are_infinite() -> None:
    above = Effect(math.inf, 0.2, math.inf, 0.05, "m", 20)
    assert judge(above, target=0.1, sign=1).word == "met"
    assert judge(above, target=0.1, sign=-1).word == "not-met"
    assert guard(above, worse_than=0.1, sign=-1).word == "broken"
    assert guard(above, worse_than=0.1, sign=1).word == "kept"
    unknown = Effect(0.0, -math.inf, math.inf, 0.05, "m", 20)
    for sign in (1, -1):
        assert judge(unknown, target=0.1, sign=sign).reason == "interval-holds-target"  # type: ignore[arg-type]
        assert guard(unknown, worse_than=0.1, sign=sign).word == "not-shown"  # type: ignore[arg-type]
    assert above.stated() == above
