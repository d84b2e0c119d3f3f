"""The air at a street: the same numbers for any block, a day with rush hours, and a damp sensor."""

from __future__ import annotations

import numpy as np
import pytest

from simulators.faults.fault import Fault, parse
from simulators.plants.air import FAULTS as KINDS
from simulators.plants.air import SIGNALS, UNITS, Air
from wire.topics import FIELD

HOUR = 3600
FAULTS = (
    Fault("plume", "", 60, 240, 2.0),
    Fault("drift", "", 100),
    Fault("stuck", "humidity", 50, 900),
    Fault("dust", "", 800, 900),
)


@pytest.mark.parametrize("start", [0, 7000])
def test_any_cut_of_the_time_line_gives_the_same_samples(start: int) -> None:
    whole = Air(3, FAULTS).block(start, 1500)
    for size in (1, 7, 512):
        other = Air(3, FAULTS)
        starts = range(start, start + 1500, size)
        cut = [other.block(at, min(size, start + 1500 - at)) for at in reversed(starts)]
        np.testing.assert_array_equal(np.concatenate(cut[::-1]), whole)
    assert Air(3, FAULTS).sample(start + 12) == dict(zip(SIGNALS, whole[12].tolist(), strict=True))


def test_names_fit_the_wire_and_values_are_possible() -> None:
    assert set(UNITS) == set(SIGNALS)
    assert all(FIELD.fullmatch(name) for name in SIGNALS)
    for seed in range(5):
        data = Air(seed).block(0, 24 * HOUR)
        pm1, pm2_5, pm10, temperature, humidity = data.T
        assert (pm1 <= pm2_5 + 1e-9).all()
        assert (pm2_5 <= pm10 + 1e-9).all()
        assert 3 < pm2_5.mean() < 120
        assert -15 < temperature.min() < temperature.max() < 42
        assert 5 < humidity.min() <= humidity.max() <= 100


def test_rush_hours_are_worse_than_the_night() -> None:
    def mean(hour: int) -> float:  # since seven in the morning
        return float(np.mean([Air(seed).dry(hour * HOUR, HOUR).mean() for seed in range(25)]))

    night = mean(19)
    assert mean(1) > 1.25 * night
    assert mean(11) > 1.25 * night


def test_a_damp_sensor_shows_too_much() -> None:
    shown, humid, dry = [], [], []
    for seed in range(20):
        for hour in (0, 7, 14, 21):
            data = Air(seed).block(hour * HOUR, 600)
            shown.append(data[:, 1])
            humid.append(data[:, 4])
            dry.append(Air(seed).dry(hour * HOUR, 600))
    ratio, humidity = np.concatenate(shown) / np.concatenate(dry), np.concatenate(humid)
    assert ratio[humidity > 90].mean() > 1.8
    assert ratio[humidity < 50].mean() < 1.15


def test_a_plume_comes_and_goes() -> None:
    plain, smoke = Air(5).block(0, 900), Air(5, [Fault("plume", "", 60, 240)]).block(0, 900)
    more = smoke[:, 1] - plain[:, 1]
    assert not more[:60].any()
    assert more[150:240].mean() > 40
    assert abs(more[600:].mean()) < 1
    dust = Air(5, [Fault("dust", "", 60, 240)]).block(0, 900) - plain
    assert dust[150:240, 2].mean() > 4 * dust[150:240, 1].mean()


def test_a_dirty_lens_and_a_stuck_sensor() -> None:
    plain = Air(6).block(0, 2 * HOUR)
    dirty = Air(6, [Fault("drift")]).block(0, 2 * HOUR)
    assert (dirty[-600:, 1] / plain[-600:, 1]).mean() == pytest.approx(1.4, abs=0.05)
    stuck = Air(6, [Fault("stuck", "", 100, 200)]).block(0, 300)
    assert (stuck[100:200] == stuck[100]).all()
    np.testing.assert_array_equal(stuck[200:], plain[200:300])


def test_faults_are_written_in_one_word() -> None:
    assert parse("plume@60-240x2", KINDS) == Fault("plume", "", 60, 240, 2)
    assert parse("stuck:pm2_5@30", KINDS) == Fault("stuck", "pm2_5", 30)
    with pytest.raises(ValueError, match="count from 0"):
        Air(1).block(-1, 1)


@pytest.mark.parametrize("text", ["", "rust", "plume:pm1", "stuck:pm3", "plume@9-3", "plumex0", "driftx1000"])
def test_faults_written_wrong_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="fault"):
        parse(text, KINDS)
