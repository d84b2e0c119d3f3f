"""The plants of pilots: the same chance in both arms, a known effect, periods that resemble each other."""

from __future__ import annotations

import numpy as np
import pytest

from simulators.plants.trial import RHO, WHITE, TrialPlant, TrialRun
from simulators.plants.trial_plants import (
    DECISION_S,
    EPISODE_S,
    SLOT_S,
    Crossing,
    EcoCar,
    ProductionCell,
    Ward,
)
from simulators.plants.ward_patient import WardPatient

# plant -> the counter of its primary KPI, and the one that it is divided by
PLANTS: dict[type[TrialPlant], tuple[str, str]] = {
    ProductionCell: ("stop_s", ""),
    EcoCar: ("energy", "distance"),
    Ward: ("false_alarms", ""),
    Crossing: ("conflicts", ""),
}
each_plant = pytest.mark.parametrize("kind", PLANTS, ids=lambda kind: kind.__name__)


@each_plant
def test_a_step_does_not_depend_on_those_before_it(kind: type[TrialPlant]) -> None:
    indices = range(7 * kind(3).steps, 8 * kind(3).steps)
    forward = {(at, on): kind(3).step(at, on) for at in indices for on in (True, False)}
    plant = kind(3)
    backward = {(at, on): plant.step(at, on) for at in reversed(indices) for on in (False, True)}
    assert forward == backward
    assert any(forward[at, True] != kind(4).step(at, True) for at in indices)


@each_plant
def test_the_change_moves_the_kpi_by_the_effect(kind: type[TrialPlant]) -> None:
    plant, (above, below) = kind(5), PLANTS[kind]
    end = 250 * plant.steps
    acting, idle = (plant.total(0, end, on=on) for on in (True, False))
    ratio = acting[above] / idle[above]
    if below:
        ratio /= acting[below] / idle[below]
    assert ratio == pytest.approx(1 - kind.EFFECT, abs=0.04)


@each_plant
def test_a_change_without_effect_moves_nothing(kind: type[TrialPlant]) -> None:
    plant = kind(5, effect=0.0)
    end = 20 * plant.steps
    assert plant.total(0, end, on=True) == plant.total(0, end, on=False)


def test_periods_resemble_their_neighbours() -> None:
    plant = Crossing(11)
    levels = np.array([plant.level(period) for period in range(8_000)])
    assert levels.mean() == pytest.approx(0, abs=0.06)
    assert levels.std() == pytest.approx(1, abs=0.06)
    for lag in (1, 2):
        found = float(np.corrcoef(levels[:-lag], levels[lag:])[0, 1])
        assert found == pytest.approx((1 - WHITE) * RHO**lag, abs=0.03)


@pytest.mark.parametrize(("period_s", "effect"), [(9.0, 0.1), (20.0, 1.0), (20.0, -0.1)])
def test_a_period_or_an_effect_that_cannot_be_is_refused(period_s: float, effect: float) -> None:
    with pytest.raises(ValueError, match=r"is too short|is not a share"):
        Ward(1, period_s=period_s, effect=effect)


def test_a_run_knows_what_it_did_and_what_each_arm_would_have_done() -> None:
    plant, first = Crossing(2), 1000
    run = TrialRun(plant, first)
    run.advance(first + 150, lambda _: False)
    totals = dict(run.advance(first + 300, lambda _: True))
    off, on = plant.total(first, first + 150, on=False), plant.total(first + 150, first + 300, on=True)
    assert totals == {name: off[name] + on[name] for name in off}
    whole = run.compare(first, first + 300)
    assert whole.actual == totals
    assert whole.without == plant.total(first, first + 300, on=False)
    assert whole.with_change == plant.total(first, first + 300, on=True)
    assert whole.with_change["conflicts"] < whole.actual["conflicts"] < whole.without["conflicts"]
    for span in ((first - 1, first + 1), (first, first + 301)):
        with pytest.raises(ValueError, match="were not all done"):
            run.compare(*span)


def test_steps_count_from_midnight_so_that_two_devices_agree() -> None:
    midnight_ns, ward = 20_000 * 86_400 * 10**9, Ward(1)
    started = [midnight_ns + seconds * 10**9 for seconds in (3_600, 3_607)]
    at_ns = midnight_ns + 90_000 * 10**9  # on the day after
    assert {ward.step_at(at_ns, start_ns) for start_ns in started} == {90_000}


def test_the_patient_shows_the_episodes_of_the_ward() -> None:
    ward = Ward(9)
    patient = WardPatient(9, (), ward)
    patient.first = 4_000
    seen = set()
    for second in range(600):
        index, shown = 4_000 + second, patient.vitals(second)
        episode = ward.episode(index) if index % SLOT_S < EPISODE_S else ""
        seen.add(episode)
        assert (shown["spo2"] < 92) == (episode in ("strong-artefact", "deterioration"))
        assert (shown["spo2"] == 93 and shown["resp_rate"] == 22) == (episode == "artefact")
    assert seen == {"", "artefact", "strong-artefact", "deterioration"}
    assert EPISODE_S <= DECISION_S < SLOT_S
