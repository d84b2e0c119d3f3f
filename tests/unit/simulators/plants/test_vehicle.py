"""The car: the same numbers for any block, and consistent physics."""

from __future__ import annotations

import numpy as np
import pytest

from simulators.faults.fault import Fault, parse
from simulators.plants.vehicle import FAULTS as KINDS
from simulators.plants.vehicle import LABELS, RATE_HZ, SIGNALS, UNITS, Vehicle
from wire.topics import FIELD

MINUTE = 60 * RATE_HZ
HOUR = 60 * MINUTE
COLUMN = {name: at for at, name in enumerate(SIGNALS)}
CHARGER = 105 * 1200  # samples after which the car stands at its charger, until 120 * 1200
FAULTS = (
    Fault("brake", "", 20, 22),
    Fault("acceleration", "", 100, 260),
    Fault("stuck", "speed", 61.03, 80),
    Fault("overheat", "", 30, 90),
)


@pytest.mark.parametrize("start", [0, CHARGER - 700, CHARGER + 15 * 1200 - 700])
def test_any_cut_of_the_time_line_gives_the_same_samples(start: int) -> None:
    whole, labels = Vehicle(7, FAULTS).block(start, 1500), Vehicle(7, FAULTS).labels(start, 1500)
    for size in (7, 299, 512):
        other = Vehicle(7, FAULTS)
        starts = range(start, start + 1500, size)
        sizes = [min(size, start + 1500 - at) for at in starts]
        cut = [other.block(at, n) for at, n in zip(reversed(starts), reversed(sizes), strict=True)]
        np.testing.assert_array_equal(np.concatenate(cut[::-1]), whole)
        names = [other.labels(at, n) for at, n in zip(starts, sizes, strict=True)]
        np.testing.assert_array_equal(np.concatenate(names), labels)
    last = Vehicle(7, FAULTS).sample(start + 1234)
    assert last == dict(zip(SIGNALS, whole[1234].tolist(), strict=True))


def test_seeds_differ_and_names_fit_the_wire() -> None:
    assert not np.array_equal(Vehicle(1).block(0, 600), Vehicle(2).block(0, 600))
    assert len(SIGNALS) == 14
    assert set(UNITS) == set(SIGNALS)
    assert all(FIELD.fullmatch(name) for name in SIGNALS)


@pytest.mark.parametrize("seed", range(6))
def test_an_hour_takes_what_an_electric_car_takes(seed: int) -> None:
    car = Vehicle(seed)
    data, used = car.block(0, HOUR), car.energy(0, HOUR)
    km = data[:, 0].sum() / 3600 / RATE_HZ
    assert 15 < km < 45
    assert 110 < used / km < 280
    assert used == pytest.approx(sum(car.energy(at, 600) for at in range(0, HOUR, 600)))
    measured = (data[:, COLUMN["pack_voltage"]] * data[:, COLUMN["pack_current"]]).sum() / 3600 / RATE_HZ
    assert measured == pytest.approx(used, rel=0.01)
    assert data[:, COLUMN["pack_current"]].min() > -150
    assert data[:, COLUMN["pack_current"]].max() < 750


def test_the_pack_loses_the_charge_that_flows() -> None:
    data = Vehicle(3).block(0, HOUR)
    ampere_hours = data[:, COLUMN["pack_current"]].sum() / RATE_HZ / 3600
    soc = data[:, COLUMN["soc"]]
    assert (soc[0] - soc[-1]) / 100 * 180 == pytest.approx(ampere_hours, rel=0.02)
    assert np.abs(np.diff(soc)).max() < 0.02


def test_the_energy_is_accounted_for_by_what_resists() -> None:
    car = Vehicle(4)
    data = car.block(0, HOUR)
    metres = data[:, 0] / 3.6 / RATE_HZ
    at_least = 1775 * 9.81 * 0.009 * metres.sum() / 3600  # Wh: rolling alone of the lightest car
    climbed = np.diff(data[:, COLUMN["altitude"]]).sum()
    assert car.energy(0, HOUR) > at_least + 1775 * 9.81 * climbed / 3600
    braking = data[:, 1] < -1.0
    assert data[braking, COLUMN["pack_current"]].mean() < -10  # it recuperates


def test_a_shift_ends_charged_as_it_began() -> None:
    car = Vehicle(5)
    first = car.block(0, 1)[0]
    before, after = car.block(CHARGER + 15 * 1200 - 1, 2)
    charging = car.block(CHARGER + 600, 10)
    for state in (before, after):
        assert state[COLUMN["soc"]] == pytest.approx(first[COLUMN["soc"]], abs=0.01)
    assert (charging[:, COLUMN["pack_current"]] < -60).all()
    assert not charging[:, 0].any()
    assert car.energy(CHARGER, 15 * 1200) < -10_000


def test_acceleration_is_the_slope_of_speed() -> None:
    data = Vehicle(6).block(0, HOUR)
    slope = np.gradient(data[:, 0] / 3.6, 1 / RATE_HZ)
    off = np.abs(slope - data[:, 1])
    assert np.median(off) < 0.25  # knocks and noise differ
    assert np.quantile(off, 0.99) < 1.2


