"""A person at rest, the faults that change the vital signs, and how these changes come and go."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulators.faults.fault import Fault, FaultKind, FaultKinds

_LARGEST = 4  # fault size
# size 1 is what a nurse would come for; the heart and breath rates that go with a kind change too
FAULTS: FaultKinds = {
    "af": FaultKind("atrial fibrillation; it has no size", largest=_LARGEST),
    "pvc": FaultKind("SIZE of eight beats come early from the ventricle", largest=_LARGEST),
    "pac": FaultKind("SIZE of eight beats come early from the atrium", largest=_LARGEST),
    "noise": FaultKind("electrode noise hides the ECG", largest=_LARGEST),
    "lead-off": FaultKind("the ECG electrode is off: the ECG reads 0; it has no size", largest=_LARGEST),
    "desaturation": FaultKind("SpO2 falls by SIZE x 11 %", largest=_LARGEST),
    "fever": FaultKind("the temperature rises by SIZE x 2.4 K", largest=_LARGEST),
    "hypotension": FaultKind("the systolic pressure falls by SIZE x 40 mmHg", largest=_LARGEST),
    "confusion": FaultKind("the patient is confused; it has no size", largest=_LARGEST),
    "oxygen": FaultKind("the patient gets oxygen; it has no size", largest=_LARGEST),
}
FAULT_KINDS: tuple[str, ...] = tuple(FAULTS)  # heartbeat.py draws its chance by the place in this list

Floats = NDArray[np.float64]


class Person(NamedTuple):
    """One healthy adult at rest, in the units of `simulators.plants.patient.UNITS`."""

    heart_rate: float
    resp_rate: float
    spo2: float
    sys_bp: float
    dia_bp: float
    temperature: float
    consciousness_altered: float
    oxygen: float
    rsa: float  # share by which breathing modulates the heart rate
    mayer: float  # share by which the 0.1 Hz wave of blood pressure modulates it
    slow: float  # share by which a wave of a minute modulates it
    fibrillation: float  # /min by which the heart rate rises in atrial fibrillation
    coupling: float  # share of a beat by which premature beats are early
    phase: float  # 0..1


@lru_cache(maxsize=64)
def person(seed: int) -> Person:
    """The person of a seed."""
    rng = np.random.default_rng([seed, 1])
    systolic = rng.uniform(114, 136)
    return Person(
        heart_rate=rng.uniform(58, 84),
        resp_rate=rng.uniform(13, 17.5),
        spo2=rng.uniform(96.9, 98.8),
        sys_bp=systolic,
        dia_bp=systolic * rng.uniform(0.58, 0.66),
        temperature=rng.uniform(36.4, 37.2),
        consciousness_altered=0.0,
        oxygen=0.0,
        rsa=rng.uniform(0.01, 0.07),
        mayer=rng.uniform(0.005, 0.02),
        slow=rng.uniform(0.005, 0.02),
        fibrillation=rng.uniform(8, 45),
        coupling=rng.uniform(0.3, 0.45),
        phase=rng.random(),
    )


# by how much a fault of size 1 moves a vital sign, and the time constant in s
_EFFECTS: dict[str, dict[str, tuple[float, float]]] = {
    "desaturation": {"spo2": (-11, 20), "heart_rate": (36, 20), "resp_rate": (12.5, 20)},
    "fever": {"temperature": (2.4, 60), "heart_rate": (28, 60), "resp_rate": (7.5, 60)},
    "hypotension": {"sys_bp": (-40, 20), "dia_bp": (-22, 20), "heart_rate": (35, 20)},
    "confusion": {"consciousness_altered": (1, 0.01)},
    "oxygen": {"oxygen": (1, 0.01), "spo2": (1, 20)},
}
_SIZELESS = ("af", "confusion", "oxygen")


def change(seed: int, faults: tuple[Fault, ...], name: str, at_s: Floats) -> tuple[Floats, Floats]:
    """By how much all faults move a vital sign at these times, and the integral of it since time 0."""
    moved, integral = np.zeros_like(at_s), np.zeros_like(at_s)
    for fault in faults:
        effects = _EFFECTS.get(fault.kind, {})
        if fault.kind == "af":
            effects = {"heart_rate": (person(seed).fibrillation, 2.0)}
        if name in effects:
            full, tau = effects[name]
            size = 1.0 if fault.kind in _SIZELESS else fault.size
            come, area = _ramp(fault, tau, at_s)
            moved, integral = moved + full * size * come, integral + full * size * area
    return moved, integral


def _ramp(fault: Fault, tau: float, at_s: Floats) -> tuple[Floats, Floats]:
    """The share (0..1) of a fault's full effect at these times, and the integral of it in s."""
    during = np.clip(np.minimum(at_s, fault.end_s) - fault.start_s, 0.0, None)
    after = np.maximum(at_s - fault.end_s, 0.0)
    peak, decay = 1.0 - np.exp(-during / tau), np.exp(-after / tau)
    return peak * decay, during - tau * peak + tau * peak * (1.0 - decay)
