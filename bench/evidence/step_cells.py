"""The cells of a change that came once: the rule on ordinary and other noise, naive methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.random import Generator

from bench.evidence import naive, noise
from bench.evidence.cell import Cell, Found, found, share
from collector.pilots.effects import Refused, before_after, phases
from collector.pilots.effects.phases import LARGEST_STEP_RATIO, LEAST_PERIODS
from collector.pilots.effects.student_t import Floats

Make = Callable[[Generator, int, int, float], Floats]
RHOS = (0.0, 0.3, 0.6, 0.8, 0.9)
PATTERNS = 100  # of missing periods in a cell
WEEKEND = 1.5  # what a weekend adds; the plan knows the weekends

TABLE = {
    (20, 20): ((0.997, 1.10), (0.987, 1.23), (0.971, 1.47), (0.975, 1.46), (0.975, 1.27)),
    (28, 20): ((0.996, 1.01), (0.985, 1.16), (0.975, 1.43), (0.980, 1.51), (0.980, 1.33)),
    (28, 28): ((0.997, 0.94), (0.988, 1.08), (0.981, 1.36), (0.980, 1.47), (0.979, 1.38)),
    (56, 20): ((0.995, 0.85), (0.991, 1.01), (0.981, 1.26), (0.971, 1.42), (0.983, 1.36)),
    (45, 45): ((0.995, 0.71), (0.989, 0.85), (0.982, 1.14), (0.987, 1.42), (0.990, 1.46)),
    (60, 28): ((0.994, 0.75), (0.989, 0.90), (0.984, 1.19), (0.985, 1.41), (0.991, 1.41)),
}
PHASES = ((20, 20), (28, 20), (28, 28), (60, 28))
BUILD_UP = "an effect that builds up slowly in strongly correlated noise; `settle` in the plan helps"
LOUDER = "noise 2.5 times as large after the change: most such pilots are refused, the rest cover too rarely"


def cells() -> Iterator[Cell]:
    """All of them."""
    yield from _main()
    yield from _other_noise()
    yield from _changed_noise()
    yield from _missing()
    yield from _naive()
    yield from _trend()


def _main() -> Iterator[Cell]:
    for (before, after), row in TABLE.items():
        for rho, (coverage, half) in zip(RHOS, row, strict=True):
            run = partial(rule, noise.ar, before, after, rho)
            yield Cell("Before/after, AR(1)", f"{before}+{after}, rho {rho}", run, (coverage, coverage), half)
    yield Cell("Before/after, AR(1)", "14+14", partial(refused, 14, 14), (1, 1), rule=False, runs=100)
    yield Cell("Before/after, AR(1)", "20+19", partial(refused, 20, 19), (1, 1), rule=False, runs=100)
    for rho in (0.95, 0.98):
        run = partial(rule, noise.ar, 28, 28, rho)
        yield Cell("Before/after, AR(1)", f"28+28, rho {rho}", run, (0.984, 0.995))


def _other_noise() -> Iterator[Cell]:
    kinds: tuple[tuple[str, Make, tuple[float, ...], tuple[float, ...]], ...] = (
        ("AR + equal white noise", noise.ar_and_white, (0.6,) * 4, (0.975, 0.980, 0.978, 0.983)),
        ("AR + equal white noise", noise.ar_and_white, (0.9,) * 4, (0.949, 0.944, 0.940, 0.957)),
        ("t3 shocks", noise.heavy, (0.9, 0.9, 0.6, 0.6), (0.974, 0.973, 0.969, 0.978)),
        ("lognormal", noise.skewed, (0.9,) * 4, (0.971, 0.962, 0.969, 0.976)),
        ("Poisson(3)", noise.poisson, (0.6,) * 4, (0.968, 0.970, 0.980, 0.984)),
        ("zero-inflated", noise.zero_inflated, (0.9,) * 4, (0.953, 0.960, 0.969, 0.970)),
        ("random walk .05", noise.wandering, (0.0,) * 4, (0.993, 0.988, 0.989, 0.981)),
        ("random walk .05", noise.wandering, (0.6,) * 4, (0.972, 0.967, 0.974, 0.978)),
    )
    for name, make, rhos, row in kinds:
        for (before, after), rho, coverage in zip(PHASES, rhos, row, strict=True):
            run = partial(rule, make, before, after, rho)
            yield Cell(
                "Before/after, other noise", f"{before}+{after}, {name}, rho {rho}", run, (coverage,) * 2
            )
    run = partial(rule, noise.ar_and_white, 28, 28, 0.95)
    limit = "half of the noise is white, the rest has rho .95"
    yield Cell(
        "Before/after, other noise", "28+28, AR + equal white noise, rho 0.95", run, (0.932,) * 2, limit=limit
    )


def _changed_noise() -> Iterator[Cell]:
    table: dict[tuple[float, float], tuple[float | None, ...]] = {
        (1.6, 0.6): (0.965, 0.963, 0.971, 0.965),
        (1.6, 0.9): (0.948, 0.944, 0.961, 0.959),
        (0.6, 0.6): (0.966, 0.978, 0.970, 0.983),
        (0.6, 0.9): (0.942, 0.966, None, None),
        (2.5, 0.9): ((0.84, 0.88),) * 4,  # type: ignore[dict-item]
    }
    for (times, rho), row in table.items():
        for (before, after), expected in zip(PHASES, row, strict=True):
            name = f"{before}+{after}, trial noise x {times}, rho {rho}"
            run = partial(rule, noise.ar, before, after, rho, louder=times)
            both = expected if isinstance(expected, tuple) else expected and (expected, expected)
            loud = times == 2.5
            yield Cell(
                "Before/after, noise that changes",
                name,
                run,
                both or None,
                rule=not loud,
                limit=LOUDER if loud else "",
                tolerance=0.06 if loud else 0.02,  # few runs are left
            )
    for (before, after), slow, cut in (
        ((28, 28), (0.965, 0.912), (0.978, 0.942)),
        ((60, 28), (0.974, 0.926), (0.985, 0.958)),
    ):
        for rho, coverage, settled in zip((0.6, 0.9), slow, cut, strict=True):
            section, name = "Before/after, effect that grows over 7 periods", f"{before}+{after}, rho {rho}"
            yield Cell(
                section,
                name,
                partial(growing, before, after, rho),
                (coverage, coverage),
                limit=BUILD_UP if rho == 0.9 else "",
            )
            run = partial(growing, before, after, rho, settle=7)
            yield Cell(section, f"{name}, 7 periods cut", run, (settled, settled))


def _missing() -> Iterator[Cell]:
    for (before, after), how, part, rho, coverage in (
        ((28, 28), "random", 0.05, 0.3, 0.986),
        ((28, 28), "block", 0.05, 0.6, 0.980),
        ((60, 28), "random", 0.05, 0.3, 0.987),
        ((60, 28), "block", 0.05, 0.6, 0.980),
        ((28, 28), "random", 0.30, 0.9, 0.980),
        ((60, 28), "random", 0.30, 0.9, 0.981),
        ((60, 28), "block", 0.30, 0.6, 0.981),
        ((60, 28), "block", 0.30, 0.9, 0.985),
    ):
        name = f"{before}+{after}, {part:.0%} {how}, rho {rho}"
        run = partial(missing, before, after, rho, part, how == "block")
        yield Cell("Before/after, missing periods", name, run, (coverage, coverage))


def _naive() -> Iterator[Cell]:
    section = "Before/after, naive methods"
    # the two tables of the design differ by up to 4 points here
    for method, label, row in (
        (naive.ols_t, "OLS t", (0.953, 0.860, 0.700, 0.490, 0.353)),
        (naive.ewc_by_phase, "EWC by phase", (0.955, 0.961, 0.947, 0.899, 0.820)),
    ):
        for rho, coverage in zip(RHOS, row, strict=True):
            run = partial(compared, method, noise.ar, 28, 28, rho)
            yield Cell(
                section, f"28+28, {label}, rho {rho}", run, (coverage, coverage), rule=False, tolerance=0.04
            )
    for rho in RHOS:  # the design has a range alone, .59 to .77 "when days are correlated"
        run = partial(compared, naive.newey_west, noise.ar, 28, 28, rho)
        yield Cell(section, f"28+28, Newey-West, lag 3, rho {rho}", run, rule=False)
    run = partial(compared, naive.ewc_by_phase, noise.ar, 45, 45, 0.9)
    yield Cell(section, "45+45, EWC by phase, rho 0.9", run, (0.777, 0.777), rule=False)
    for rho, coverage in ((0.6, 0.90), (0.9, 0.78)):
        run = partial(compared, naive.ewc, noise.ar, 28, 28, rho)
        yield Cell(section, f"28+28, EWC, rho {rho}", run, (coverage, coverage), rule=False)
    for make, label, rho, known in (
        (noise.ar, "AR", 0.6, None),  # the design estimated the correlation in another way
        (noise.ar, "AR", 0.9, None),
        (noise.ar_and_white, "AR + equal white noise", 0.9, 0.69),
    ):
        run = partial(compared, naive.plug_in, make, 28, 28, rho)
        name = f"28+28, plug-in AR(1) GLS, {label}, rho {rho}"
        both = (known, known) if known else None
        yield Cell(section, name, run, both, rule=False, runs=1000, tolerance=0.04)
    run = partial(old_rule, 28, 28, 0.8)
    name = "28+28, EWC, refused if the estimated correlation is above .5, rho 0.8"
    yield Cell(section, name, run, rule=False)


def _trend() -> Iterator[Cell]:
    for rho, coverage in ((0.3, 0.966), (0.9, 0.953)):
        run = partial(rule, noise.ar, 28, 28, rho, trend="linear")
        yield Cell("Before/after, trend in the plan", f"28+28, rho {rho}", run, (coverage, coverage))
    section = "Before/after, share of false claims"
    for before in (28, 56, 90):
        for rho in (0.0, 0.6):
            for check, with_trend in ((False, (0.083, 0.128)), (True, (0.003, 0.021))):
                label = "checked" if check else "not checked"
                run = partial(claims, noise.ar, before, 28, rho, slope=1.5, check=check)
                name = f"{before}+28, trend of 1.5 sd, rho {rho}, {label}"
                yield Cell(section, name, run, with_trend, rule=False, runs=800)
    for before in (28, 90):
        for check, walk in ((False, (0.051, 0.077)), (True, (0.011, 0.033))):
            label = "checked" if check else "not checked"
            run = partial(claims, partial(noise.wandering, step=0.15), before, 28, 0.0, check=check)
            name = f"{before}+28, random walk .15 a period, {label}"
            yield Cell(section, name, run, walk, rule=False, runs=800)
    for rho in (0.0, 0.6, 0.9):
        run = partial(claims, noise.ar, 28, 28, rho, check=True)
        yield Cell(section, f"28+28, healthy, rho {rho}, checked", run, (0.003, 0.015), rule=False, runs=800)


def rule(
    make: Make,
    before: int,
    after: int,
    rho: float,
    drawn: Generator,
    runs: int,
    *,
    louder: float = 1.0,
    trend: phases.Trend = "none",
) -> Found:
    """The rule on one kind of noise; `louder` multiplies the noise of the trial."""
    on, times, weekend = _plan(before, after)
    series = make(drawn, len(on), runs, rho)
    series[on] *= louder  # its mean is 0
    result = phases.intervals(series + WEEKEND * weekend[:, None], on, times, [weekend], trend=trend)
    return found(result.low, result.high, 0.0, result.step_ratio <= LARGEST_STEP_RATIO)


def growing(before: int, after: int, rho: float, drawn: Generator, runs: int, *, settle: int = 0) -> Found:
    """An effect that grows to 1 over 7 periods; the truth is its mean over the periods that are used."""
    on, times, weekend = _plan(before, after)
    effect = np.where(on, np.minimum(1, (times - before + 1) / 7), 0.0)
    series = noise.ar(drawn, len(on), runs, rho) + effect[:, None]
    kept = (~on) | (times >= before + settle)
    result = phases.intervals(series[kept], on[kept], times[kept], [weekend[kept]])
    truth = float(effect[kept & on].mean())
    return found(result.low, result.high, truth, result.step_ratio <= LARGEST_STEP_RATIO)


def missing(
    before: int, after: int, rho: float, part: float, block: bool, drawn: Generator, runs: int
) -> Found:
    """Periods that are missing at random in each phase, or in one block; patterns are drawn, too."""
    on, times, weekend = _plan(before, after)
    parts = []
    each = max(1, runs // PATTERNS)
    for _ in range(runs // each):
        lost = np.zeros(len(on), bool)
        if block:
            size = round(part * len(on))
            start = int(drawn.integers(0, len(on) - size + 1))
            lost[start : start + size] = True
        else:
            for phase in (np.flatnonzero(~on), np.flatnonzero(on)):
                lost[drawn.permutation(phase)[: round(part * len(phase))]] = True
        series = noise.ar(drawn, len(on), each, rho)
        kept = ~lost
        if min(kept[on].sum(), kept[~on].sum()) < LEAST_PERIODS:
            parts.append(np.array([np.zeros(each), np.zeros(each), np.zeros(each)]))
            continue
        result = phases.intervals(series[kept], on[kept], times[kept], [weekend[kept]])
        parts.append(np.array([result.low, result.high, result.step_ratio <= LARGEST_STEP_RATIO]))
    low, high, allowed = np.concatenate(parts, axis=1)
    return found(low, high, 0.0, allowed)


def compared(
    method: Callable[[Floats, naive.Flags, list[Floats]], naive.Limits],
    make: Make,
    before: int,
    after: int,
    rho: float,
    drawn: Generator,
    runs: int,
) -> Found:
    """A naive method on one kind of noise."""
    on, _, weekend = _plan(before, after)
    low, high = method(make(drawn, len(on), runs, rho), on, [weekend])
    return found(low, high, 0.0)


def old_rule(before: int, after: int, rho: float, drawn: Generator, runs: int) -> Found:
    """Refusing by an estimated correlation keeps the runs that underestimated it."""
    on, _, weekend = _plan(before, after)
    series = noise.ar(drawn, len(on), runs, rho)
    low, high = naive.ewc(series, on, [weekend])
    rest = phases.residuals(series, np.column_stack([np.ones(len(on)), weekend, on]))
    return found(low, high, 0.0, phases.lag_one(rest) <= 0.5)


def claims(
    make: Make,
    before: int,
    after: int,
    rho: float,
    drawn: Generator,
    runs: int,
    *,
    slope: float = 0.0,
    check: bool = False,
) -> Found:
    """The share of pilots with an effect though nothing happened; `slope`: a trend over the whole."""
    on, times, weekend = _plan(before, after)
    series = make(drawn, len(on), runs, rho) + slope * times[:, None] / len(on)
    result = phases.intervals(series, on, times, [weekend], trend="check" if check else "none")
    up, down = result.low > 0, result.high < 0
    if result.trend_low is not None and result.trend_high is not None:
        up, down = up & (result.trend_low > 0), down & (result.trend_high < 0)
    return share((up | down) & (result.step_ratio <= LARGEST_STEP_RATIO))


def refused(before: int, after: int, drawn: Generator, runs: int) -> Found:
    """The share of refusals."""
    on, _, _ = _plan(before, after)
    series = noise.ar(drawn, len(on), runs, 0.3)
    return share(np.array([isinstance(before_after.effect(each, on), Refused) for each in series.T]))


def _plan(before: int, after: int) -> tuple[naive.Flags, Floats, Floats]:
    times = np.arange(before + after, dtype=float)
    return times >= before, times, (times % 7 >= 5).astype(float)
