"""Writes reference.json, which the watch of drift compares with: streets.

    python pm25_reference.py        # some seconds

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
from simulators.plants.air import Air

HERE = Path(__file__).resolve().parent
SEEDS = range(1000, 1400)  # the streets of the training, four hours each, at any time of the day
WINDOW_S = 600.0  # temperature and humidity hardly move in a minute
SESSION_S = 4 * 3600

Array = np.ndarray[Any, np.dtype[Any]]


def session(seed: int, faults: Sequence[Fault] = ()) -> Array:
    """Four hours of a street, (n, 5)."""
    begin = int(np.random.default_rng([seed, 7]).integers(0, 24 * 3600))
    return Air(seed, faults).block(begin, SESSION_S).astype(np.float32)


def main() -> None:
    made = from_rows(load_package(HERE).manifest, map(session, SEEDS), WINDOW_S)
    (HERE / reference.FILE).write_bytes(reference.written(made))
    print(f"{reference.FILE}: {len(made.features)} features, {made.windows} windows")


if __name__ == "__main__":
    main()
