"""The power of a plan is the share of pilots that the frozen rule finds met, on noise like the baseline's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from collector.pilots.effects import before_after, counts, parallel, planning, ratios, switchback
from collector.pilots.effects.effect import Result
from collector.pilots.effects.verdict import judge
from collector.pilots.kpis.evaluate import PeriodValue
from collector.pilots.planning.analyses import analysis
from collector.pilots.planning.power import OfPairs, OfPhases, Power, t_power
from tests.unit.collector.pilots.planning.pilots import DESIGN, KPI, correlated, plan, used

Draw = np.random.Generator
MACHINES = [f"acme/p1/s1/n{at}" for at in range(8)]
RATIO = "formula: defect-rate\n    from: {parts: {field: a/b/p}, rejects: {field: a/b/r}}\n    unit: '1'"
COUNT = "formula: stops\n    from: {running: {field: a/b/running}}\n    unit: '1'"


def met(runs: int, one: Callable[[], Result], target: float) -> float:
    """The share of pilots that are met, of a KPI that shall decrease."""
    return sum(judge(one(), target=target, sign=-1).word == "met" for _ in range(runs)) / runs


def power(values: dict[str, tuple[PeriodValue, ...]], target: str, *pairs: tuple[str, str]) -> Power:
    """Of the primary KPI with this target."""
    found = plan(("target: {min: 0.1}", f"target: {{{target}}}"), *pairs)
    return analysis(found, found.primary, values)[0]


@pytest.mark.parametrize(("shift", "df"), [(3.0, 9), (2.0, 5), (0.0, 9), (4.0, 40), (-1.0, 20), (2.5, 2)])
def test_the_noncentral_t(shift: float, df: int) -> None:
    expected = stats.nct.sf(stats.t.ppf(0.975, df), df, shift)
    assert t_power(shift, df, 0.05) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize(
    ("effect", "rho", "periods"), [(1, 0.0, 36), (1, 0.3, 26), (1, 0.6, 18), (0.5, 0.6, 56)]
)
def test_a_switchback_needs_as_many_periods_as_the_simulations_of_the_design(
    effect: float, rho: float, periods: int
) -> None:
    step_sd = (2 * (1 - rho)) ** 0.5
    made = OfPairs(sign=1, relative=False, alpha=0.05, step_sd=step_sd, exact=True)
    needed = made.needed(effect, 0.0, 0.8)
    assert needed == pytest.approx(periods, abs=2)
    assert made.of(needed or 0, effect, 0.0) >= 0.8 > made.of((needed or 0) - 4, effect, 0.0)
    assert made.smallest(needed or 0, 0.0, 0.8) == pytest.approx(effect, rel=0.05)


def test_periods_that_are_lost_cost_pairs() -> None:
    made = [
        OfPairs(sign=1, relative=False, alpha=0.05, step_sd=1.0, exact=True, kept=kept).of(40, 0.8, 0.0)
        for kept in (1.0, 0.8, 0.4)
    ]
    assert made[0] > made[1] > made[2] == 0.0


def test_one_event_a_day_and_20_pairs_do_not_show_a_halving() -> None:
    drawn = np.random.default_rng(5)
    events = drawn.poisson(1.0, 60).astype(float)
    made = power({"": used(events)}, "min: 0, effect: 0.5", (KPI, COUNT))
    assert made.of(40, 0.5, 0.0) < 0.5
    assert made.of(12, 0.5, 0.0) == 0.0, "fewer than 20 events"


def test_the_limits_of_counts_are_those_of_the_rule() -> None:
    drawn = np.random.default_rng(8)
    for direction in ("decrease", "increase"):
        made = power(
            {"": used(drawn.poisson(2.0, 30))}, "min: 0.1, effect: 0.5", (KPI, COUNT), ("decrease", direction)
        )
        for _ in range(100):
            on, off = drawn.poisson(2.0, 14), drawn.poisson(4.0, 14)
            if direction == "increase":
                on, off = off, on
            per, sign = np.full(14, 1.0), made.sign
            found = counts.pairs(on, off)
            wanted = judge(found, target=0.3, sign=sign).word == "met"
            assert made._shows(on, off, per, per, 0.3) is wanted  # type: ignore[attr-defined]


def draw_switchback(drawn: Draw, n: int, rho: float, sd: float) -> Result:
    values = 100 * np.exp(sd * correlated(drawn, (n,), rho))
    first = drawn.integers(0, 2, n // 2) > 0
    on, off = np.where(first, values[::2], values[1::2]), np.where(first, values[1::2], values[::2])
    return switchback.effect(0.75 * on, off, seed=1, relative=True)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "rho", "sd"), [(12, 0.0, 0.12), (20, 0.6, 0.25), (28, 0.0, 0.19)])
def test_a_switchback_is_met_as_often_as_planned(n: int, rho: float, sd: float) -> None:
    drawn = np.random.default_rng(n)
    made = power({"": used(100 * np.exp(sd * correlated(drawn, (8_000,), rho)))}, "min: 0.1, effect: 0.25")
    found = met(2_000, lambda: draw_switchback(drawn, n, rho, sd), 0.1)
    assert made.of(n, 0.25, 0.1) == pytest.approx(found, abs=0.03)


def draw_defects(drawn: Draw, n: int, factor: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    parts = 500 * drawn.gamma(11.0, 1 / 11, size=n)
    rate = 0.04 * factor * np.exp(0.35 * drawn.standard_normal(n) - 0.06)
    return drawn.poisson(parts * rate).astype(float), parts


@pytest.mark.slow
def test_a_ratio_is_met_as_often_as_planned() -> None:
    drawn = np.random.default_rng(3)
    bad, parts = draw_defects(drawn, 8_000)
    made = power({"": used(bad / parts, bad, parts)}, "min: 0.05, effect: 0.35", (KPI, RATIO))

    def one() -> Result:
        on, off = draw_defects(drawn, 14, 0.65), draw_defects(drawn, 14)
        return ratios.pairs(*on, *off)

    assert made.of(28, 0.35, 0.05) == pytest.approx(met(2_000, one, 0.05), abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(("mean", "spread"), [(1.0, 0.0), (3.0, 0.5)])
def test_counts_are_met_as_often_as_planned(mean: float, spread: float) -> None:
    drawn = np.random.default_rng(11)

    def events(n: int, factor: float = 1.0) -> np.ndarray:
        own = drawn.gamma(1 / spread, spread, size=n) if spread else np.ones(n)
        return drawn.poisson(mean * factor * own).astype(float)

    made = power({"": used(events(8_000))}, "min: 0.1, effect: 0.6", (KPI, COUNT))
    found = met(2_000, lambda: counts.pairs(events(20, 0.4), events(20)), 0.1)
    assert made.of(40, 0.6, 0.1) == pytest.approx(found, abs=0.03)


def test_before_and_after_is_met_as_often_as_planned() -> None:
    """The noise includes what the baseline leaves open about its correlation."""
    drawn = np.random.default_rng(4)
    change = (DESIGN, "kind: before-after, unit: 8h, periods: 20, seed: 7")
    baseline = used(100 * np.exp(0.2 * correlated(drawn, (60,), 0.5)))
    made = power({"": baseline}, "min: 0.1, effect: 0.4", change)
    assert isinstance(made, OfPhases)
    times = np.arange(100.0)
    series = planning.simulated(made.noise, times, planning.RUNS, np.random.Generator(np.random.PCG64(7)))
    for trial, least in ((40, 0.15), (40, 0.3)):
        assert 0.1 < made.of(trial, 0.4, least) < 0.95
        lows = made._known[trial, 1.0] + made.analysed(0.4)
        for run in range(40):
            values = np.exp(-series[:, run]) * np.where(times >= 60, 0.6, 1.0)  # less is better
            found = before_after.effect(values, times >= 60, relative=True)
            is_met = judge(found, target=least, sign=-1).word == "met"
            assert is_met is bool(lows[run] >= made.analysed(least)), run


ENERGY = (
    "formula: energy-per-part\n    from: {energy: {field: a/b/e, unit: kW.h}, parts: {field: a/b/p}}\n"
    "    unit: kW.h/{part}"
)


@pytest.mark.parametrize(
    ("direction", "effect", "weekday"), [("decrease", 0.4, True), ("increase", 0.6, False)]
)
def test_the_limits_of_a_ratio_before_and_after_are_those_of_the_report(
    direction: str, effect: float, weekday: bool
) -> None:
    """A ratio is compared as a share of the baseline's: its noise follows the level of the trial."""
    drawn = np.random.default_rng(4)
    adjust = ("kpis:", "adjust: {weekday: true}\nkpis:")
    change = (DESIGN, "kind: before-after, unit: 8h, periods: 20, seed: 7"), (KPI, ENERGY)
    parts = 500 * np.exp(0.2 * drawn.standard_normal(60))
    energy = 0.04 * parts * (1 + 0.2 * correlated(drawn, (60,), 0.5))
    made = power(
        {"": used(energy / parts, energy, parts)}, f"min: 0.1, effect: {effect}", *change,
        ("direction: decrease", f"direction: {direction}"), *([adjust] if weekday else []),
    )  # fmt: skip
    assert isinstance(made, OfPhases)
    times = np.arange(100.0)
    noise = planning.simulated(made.noise, times, planning.RUNS, np.random.Generator(np.random.PCG64(7)))
    level = made._level(effect)
    assert level == pytest.approx(1 + made.sign * effect, rel=0.026), "one drawing for levels that are alike"
    assert 0.1 < made.of(40, effect, effect / 2) < 0.95
    lows = made._known[40, level]
    for run in range(25):
        share = (1 + noise[:, run]) * np.where(times >= 60, level, 1.0)
        columns = made.weekdays(100)
        assert bool(columns) is weekday
        found = before_after.ratio(share * 500, np.full(100, 500.0), times >= 60, covariates=columns)
        for least in (effect / 4, effect / 2):
            assert (judge(found, target=least, sign=made.sign).word == "met") is bool(lows[run] >= least), run


