"""Ten-second ECG windows of simulated patients, varied like other bodies and monitors, with their labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from simulators.faults.fault import Fault
from simulators.plants.patient import ECG_HZ, Patient

LENGTH = 10 * ECG_HZ
LABELS = ("N", "AF", "PVC", "unreadable")
N, AF, PVC, UNREADABLE = range(4)
PER_PATIENT = 4

Array = np.ndarray[Any, np.dtype[Any]]


class Case(NamedTuple):
    """One kind of patient: its share, its faults with least and greatest size, if its ECG is readable."""

    share: float
    faults: dict[str, tuple[float, float]]
    readable: bool = True


CASES = {
    "sinus": Case(0.16, {}),
    "atrial premature beats": Case(0.16, {"pac": (0.4, 2)}),
    "sinus with noise": Case(0.07, {"noise": (0.02, 0.12)}),
    "fibrillation": Case(0.2, {"af": (1, 1)}),
    "fibrillation with noise": Case(0.06, {"af": (1, 1), "noise": (0.02, 0.1)}),
    "ventricular premature beats": Case(0.2, {"pvc": (0.5, 4)}),
    "ventricular with noise": Case(0.05, {"pvc": (1, 1), "noise": (0.02, 0.1)}),
    "noise alone": Case(0.06, {"noise": (0.5, 3)}, readable=False),
    "lead off": Case(0.04, {"lead-off": (1, 1)}, readable=False),
}


def faults_of(case: Case, rng: np.random.Generator) -> list[Fault]:
    """The faults of one patient of this kind; every third patient also has a fast heart rate."""
    sizes = {kind: rng.uniform(*sizes) for kind, sizes in case.faults.items()}
    if rng.random() < 0.3:
        sizes["fever"] = rng.uniform(0.5, 2)
    if not case.readable and rng.random() < 0.5:
        sizes[str(rng.choice(["af", "pvc", "pac"]))] = 1.0  # the rhythm cannot be recognised
    return [fault(kind, size) for kind, size in sizes.items()]


def fault(kind: str, size: float = 1.0) -> Fault:
    return Fault(kind, size=float(size))


def patients(seeds: range, *, randomised: bool) -> Iterator[tuple[str, Array, int]]:
    """(case, window (2500,) in mV, label); with `randomised`, varied like other monitors and bodies."""
    names = list(CASES)
    shares = np.array([CASES[name].share for name in names])
    for seed in seeds:
        rng = np.random.default_rng([seed, 77])
        name = str(rng.choice(names, p=shares / shares.sum()))
        patient = Patient(seed, faults_of(CASES[name], rng))
        for nth in range(PER_PATIENT):
            start = (30 + 20 * nth) * ECG_HZ + int(rng.integers(ECG_HZ))
            stretch = float(rng.uniform(0.75, 1.3)) if randomised else 1.0
            n = round(LENGTH * stretch)
            window = patient.ecg(start, n)
            if randomised:
                window = as_elsewhere(window, rng, readable=CASES[name].readable)
            label = truth(patient, start, n) if CASES[name].readable else UNREADABLE
            yield name, window.astype(np.float32), label


def truth(patient: Patient, start: int, n: int) -> int:
    """PVC if the window contains a whole ventricular beat, AF if half of the beats fibrillate, else N."""
    from_s, to_s = start / ECG_HZ, (start + n) / ECG_HZ
    beats = patient.beats(from_s, to_s)
    if any(kind == "V" and from_s + 0.15 < at < to_s - 0.3 for at, kind in beats):
        return PVC
    return AF if sum(kind == "A" for _, kind in beats) > len(beats) / 2 else N


def as_elsewhere(window: Array, rng: np.random.Generator, *, readable: bool) -> Array:
    """Vary length, lead, filter, resolution and noise: (n,) to (2500,)."""
    at = np.linspace(0, len(window) - 1, LENGTH)
    out = np.interp(at, np.arange(len(window)), window)
    if not readable and not out.any():
        hum = np.sin(2 * np.pi * rng.choice([50, 60]) * np.arange(LENGTH) / ECG_HZ + rng.uniform(0, 6))
        drift = np.cumsum(rng.normal(0, 0.01, LENGTH)) * rng.choice([0, 1])
        return out + rng.choice([0, rng.normal(0, 2)]) + rng.choice([0, rng.uniform(0, 0.3)]) * hum + drift
    out = out + rng.uniform(-0.012, 0.012) * np.gradient(out) * ECG_HZ  # similar to a position beside lead II
    out = _filtered(out, rng) * rng.uniform(0.4, 2.0) * rng.choice([1.0, -1.0], p=[0.88, 0.12])
    seconds = np.arange(LENGTH) / ECG_HZ
    for hz, most in (
        (rng.choice([50, 60]), 0.04),
        (rng.uniform(0.05, 0.5), 0.3),
        (rng.uniform(0.1, 1), 0.08),
    ):
        out += rng.uniform(0, most) * np.sin(2 * np.pi * (hz * seconds + rng.random()))
    out += rng.uniform(0, 0.03) * rng.standard_normal(LENGTH)
    step = float(rng.choice([0.001, 0.005, 0.01]))  # mV
    return np.round((out + rng.normal(0, 0.3)) / step) * step


def _filtered(signal: Array, rng: np.random.Generator) -> Array:
    """Filter with the band of a monitor: from 0.05..0.7 Hz to 25..120 Hz."""
    hz = np.fft.rfftfreq(len(signal), 1 / ECG_HZ)
    low, high = rng.uniform(0.05, 0.7), rng.uniform(25, 120)
    gain = 1 / (1 + (hz / high) ** 4) * (hz**2 / (hz**2 + low**2))
    return np.fft.irfft(np.fft.rfft(signal) * gain, len(signal))
