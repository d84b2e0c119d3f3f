"""An autonomous mobile robot in a hall, as numbers: seeded jobs on a node graph, speeds, battery, at 10 Hz.

Every sample is a function of (seed, index, faults, orders) alone: any block, at any clock rate and in any
order, is the same to the bit. The plant knows no protocol.

A fault that stops the robot delays the rest of its plan by the same time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from simulators.faults.fault import Fault, FaultKinds, checked
from simulators.plants.amr_plan import GRID, Job, Mission, Plan

__all__ = ["FAULTS", "GRID", "RATE_HZ", "SIGNALS", "UNITS", "Amr", "Job", "Situation"]

RATE_HZ = 10
UNITS = {
    "x": "m",
    "y": "m",
    "theta": "rad",
    "vx": "m/s",
    "omega": "rad/s",
    "battery_charge": "%",
    "battery_voltage": "V",
}
SIGNALS: tuple[str, ...] = tuple(UNITS)
FAULTS: FaultKinds = {
    "blocked": "an obstacle is in its way: it waits",
    "e-stop": "the emergency stop is pressed",
    "drift": "its localization drifts by SIZE x 0.05 m/s, up to 3 m",
    "sag": "its battery has SIZE x 2 V less under load",
}
_STOPS = ("blocked", "e-stop")
_LABELS = (*_STOPS, "drift", "sag")  # the gravest first
_POSITION_NOISE = 0.003  # m
_ANGLE_NOISE = 0.0005  # rad
_CHUNK = 512


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything about one instant; m, rad, m/s, rad/s, %, V. `x`, `y`, `theta` are true, without noise."""

    x: float
    y: float
    theta: float
    vx: float
    omega: float
    battery_charge: float
    battery_voltage: float
    driving: bool
    charging: bool
    e_stop: bool
    field_violation: bool
    localization_score: float
    mission: Mission | None
    reached: int  # how many nodes of the mission's route it has passed
    distance: float  # driven since the last node
    faults: tuple[str, ...]
    label: str  # the gravest fault, or empty


class Amr:
    """One robot. `seed` chooses its jobs and its noise; without `fleet` it waits for orders at its dock."""

    def __init__(self, seed: int, faults: Sequence[Fault] = (), *, fleet: bool = True) -> None:
        self.seed = seed
        self.faults: tuple[Fault, ...] = tuple(checked(fault, FAULTS) for fault in faults)
        self._plan = Plan(seed, fleet)

    def order(self, job: Job, at_s: float) -> str:
        """Accept a job at a time: it is the next one. Returns why it is refused, or an empty text."""
        return self._plan.order(job, self._progress(at_s))

    def sample(self, index: int) -> dict[str, float]:
        """One sample by signal name, as the robot measures it; `index` counts from 0 at 10 Hz."""
        return dict(zip(SIGNALS, self.block(index, 1)[0].tolist(), strict=True))

    def block(self, start: int, n: int) -> NDArray[np.float64]:
        """Samples `start .. start+n-1` as an (n, 7) array in the order of `SIGNALS`, with noise and drift."""
        if start < 0 or n < 0:
            raise ValueError(f"samples {start} to {start + n} do not exist: they count from 0")
        out = np.empty((n, len(SIGNALS)))
        for row, index in enumerate(range(start, start + n)):
            now = self.situation(index)
            out[row] = [getattr(now, name) for name in SIGNALS]
            noise = _noise(self.seed, index // _CHUNK)[index % _CHUNK]
            out[row, :2] += _POSITION_NOISE * noise[:2] + self._drift(index / RATE_HZ)
            out[row, 2] = _wrapped(out[row, 2] + _ANGLE_NOISE * noise[2])
        return out

    def labels(self, start: int, n: int) -> list[str]:
        """Ground truth per sample: the gravest fault, or empty."""
        return [self._label((start + i) / RATE_HZ) for i in range(n)]

    def situation(self, index: int) -> Situation:
        """The true situation at one sample."""
        at_s = index / RATE_HZ
        active = [one for one in self.faults if one.active(at_s)]
        kinds = tuple(sorted({one.kind for one in active}))
        stopped = any(kind in _STOPS for kind in kinds)
        mission, pose = self._plan.at(self._progress(at_s))
        driving = pose.driving and not stopped
        vx, omega = (0.0, 0.0) if stopped else (pose.vx, pose.omega)
        sag = max((one.size for one in active if one.kind == "sag"), default=0.0)
        load = abs(vx) / 1.2 + abs(omega) / 0.8
        voltage = 44.0 + 0.09 * pose.charge - 0.5 * load - 2.0 * sag * (load > 0) + 1.5 * pose.charging
        return Situation(
            x=pose.x,
            y=pose.y,
            theta=_wrapped(pose.theta),
            vx=vx,
            omega=omega,
            battery_charge=pose.charge,
            battery_voltage=voltage,
            driving=driving,
            charging=pose.charging,
            e_stop="e-stop" in kinds,
            field_violation="blocked" in kinds,
            localization_score=1.0 / (1.0 + abs(self._drift(at_s))),
            mission=mission,
            reached=pose.reached,
            distance=pose.distance,
            faults=kinds,
            label=self._label(at_s),
        )

    def _progress(self, at_s: float) -> float:
        """The seconds of its plan that are done: the plan's time stops while the robot is stopped."""
        stops = sorted(
            (one.start_s, min(one.end_s, at_s))
            for one in self.faults
            if one.kind in _STOPS and one.start_s < at_s
        )
        lost, until = 0.0, 0.0
        for start, end in stops:
            lost += max(0.0, end - max(start, until))
            until = max(until, end)
        return at_s - lost

    def _drift(self, at_s: float) -> float:
        return sum(
            min(3.0, 0.05 * one.size * (at_s - one.start_s))
            for one in self.faults
            if one.kind == "drift" and one.active(at_s)
        )

    def _label(self, at_s: float) -> str:
        there = {one.kind for one in self.faults if one.active(at_s)}
        return next((kind for kind in _LABELS if kind in there), "")


@lru_cache(maxsize=16)
def _noise(seed: int, chunk: int) -> NDArray[np.float64]:
    """Standard normal noise, (512, 3)."""
    return np.random.default_rng([seed, 2, chunk]).standard_normal((_CHUNK, 3))


def _wrapped(angle: float) -> float:
    return math.remainder(angle, math.tau)
