"""Finds when declared losses happened: the hole in a stream around the lost message numbers."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import median

import numpy as np
from numpy.typing import NDArray

from collector.store.marks import Entry

Lost = tuple[str, int, int, str]  # ep, first and last number, why
Gap = tuple[int, int, str]  # from and to in ms, why

MAX_LOST = 1_000  # newest ranges of a node that one answer looks for
_FAR = 2.5  # a hole is longer than this many usual steps between rows


def lost(entries: Iterable[Entry]) -> list[Lost]:
    """The declared losses in a node's ledger."""
    found = [(entry.ep, first, last, why) for entry in entries for first, last, why in entry.gaps]
    return found[-MAX_LOST:]


class Declared:
    """Finds the holes in one stream; `add` every chunk of the span, and one before and after it."""

    def __init__(self, losses: Sequence[Lost]) -> None:
        self._losses = losses
        self._messages: dict[str, list[tuple[int, float, float, float]]] = {ep: [] for ep, *_ in losses}

    def __bool__(self) -> bool:
        """Whether there are losses to look for."""
        return bool(self._losses)

    def add(self, ep: str, messages: Sequence[tuple[int, int]], times_us: NDArray[np.int64]) -> None:
        """Note when the messages (seq, rows) of a chunk start and end; `times_us` has one time per row."""
        known = self._messages.get(ep)
        if known is None:
            return
        at = 0
        for seq, rows in messages:
            if rows < 1:
                continue  # damage
            times = times_us[at : at + rows] / 1000
            known.append((seq, float(times.min()), float(times.max()), float(rows)))
            at += rows

    def gaps(self, start_ms: int, end_ms: int) -> list[Gap]:
        """The holes within a span, in order of time; lost numbers of other streams leave no hole here."""
        found: set[Gap] = set()
        for ep, messages in self._messages.items():
            ordered = sorted(set(messages))
            numbers = [message[0] for message in ordered]
            far = _FAR * _usual(ordered)
            for _, first, last, why in (each for each in self._losses if each[0] == ep):
                before, after = bisect_left(numbers, first) - 1, bisect_right(numbers, last)
                if before < 0 or after >= len(ordered):
                    continue  # the next message may still arrive, or there was none before
                left, right = ordered[before][2], ordered[after][1]
                if right - left > far and left < end_ms and right > start_ms:
                    found.add((max(start_ms, int(left)), min(end_ms, int(right)), why))
        return sorted(found)


def _usual(ordered: Sequence[tuple[int, float, float, float]]) -> float:
    """The usual step between rows, ms."""
    steps = [(after[1] - before[1]) / before[3] for before, after in pairwise(ordered)]
    return median(steps) if steps else 0.0
