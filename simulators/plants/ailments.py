"""What is in a person and what can be wrong with one: resting vital signs, faults, and how they come on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, cast, get_args

import numpy as np
from numpy.typing import NDArray

FaultKind = Literal[
    "af", "pvc", "pac", "noise", "lead-off", "desaturation", "fever", "hypotension", "confusion", "oxygen"
]
FAULT_KINDS: tuple[str, ...] = get_args(FaultKind)
_NUMBER = r"(\d+(?:\.\d+)?)"
_FAULT_TEXT = re.compile(rf"([a-z-]+)(?:@{_NUMBER}(?:-{_NUMBER})?)?(?:x{_NUMBER})?")

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with the patient or the electrodes between two times (seconds since sample 0).

    `size` 1.0 is what a nurse would come for: one premature beat in eight (`pvc` from the ventricle, `pac`
    from the atrium; 4 is every second beat); electrode noise that hides the ECG; SpO2 down by 11 %,
    temperature up by 2.4 K or systolic pressure down by 40 mmHg, with the heart and breath rates that go
    with it. `af`, `lead-off`, `confusion` and `oxygen` (it is given to the patient) have no size.
    """

    kind: FaultKind
    start_s: float = 0.0
    end_s: float = float("inf")
    size: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in FAULT_KINDS:
            raise ValueError(f"fault {self.kind!r} is not one of {', '.join(FAULT_KINDS)}")
        if not 0 <= self.start_s < self.end_s:
            raise ValueError(f"a fault from {self.start_s} s to {self.end_s} s has no duration")
        if not 0 < self.size <= 4:
            raise ValueError(f"fault size {self.size} is not above 0 and at most 4")

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read `KIND[@START[-END]][xSIZE]`, e.g. `desaturation@20-90x0.5`.

        Raises:
            ValueError: it is not of this form, or no such fault is possible.
        """
        found = _FAULT_TEXT.fullmatch(text)
        if not found:
            raise ValueError(f"fault {text!r} is not KIND[@START[-END]][xSIZE], e.g. desaturation@20-90x0.5")
        kind, start, end, size = found.groups()
        return cls(cast(FaultKind, kind), float(start or 0), float(end or "inf"), float(size or 1.0))

    def active(self, at_s: float) -> bool:
        """Whether it is there at this time."""
        return self.start_s <= at_s < self.end_s


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
    mayer: float  # the same of the 0.1 Hz wave of blood pressure
    slow: float  # the same over a minute
    fibrillation: float  # /min that the heart rate rises by in atrial fibrillation
    coupling: float  # share of a beat by which premature beats come early
    phase: float  # 0..1


@lru_cache(maxsize=64)
def person(seed: int) -> Person:
    """The person that a seed stands for."""
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


# what a fault of size 1 does to a vital sign, and after how many seconds (1 - 1/e) of it is there
_EFFECTS: dict[str, dict[str, tuple[float, float]]] = {
    "desaturation": {"spo2": (-11, 20), "heart_rate": (36, 20), "resp_rate": (12.5, 20)},
    "fever": {"temperature": (2.4, 60), "heart_rate": (28, 60), "resp_rate": (7.5, 60)},
    "hypotension": {"sys_bp": (-40, 20), "dia_bp": (-22, 20), "heart_rate": (35, 20)},
    "confusion": {"consciousness_altered": (1, 0.01)},
    "oxygen": {"oxygen": (1, 0.01), "spo2": (1, 20)},
}
_SIZELESS = ("af", "confusion", "oxygen")


def change(seed: int, faults: tuple[Fault, ...], name: str, at_s: Floats) -> tuple[Floats, Floats]:
    """By how much all faults move a vital sign at these times, and the integral of that since time 0."""
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
    """How far (0..1) a fault has come towards its full effect, and the integral of that in s."""
    during = np.clip(np.minimum(at_s, fault.end_s) - fault.start_s, 0.0, None)
    after = np.maximum(at_s - fault.end_s, 0.0)
    peak, decay = 1.0 - np.exp(-during / tau), np.exp(-after / tau)
    return peak * decay, during - tau * peak + tau * peak * (1.0 - decay)
