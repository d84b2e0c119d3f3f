"""A street as battery sensors see it: parking bays, noise, water in the gutter.

Every reading is a function of (seed, sensor, index, faults) alone, and `index` counts periods: it is the same
to the bit at any clock rate and in any order. The plant knows no protocol.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from simulators.faults.fault import Fault, FaultKinds, checked

UNITS = {
    "occupied": "",
    "noise": "dB[SPL]",
    "water_level": "mm",
    "temperature": "Cel",
    "battery": "V",
}
SIGNALS: tuple[str, ...] = tuple(UNITS)
FAULTS: FaultKinds = {
    "flood": "the water rises to SIZE x 300 mm within five minutes",
    "din": "a building site is SIZE x 20 dB louder than the street",
    "flat": "the batteries have SIZE x 0.6 V less",
}
_SLOT_S = 600.0  # a bay is taken or left at most once in each
_DAY_S = 86_400.0
_RISE_S = 300.0


class StreetSensors:
    """A street with `sensors` sensors, from 0; `seed` chooses the street, its traffic and its weather."""

    def __init__(
        self, seed: int, faults: Sequence[Fault] = (), *, sensors: int = 4, period_s: float = 60.0
    ) -> None:
        if not 1 <= sensors <= 1_000 or not period_s > 0:
            raise ValueError(f"{sensors} sensors every {period_s} s are not possible")
        self.seed = seed
        self.faults: tuple[Fault, ...] = tuple(checked(fault, FAULTS) for fault in faults)
        self.sensors = sensors
        self.period_s = period_s

    def at_s(self, sensor: int, index: int) -> float:
        """When a sensor measures, in seconds since the start; the sensors take turns within a period."""
        return (index + sensor / self.sensors) * self.period_s

    def sample(self, sensor: int, index: int) -> dict[str, float | bool]:
        """One reading by signal name."""
        at_s = self.at_s(sensor, index)
        rng = np.random.default_rng([self.seed, 1, sensor, index])
        street = np.random.default_rng([self.seed, 2, sensor])
        day = math.sin(math.tau * (at_s / _DAY_S + street.random()))
        noise = 52.0 + 6.0 * day + 4.0 * street.random() + 2.0 * rng.standard_normal()
        water = (
            20.0 + 10.0 * street.random() + 8.0 * math.sin(math.tau * at_s / 7_200.0) + rng.standard_normal()
        )
        return {
            "occupied": self._occupied(sensor, at_s),
            "noise": noise + 20.0 * self._size("din", at_s),
            "water_level": max(0.0, water + self._flood(at_s)),
            "temperature": 14.0 + 6.0 * day + 0.1 * rng.standard_normal(),
            "battery": 3.6 - 1e-7 * at_s - 0.6 * self._size("flat", at_s),
        }

    def label(self, sensor: int, index: int) -> str:
        """The active fault, or empty."""
        at_s = self.at_s(sensor, index)
        return next((kind for kind in FAULTS if self._size(kind, at_s)), "")

    def _occupied(self, sensor: int, at_s: float) -> bool:
        slot = int(at_s // _SLOT_S)
        _, before = self._turn(sensor, slot - 1)
        change_s, after = self._turn(sensor, slot)
        return after if at_s >= change_s else before

    def _turn(self, sensor: int, slot: int) -> tuple[float, bool]:
        """When the bay changes in a slot, and whether it is occupied then."""
        rng = np.random.default_rng([self.seed, 3, sensor, slot + 1])
        return (slot + float(rng.random())) * _SLOT_S, bool(rng.random() < 0.6)

    def _size(self, kind: str, at_s: float) -> float:
        return max(
            (one.size for one in self.faults if one.kind == kind and one.active(at_s)),
            default=0.0,
        )

    def _flood(self, at_s: float) -> float:
        return max(
            (
                300.0 * one.size * min(1.0, (at_s - one.start_s) / _RISE_S)
                for one in self.faults
                if one.kind == "flood" and one.active(at_s)
            ),
            default=0.0,
        )