@pytest.mark.slow
@pytest.mark.parametrize(("with_heat", "factor"), [(True, 0.6), (False, 0.6), (True, 1.4)])
def test_a_ratio_before_and_after_is_met_as_often_as_planned(with_heat: bool, factor: float) -> None:
    """The parts move a lot, and the energy of a part follows the heat; the correlation is known."""
    drawn, before, after = np.random.default_rng(1), 56, 56
    adjust = "adjust: {trend: none, reason: x, covariates: {heat: {field: a/b/heat}}}\nkpis:"

    def draw(periods: int, factor: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        parts, heat = 500 * np.exp(0.2 * drawn.standard_normal(periods)), correlated(drawn, (periods,), 0.5)
        share = 1 + 0.15 * heat + 0.3 * drawn.standard_normal(periods)
        return 0.04 * parts * share * np.where(np.arange(periods) >= before, factor, 1.0), parts, heat

    target = f"target: {{min: 0.1, effect: {abs(factor - 1):.1f}}}"
    found = plan(
        (DESIGN, "kind: before-after, unit: 8h, periods: 20, seed: 7"), (KPI, ENERGY),
        ("target: {min: 0.1}", target), ("decrease", "decrease" if factor < 1 else "increase"),
        ("kpis:", adjust if with_heat else "adjust: {trend: none, reason: x}\nkpis:"),
    )  # fmt: skip
    above, below, heat = draw(3_000, 1.0)
    made, noise = analysis(
        found,
        found.primary,
        {"": used(above / below, above, below)},
        {"heat": used(heat)} if with_heat else {},
    )
    assert isinstance(made, OfPhases)
    assert noise is not None
    planned = replace(made, noise=replace(noise, periods=before), _known={}).of(after, abs(factor - 1), 0.1)

    def one() -> bool:
        above, below, heat = draw(before + after, factor)
        on = np.arange(before + after) >= before
        result = before_after.ratio(above, below, on, covariates=[heat] if with_heat else [], trend="none")
        return judge(result, target=0.1, sign=made.sign).word == "met"

    assert planned == pytest.approx(sum(one() for _ in range(400)) / 400, abs=0.08)


def test_a_count_before_and_after_has_the_noise_of_its_counting() -> None:
    """The variance of a count follows its level, and that of its scatter beyond chance the square."""
    drawn = np.random.default_rng(4)
    change = (DESIGN, "kind: before-after, unit: 8h, periods: 20, seed: 7"), (KPI, COUNT)
    plain, wide = (
        power({"": used(drawn.poisson(4 * scatter))}, "min: 0.1, effect: 0.5", *change)
        for scatter in (np.ones(400), drawn.gamma(2.0, 0.5, 400))
    )
    assert isinstance(plain, OfPhases)
    assert isinstance(wide, OfPhases)
    assert plain.by_chance == pytest.approx(1.0, abs=0.1)
    assert wide.by_chance == pytest.approx(1 / 3, abs=0.1), "a variance of 1/4 by chance and of 1/2 beyond it"


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_machines_are_met_as_often_as_planned(rho: float) -> None:
    drawn = np.random.default_rng(6)
    groups = f"groups: {{machines: [{', '.join(MACHINES)}], treated: 4}}"
    change = (DESIGN, f"kind: parallel, unit: 8h, periods: 20, seed: 7, {groups}")

    nodes = ("[acme/p1/s1/n1, acme/p1/s1/n2]", f"[{', '.join(MACHINES)}]")

    def values(periods: int) -> np.ndarray:
        common = 2 * correlated(drawn, (1, periods), 0.8)
        return 0.15 * (correlated(drawn, (8, periods), rho) + common + drawn.standard_normal((8, 1)))

    planned = []
    for _ in range(6):
        rows = 100 * np.exp(values(200))
        found = {name: used(row) for name, row in zip(MACHINES, rows, strict=True)}
        planned.append(power(found, "min: 0, effect: 0.1", change, nodes).of(8, 0.1, 0.0))

    def one() -> Result:
        rows = values(220)
        moved = rows[:, 200:].mean(axis=1) - rows[:, :200].mean(axis=1)
        return parallel.effect(moved[:4] + np.log(0.9), moved[4:], seed=1, relative=True)

    assert float(np.mean(planned)) == pytest.approx(met(1_000, one, 0.0), abs=0.04)
