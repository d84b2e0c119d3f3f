"""The beats of a heart: sinus rhythm modulated by breathing, atrial fibrillation, premature beats.

The sinus node counts at a smooth rate whose integral has a closed form. Beat n is where the count is n; a
premature beat is earlier, and in fibrillation a beat is somewhere in a block of sixteen. So any beat is
computed without the beats before it.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from simulators.faults.fault import Fault
from simulators.plants.ailments import FAULT_KINDS, Floats, change, person

_BLOCK = 64  # beats computed at a time
_AF_BLOCK = 16  # beats of fibrillation: their lengths are drawn, then scaled to the length of the block
_REACH = 8  # by how many numbers a beat may be off its place, with a margin
_AGES = 1e12  # s: the end of an endless fault where a number is needed


@dataclass(frozen=True, slots=True)
class Beat:
    """One R peak; `kind` is N, A (in fibrillation), S (premature, atrium) or V (premature, ventricle)."""

    number: int
    at_s: float
    kind: str
    length_s: float  # of a beat at the rate of this moment
    before_s: float  # since the previous R peak
    strength: float  # around 1: breathing turns the heart's axis


def beats(seed: int, faults: tuple[Fault, ...], from_s: float, to_s: float) -> list[Beat]:
    """The beats in [from_s, to_s) in time order; there are none before time 0."""
    first, last = _count(seed, faults, np.maximum([from_s - 3.0, to_s + 3.0], 0.0))
    blocks = range(max(0, int(first) - _REACH) // _BLOCK, max(0, int(last) + _REACH) // _BLOCK + 1)
    found = [beat for block in blocks for beat in _layout(seed, faults, block)]
    times = [beat.at_s for beat in found]
    return found[bisect_left(times, max(from_s, 0.0)) : bisect_left(times, to_s)]


def breaths(seed: int, faults: tuple[Fault, ...], at_s: Floats) -> Floats:
    """Breaths since time 0."""
    someone = person(seed)
    per_minute = at_s * someone.resp_rate + change(seed, faults, "resp_rate", at_s)[1]
    return per_minute / 60.0 + someone.phase


@lru_cache(maxsize=64)
def _layout(seed: int, faults: tuple[Fault, ...], block: int) -> tuple[Beat, ...]:
    """The `_BLOCK` beats from number `_BLOCK * block` on."""
    first = block * _BLOCK
    numbers = range(first - 1, first + _BLOCK)  # one more: the first one's pause needs it
    counts, kinds = zip(*(_place(seed, faults, number) for number in numbers), strict=True)
    smooth = _time_of(seed, faults, np.array(counts))
    breath = 2 * np.pi * breaths(seed, faults, smooth)
    noise = np.array([np.random.default_rng([seed, 2, number + 1]).standard_normal(2) for number in numbers])
    times = smooth + _swing(seed, smooth, breath) + 0.004 * noise[:, 0]
    strength = 1.0 + 0.05 * np.cos(breath) + 0.015 * noise[:, 1]
    length = 60.0 / (person(seed).heart_rate + change(seed, faults, "heart_rate", smooth)[0])
    return tuple(
        Beat(
            numbers[at],
            float(times[at]),
            kinds[at],
            float(length[at]),
            float(times[at] - times[at - 1]),
            float(strength[at]),
        )
        for at in range(1, _BLOCK + 1)
    )


def _swing(seed: int, at_s: Floats, breath: Floats) -> Floats:
    """Seconds by which beats are off an even rate: a modulation by a share moves them share / (2 pi f)."""
    someone = person(seed)
    mayer = np.sin(2 * np.pi * (0.1 * at_s + someone.phase))
    slow = np.sin(2 * np.pi * (at_s / 61.0 + 2 * someone.phase))
    off = someone.rsa * 60 / someone.resp_rate * np.sin(breath)
    out: Floats = (off + someone.mayer * 10 * mayer + someone.slow * 61 * slow) / (2 * np.pi)
    return out


def _place(seed: int, faults: tuple[Fault, ...], number: int) -> tuple[float, str]:
    """The count at which a beat is (its number, or near it) and its kind."""
    for fault in faults:
        if fault.kind == "af":
            first, end = _numbers(seed, faults, fault)
            if first <= number < end:
                return first + _fibrillating(seed, number - int(first), end - first), "A"
    for fault in faults:
        if fault.kind not in ("pvc", "pac"):
            continue
        first, end = _numbers(seed, faults, fault)
        early = _premature(seed, fault, number) if first <= number < end else 0.0
        if early:
            return number - early, "V" if fault.kind == "pvc" else "S"
        if fault.kind == "pac" and first < number <= end and _premature(seed, fault, number - 1):
            return number - 0.12, "N"  # an atrial beat resets the sinus node: its pause is shorter
    return float(number), "N"


@lru_cache(maxsize=64)
def _numbers(seed: int, faults: tuple[Fault, ...], fault: Fault) -> tuple[float, float]:
    """The first beat of a fault, and the first beat after it (infinity for a fault without an end)."""
    edges = np.array([fault.start_s, min(fault.end_s, _AGES)])
    first, end = np.ceil(_count(seed, faults, edges) + 0.4).tolist()
    return first, end if np.isfinite(fault.end_s) else float("inf")


def _premature(seed: int, fault: Fault, number: int) -> float:
    """The share of a beat by which a beat is early; 0 for all but one in each group of 8 / size."""
    group = max(2, round(8 / fault.size))
    rng = np.random.default_rng([seed, 3, FAULT_KINDS.index(fault.kind), number // group])
    if number % group != int(rng.integers(1, group)):  # never the first: two do not follow each other
        return 0.0
    return person(seed).coupling + float(rng.uniform(-0.03, 0.03))


def _fibrillating(seed: int, nth: int, length: float) -> float:
    """Where beat `nth` of a fibrillation is: irregular, but on time at the end of a block."""
    block = nth // _AF_BLOCK
    size = int(min(_AF_BLOCK, length - block * _AF_BLOCK))
    rng = np.random.default_rng([seed, 6, block])
    spans = 0.55 + 0.45 * rng.gamma(2.5, 1 / 2.5, _AF_BLOCK)[:size]  # skewed, uncorrelated, none very short
    done = spans[: nth - block * _AF_BLOCK].sum()
    return block * _AF_BLOCK + float(done / spans.sum()) * size


def _count(seed: int, faults: tuple[Fault, ...], at_s: Floats) -> Floats:
    """Beats since time 0 at the smooth rate."""
    return (at_s * person(seed).heart_rate + change(seed, faults, "heart_rate", at_s)[1]) / 60.0


def _time_of(seed: int, faults: tuple[Fault, ...], count: Floats) -> Floats:
    """When `_count` reaches these counts. Faults only speed up a heart, so the rate at rest is a bound."""
    high = count * 60.0 / person(seed).heart_rate + 1.0
    low = np.minimum(high - 2.0, count / 20.0)
    for _ in range(60):
        middle = 0.5 * (low + high)
        below = _count(seed, faults, middle) < count
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return 0.5 * (low + high)
