"""All cells, and the simulation of one: a module of its own, which the processes import."""

from __future__ import annotations

import time

import numpy as np

from bench.evidence import other_cells, pilots, step_cells
from bench.evidence.cell import Found

SEEDS = (20_261_130, 7_919)
QUICK_RUNS = 200
CELLS = [*step_cells.cells(), *other_cells.cells(), *pilots.cells()]


def simulate(task: tuple[int, int, bool]) -> Found:
    """One cell on one of the seeds; the last says whether few runs are enough."""
    at, which, quick = task
    cell = CELLS[at]
    drawn = np.random.Generator(np.random.PCG64([SEEDS[which], *f"{cell.section}: {cell.name}".encode()]))
    return cell.run(drawn, min(cell.runs, QUICK_RUNS) if quick else cell.runs)


def timed(task: tuple[int, int, bool]) -> tuple[Found, float]:
    """The same with the seconds of CPU time that it took."""
    start = time.process_time()
    return simulate(task), time.process_time() - start
