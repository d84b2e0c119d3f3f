"""Detects a camera that shows the same picture again and again."""

from __future__ import annotations

import zlib
from collections import deque

import cv2
import numpy as np
from numpy.typing import NDArray

from adapters.base import Picture

_LOOK_S = 1.0  # between two pictures that are compared: comparing each one would cost several per cent
_ROWS = 4  # every fourth row of pixels is compared
_KNOWN = 64  # pictures that are remembered
_CELLS = (32, 32)
_LIKE = 3  # levels of brightness: encoding changes a cell by less, something that moves by more


class FrozenCheck:
    """Compares pictures; `frozen` says whether nothing changed for `limit_s`.

    A picture is the same as the one before it where its packet or its pixels are equal. Sensor noise makes
    the pixels of a still scene differ. An encoder that gets the same picture again and again gives a few
    pictures in turn, those of one keyframe interval: a picture also counts as the same where its pixels are
    those of an earlier one and every cell of a grid of 32 x 32 is nearly as bright as in the one before it.
    """

    def __init__(self, limit_s: float, now_s: float) -> None:
        self.frozen = False
        self._limit_s = limit_s
        self._changed_s = self._looked_s = now_s
        self._changes = -1
        self._newest = 0
        self._known: deque[int] = deque(maxlen=_KNOWN)
        self._cells: NDArray[np.int16] | None = None

    def see(self, picture: Picture, changes: int, now_s: float) -> bool:
        """Compare a picture; returns `frozen`. `changes` counts pictures that came in other bytes."""
        if changes == self._changes:
            self.frozen = now_s - self._changed_s >= self._limit_s
        elif self._cells is None or now_s - self._looked_s >= _LOOK_S:
            self._looked_s = now_s
            if not self._is_same(picture):
                self._changed_s = now_s
            self.frozen = now_s - self._changed_s >= self._limit_s
        self._changes = changes
        return self.frozen

    def _is_same(self, picture: Picture) -> bool:
        rows = np.ascontiguousarray(picture[::_ROWS])
        pixels = zlib.crc32(rows.data)
        if pixels == self._newest and self._cells is not None:
            return True
        self._newest = pixels
        before, self._cells = (
            self._cells,
            cv2.resize(rows, _CELLS, interpolation=cv2.INTER_AREA).astype(np.int16),
        )
        if pixels in self._known:
            return before is not None and int(np.abs(self._cells - before).max()) <= _LIKE
        self._known.append(pixels)
        return False
