"""One text form and one type for the faults of plants and devices."""

from __future__ import annotations

import math

import pytest

from simulators.devices.hl7.device import BedsideMonitor
from simulators.devices.nmea import GnssReceiver
from simulators.faults.fault import DeviceFaults, Fault, FaultKind, FaultKinds, checked, parse

KINDS: FaultKinds = {
    "friction": FaultKind("a joint is stiff", parts=("1", "3", "pm2_5"), largest=4),
    "stuck": FaultKind("all or one joint", parts=("", "1")),
    "unit-spo2": "another unit",
    "oxygen": "oxygen is given",
}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("oxygen", Fault("oxygen")),
        ("oxygenx2", Fault("oxygen", size=2)),
        ("unit-spo2", Fault("unit-spo2")),
        ("unit-spo2x3", Fault("unit-spo2", size=3)),
        ("friction:3x2", Fault("friction", "3", size=2)),
        ("friction:pm2_5x2", Fault("friction", "pm2_5", size=2)),
        ("friction:3@20-40x1.5", Fault("friction", "3", 20, 40, 1.5)),
        ("stuck@7", Fault("stuck", "", 7)),
        ("stuck:1@0.5-1", Fault("stuck", "1", 0.5, 1)),
    ],
)
def test_a_text_is_read(text: str, fault: Fault) -> None:
    assert parse(text, KINDS) == fault


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rust", "'rust' is not one of friction, stuck, unit-spo2, oxygen"),
        ("oxygen@", "is not KIND"),
        ("Oxygen", "for example friction@20-40"),
        ("friction", "its parts: 1, 3, pm2_5"),
        ("oxygen:1", "its parts: none"),
        ("stuck@9-3", "no duration"),
        ("stuckx0", "not above 0"),
        ("friction:1x5", "at most 4"),
    ],
)
def test_a_wrong_text_is_refused_with_what_is_wrong(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse(text, KINDS)


@pytest.mark.parametrize("wrong", [{"start_s": -1.0}, {"size": math.nan}, {"size": math.inf}])
def test_numbers_that_no_text_can_hold_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="fault"):
        checked(Fault("stuck", **wrong), KINDS)  # type: ignore[arg-type]


def test_a_device_separates_its_own_faults_from_those_of_its_plant() -> None:
    faults = DeviceFaults({"silent": "nothing is sent"}, KINDS, ["silent@5-10", "stuck@3"])
    assert faults.of_plant == (Fault("stuck", "", 3),)
    assert [faults.size("silent", at_s) for at_s in (4.9, 5, 9.9, 10)] == [0, 1, 1, 0]
    with pytest.raises(ValueError, match="oxygen, silent"):
        faults.add("rust")
    faults.clear()
    assert (faults.of_plant, faults.of_device) == ((), ())


def test_a_fault_begins_now_at_the_earliest_and_one_that_is_over_is_ignored() -> None:
    faults = DeviceFaults({"silent": ""}, KINDS)
    for text in ("silent@5-30x2", "silent@25", "silent@5-20"):
        faults.add(text, 20.0)
    assert faults.of_device == (Fault("silent", "", 20, 30, 2), Fault("silent", "", 25))
    assert faults.size("silent", 26) == 2
    faults.add("stuck", 20.0, plant_now_s=20.5)
    assert faults.of_plant == (Fault("stuck", "", 20.5),)


def test_a_kind_with_an_x_in_its_word_reaches_the_patient_of_a_monitor() -> None:
    monitor = BedsideMonitor(seed=1)
    monitor.inject("oxygen@5-9")
    assert monitor.patient.faults == (Fault("oxygen", "", 5, 9),)


def test_a_hard_manoeuvre_that_is_injected_later_reaches_the_vehicle_of_a_receiver() -> None:
    given, injected = (GnssReceiver(seed=1, rate_hz=10, faults=faults) for faults in (["brake@20-22"], []))
    injected.inject("brake@20-22")
    given.start_ns = injected.start_ns = 1_790_000_000_000_000_000
    assert [injected.output(index) for index in range(300)] == [given.output(index) for index in range(300)]
    assert injected.output(215) != GnssReceiver(seed=1, rate_hz=10).output(215)
