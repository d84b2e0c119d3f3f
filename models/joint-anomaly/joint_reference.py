"""Writes reference.json, which the watch of drift compares with: healthy robots.

    python joint_reference.py        # about a minute

make.py runs it too. `session` gives the same of any other seed, and with faults.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent.inference import reference
from agent.inference.package import load_package
from agent.offline.model_reference import from_rows
from simulators.faults.fault import Fault
from simulators.plants.cobot import RATE_HZ, Cobot

HERE = Path(__file__).resolve().parent
SEEDS = range(1000, 1100)  # robots; the first 40 are those that the model was fitted to
WINDOW_S = 60.0
PARTS_S = ((0, 300), (7_200, 300))  # from a cold start, when friction is highest, and warm: begin and length

Array = np.ndarray[Any, np.dtype[Any]]


def session(seed: int, faults: Sequence[Fault] = ()) -> Array:
    """Ten minutes of a robot, (n, 18)."""
    robot = Cobot(seed, faults)
    parts = [robot.block(begin * RATE_HZ, length * RATE_HZ) for begin, length in PARTS_S]
    return np.concatenate(parts).astype(np.float32)


def main() -> None:
    made = from_rows(load_package(HERE).manifest, map(session, SEEDS), WINDOW_S)
    (HERE / reference.FILE).write_bytes(reference.written(made))
    print(f"{reference.FILE}: {len(made.features)} features, {made.windows} windows")


if __name__ == "__main__":
    main()
