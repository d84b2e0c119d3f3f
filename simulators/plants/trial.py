"""A plant of a pilot: what it does in each step with and without the change, on the same chance.

Every step is a function of (seed, index, whether the change acts) alone, so that the plant knows what the
other arm of a pilot would have done. The plant knows no protocol and no schedule.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from simulators.faults.fault import Fault

RHO = 0.6  # how much a period resembles the one before
WHITE = 0.3  # share of the variance that belongs to one period alone
PERIOD_S = 20.0
_CHUNK = 64  # periods
_DAY_NS = 86_400 * 1_000_000_000
_DRAWS = 4  # numbers of chance per step


class TrialPlant(ABC):
    """A plant whose mean condition changes from period to period: AR(1) and white noise.

    `effect` is the true effect of the change as a share, by default that of the class; 0 for a change that
    does nothing. Step i is from `i / rate_hz` seconds on.
    """

    NUMBER: ClassVar[int]  # keeps the chance of two plants with the same seed apart
    EFFECT: ClassVar[float]
    rate_hz: ClassVar[int] = 1

    def __init__(self, seed: int, *, period_s: float = PERIOD_S, effect: float | None = None) -> None:
        steps = round(period_s * self.rate_hz)
        if steps < 10 * self.rate_hz:
            raise ValueError(f"a period of {period_s:g} s is too short: 10 s are the least")
        if effect is not None and not 0 <= effect < 1:
            raise ValueError(f"an effect of {effect:g} is not a share from 0 to below 1")
        self.seed = seed
        self.effect = self.EFFECT if effect is None else effect
        self.steps = steps  # of a period
        self.period_s = steps / self.rate_hz
        self.faults: tuple[Fault, ...] = ()  # devices give their plants some; these have none
        self._levels: list[float] = []
        self._state = 0.0
        self._chance: tuple[int, NDArray[np.float64]] | None = None

    @abstractmethod
    def step(self, index: int, on: bool) -> dict[str, float]:
        """By how much each counter moves in a step, while the change acts or does not."""

    def step_at(self, at_ns: int, start_ns: int) -> int:
        """The step at a time, in Unix ns: they count from midnight (UTC) of the day of the start.

        So two devices with one plant agree, and a period of a plan is one of the plant.
        """
        return (at_ns - start_ns // _DAY_NS * _DAY_NS) * self.rate_hz // 1_000_000_000

    @abstractmethod
    def primary(self, sums: Mapping[str, float]) -> float:
        """The primary KPI of the ready plan of some steps, from their sums; NaN where it has no value."""

    def total(self, first: int, end: int, *, on: bool) -> dict[str, float]:
        """The sums of the steps `first .. end-1` if the change acted in all of them, or in none."""
        sums: Counter[str] = Counter()
        for index in range(first, end):
            sums.update(self.step(index, on))
        return dict(sums)

    def level(self, period: int) -> float:
        """The condition of the plant in a period: mean 0, standard deviation 1."""
        while len(self._levels) <= period:
            self._draw()
        return self._levels[period]

    def chance(self, period: int) -> NDArray[np.float64]:
        """Numbers from 0 to 1 of a period, (steps, 4)."""
        if self._chance is None or self._chance[0] != period:
            rng = np.random.default_rng([self.seed, self.NUMBER, 2, period])
            self._chance = period, rng.random((self.steps, _DRAWS))
        return self._chance[1]

    def _draw(self) -> None:
        rng = np.random.default_rng([self.seed, self.NUMBER, 1, len(self._levels) // _CHUNK])
        steps, own = rng.standard_normal((2, _CHUNK))
        for innovation, white in zip(steps.tolist(), own.tolist(), strict=True):
            share = math.sqrt(1 - RHO**2) if self._levels else 1.0
            self._state = RHO * self._state + share * innovation
            self._levels.append(math.sqrt(1 - WHITE) * self._state + math.sqrt(WHITE) * white)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The sums of some steps: as they were, with the change in all of them, and without it."""

    plant: TrialPlant
    actual: dict[str, float]
    with_change: dict[str, float]
    without: dict[str, float]


class TrialRun:
    """A plant from step `first` on: its counters, and in which steps the change acted."""

    def __init__(self, plant: TrialPlant, first: int) -> None:
        self.plant = plant
        self.totals: Counter[str] = Counter()
        self._first = first
        self._acted: list[bool] = []

    def advance(self, end: int, acts: Callable[[int], bool]) -> Mapping[str, float]:
        """Do the steps before `end` that are left; return the counters."""
        for index in range(self._first + len(self._acted), end):
            on = acts(index)
            self._acted.append(on)
            self.totals.update(self.plant.step(index, on))
        return self.totals

    def compare(self, first: int, end: int) -> Comparison:
        """What the steps `first .. end-1` gave, and would have given in each arm.

        Raises:
            ValueError: some of them were not done.
        """
        if not self._first <= first <= end <= self._first + len(self._acted):
            raise ValueError(f"the steps {first} to {end} were not all done")
        actual: Counter[str] = Counter()
        for index in range(first, end):
            actual.update(self.plant.step(index, self._acted[index - self._first]))
        plant = self.plant
        acting, idle = (plant.total(first, end, on=on) for on in (True, False))
        return Comparison(plant, dict(actual), acting, idle)
