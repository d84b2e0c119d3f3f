"""The patient of a ward pilot: artefacts and deteriorations of the ward's plant, as a monitor shows them."""

from __future__ import annotations

from collections.abc import Sequence

from simulators.faults.fault import Fault
from simulators.plants.patient import Patient
from simulators.plants.trial_plants import EPISODE_S, SLOT_S, Episode, Ward

# by the chart of NEWS2: 4 points, 5 with a red one, 6 with two red ones
_SHOWN: dict[Episode, dict[str, float]] = {
    "artefact": {"spo2": 93.0, "resp_rate": 22.0},
    "strong-artefact": {"spo2": 90.0, "resp_rate": 22.0},
    "deterioration": {"spo2": 87.0, "resp_rate": 27.0},
}


class WardPatient(Patient):
    """A patient with the episodes of a `Ward`; `first` is the step of the ward in second 0."""

    def __init__(self, seed: int, faults: Sequence[Fault], ward: Ward) -> None:
        super().__init__(seed, faults)
        self.ward = ward
        self.first = 0

    def vitals(self, second: int) -> dict[str, float]:
        """As `Patient`, with the values of an episode while it lasts."""
        shown, index = super().vitals(second), self.first + second
        during = index % SLOT_S < EPISODE_S
        return {**shown, **_SHOWN.get(self.ward.episode(index), {})} if during else shown
