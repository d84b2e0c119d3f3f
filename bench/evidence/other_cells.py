"""The cells of switchbacks, machines, ratios, counts, placebo dates and sample sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.random import Generator

from bench.evidence import noise
from bench.evidence.cell import Cell, Found, found, share
from collector.pilots.effects import (
    Effect,
    Refused,
    counts,
    parallel,
    phases,
    ratios,
    student_t,
    switchback,
)
from collector.pilots.effects.student_t import Floats

RHOS = (0.0, 0.3, 0.6, 0.9)
SWITCHBACK = {
    8: ((0.948, 0.943, 0.955, 0.953), (2.01, 1.66, 1.28, 0.63)),
    10: ((0.958, 0.952, 0.953, 0.953), (1.61, 1.34, 1.02, 0.52)),
    14: ((0.955, 0.952, 0.956, 0.949), (1.24, 1.04, 0.79, 0.39)),
    20: ((0.951, 0.949, 0.950, 0.953), (0.99, 0.82, 0.61, 0.31)),
    40: ((0.950, 0.944, 0.944, 0.947), (0.65, 0.55, 0.41, 0.20)),
}
WITHIN = 0.05  # variance of a whole period from the noise of its rows: less is left of it after a wash-out
EXACT = {14: (1.30, 0.82), 20: (1.00, 0.63), 40: (0.67, 0.41)}  # half-widths at rho 0 and .6


def cells() -> Iterator[Cell]:
    """All of them."""
    yield from _switchback()
    yield from _carry_over()
    yield from _machines()
    yield from _ratios()
    yield from _counts()
    yield from _placebo()
    yield from _sizes()


def _switchback() -> Iterator[Cell]:
    for periods, (coverages, halves) in SWITCHBACK.items():
        for rho, coverage, half in zip(RHOS, coverages, halves, strict=True):
            run = partial(pair_t, periods, rho)
            name = f"{periods} periods, rho {rho}"
            yield Cell(
                "Switchback, paired t", name, run, (coverage,) * 2, half, rule=periods >= 12, runs=10_000
            )
    for periods, widths in EXACT.items():
        for rho in RHOS:
            width = {0.0: widths[0], 0.6: widths[1]}.get(rho)
            run = partial(exact, periods, rho)
            name = f"{periods} periods, rho {rho}"
            # a million subsets each with 40 periods; the tolerance allows for their number of runs
            few = periods == 40
            yield Cell(
                "Switchback, exact interval",
                name,
                run,
                (0.94, 0.96),
                width,
                runs=300 if few else 10_000,
                tolerance=0.025 if few else 0.02,
            )
    for periods in (8, 10):
        run = partial(no_interval, periods)
        yield Cell("Switchback, exact interval", f"{periods} periods", run, (1, 1), rule=False, runs=100)


def _carry_over() -> Iterator[Cell]:
    section = "Switchback, carry-over of a share of a period, rho .3"
    limit = "a wash-out shorter than the carry-over hides effects: `not met` is withheld"
    for periods, carry, washout, effect, coverage in (
        (14, 0.1, 0.0, 1, 0.93),
        (40, 0.1, 0.0, 1, 0.91),
        (14, 0.3, 0.0, 1, 0.87),
        (20, 0.3, 0.0, 1, 0.81),
        (40, 0.3, 0.0, 1, 0.67),
        (14, 0.3, 0.0, 2, 0.63),
        (20, 0.3, 0.0, 2, 0.47),
        (40, 0.3, 0.0, 2, 0.15),
        (14, 0.3, 0.1, 1, 0.91),
        (20, 0.3, 0.1, 1, 0.87),
        (40, 0.3, 0.1, 1, 0.80),
    ):
        name = f"{periods} periods, carry-over {carry}, wash-out {washout}, effect {effect} sd"
        run = partial(carried, periods, carry, washout, effect)
        bias = -1.5 * effect * max(carry - washout, 0) / (1 - washout)
        # cheap, so their own error does not use up the tolerance: near .5 2,000 runs scatter by a point
        yield Cell(section, name, run, (coverage,) * 2, rule=False, limit=limit, runs=40_000, bias=bias)
    for periods in (14, 20, 40):
        name = f"{periods} periods, carry-over 0.3, wash-out 0.3, effect 1 sd"
        run = partial(carried, periods, 0.3, 0.3, 1)
        yield Cell(section, name, run, (0.944, 0.957), runs=10_000, bias=0.0)


def _machines() -> Iterator[Cell]:
    section = "Machines with and without the change, 28+28 periods"
    for treated, control, coverage, half in (
        (2, 2, (0.936, 0.952), 2.6),
        (3, 3, (0.951, 0.963), 1.5),
        (4, 4, (0.943, 0.959), 1.15),
        (6, 6, (0.944, 0.963), 0.89),
        (2, 6, (0.942, 0.956), None),
        (1, 7, (0.935, 0.950), None),
    ):
        for drift in (0.0, 0.5):
            run = partial(machines, treated, control, drift)
            name = f"{treated}+{control}, drift {drift}"
            yield Cell(
                section,
                f"{name}, t on machine differences",
                run,
                coverage,
                half if drift else None,
                runs=10_000,
            )
    run = partial(panel, 4, 4, 0.5, False)
    yield Cell(section, "4+4, drift 0.5, panel rows", run, (0.53, 0.77), rule=False, runs=1000)
    run = partial(panel, 1, 7, 0.5, True)
    yield Cell(section, "1+7, drift 0.5, cluster-robust CR1", run, (0.55, 0.60), rule=False, runs=1000)


def _ratios() -> Iterator[Cell]:
    section = "Ratio of sums in pairs, denominators with cv .8"
    for pairs in (7, 10, 20):
        run = partial(jackknife, pairs)
        yield Cell(section, f"{pairs} pairs, jackknife", run, (0.938, 0.951), runs=1000)
        run = partial(delta_method, pairs)
        yield Cell(section, f"{pairs} pairs, linearised", run, (0.914, 0.939), rule=False)


def _counts() -> Iterator[Cell]:
    section = "Rare events in pairs, at least 20 events"
    for pairs, mean, ratio, hull, fieller in (
        (14, 1.0, 0.5, 0.976, 0.955),
        (10, 3.0, 0.1, 0.992, 0.911),
    ):
        for method, coverage in (("hull", hull), ("Fieller", fieller)):
            run = partial(events, pairs, mean, ratio, method)
            name = f"{pairs} pairs, mean {mean:g}, rate ratio {ratio}, over-dispersed, {method}"
            yield Cell(section, name, run, (coverage,) * 2, rule=method == "hull")
    for mean, ratio in ((0.5, 1.0), (1.0, 0.2), (3.0, 0.5), (3.0, 0.0), (2.0, 1.0)):
        run = partial(events, 20, mean, ratio, "hull")
        name = f"20 pairs, mean {mean:g}, rate ratio {ratio}, over-dispersed, hull"
        yield Cell(section, name, run, (0.953, 1.0))
    run = partial(events, 30, 3.0, 0.5, "Poisson")
    name = "30 pairs, mean 3, rate ratio 0.5, over-dispersed, Poisson alone"
    yield Cell(section, name, run, (0.885, 0.885), rule=False)


def _placebo() -> Iterator[Cell]:
    section = "Placebo dates, share of sound baselines above the limit"
    for periods, row in ((56, (0.05, 0.18, 0.10)), (90, (0.02, 0.05, 0.02))):
        for rho, fires in zip((0.0, 0.6, 0.9), row, strict=True):
            name = f"baseline {periods}, rho {rho}, more than"
            run = partial(fake_dates, periods, rho, 0.10, every=2)
            text = f"{name} 10% of every second date"
            # the source has 400 runs, so twice its standard error is up to 4 points
            runs = 2000 if periods == 56 else 400
            yield Cell(section, text, run, (fires, fires), rule=False, runs=runs, tolerance=0.04)
            run = partial(fake_dates, periods, rho, 0.30)
            yield Cell(section, f"{name} 30%", run, (0.0, 0.025), rule=False, runs=400)


def _sizes() -> Iterator[Cell]:
    section = "Sample sizes, power where 80 % is expected"
    for effect, row in ((1.0, (36, 26, 18, 12)), (0.5, (136, 96, 56, 18))):
        for rho, periods in zip(RHOS, row, strict=True):
            run = partial(power_switchback, periods, rho, effect)
            name = f"switchback, {periods} periods, effect {effect}, rho {rho}"
            # 12 periods are the least, whatever the effect
            expected = (0.80, 1.0) if periods == 12 else (0.80, 0.80)
            yield Cell(section, name, run, expected, rule=False, tolerance=0.05)
    for effect, rho, periods in ((1.0, 0.0, 46), (1.0, 0.3, 65), (1.0, 0.5, 102), (0.5, 0.0, 148)):
        run = partial(power_step, periods, rho, effect)
        name = f"before/after, {periods} periods a phase, effect {effect}, rho {rho}"
        # interpolated from 250 to 600 runs
        yield Cell(section, name, run, (0.80, 0.80), rule=False, tolerance=0.06, runs=600)


def pair_t(periods: int, rho: float, drawn: Generator, runs: int) -> Found:
    """Student's t on the pair differences; the effect is 1."""
    differences = _pairs(drawn, periods, runs, rho)
    return found(*_t_limits(differences), 1.0)


