"""Exact intervals and p: the means of subsets, as likely above the truth as below (Hartigan 1969)."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np

from collector.pilots.effects.student_t import Floats

ALL_UP_TO = 20  # values whose subsets are all calculated: a million
DRAWN = 19_999
_WORD = 64  # bits
_DIGITS = 11  # after the first of the largest difference; 15 are what a float keeps of a decimal number


def in_steps(on: Floats, off: Floats) -> tuple[Floats, int]:
    """The differences on - off as whole numbers of 10**exponent, and the exponent.

    Sums of whole numbers are exact, so 0.9 - 0.3 - 0.6 is 0 as by hand: means that tie are counted as ties.
    """
    exact = [Decimal(one) - Decimal(other) for one, other in zip(on.tolist(), off.tolist(), strict=True)]
    largest = max((abs(each) for each in exact), default=Decimal(0))
    size = Decimal(float(np.abs(np.concatenate([on, off])).max(initial=0.0)))
    exponent = max(largest.adjusted() - _DIGITS, size.adjusted() - 14)
    return np.array([float(each.scaleb(-exponent).to_integral_value()) for each in exact]), exponent


def in_unit(steps: float, exponent: int) -> float:
    """A number of steps in the unit of the values."""
    return float(Decimal(steps).scaleb(exponent))


def flips(differences: Floats, seed: int) -> Floats:
    """The sorted means of all subsets of the differences, or of DRAWN random ones; none is empty."""
    if len(differences) <= ALL_UP_TO:
        sums, sizes = np.zeros(1), np.zeros(1)
        for each in differences:
            sums, sizes = np.concatenate([sums, sums + each]), np.concatenate([sizes, sizes + 1])
        return np.sort(sums[1:] / sizes[1:])
    chosen = _random_bits(len(differences), seed)
    sums, sizes = np.zeros(chosen.shape[1]), np.zeros(chosen.shape[1])
    for each, taken in zip(differences, chosen, strict=True):  # the order is fixed: the same bits everywhere
        sums += each * taken
        sizes += taken
    return np.sort(sums / sizes)


def swaps(treated: Floats, control: Floats, seed: int) -> Floats:
    """The sorted differences of means of subsets of equal size of two groups: all, or DRAWN random ones."""
    if max(len(treated), len(control)) <= ALL_UP_TO // 2:
        parts = [
            (left[:, None] - right[None, :]).ravel() / size
            for size, (left, right) in enumerate(zip(_by_size(treated), _by_size(control), strict=False), 1)
        ]
        return np.sort(np.concatenate(parts))
    machines = len(treated) + len(control)
    raw = np.random.PCG64(seed).random_raw(2 * DRAWN * machines).reshape(-1, machines)
    drawn = np.argsort(raw, axis=1, kind="stable")[:, : len(treated)]  # who is treated in this draw
    is_treated = np.zeros(raw.shape)
    np.put_along_axis(is_treated, drawn, 1.0, axis=1)
    moved = np.concatenate([1 - is_treated[:, : len(treated)], -is_treated[:, len(treated) :]], axis=1)
    moved = moved[moved.any(axis=1)][:DRAWN]
    sums, sizes = np.zeros(len(moved)), -moved[:, len(treated) :].sum(axis=1)
    for each, column in zip([*treated, *control], moved.T, strict=True):
        sums += each * column
    return np.sort(sums / sizes)


def limits(means: Floats, alpha: float) -> tuple[float, float] | None:
    """The interval whose limits are order statistics of the means; None if too few for alpha."""
    outside = math.floor(alpha * (len(means) + 1) / 2 + 1e-9)
    if outside < 1:
        return None
    return float(means[outside - 1]), float(means[-outside])


def p_value(means: Floats) -> float:
    """The two-sided p of no effect, by the same means: it is under alpha where the interval leaves out 0."""
    fewer = min((means <= 0).sum(), (means >= 0).sum())
    return min(1.0, 2 * (1 + int(fewer)) / (len(means) + 1))


def _random_bits(many: int, seed: int) -> Floats:
    """For each value and each draw 1 if it is in the subset; raw bits, which no release of numpy changes."""
    words = -(-many // _WORD)
    raw = np.random.PCG64(seed).random_raw(2 * DRAWN * words).reshape(-1, words)
    bits = np.array([raw[:, at // _WORD] >> np.uint64(at % _WORD) & np.uint64(1) for at in range(many)])
    return bits[:, bits.any(axis=0)][:, :DRAWN].astype(float)


def _by_size(values: Floats) -> list[Floats]:
    """The sums of the subsets of 1, 2, ... values."""
    sums, sizes = np.zeros(1), np.zeros(1, dtype=int)
    for each in values:
        sums, sizes = np.concatenate([sums, sums + each]), np.concatenate([sizes, sizes + 1])
    return [sums[sizes == size] for size in range(1, len(values) + 1)]
