"""The curves of heart beats at 250 Hz: an ECG of Gaussian waves with disturbances, and a pulse wave.

Beats are sums of Gaussians as in McSharry et al., "A dynamical model for generating synthetic
electrocardiogram signals", IEEE Trans. Biomed. Eng. 50 (2003), one after another in time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulators.faults.fault import Fault
from simulators.plants.ailments import Floats
from simulators.plants.heartbeat import Beat, beats, breaths

RATE_HZ = 250
CHUNK = 4 * RATE_HZ  # samples computed at a time: any cut of the time line gives the same bits
_MAINS_HZ = 60.0


@lru_cache(maxsize=32)
def ecg_chunk(seed: int, faults: tuple[Fault, ...], chunk: int) -> Floats:
    """The `CHUNK` samples of lead II from `CHUNK * chunk` on, mV."""
    heart, at_s = _heart(seed), _times(chunk)
    out = np.zeros(CHUNK)
    for beat in _near(seed, faults, at_s):
        since = at_s - beat.at_s
        near = np.abs(since) < 1.0
        waves = heart.ventricular if beat.kind == "V" else heart.normal
        out[near] += beat.strength * _drawn(waves, since[near], beat)
    for fault in faults:
        if fault.kind == "af":
            out += _during(fault, at_s) * _flutter(heart, at_s)
    out += _disturbed(seed, faults, heart, chunk)
    for fault in faults:
        if fault.kind == "lead-off":
            out[_during(fault, at_s)] = 0.0
    return out


@lru_cache(maxsize=32)
def ppg_chunk(seed: int, faults: tuple[Fault, ...], chunk: int) -> Floats:
    """The same samples of the pulse at the finger, shares of a full pulse."""
    heart, at_s = _heart(seed), _times(chunk)
    out = np.full(CHUNK, 0.02)
    for beat in _near(seed, faults, at_s):
        since = at_s - beat.at_s - heart.transit_s
        # a heart that had little time to fill ejects little
        filled = min(1.0, max(0.25, beat.before_s / beat.length_s)) * beat.strength
        wide = min(1.0, beat.length_s / 0.8)
        out += filled * 0.9 * np.exp(-0.5 * ((since - 0.13) / (0.065 * wide)) ** 2)
        out += filled * heart.notch * np.exp(-0.5 * ((since - 0.36 * wide) / (0.08 * wide)) ** 2)
    breath = np.sin(2 * np.pi * breaths(seed, faults, at_s))
    noise = np.random.default_rng([seed, 12, chunk]).standard_normal(CHUNK)
    out += 0.03 * breath + 0.004 * noise
    return out


# --- what differs between hearts ----------------------------------------------------------------------------


class _Wave(NamedTuple):
    """One Gaussian of a beat."""

    name: str
    at_s: float  # from the R peak, at 60 beats a minute
    width_s: float
    height_mv: float
    stretches: float  # power of the beat's length by which place and width grow


class _Heart(NamedTuple):
    normal: tuple[_Wave, ...]
    ventricular: tuple[_Wave, ...]
    flutter_hz: float
    flutter_mv: float
    wander_mv: float
    mains_mv: float
    muscle_mv: float
    transit_s: float
    notch: float
    phase: float


@lru_cache(maxsize=64)
def _heart(seed: int) -> _Heart:
    rng = np.random.default_rng([seed, 7])
    r, t = rng.uniform(0.6, 1.6), rng.uniform(0.12, 0.4)
    pr, qt = rng.uniform(0.13, 0.19), rng.uniform(0.25, 0.31)
    width = rng.uniform(0.009, 0.013)
    normal = (
        _Wave("P", -pr, rng.uniform(0.018, 0.027), rng.uniform(0.07, 0.2), 0.3),
        _Wave("Q", -2.4 * width, 0.9 * width, -rng.uniform(0.02, 0.14) * r, 0.0),
        _Wave("R", 0.0, width, r, 0.0),
        _Wave("S", 2.5 * width, width, -rng.uniform(0.03, 0.3) * r, 0.0),
        _Wave("T", qt - 0.035, 0.055, 0.55 * t, 0.5),
        _Wave("T", qt, 0.035, 0.6 * t, 0.5),
    )
    # the wave runs through the muscle the other way: no P, a wide QRS, and a T of opposite sign
    sign = rng.choice([-1.0, 1.0], p=[0.4, 0.6])
    tall, wide = sign * r * rng.uniform(0.8, 1.7), rng.uniform(0.026, 0.042)
    ventricular = (
        _Wave("R", 0.0, wide, tall, 0.0),
        _Wave("S", 2.4 * wide, rng.uniform(0.9, 1.3) * wide, -rng.uniform(0.1, 0.6) * tall, 0.0),
        _Wave("T", 0.31, rng.uniform(0.055, 0.075), -rng.uniform(0.25, 0.5) * tall, 0.5),
    )
    return _Heart(
        normal,
        ventricular,
        flutter_hz=rng.uniform(4.5, 8.5),
        flutter_mv=rng.uniform(0.02, 0.1),
        wander_mv=rng.uniform(0.02, 0.15),
        mains_mv=rng.uniform(0.0, 0.02),
        muscle_mv=rng.uniform(0.003, 0.02),
        transit_s=rng.uniform(0.18, 0.26),
        notch=rng.uniform(0.15, 0.4),
        phase=rng.random(),
    )


def _drawn(waves: Sequence[_Wave], since: Floats, beat: Beat) -> Floats:
    out = np.zeros_like(since)
    for wave in waves:
        height, stretch = wave.height_mv, beat.length_s**wave.stretches
        if wave.name == "P":
            if beat.kind == "A":
                continue
            height *= 0.7 if beat.kind == "S" else 1.0  # it starts elsewhere in the atrium
        place, width = wave.at_s * stretch, wave.width_s * stretch
        out += height * np.exp(-0.5 * ((since - place) / width) ** 2)
    return out


# --- disturbances -------------------------------------------------------------------------------------------


def _flutter(heart: _Heart, at_s: Floats) -> Floats:
    """The fibrillation waves of the atria, not quite periodic, mV."""
    turn = 2 * np.pi * (heart.flutter_hz * at_s + heart.phase)
    turn = (
        turn + 2.2 * np.sin(2 * np.pi * 0.37 * at_s) + 1.3 * np.sin(2 * np.pi * (0.91 * at_s + heart.phase))
    )
    swell = 1.0 + 0.4 * np.sin(2 * np.pi * (0.23 * at_s + heart.phase))
    out: Floats = heart.flutter_mv * swell * (np.sin(turn) + 0.35 * np.sin(2 * turn + 0.8))
    return out


def _disturbed(seed: int, faults: tuple[Fault, ...], heart: _Heart, chunk: int) -> Floats:
    """Baseline wander, mains, muscles and moving electrodes, mV."""
    at_s = _times(chunk)
    breath = np.sin(2 * np.pi * breaths(seed, faults, at_s) + 0.7)
    drift = np.sin(2 * np.pi * (0.05 * at_s + heart.phase)) + np.sin(2 * np.pi * 0.017 * at_s)
    out = heart.wander_mv * (0.6 * breath + 0.7 * drift)
    out += heart.mains_mv * np.sin(2 * np.pi * (_MAINS_HZ * at_s + heart.phase))
    muscle = np.random.default_rng([seed, 8, chunk]).standard_normal(CHUNK)
    moved = _smooth(seed, 9, chunk, 20) + 2.0 * _smooth(seed, 10, chunk, 150)
    out += heart.muscle_mv * muscle + 0.12 * _burst(seed, chunk) * moved
    for fault in faults:
        if fault.kind == "noise":
            out += _during(fault, at_s) * fault.size * (0.3 * muscle + 0.9 * moved)
    return out


def _smooth(seed: int, stream: int, chunk: int, width: int) -> Floats:
    """Noise of variance 1, smoothed over `width` samples, continuous from chunk to chunk."""
    noise = [
        np.random.default_rng([seed, stream, at + 1]).standard_normal(CHUNK) for at in (chunk - 1, chunk)
    ]
    kernel = np.hanning(width + 2)[1:-1]
    kernel /= np.sqrt((kernel**2).sum())
    out: Floats = np.convolve(np.concatenate(noise), kernel, "valid")[-CHUNK:]
    return out


def _burst(seed: int, chunk: int) -> Floats:
    """How much the patient moves: mostly 0, now and then a second or two."""
    rng = np.random.default_rng([seed, 11, chunk])
    if rng.random() > 0.06:
        return np.zeros(CHUNK)
    middle, width = rng.uniform(0.4, 0.6) * CHUNK, rng.uniform(0.06, 0.12) * CHUNK
    out: Floats = np.exp(-0.5 * ((np.arange(CHUNK) - middle) / width) ** 2)
    return out


def _times(chunk: int) -> Floats:
    return np.arange(chunk * CHUNK, (chunk + 1) * CHUNK) / RATE_HZ


def _near(seed: int, faults: tuple[Fault, ...], at_s: Floats) -> list[Beat]:
    return beats(seed, faults, float(at_s[0]) - 1.5, float(at_s[-1]) + 1.5)


def _during(fault: Fault, at_s: Floats) -> NDArray[np.bool_]:
    on: NDArray[np.bool_] = (at_s >= fault.start_s) & (at_s < fault.end_s)
    return on
