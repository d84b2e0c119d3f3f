"""Four plants of pilots: a robot cell, an electric car, a ward and a crossing, each with a true effect."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from simulators.plants.trial import TrialPlant


@dataclass(frozen=True, slots=True)
class Wear:
    """One joint of a robot wears out and stops the cell; seconds within the period."""

    from_s: float
    stop_s: float
    length_s: float  # without a call for maintenance


class ProductionCell(TrialPlant):
    """A robot cell: once a period a joint runs hard, and some seconds later the cell stops.

    The change is a call for maintenance in between: the stop is then shorter by the effect.
    """

    NUMBER: ClassVar[int] = 31
    EFFECT: ClassVar[float] = 0.4
    rate_hz: ClassVar[int] = 5
    PART_S: ClassVar[float] = 0.8  # seconds of running for one part
    RUNNING_W, STOPPED_W = 900.0, 350.0

    def wear(self, period: int) -> Wear:
        """The wear of a period."""
        draw = float(self.chance(period)[0, 0])
        length = 0.2 * math.exp(0.35 * self.level(period))
        from_s = (0.15 + 0.1 * draw) * self.period_s
        return Wear(from_s, from_s + 0.3 * self.period_s, min(max(length, 0.05), 0.44) * self.period_s)

    def is_running(self, index: int, on: bool) -> bool:
        """Whether the cell produces in a step."""
        period, within = divmod(index, self.steps)
        wear = self.wear(period)
        stopped_s = within / self.rate_hz - wear.stop_s
        return not 0 <= stopped_s < wear.length_s * (1 - self.effect * on)

    def step(self, index: int, on: bool) -> dict[str, float]:
        """`run_s`, `stop_s`, and `energy` in kW.h."""
        step_s, runs = 1 / self.rate_hz, self.is_running(index, on)
        watts = self.RUNNING_W if runs else self.STOPPED_W
        return {"run_s": step_s * runs, "stop_s": step_s * (not runs), "energy": watts * step_s / 3.6e6}

    def primary(self, sums: Mapping[str, float]) -> float:
        """Minutes of stops."""
        return sums["stop_s"] / 60


class EcoCar(TrialPlant):
    """An electric car. The change is advice about the speed: it takes less energy per kilometre."""

    NUMBER: ClassVar[int] = 32
    EFFECT: ClassVar[float] = 0.08
    SLOWER: ClassVar[float] = 0.01  # by so much the driver is slower with the advice

    def speed(self, index: int, on: bool) -> float:
        """km/h."""
        period, within = divmod(index, self.steps)
        sway = 8.0 * math.sin(math.tau * index / 47.0) + 4.0 * (float(self.chance(period)[within, 0]) - 0.5)
        return (50.0 + sway) * (1 - self.SLOWER * on * (self.effect > 0))

    def outside(self, index: int) -> float:
        """The temperature outside, Cel."""
        return 12.0 + 4.0 * math.sin(math.tau * index / 86_400.0)

    def step(self, index: int, on: bool) -> dict[str, float]:
        """`distance` in km, and `energy` in kW.h."""
        period, within = divmod(index, self.steps)
        distance = self.speed(index, on) / 3_600
        need = (
            0.16 * math.exp(0.05 * self.level(period)) * (0.95 + 0.1 * float(self.chance(period)[within, 1]))
        )
        return {"distance": distance, "energy": distance * need * (1 - self.effect * on)}

    def primary(self, sums: Mapping[str, float]) -> float:
        """kW.h per km."""
        return sums["energy"] / sums["distance"] if sums["distance"] else math.nan


Episode = Literal["", "artefact", "strong-artefact", "deterioration"]
SLOT_S = 5  # seconds from one possible episode of a patient to the next
EPISODE_S = 3  # seconds that an episode lasts
DECISION_S = 4  # after its start the alarm is heard, or held back


class Ward(TrialPlant):
    """A bed on a ward: movement and loose sensors look like deteriorations. Each makes the monitor alarm.

    The change holds back the alarm of a weak artefact; `effect` of all artefacts are weak.
    """

    NUMBER: ClassVar[int] = 33
    EFFECT: ClassVar[float] = 0.6
    TRUE: ClassVar[float] = 0.1  # share of the slots with a deterioration
    ANSWERED: ClassVar[float] = 0.95  # share of heard deteriorations that a nurse reaches in time

    def episode(self, second: int) -> Episode:
        """What happens to the patient in the slot of a second; it begins with the slot."""
        draw, strength, _ = self._drawn(second)
        period = second // self.steps
        if draw < self.TRUE:
            return "deterioration"
        if draw < self.TRUE + min(0.6 * math.exp(0.25 * self.level(period)), 0.85):
            return "artefact" if strength < self.effect else "strong-artefact"
        return ""

    def step(self, index: int, on: bool) -> dict[str, float]:
        """`false_alarms`, `deteriorations`, and `answered` ones, in the step that decides an alarm.

        `on`: a model that acts judges the alarm.
        """
        found = self.episode(index) if index % SLOT_S == DECISION_S else ""
        is_true = found == "deterioration"
        heard = bool(found) and not (on and found == "artefact")
        return {
            "false_alarms": float(heard and not is_true),
            "deteriorations": float(is_true),
            "answered": float(is_true and heard and self._drawn(index)[2] < self.ANSWERED),
        }

    def primary(self, sums: Mapping[str, float]) -> float:
        """False alarms."""
        return sums["false_alarms"]

    def _drawn(self, second: int) -> tuple[float, float, float]:
        period, within = divmod(second, self.steps)
        numbers = self.chance(period)[within // SLOT_S * SLOT_S]
        return float(numbers[0]), float(numbers[1]), float(numbers[2])


class Crossing(TrialPlant):
    """A crossing with a signal. The change is a longer clearance time, which prevents some conflicts."""

    NUMBER: ClassVar[int] = 34
    EFFECT: ClassVar[float] = 0.4
    CONFLICTS: ClassVar[float] = 0.3  # a second
    VEHICLES: ClassVar[float] = 0.95  # a second

    def step(self, index: int, on: bool) -> dict[str, float]:
        """`conflicts` and `vehicles`; at most one of each in a second."""
        period, within = divmod(index, self.steps)
        draw, depth, arrival, _ = self.chance(period)[within].tolist()
        happens = draw < min(self.CONFLICTS * math.exp(0.25 * self.level(period)), 0.9)
        return {
            "conflicts": float(happens and not (on and depth < self.effect)),
            "vehicles": float(arrival < self.VEHICLES),
        }

    def primary(self, sums: Mapping[str, float]) -> float:
        """Conflicts."""
        return sums["conflicts"]
