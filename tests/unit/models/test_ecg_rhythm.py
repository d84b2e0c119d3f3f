"""The ecg-rhythm package: it passes the gate, classifies unknown hearts, and has the scores of its card."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from agent.inference.gate import inspect
from agent.inference.package import load_package
from agent.inference.session import Model
from simulators.faults.fault import Fault
from simulators.plants.patient import ECG_HZ, Patient

PACKAGE = Path(__file__).resolve().parents[3] / "models" / "ecg-rhythm"
PATIENTS = range(200_000, 200_012)  # neither trained on, tuned on nor measured
LENGTH = 10 * ECG_HZ


def told(model: Model, ecg: np.ndarray) -> str:
    return model.run_window(ecg.astype(np.float32)[:, None]).top


def windows(faults: list[Fault]) -> list[np.ndarray]:
    return [Patient(seed, faults).ecg(20 * ECG_HZ, LENGTH) for seed in PATIENTS]


def test_it_passes_the_gate_with_every_golden_vector() -> None:
    report = inspect(load_package(PACKAGE), ("CPUExecutionProvider",))
    assert report.why == ""
    assert report.golden == 6
    assert (PACKAGE / "model.onnx").stat().st_size < 2_000_000


@pytest.mark.parametrize(
    ("faults", "label"),
    [
        ([], "N"),
        ([Fault("fever")], "N"),
        ([Fault("pac")], "N"),
        ([Fault("af")], "AF"),
        ([Fault("pvc", size=2)], "PVC"),
        ([Fault("noise", size=1.5)], "unreadable"),
        ([Fault("lead-off")], "unreadable"),
    ],
)
def test_hearts_it_never_saw_are_told(model: Model, faults: list[Fault], label: str) -> None:
    found = [told(model, ecg) for ecg in windows(faults)]
    assert found.count(label) >= len(found) - 1


def test_alarms_are_for_rhythms_and_not_for_a_lead_that_is_off(model: Model) -> None:
    results = {
        kind: model.run_window(windows([Fault(kind)])[0].astype(np.float32)[:, None])
        for kind in ("af", "lead-off")
    }
    assert results["af"].alarm
    assert not results["lead-off"].alarm
    assert set(model.fields()) == {"label", "score", "alarm", "n", "af", "pvc", "unreadable"}


def test_gain_and_offset_of_a_monitor_do_not_matter(model: Model) -> None:
    for faults in ([], [Fault("af")], [Fault("pvc", size=2)]):
        ecg = windows(faults)[1]
        assert {told(model, gain * ecg + offset) for gain, offset in ((0.5, 0), (1, 0), (2, 3), (1, -5))} == {
            told(model, ecg)
        }


def test_numbers_no_monitor_gives_are_no_crash(model: Model) -> None:
    for value in (0.0, 1e30, np.nan, np.inf):
        model.run_window(np.full((LENGTH, 1), value, np.float32))


@pytest.mark.usefixtures("make")
def test_truth_is_what_the_beats_say() -> None:
    from ecg_patients import AF, PVC, N, truth

    patient = Patient(5, [Fault("pvc", start_s=30), Fault("af", end_s=20)])
    early = next(at for at, kind in patient.beats(40, 80) if kind == "V")
    assert truth(patient, 0, LENGTH) == AF
    assert truth(patient, 21 * ECG_HZ, 5 * ECG_HZ) == N
    assert truth(patient, round((early - 5) * ECG_HZ), LENGTH) == PVC
    assert truth(patient, round((early - 0.1) * ECG_HZ), ECG_HZ) == N  # cut off


def test_the_baseline_finds_the_beats(make: ModuleType) -> None:
    for seed in PATIENTS:
        patient = Patient(seed)
        beats = patient.beats(20, 30)
        spans = make.look(patient.ecg(20 * ECG_HZ, LENGTH)).spans
        assert abs(len(spans) + 1 - len(beats)) <= 1
        assert np.median(spans) == pytest.approx(np.median(np.diff([at for at, _ in beats])), abs=0.02)


@pytest.mark.field
def test_the_score_on_a_real_recording_is_the_cards(field_data: Path, model: Model, make: ModuleType) -> None:
    labels = model.manifest.output.labels
    found = [(labels.index(told(model, window)), label) for window, label in make.recorded(field_data)]
    assert [label for _, label in found].count(make.PVC) == 9
    card = model.manifest.quality["mitbih_100"]["model"]
    assert len(found) == card["windows"]
    right = [told == label for told, label in found]
    assert np.mean(right) == pytest.approx(card["accuracy"], abs=0.002)  # a window or three at a border
    assert np.mean([told == make.PVC for told, label in found if label == make.PVC]) == card["recall"]["PVC"]


@pytest.mark.field
def test_the_baseline_finds_the_beats_of_a_real_recording(field_data: Path, make: ModuleType) -> None:
    lead_mv, beats = make.record_100(field_data / "signals" / "mitdb")
    counted = sum(len(make.look(window).spans) for window, _ in make.recorded(field_data)[::10])
    assert len(lead_mv) == 650_000
    assert counted == pytest.approx(len(beats) - 180, rel=0.01)  # ten seconds have one span less than beats
