"""Brings a faster stream to a model's rate, with a low-pass filter against aliasing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

HALF_WIDTH = 9  # rows at the model's rate that the filter looks back and ahead: its delay
MOST = 1000  # times the model's rate that a source may have: the filter keeps 18 model rows of it
_BETA = 5.65  # of the Kaiser window: the transition is from 0.4 to 0.6 of the model's rate
_FINE = 256  # points of the impulse response per row
_AT_ONCE = 4096  # rows of a recording that are computed together
_OFF = 0.2  # a source may be faster or slower than declared by this share


class Resampler:
    """Turns rows at a faster rate into rows `[signals]` at the model's, by a windowed sinc of linear phase.

    Flat to 0.1 % up to 0.4 of the new rate, -6 dB at half of it, less than -57 dB from 0.6 of it on: aliases
    are above 0.4. The weights follow the rows' own times, so stamps may jitter and a row may be missing. A
    missing value makes every row NaN that it contributes to. `held` signals (bool) are not interpolated: they
    keep their newest value.
    """

    def __init__(self, held: Sequence[bool] | NDArray[np.bool_], *, period_ns: int, source_hz: float) -> None:
        self._held = np.array(held, dtype=bool)
        self._any_held = bool(self._held.any())
        self._period_ns = period_ns
        self._reach_ns = HALF_WIDTH * period_ns
        reach = np.arange(HALF_WIDTH * _FINE + 1) / _FINE
        self._grid = reach * period_ns
        self._impulse = _impulse(reach)
        # each row is stored twice, `size` apart, so that the newest rows are always one contiguous piece
        self._size = math.ceil(2 * self._reach_ns / 1e9 * source_hz * (1 + _OFF)) + 4
        self._rows = np.zeros((2 * self._size, len(held)), dtype=np.float32)
        self._times_ns = np.zeros(2 * self._size, dtype=np.int64)
        self._spans = np.zeros(2 * self._size)  # ns around each row: half way to either neighbour
        self._count = 0
        self._next_ns = 0

    def begin(self) -> None:
        """Forget the rows before a gap."""
        self._count = 0

    def add(self, at_ns: int, row: NDArray[Any]) -> list[tuple[int, NDArray[np.float32] | None]]:
        """Take a row later than the last one; returns each output row that it completes, with its time.

        The row is None if the source is too much faster or slower than declared.
        """
        if not self._count:
            self._next_ns = at_ns + self._reach_ns
        newest, before = self._count % self._size, (self._count - 1) % self._size
        if self._count:
            older_ns = self._times_ns[(self._count - 2) % self._size if self._count > 1 else before]
            self._spans[[before, before + self._size]] = (at_ns - older_ns) / 2
        for place in (newest, newest + self._size):
            self._rows[place] = row
            self._times_ns[place] = at_ns
        self._count += 1
        due = []
        while self._next_ns + self._reach_ns <= at_ns:
            due.append((self._next_ns, self._at(self._next_ns)))
            self._next_ns += self._period_ns
        return due

    def _at(self, at_ns: int) -> NDArray[np.float32] | None:
        kept = min(self._count, self._size)
        end = (self._count - 1) % self._size + self._size + 1  # after the newest
        times_ns = self._times_ns[end - kept : end]
        if times_ns[0] > at_ns - self._reach_ns:
            return None  # too fast: the buffer has no row that old
        first, now, last = np.searchsorted(
            times_ns, (at_ns - self._reach_ns, at_ns + 1, at_ns + self._reach_ns)
        )
        if last - first < (1 - _OFF) * 2 * HALF_WIDTH:
            return None  # too slow: too few rows
        part = slice(end - kept + first, end - kept + last)
        weights = np.interp(np.abs(self._times_ns[part] - at_ns), self._grid, self._impulse)
        weights *= self._spans[part]
        # a plain sum instead of a matrix product: every run gives the same numbers
        row: NDArray[np.float32] = ((weights[:, None] * self._rows[part]).sum(axis=0) / weights.sum()).astype(
            np.float32
        )
        return np.where(self._held, self._rows[end - kept + now - 1], row) if self._any_held else row


def resampled(rows: NDArray[np.floating[Any]], source_hz: float, rate_hz: float) -> NDArray[np.float64]:
    """Resample a whole recording [n] or [n, signals] as a model would see it, for training and measuring.

    The first output row is `HALF_WIDTH` output rows after the first input row.
    """
    ratio, last = source_hz / rate_hz, len(rows) - 1
    taps = np.arange(-math.ceil(HALF_WIDTH * ratio), math.ceil(HALF_WIDTH * ratio) + 1)
    places = np.arange(HALF_WIDTH, math.floor(last / ratio) - HALF_WIDTH + 1) * ratio
    found = np.empty((len(places), *rows.shape[1:]))
    for at in range(0, len(places), _AT_ONCE):
        near = places[at : at + _AT_ONCE, None]
        index = np.floor(near).astype(int) + taps
        weights = _impulse(np.abs(index - near) / ratio)
        weights /= weights.sum(axis=1, keepdims=True)
        found[at : at + _AT_ONCE] = np.einsum("pt,pt...->p...", weights, rows[np.clip(index, 0, last)])
    return found


def _impulse(reach: NDArray[np.float64]) -> NDArray[np.float64]:
    """The filter's weight of a row that is `reach` model rows away."""
    inside: NDArray[np.float64] = np.maximum(0, 1 - (reach / HALF_WIDTH) ** 2)
    response: NDArray[np.float64] = np.sinc(reach) * np.i0(_BETA * np.sqrt(inside)) * (reach < HALF_WIDTH)
    return response