def exact(periods: int, rho: float, drawn: Generator, runs: int) -> Found:
    """The exact interval of the product."""
    differences = _pairs(drawn, periods, runs, rho)
    none = np.zeros(periods // 2)
    results = [switchback.effect(each, none, seed=at) for at, each in enumerate(differences.T)]
    return _judged(results, 1.0)


def no_interval(periods: int, drawn: Generator, runs: int) -> Found:
    """The share of refusals."""
    differences = _pairs(drawn, periods, runs, 0.3)
    none = np.zeros(periods // 2)
    return share(
        np.array([isinstance(switchback.effect(each, none, seed=1), Refused) for each in differences.T])
    )


def carried(periods: int, carry: float, washout: float, effect: float, drawn: Generator, runs: int) -> Found:
    """The first part of a period still behaves as the one before; a wash-out cuts it."""
    on = _order(drawn, periods, runs)
    before = np.concatenate([np.zeros((1, runs)), on[:-1]])
    left = max(carry - washout, 0.0) / (1 - washout)
    values = noise.ar(drawn, periods, runs, 0.3) + effect * ((1 - left) * on + left * before)
    values += math.sqrt(WITHIN / (1 - washout)) * drawn.standard_normal(values.shape)
    return found(*_t_limits(_on_minus_off(values, on)), effect)


def machines(treated: int, control: int, drift: float, drawn: Generator, runs: int) -> Found:
    """Student's t on machine differences, by the product."""
    results = []
    for _ in range(runs):
        values = _fleet(drawn, treated + control, drift)
        change = values[28:].mean(axis=0) - values[:28].mean(axis=0)
        results.append(parallel.effect(change[:treated], change[treated:], seed=1))
    return _judged(results, 0.0)


def panel(treated: int, control: int, drift: float, robust: bool, drawn: Generator, runs: int) -> Found:
    """Rows of a panel with effects of machines and periods; errors from the rows, or by cluster (CR1)."""
    machines_all = treated + control
    change = np.zeros((56, machines_all))
    change[28:, :treated] = 1.0
    change = _two_way(change)
    size = float((change**2).sum())
    low, high = np.empty(runs), np.empty(runs)
    for run in range(runs):
        values = _two_way(_fleet(drawn, machines_all, drift))
        estimate = float((change * values).sum()) / size
        rest = values - estimate * change
        free = 56 * machines_all - 56 - machines_all
        if robust:
            scores = (change * rest).sum(axis=0)
            factor = machines_all / (machines_all - 1) * (56 * machines_all - 1) / free
            error, df = math.sqrt(factor * float((scores**2).sum())) / size, machines_all - 1
        else:
            error, df = math.sqrt(float((rest**2).sum()) / free / size), free
        half = student_t.quantile(0.975, df) * error
        low[run], high[run] = estimate - half, estimate + half
    return found(low, high, 0.0)


def jackknife(pairs: int, drawn: Generator, runs: int) -> Found:
    """The ratio of the product; the change does nothing."""
    results = []
    for _ in range(runs):
        above, below = _ratio_parts(drawn, (2, pairs))
        results.append(ratios.pairs(above[0], below[0], above[1], below[1]))
    return _judged(results, 0.0)


def delta_method(pairs: int, drawn: Generator, runs: int) -> Found:
    """The log ratio of sums, its error by linearisation."""
    above, below = _ratio_parts(drawn, (2, pairs, runs))
    sums = above.sum(axis=1) / below.sum(axis=1)
    parts = (above - sums[:, None] * below) / above.mean(axis=1)[:, None]
    scores = parts[0] - parts[1]
    centre = np.log(sums[0] / sums[1])
    half = student_t.quantile(0.975, pairs - 1) * scores.std(axis=0, ddof=1) / math.sqrt(pairs)
    return found(centre - half, centre + half, 0.0)


def events(pairs: int, mean: float, ratio: float, method: str, drawn: Generator, runs: int) -> Found:
    """Counts whose rates vary from period to period (variance .4); the interval of the rate ratio."""
    low, high, given = np.zeros(runs), np.zeros(runs), np.zeros(runs)
    for run in range(runs):
        on, off = _over_dispersed(drawn, mean * ratio, pairs), _over_dispersed(drawn, mean, pairs)
        hits, others = int(on.sum()), int(off.sum())
        if hits + others < counts.LEAST_EVENTS:
            continue
        given[run] = 1
        if method == "hull":
            result = counts.pairs(on, off)
            assert isinstance(result, Effect)
            low[run], high[run] = result.low + 1, result.high + 1
        elif method == "Fieller":
            low[run], high[run] = counts.fieller(on, off, 0.05)
        else:
            shares = student_t.proportion_limits(hits, hits + others, 0.05)
            low[run], high[run] = (each / (1 - each) if each < 1 else math.inf for each in shares)
    high = np.minimum(high, 1e6)
    return found(low, high, ratio, given)._replace(half=math.nan)


def fake_dates(
    periods: int, rho: float, limit: float, drawn: Generator, runs: int, *, every: int = 1
) -> Found:
    """The share of sound baselines whose share of fake dates with an effect is above the limit."""
    series = noise.ar(drawn, periods, runs, rho)
    times = np.arange(periods, dtype=float)
    weekend = (times % 7 >= 5).astype(float)
    dates = range(phases.LEAST_PERIODS, periods - phases.LEAST_PERIODS + 1, every)
    shown = np.zeros(runs)
    for date in dates:
        result = phases.intervals(series, times >= date, times, [weekend])
        allowed = result.step_ratio <= phases.LARGEST_STEP_RATIO
        shown += allowed & ((result.low > 0) | (result.high < 0))
    return share(shown / len(dates) > limit)


def power_switchback(periods: int, rho: float, effect: float, drawn: Generator, runs: int) -> Found:
    """The share of paired t intervals above 0."""
    low, _ = _t_limits(_pairs(drawn, periods, runs, rho, effect))
    return share(low > 0)


def power_step(periods: int, rho: float, effect: float, drawn: Generator, runs: int) -> Found:
    """The share of intervals of the rule above 0."""
    on = np.arange(2 * periods) >= periods
    times = np.arange(2 * periods, dtype=float)
    series = noise.ar(drawn, len(on), runs, rho) + effect * on[:, None]
    result = phases.intervals(series, on, times, [(times % 7 >= 5).astype(float)])
    return share((result.low > 0) & (result.step_ratio <= phases.LARGEST_STEP_RATIO))


def _order(drawn: Generator, periods: int, runs: int) -> Floats:
    """1 where the change is on: one of each pair, drawn."""
    first = drawn.integers(0, 2, (periods // 2, runs)).astype(float)
    return np.stack([first, 1 - first], axis=1).reshape(periods, runs)


def _on_minus_off(values: Floats, on: Floats) -> Floats:
    steps = (values * (2 * on - 1)).reshape(-1, 2, values.shape[1])
    return np.asarray(steps.sum(axis=1))


def _pairs(drawn: Generator, periods: int, runs: int, rho: float, effect: float = 1.0) -> Floats:
    on = _order(drawn, periods, runs)
    return _on_minus_off(noise.ar(drawn, periods, runs, rho) + effect * on, on)


def _t_limits(differences: Floats) -> tuple[Floats, Floats]:
    many = len(differences)
    half = student_t.quantile(0.975, many - 1) * differences.std(axis=0, ddof=1) / math.sqrt(many)
    return differences.mean(axis=0) - half, differences.mean(axis=0) + half


def _judged(results: list[Effect | Refused], truth: float) -> Found:
    limits = [(each.low, each.high, 1.0) if isinstance(each, Effect) else (0.0, 0.0, 0.0) for each in results]
    low, high, given = np.array(limits).T
    return found(low, high, truth, given)


def _fleet(drawn: Generator, machines_all: int, drift: float) -> Floats:
    """28+28 periods: shocks that all machines share, offsets, own noise, and a drift of each machine."""
    values = noise.ar(drawn, 56, 1, 0.8) + drawn.standard_normal(machines_all)
    values = values + noise.ar(drawn, 56, machines_all, 0.6)
    values[28:] += drift * drawn.standard_normal(machines_all)
    return values


def _two_way(values: Floats) -> Floats:
    rows, columns = values.mean(axis=1, keepdims=True), values.mean(axis=0, keepdims=True)
    return np.asarray(values - rows - columns + values.mean())


def _ratio_parts(drawn: Generator, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Denominators with a coefficient of variation of .8, numerators about 2 of each."""
    below = drawn.lognormal(0, math.sqrt(math.log(1 + 0.8**2)), shape)
    return below * 2 * drawn.lognormal(0, 0.3, shape), below


def _over_dispersed(drawn: Generator, mean: float, many: int) -> Floats:
    rates = drawn.gamma(1 / 0.4, 0.4 * mean, many) if mean else np.zeros(many)
    return drawn.poisson(rates).astype(float)
