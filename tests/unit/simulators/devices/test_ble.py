"""The simulated strap: the message of a second is a function of the seed, the second and the faults."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest

from simulators.devices.ble import FAULTS, HeartStrap
from simulators.plants.patient import Patient

SECONDS = range(5, 25)


async def test_it_sends_the_heart_beats_of_the_patient() -> None:
    strap, patient = HeartStrap(seed=6), Patient(6)
    beats = [at for at, _ in patient.beats(0, 30)]
    sent: list[int] = []
    for second in SECONDS:
        data = strap.measurement(second)
        assert data[0] & 0x06 == 0x06
        assert data[1] == round(patient.vitals(second)["heart_rate"])
        sent += struct.unpack(f"<{len(data) // 2 - 1}H", data[2:])
    made = [round((b - a) * 1024) for a, b in pairwise(beats) if 5 <= b < 25]
    assert sent == made
    assert [strap.measurement(second) for second in reversed(SECONDS)] == [
        HeartStrap(seed=6).measurement(second) for second in reversed(SECONDS)
    ]


@pytest.mark.parametrize("kind", [kind for kind in FAULTS if kind not in ("silent", "disconnect")])
async def test_each_fault_shows_and_ends(kind: str) -> None:
    well, ill = HeartStrap(seed=6), HeartStrap(seed=6, faults=[f"{kind}@10-12"])
    assert ill.measurement(9) == well.measurement(9)
    assert ill.measurement(10) != well.measurement(10)
    assert ill.measurement(12) == well.measurement(12)


async def test_faults_of_the_patient_are_accepted_and_others_refused() -> None:
    strap = HeartStrap(seed=6, faults=["af@10-20"])
    assert strap.measurement(15) != HeartStrap(seed=6).measurement(15)
    strap.inject("pvc")
    strap.repair()
    assert strap.measurement(15) == HeartStrap(seed=6).measurement(15)
    with pytest.raises(ValueError, match="fault"):
        HeartStrap(faults=["dragon"])
