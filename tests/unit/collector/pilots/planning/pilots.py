"""Baselines of a known noise, and plans for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from collector.pilots.kpis.evaluate import PeriodValue
from tests.unit.wire.pilot.plans import changed
from wire.pilot.plan import Plan, parse

DESIGN = "kind: switchback, unit: 8h, periods: 20, seed: 7, washout_s: 0"
KPI = "formula: downtime\n    from: {running: {field: cell/production/running}}\n    unit: min"
Numbers = Sequence[float] | np.ndarray


def plan(*pairs: tuple[str, str]) -> Plan:
    """The plan of the tests with no wash-out, and texts replaced."""
    return parse(changed(("washout_s: 60, carry_over_s: 60", "washout_s: 0"), *pairs), "pilot.yaml")


def used(values: Numbers, numerators: Numbers = (), denominators: Numbers = ()) -> tuple[PeriodValue, ...]:
    """Periods that count; without sums the value is the upper one, and the lower one is 1."""
    above, below = (
        values if not len(numerators) else numerators,
        np.ones(len(values)) if not len(denominators) else denominators,
    )
    empty = PeriodValue(0, "baseline", "off", 0, 1, "used")
    return tuple(
        replace(empty, index=at, value=float(value), numerator=float(top), denominator=float(bottom))
        for at, (value, top, bottom) in enumerate(zip(values, above, below, strict=True))
    )


def correlated(drawn: np.random.Generator, shape: tuple[int, ...], rho: float) -> np.ndarray:
    """AR(1) along the last axis, with sd 1."""
    shocks = drawn.standard_normal(shape)
    states = [shocks[..., 0]]
    for at in range(1, shape[-1]):
        states.append(rho * states[-1] + (1 - rho**2) ** 0.5 * shocks[..., at])
    return np.stack(states, axis=-1)
