"""The patient: the same numbers for any block, beats as labelled, visible faults."""

from __future__ import annotations

import numpy as np
import pytest

from simulators.faults.fault import Fault, parse
from simulators.plants.patient import ECG_HZ, FAULT_KINDS, FAULTS, UNITS, VITALS, Patient
from wire.topics import FIELD

MINUTE = 60 * ECG_HZ
SEEDS = range(40, 52)


def spans(
    patient: Patient, from_s: float = 0, to_s: float = 300
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Seconds from R peak to R peak."""
    return np.diff([at for at, _ in patient.beats(from_s, to_s)])


def kinds(patient: Patient, from_s: float, to_s: float) -> str:
    return "".join(kind for _, kind in patient.beats(from_s, to_s))


def test_any_cut_of_the_time_line_gives_the_same_samples() -> None:
    faults = [
        Fault("af", "", 3, 9),
        Fault("pvc", "", 9, 20),
        Fault("noise", "", 5.03, 8),
        Fault("fever", "", 2),
        Fault("lead-off", "", 18),
    ]
    n = 20 * ECG_HZ
    ecg, ppg = Patient(7, faults).ecg(0, n), Patient(7, faults).ppg(0, n)
    for size in (1, 77, 250, 1001):
        other = Patient(7, faults)
        starts = range(0, n if size > 1 else 200, size)
        for whole, curve in ((ecg, other.ecg), (ppg, other.ppg)):
            cut = [curve(start, min(size, n - start)) for start in reversed(starts)][::-1]
            np.testing.assert_array_equal(np.concatenate(cut), whole[: sum(map(len, cut))])


def test_any_cut_of_the_time_line_gives_the_same_beats_and_vital_signs() -> None:
    faults = [Fault("af", "", 30, 90), Fault("pvc", "", 90, 200), Fault("desaturation", "", 50, 80)]
    whole = Patient(7, faults).beats(0, 300)
    cut = [beat for at in range(0, 300, 7) for beat in Patient(7, faults).beats(at, min(300, at + 7))]
    assert cut == whole
    late = Patient(7, faults).vitals(250)
    assert late == Patient(7, faults).vitals(250)
    assert Patient(7, faults).ecg(0, 0).shape == (0,)


def test_seeds_differ_and_names_fit_the_wire() -> None:
    assert not np.array_equal(Patient(1).ecg(0, 600), Patient(2).ecg(0, 600))
    assert set(VITALS) == set(UNITS) == set(Patient(1).vitals(3))
    assert all(FIELD.fullmatch(name) for name in VITALS)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_healthy_heart_is_even_and_breathes(seed: int) -> None:
    patient = Patient(seed)
    rr = spans(patient)
    assert 50 < 60 / rr.mean() < 90
    assert 0.01 < rr.std() / rr.mean() < 0.09
    assert kinds(patient, 0, 300) == "N" * (len(rr) + 1)
    # respiratory sinus arrhythmia: the length of beats follows the breath, whose rate the monitor shows
    times = np.array([at for at, _ in patient.beats(0, 300)])
    even = np.arange(0.0, 290.0, 0.25)
    tachogram = np.interp(even, times[1:], rr)
    power = np.abs(np.fft.rfft((tachogram - tachogram.mean()) * np.hanning(len(even)))) ** 2
    hz = np.fft.rfftfreq(len(even), 0.25)
    breathing = (hz > 0.15) & (hz < 0.4)
    peak = hz[breathing][power[breathing].argmax()]
    shown = np.mean([patient.vitals(second)["resp_rate"] for second in range(0, 300, 10)])
    assert peak * 60 == pytest.approx(shown, abs=1.5)


@pytest.mark.parametrize("seed", SEEDS)
def test_r_peaks_stand_where_the_beats_are(seed: int) -> None:
    patient = Patient(seed)
    ecg = patient.ecg(0, MINUTE)
    found = [round(at * ECG_HZ) for at, _ in patient.beats(1, 59)]
    for at in found:
        around = ecg[at - 20 : at + 21]
        assert abs(int(around.argmax()) - 20) <= 2
        assert around.max() - np.median(ecg[at - 50 : at + 51]) > 0.35  # mV


@pytest.mark.parametrize("seed", SEEDS)
def test_fibrillation_is_irregular_without_a_pattern_and_without_p(seed: int) -> None:
    healthy, ill = Patient(seed), Patient(seed, [Fault("af")])
    rr = spans(ill)
    assert 0.15 < rr.std() / rr.mean() < 0.4
    assert rr.min() > 0.2
    steps = rr - rr.mean()
    assert abs((steps[1:] * steps[:-1]).mean() / steps.var()) < 0.25
    assert 60 / rr.mean() > 60 / spans(healthy).mean() + 5
    assert set(kinds(ill, 1, 60)) == {"A"}

    def before_r(patient: Patient) -> float:
        """mV by which the P wave stands out, on average over two minutes."""
        ecg = patient.ecg(0, 2 * MINUTE)
        at = [round(t * ECG_HZ) for t, _ in patient.beats(2, 118)]
        mean = np.mean([ecg[r - 65 : r - 15] for r in at], axis=0)
        return float(mean.max() - 0.5 * (mean[0] + mean[-1]))

    assert before_r(ill) < 0.5 * before_r(healthy) + 0.02


@pytest.mark.parametrize("seed", SEEDS)
def test_a_ventricular_beat_is_early_wide_and_followed_by_a_full_pause(seed: int) -> None:
    patient = Patient(seed, [Fault("pvc", "", 10, 200)])
    beats = patient.beats(0, 200)
    rr = np.diff([at for at, _ in beats])
    usual = np.median(rr)
    at_v = [at for at, (_, kind) in enumerate(beats) if kind == "V" and 1 < at < len(beats) - 1]
    assert len(at_v) / len(beats) == pytest.approx(1 / 8 * 190 / 200, rel=0.25)
    for at in at_v:
        assert rr[at - 1] < 0.8 * usual
        assert rr[at - 1] + rr[at] == pytest.approx(2 * usual, rel=0.2)
    ecg = patient.ecg(0, 200 * ECG_HZ)

    def width(kind: str) -> float:
        """Samples of the QRS above half its height, in the mean."""
        curves = [
            ecg[round(t * ECG_HZ) - 25 : round(t * ECG_HZ) + 26]
            for t, k in beats
            if k == kind and 1 < t < 199
        ]
        mean = np.mean(curves, axis=0)
        mean = np.abs(mean - 0.5 * (mean[0] + mean[-1]))
        return float((mean > 0.5 * mean.max()).sum())

    assert width("V") > 2 * width("N")
    assert patient.rhythm(9) == "N"
    assert patient.rhythm(10) == "PVC"


def test_every_second_beat_at_most_is_premature_and_none_without_the_fault() -> None:
    assert "VV" not in kinds(Patient(5, [Fault("pvc", size=4)]), 0, 100)
    assert kinds(Patient(5, [Fault("pvc", size=4)]), 0, 100).count("V") > 50
    assert set(kinds(Patient(5, [Fault("pac")]), 0, 100)) == {"N", "S"}
    assert set(kinds(Patient(5), 0, 1000)) == {"N"}


@pytest.mark.parametrize("kind", FAULT_KINDS)
def test_a_fault_is_there_in_its_time_only(kind: str) -> None:
    # after a faster phase all later beats are at other times, as those of a real heart
    fault = Fault(kind, "", 60, 90)
    healthy, ill = Patient(5), Patient(5, [fault])
    before = 58 * ECG_HZ  # an early beat reaches back by a wave
    np.testing.assert_array_equal(healthy.ecg(0, before), ill.ecg(0, before))
    assert all(healthy.vitals(second) == ill.vitals(second) for second in range(0, 58, 5))
    curves = not np.array_equal(healthy.ecg(62 * ECG_HZ, MINUTE), ill.ecg(62 * ECG_HZ, MINUTE))
    signs = any(healthy.vitals(second) != ill.vitals(second) for second in range(62, 90, 3))
    assert curves or signs
    assert all(
        abs(value - healthy.vitals(900)[name]) <= 6 for name, value in ill.vitals(900).items()
    )  # long after


def test_labels_follow_the_fault() -> None:
    patient = Patient(5, [Fault("af", "", 30, 60), Fault("pvc", "", 60)])
    assert [patient.rhythm(second) for second in (29, 30, 59, 60, 10_000)] == ["N", "AF", "AF", "PVC", "PVC"]
    assert set(kinds(patient, 0, 29)) == {"N"}
    assert set(kinds(patient, 32, 58)) == {"A"}
    assert set(kinds(patient, 62, 400)) == {"N", "V"}


def test_electrodes_that_came_off_give_a_flat_line_and_noise_hides_the_beats() -> None:
    off = Patient(5, [Fault("lead-off", "", 2, 4)]).ecg(0, 6 * ECG_HZ)
    assert not off[2 * ECG_HZ : 4 * ECG_HZ].any()
    assert off[: 2 * ECG_HZ].std() > 0.05
    assert Patient(5, [Fault("noise")]).ecg(0, MINUTE).std() > 3 * Patient(5).ecg(0, MINUTE).std()


@pytest.mark.parametrize("seed", SEEDS)
def test_vital_signs_are_an_adults_at_rest_and_agree_with_the_ecg(seed: int) -> None:
    patient = Patient(seed)
    rr = spans(patient, 91, 101)
    assert patient.vitals(100)["heart_rate"] == pytest.approx(60 / rr.mean(), abs=4)
    for second in (0, 1, 33, 500, 86_400):
        shown = patient.vitals(second)
        assert 50 <= shown["heart_rate"] <= 90
        assert 12 <= shown["resp_rate"] <= 20
        assert shown["spo2"] >= 96
        assert 111 <= shown["sys_bp"] <= 150
        assert shown["dia_bp"] < shown["sys_bp"]
        assert 36.1 <= shown["temperature"] <= 38.0
        assert (shown["oxygen"], shown["consciousness_altered"]) == (0, 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_desaturation_takes_heart_and_breath_with_it(seed: int) -> None:
    patient = Patient(seed, [Fault("desaturation", "", 60, 240)])
    before, during, after = (patient.vitals(second) for second in (50, 200, 600))
    assert during["spo2"] <= 91
    assert during["heart_rate"] > before["heart_rate"] + 20
    assert during["resp_rate"] >= 24
    assert after["spo2"] >= 96
    assert 60 / spans(patient, 180, 240).mean() == pytest.approx(during["heart_rate"], abs=6)


@pytest.mark.parametrize(
    ("kind", "name", "least", "most"),
    [
        ("fever", "temperature", 38.6, 40),
        ("hypotension", "sys_bp", 60, 100),
        ("confusion", "consciousness_altered", 1, 1),
        ("oxygen", "oxygen", 1, 1),
    ],
)
def test_other_faults_move_their_vital_sign(kind: str, name: str, least: float, most: float) -> None:
    fault = Fault(kind)
    assert least <= Patient(5, [fault]).vitals(600)[name] <= most


def test_the_pulse_comes_after_the_beat_and_is_weak_after_an_early_one() -> None:
    patient = Patient(5, [Fault("pvc")])
    ppg = patient.ppg(0, MINUTE)
    heights: dict[str, list[float]] = {"N": [], "V": []}
    for at, kind in patient.beats(2, 57):
        after = ppg[round((at + 0.2) * ECG_HZ) : round((at + 0.5) * ECG_HZ)]
        heights[kind].append(float(after.max()))
    assert np.mean(heights["V"]) < 0.85 * np.mean(heights["N"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "rust"},
        {"start_s": 5, "end_s": 5},
        {"start_s": -1},
        {"size": float("nan")},
        {"size": 0},
        {"size": 5},
    ],
)
def test_impossible_faults_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="fault"):
        Patient(1, [Fault(**{"kind": "af", **wrong})])  # type: ignore[arg-type]  # wrong on purpose


def test_time_before_the_start_is_refused() -> None:
    with pytest.raises(ValueError, match="count from 0"):
        Patient(1).ecg(-1, 2)
    with pytest.raises(ValueError, match="count from 0"):
        Patient(1).vitals(-1)


def test_faults_are_written_in_one_word() -> None:
    assert parse("lead-off", FAULTS) == Fault("lead-off")
    assert parse("desaturation@20.5-40x1.5", FAULTS) == Fault("desaturation", "", 20.5, 40, 1.5)
    assert parse("af@7", FAULTS) == Fault("af", "", 7)


@pytest.mark.parametrize("text", ["", "rust", "af:1", "af@9-3", "pvcx0", "pvcx9", "af@"])
def test_faults_written_wrong_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="fault"):
        parse(text, FAULTS)
