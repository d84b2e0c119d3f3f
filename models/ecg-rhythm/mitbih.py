"""Reads MIT-BIH record 100 as PhysioNet publishes it: signals in format 212, beats in an annotation file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

RATE_HZ = 360
Array = np.ndarray[Any, np.dtype[Any]]


def record_100(folder: Path) -> tuple[Array, list[tuple[float, str]]]:
    """Lead MLII in mV at 360 Hz, and its beats as annotated by cardiologists: time in s, and N, A or V.

    Raises:
        ValueError: the beats are not those that PhysioNet publishes (2239 N, 33 A, 1 V).
    """
    raw = np.fromfile(folder / "100.dat", np.uint8).reshape(-1, 3).astype(np.int16)
    first = raw[:, 0] | (raw[:, 1] & 0x0F) << 8  # two signals of 12 bits in three bytes
    lead_mv = (np.where(first > 2047, first - 4096, first) - 1024) / 200.0
    beats = annotations((folder / "100.atr").read_bytes())
    kinds = [kind for _, kind in beats]
    if [kinds.count(kind) for kind in "NAV"] != [2239, 33, 1]:
        raise ValueError(f"{folder} does not contain MIT-BIH record 100: download 100.dat and 100.atr again")
    return lead_mv, [(sample / RATE_HZ, kind) for sample, kind in beats]


def annotations(body: bytes) -> list[tuple[int, str]]:
    """Sample and kind (N, A or V) of the beats in an annotation file in MIT format.

    Words of 6 bits of type and 10 of time: https://physionet.org/physiotools/wag/annot-5.htm
    """
    words = np.frombuffer(body, "<u2")
    found, at, sample = [], 0, 0
    while at < len(words) and words[at]:
        kind, step = int(words[at] >> 10), int(words[at] & 0x3FF)
        at += 1
        if kind == 59:  # a long step in the next two words, high one first
            sample += int(words[at]) << 16 | int(words[at + 1])
            at += 2
        elif kind == 63:  # `step` bytes of text
            at += (step + 1) // 2
        elif kind < 60:
            sample += step
            if kind in (1, 5, 8):
                found.append((sample, {1: "N", 5: "V", 8: "A"}[kind]))
    return found
