"""Writes reference.json, which the watch of drift compares with: patients.

    python ecg_reference.py        # about a minute

make.py runs it too. `session` gives the same of any other seed, and with faults.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ecg_patients import CASES, LENGTH, as_elsewhere, faults_of

from agent.inference import reference
from agent.inference.package import load_package
from agent.offline.model_reference import from_rows
from simulators.faults.fault import Fault
from simulators.plants.patient import Patient

HERE = Path(__file__).resolve().parent
SEEDS = range(10_000, 10_400)  # of the patients of the training, with every rhythm
WINDOW_S = 60.0
PIECES = 13  # of ten seconds: two minutes, and the begin of a third, which ends the second
READABLE = {name: case.share for name, case in CASES.items() if case.readable}

Array = np.ndarray[Any, np.dtype[Any]]


def session(seed: int, faults: Sequence[Fault] = ()) -> Array:
    """Two minutes of a patient whose ECG can be read, on one monitor of those of the training, (n, 1)."""
    rng = np.random.default_rng([seed, 77])
    shares = np.array(list(READABLE.values()))
    case = CASES[str(rng.choice(list(READABLE), p=shares / shares.sum()))]
    patient = Patient(seed, [*faults_of(case, rng), *faults])
    pieces = [
        # the same numbers for each piece: the monitor stays what it is
        as_elsewhere(patient.ecg(at * LENGTH, LENGTH), np.random.default_rng([seed, 78]), readable=True)
        for at in range(PIECES)
    ]
    return np.concatenate(pieces).astype(np.float32)[:, None]


def main() -> None:
    made = from_rows(load_package(HERE).manifest, map(session, SEEDS), WINDOW_S)
    (HERE / reference.FILE).write_bytes(reference.written(made))
    print(f"{reference.FILE}: {len(made.features)} features, {made.windows} windows")


if __name__ == "__main__":
    main()
