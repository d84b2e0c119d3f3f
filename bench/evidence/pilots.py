"""The four demo pilots by plant, plan and KPI code, without devices and broker: does the interval hold?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

from bench.evidence.cell import Cell, Found, found
from collector.ledger.ledger import Ledger
from collector.pilots.effects.effect import Effect
from collector.pilots.effects.verdict import judge
from collector.pilots.kpis.evaluate import PeriodValue, evaluate
from collector.pilots.report.analysis import Measured, effect_of
from collector.store.chunk import ChunkHead, Unpacked
from collector.store.series import Points
from collector.store.source import StoredChunk
from edgebed.scenario.document import ScenarioPilot
from edgebed.scenario.pilots import plan_of
from simulators.plants.trial import TrialPlant
from simulators.plants.trial_plants import Crossing, EcoCar, ProductionCell, Ward
from wire.clock import NS_PER_S
from wire.pilot.plan import Plan, load
from wire.pilot.schedule import Schedule, counted, schedule

PLANS = Path(__file__).parents[2] / "configs/pilots"
START_NS = 1_801_440_000 * NS_PER_S  # midnight of 2027-02-01: step 0 of a plant
RUNS = 200
MOST_MET = 0.05  # of pilots without an effect, by the target of the plan
DEMOS: dict[str, type[TrialPlant]] = {
    "joint-maintenance": ProductionCell,
    "eco-driving": EcoCar,
    "ward-alarms": Ward,
    "crossing-safety": Crossing,
}


@dataclass(frozen=True)
class SimulatedPilot:
    """One pilot: its plan, the primary KPI of each period, and the true effect by its plant."""

    plan: Plan
    schedule: Schedule
    values: list[PeriodValue]
    true_effect: float


@dataclass
class PlantRows:
    """A source with the rows of a plant as its device sends them, in one message."""

    times: Any  # us
    columns: dict[str, Any]
    deadline: float = math.inf
    damaged: set[str] = field(default_factory=set)
    suspects: set[str] = field(default_factory=set)

    def chunks_between(
        self, _key: object, start_us: int, end_us: int, **_more: object
    ) -> Iterator[StoredChunk]:
        """The rows of a span; every stream has all columns."""
        low, high = np.searchsorted(self.times, (start_us, end_us)).tolist()
        rows = {name: column[low:high] for name, column in self.columns.items()}
        head = ChunkHead([(1 + low, high - low)], [])
        yield StoredChunk("ep", False, False, Unpacked(head, self.times[low:high], rows, [0] * (high - low)))

    def rollups_between(self, _key: object, name: str, start_us: int, end_us: int) -> Iterator[Points]:
        """The rows as they are: they cannot have changed."""
        low, high = np.searchsorted(self.times, (start_us, end_us)).tolist()
        if name in self.columns:
            rows = np.asarray(self.columns[name][low:high], np.float64)
            yield Points.of_rows(self.times[low:high] / 1000, rows, np.zeros(high - low))

    def streams(self, _node: str) -> dict[str, set[str]]:
        """None that is named: then every input is asked for."""
        return {}

    def events(self, *_asked: object, **_more: object) -> list[Any]:
        """None."""
        return []

    def changed_events(self, *_asked: object) -> list[Any]:
        """None."""
        return []


@cache
def _ready(name: str) -> Plan:
    return load(PLANS / f"{name}.yaml")


def simulated_pilot(name: str, seed: int, effect: float | None = None) -> SimulatedPilot:
    """A demo pilot of a seed, with its own effect or another one."""
    plant = DEMOS[name](seed, effect=effect)
    plan = plan_of(_ready(name), ScenarioPilot(plan=PLANS, plant=""), START_NS, seed)
    planned = schedule(plan)
    steps = [(index, planned.trial[index // plant.steps].arm == "on") for index in range(28 * plant.steps)]
    moved = [plant.step(index, on) for index, on in steps]
    columns = {each: np.cumsum([step[each] for step in moved]) for each in moved[0]}
    if isinstance(plant, ProductionCell):
        columns |= {"running": np.array([float(step["run_s"] > 0) for step in moved])}
        columns |= {"planned": np.ones(len(moved))}
    step_us = 1_000_000 // plant.rate_hz
    rows = PlantRows(START_NS // 1000 + step_us * np.arange(len(moved)), columns)
    values = evaluate(plan.primary, plan, planned, rows, Ledger())  # type: ignore[arg-type]  # what KPIs ask of a source
    return SimulatedPilot(plan, planned, values, _true_effect(plant, plan, planned))


def _true_effect(plant: TrialPlant, plan: Plan, planned: Schedule) -> float:
    """The relative effect on the primary KPI over all periods, from both arms of each."""
    start_ms = planned.trial_ms[0]
    spans = [counted(each, plan, start_ms) for each in planned.trial]
    arms = []
    for on in (True, False):
        sums = [
            plant.total(*((ms - start_ms) * plant.rate_hz // 1000 for ms in span), on=on) for span in spans
        ]
        arms.append(sums)
    if isinstance(plant, Ward | Crossing):
        return -plant.effect  # of the rates: a count of events has chance of its own
    logs = [math.log(plant.primary(acting) / plant.primary(idle)) for acting, idle in zip(*arms, strict=True)]
    return math.expm1(math.fsum(logs) / len(logs))


def cells() -> Iterator[Cell]:
    """Each demo pilot with its effect, and without one."""
    for name, plant in DEMOS.items():
        for effect, most_met in ((plant.EFFECT, 1.0), (0.0, MOST_MET)):
            text = f"{name.replace('-', ' ')}, {f'effect -{effect:.0%}' if effect else 'no effect'}"
            yield Cell("Demo pilots", text, partial(_run, name, effect), runs=RUNS, most_met=most_met)


def _run(name: str, effect: float, rng: Generator, runs: int) -> Found:
    results = [one_run(name, seed, effect) for seed in rng.integers(0, 2**31, runs).tolist()]
    low, high, truth, met = np.array(results).T
    # less is better in all four: an interval below the truth claims too much
    summary = found(truth - high, truth - low, 0.0, ~np.isnan(low))
    return summary._replace(met=float(met.mean()))


def one_run(name: str, seed: int, effect: float) -> tuple[float, float, float, bool]:
    """The interval of one seed, the true effect, and whether the plan's target is met; NaN: refused."""
    pilot = simulated_pilot(name, seed, effect)
    kpi = pilot.plan.primary
    result = effect_of(pilot.plan, pilot.schedule, Measured(kpi, {"": pilot.values}))
    if not isinstance(result, Effect):
        return math.nan, math.nan, pilot.true_effect, False
    assert kpi.target is not None
    met = judge(result, target=kpi.target.min, sign=-1).word == "met"
    return result.low, result.high, pilot.true_effect, met
