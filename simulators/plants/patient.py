"""A patient at a bedside monitor, as numbers: ECG and pulse wave at 250 Hz, beats with labels, vital signs.

Every value is a function of (seed, index, faults) alone: any block, at any clock rate and in any order, is
the same to the bit. The plant knows no protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from simulators.faults.fault import Fault, checked
from simulators.plants.ailments import FAULT_KINDS, FAULTS, Floats, change, person
from simulators.plants.heartbeat import beats
from simulators.plants.waveforms import CHUNK, RATE_HZ, ecg_chunk, ppg_chunk

__all__ = ["ECG_HZ", "FAULTS", "FAULT_KINDS", "UNITS", "VITALS", "Patient"]

ECG_HZ = RATE_HZ
UNITS = {  # UCUM
    "heart_rate": "/min",
    "resp_rate": "/min",
    "spo2": "%",
    "sys_bp": "mm[Hg]",
    "dia_bp": "mm[Hg]",
    "temperature": "Cel",
    "consciousness_altered": "",  # 0 alert, 1 new confusion or worse (CVPU)
    "oxygen": "",  # 0 breathes air, 1 gets oxygen
}
VITALS: tuple[str, ...] = tuple(UNITS)
LIMITS = {  # the least and the most that a monitor shows
    "heart_rate": (0, 350),
    "resp_rate": (4, 60),
    "spo2": (50, 100),
    "sys_bp": (40, 250),
    "dia_bp": (20, 150),
    "temperature": (33, 42.5),
    "consciousness_altered": (0, 1),
    "oxygen": (0, 1),
}


class Patient:
    """One person. `seed` chooses the heart, the shape of its waves, the vital signs and the electrodes."""

    def __init__(self, seed: int, faults: Sequence[Fault] = ()) -> None:
        self.seed = seed
        self.faults: tuple[Fault, ...] = tuple(checked(fault, FAULTS) for fault in faults)

    def ecg(self, start: int, n: int) -> Floats:
        """Samples `start .. start+n-1` of lead II in mV, shape (n,); they count from 0 at 250 Hz."""
        return self._cut(ecg_chunk, start, n)

    def ppg(self, start: int, n: int) -> Floats:
        """The pulse at the finger, shape (n,), in shares of a full pulse (about 0 to 1)."""
        return self._cut(ppg_chunk, start, n)

    def beats(self, from_s: float, to_s: float) -> list[tuple[float, str]]:
        """R peaks in [from_s, to_s): time in s and N, A (in fibrillation), S (premature, atrium) or V."""
        return [(beat.at_s, beat.kind) for beat in beats(self.seed, self.faults, from_s, to_s)]

    def rhythm(self, second: float) -> str:
        """Ground truth at a time: AF, PVC (while premature ventricular beats come) or N."""
        active = {fault.kind for fault in self.faults if fault.active(second)}
        return "AF" if "af" in active else "PVC" if "pvc" in active else "N"

    def vitals(self, second: int) -> dict[str, float]:
        """What the monitor shows in this second, rounded as monitors do; keys and units of `UNITS`.

        The heart rate is that of the beats of the last ten seconds; with the lead off it comes from the
        pulse.
        """
        if second < 0:
            raise ValueError(f"second {second} does not exist: they count from 0")
        at, someone = np.array([float(second)]), person(self.seed)
        shown = {
            name: getattr(someone, name) + float(change(self.seed, self.faults, name, at)[0][0])
            for name in VITALS
        }
        noise = np.random.default_rng([self.seed, 5, second]).standard_normal(4)
        sway = np.sin(2 * np.pi * (second / 97.0 + someone.phase))
        shown["resp_rate"] += 0.5 * noise[0] + 0.5 * sway
        shown["spo2"] += 0.3 * noise[1]
        shown["sys_bp"] += 1.0 * noise[2] + 2.0 * sway
        shown["dia_bp"] += 0.7 * noise[2] + 1.2 * sway
        shown["temperature"] += 0.02 * noise[3]
        shown["heart_rate"] = self._heart_rate(second)
        return {
            name: round(float(np.clip(value, *LIMITS[name])), 1 if name == "temperature" else 0)
            for name, value in shown.items()
        }

    def _heart_rate(self, second: int) -> float:
        until = max(second + 1.0, 4.0)  # a monitor that was just switched on has few beats
        times = [beat.at_s for beat in beats(self.seed, self.faults, until - 10.0, until)]
        return 60.0 * (len(times) - 1) / (times[-1] - times[0])

    def _cut(self, chunk: Callable[[int, tuple[Fault, ...], int], Floats], start: int, n: int) -> Floats:
        if start < 0 or n < 0:
            raise ValueError(f"samples {start} to {start + n} do not exist: they count from 0")
        first, last = start // CHUNK, (start + max(n, 1) - 1) // CHUNK
        parts = [chunk(self.seed, self.faults, at) for at in range(first, last + 1)]
        offset = start - first * CHUNK
        return np.concatenate(parts)[offset : offset + n]