def test_position_follows_speed_and_heading_round_the_block() -> None:
    data = Vehicle(5).block(0, 30 * 1200)
    north = data[:, COLUMN["latitude"]] * 111_320
    east = data[:, COLUMN["longitude"]] * 111_320 * np.cos(np.radians(data[0, COLUMN["latitude"]]))
    heading = np.radians(data[:, COLUMN["heading"]])
    step = data[:, 0] / 3.6 / RATE_HZ
    for seconds in (300, 900, 1800):
        n = seconds * RATE_HZ
        assert north[n] - north[0] == pytest.approx((step * np.cos(heading))[:n].sum(), abs=60)
        assert east[n] - east[0] == pytest.approx((step * np.sin(heading))[:n].sum(), abs=60)
    rounds = [data[at, COLUMN["latitude"]] for at in (0, 15 * 1200)]
    assert rounds[0] == pytest.approx(rounds[1], abs=0.002)


def test_yaw_rate_is_the_turning_of_the_heading() -> None:
    data = Vehicle(2).block(0, HOUR)
    turned = np.unwrap(np.radians(data[:, COLUMN["heading"]]))
    assert np.degrees(turned[-1] - turned[0]) == pytest.approx(
        data[:, COLUMN["yaw_rate"]].sum() / RATE_HZ, abs=15
    )


@pytest.mark.parametrize(
    ("kind", "column", "least"),
    [("brake", "acceleration", -4.0), ("acceleration", "acceleration", 2.8), ("cornering", "yaw_rate", 12.0)],
)
def test_a_hard_manoeuvre_shows_when_it_is_asked_for(kind: str, column: str, least: float) -> None:
    asked, plain = Vehicle(1, [Fault(kind, "", 20, 22)]), Vehicle(1)
    labels, data = asked.labels(0, MINUTE), asked.block(0, MINUTE)
    on = labels == LABELS.index(kind)
    assert on.any()
    first = int(np.argmax(on))
    assert first == 200  # this car drives by then
    np.testing.assert_array_equal(data[:first], plain.block(0, first))  # nothing changes before
    during = data[on, COLUMN[column]]
    assert (during.min() < least) if least < 0 else (np.abs(during).max() > least)


def test_a_driver_brakes_as_soon_as_the_car_allows_it() -> None:
    for seed in range(20):
        for start in (0, 37, 61, 118):
            labels = Vehicle(seed, [Fault("brake", "", start, start + 2)]).labels(0, 4 * MINUTE)
            own = Vehicle(seed).labels(0, 4 * MINUTE)
            assert (labels == 1).sum() >= (own == 1).sum()
            assert not (labels[: start * RATE_HZ] != own[: start * RATE_HZ]).any()
    tried = [Vehicle(seed, [Fault("brake", "", 20, 22)]).labels(0, MINUTE) for seed in range(40)]
    assert sum((labels == 1).any() for labels in tried) >= 38


def test_hard_manoeuvres_repeat_until_the_end_of_the_fault() -> None:
    labels = Vehicle(3, [Fault("brake", "", 0, 1800)]).labels(0, HOUR)
    starts = np.flatnonzero((labels[1:] == 1) & (labels[:-1] != 1))
    assert (starts < HOUR // 2).sum() > 15
    assert (starts >= HOUR // 2).sum() < 12


def test_every_drive_ends_at_its_light() -> None:
    for seed in (1, 8):
        data = Vehicle(seed, [Fault("acceleration")]).block(0, HOUR)
        assert np.abs(np.diff(data[:, 0])).max() < 6.0  # km/h in 0.1 s: no jumps
        latitude = data[:, COLUMN["latitude"]]
        assert np.abs(np.diff(latitude)).max() * 111_320 < 6


def test_an_overheating_pack_and_a_stuck_sensor() -> None:
    plain = Vehicle(2).block(0, 3 * MINUTE)
    data = Vehicle(2, FAULTS[2:]).block(0, 3 * MINUTE)
    assert np.unique(data[611:800, 0]).size == 1
    warmer = data[:, COLUMN["cell_temperature"]] - plain[:, COLUMN["cell_temperature"]]
    assert not warmer[:300].any()
    assert 14 < warmer.max() < 25
    assert int(warmer.argmax()) == pytest.approx(900, abs=2)


def test_time_before_the_start_is_refused() -> None:
    with pytest.raises(ValueError, match="count from 0"):
        Vehicle(1).block(-1, 2)


def test_faults_are_written_in_one_word() -> None:
    assert parse("brake@20-22", KINDS) == Fault("brake", "", 20, 22)
    assert parse("cornering@7x1.5", KINDS) == Fault("cornering", "", 7, size=1.5)
    assert parse("stuck:pack_voltage", KINDS) == Fault("stuck", "pack_voltage")


@pytest.mark.parametrize(
    "text", ["", "rust", "stuck", "stuck:wheel", "brake:speed", "brake@9-3", "brake x1", "brakex0", "brakex9"]
)
def test_faults_written_wrong_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="fault"):
        parse(text, KINDS)
