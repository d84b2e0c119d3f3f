"""`make evidence`: simulate every cell on two seeds and write bench/evidence.md.

python -m bench.evidence [--quick] [--only TEXT] [--processes 2]
"""

from __future__ import annotations

import argparse
import math
import sys
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path

from bench.evidence.cell import (
    BIAS_TOLERANCE,
    FEW_RUNS,
    HALF_TOLERANCE,
    LARGEST_FALSE_MET,
    LEAST_COVERAGE,
    Cell,
    Found,
)
from bench.evidence.cells import CELLS, SEEDS, timed
from bench.evidence.pilots import MOST_MET

RESULTS = Path(__file__).parents[1] / "evidence.md"
QUICK = ("28+28, rho 0.6", "14 periods, rho 0.3", "4+4, drift 0.5, t", "14 pairs, mean 1", "20+19")
INTRODUCTION = f"""# Evidence: do the intervals of pilots hold the truth?

Written by `make evidence`. Each cell is one setting, simulated; "coverage" is the share of the 95 % intervals
that hold the truth, of those that were given. The values of a period have the standard deviation 1.
The rule, and why: [decision 0054](../docs/decisions/0054-effects-of-pilots.md).

- `expected`: what the design of the rule found. `off`: how far the first seed is from it. The tolerance is
  2 points of coverage and 5 % of the half-width (a median), more where the expected number has few runs
  (printed).
- Demo pilots: the plants of `edgebed sim run pilots`; the truth of a run is what its plant knows. Without an
  effect the target of the plan is met in at most {MOST_MET:.0%} of the runs.
- `fresh`: the coverage on a second seed. No rule was chosen by it.
- `false "met"`: the share of all runs whose interval is above the truth: a target at the truth is found met.
- Where a verdict is allowed, coverage is at least {LEAST_COVERAGE:.1%} less two standard errors and false
  "met" at most {LARGEST_FALSE_MET:.1%} (with under {FEW_RUNS} runs plus two standard errors) on both seeds,
  but for the known limits, which are named.
"""


def main(arguments: list[str]) -> int:
    """Simulate, write the page, and return 1 if a cell is off or below the limits."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.evidence", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--quick", action="store_true", help="few cells with few runs, printed and not written"
    )
    parser.add_argument(
        "--only", default="", help="only cells whose section and name contain this text, not written"
    )
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args(arguments)
    chosen = [at for at, cell in enumerate(CELLS) if _wanted(cell, given.only, given.quick)]
    tasks = [(at, which, given.quick) for at in chosen for which in range(len(SEEDS))]
    done, seconds = {}, 0.0
    with get_context("spawn").Pool(given.processes) as pool:
        for number, (task, (result, spent)) in enumerate(zip(tasks, pool.imap(timed, tasks), strict=True), 1):
            done[task[:2]] = result
            seconds += spent
            print(f"{number}/{len(tasks)} {spent:.1f} s {CELLS[task[0]].name}", file=sys.stderr)
    results = [(CELLS[at], done[at, 0], done[at, 1]) for at in chosen]
    page = f"{INTRODUCTION}\n{summary(results)}\nThis took {seconds:.0f} s of CPU time.\n\n{tables(results)}"
    if given.quick or given.only:
        print(page)
    else:
        RESULTS.write_text(page)
    return int(any(faults(cell, first, fresh) for cell, first, fresh in results))


def faults(cell: Cell, first: Found, fresh: Found) -> list[str]:
    """What is wrong with a cell."""
    wrong = []
    if cell.expected and abs(off(cell, first)) > cell.tolerance + 1e-9:
        wrong.append(f"coverage {100 * off(cell, first):+.1f} points off")
    if cell.half and abs(first.half / cell.half - 1) > HALF_TOLERANCE:
        wrong.append(f"half-width {first.half / cell.half - 1:+.0%} off")
    if cell.bias is not None and abs(first.bias - cell.bias) > BIAS_TOLERANCE:
        wrong.append(f"bias {first.bias:.3f} instead of {cell.bias:.3f}")
    for result in (first, fresh) if cell.rule and not cell.limit else ():
        if result.coverage < LEAST_COVERAGE - 2 * result.error:
            wrong.append(f"coverage {result.coverage:.1%}")
        if result.false_met > LARGEST_FALSE_MET + (2 * result.error if result.runs < FEW_RUNS else 0):
            wrong.append(f'false "met" {result.false_met:.1%}')
        if result.met > cell.most_met:
            wrong.append(f"{result.met:.1%} met")
    return wrong


def off(cell: Cell, result: Found) -> float:
    """How far a coverage is outside of the expected range."""
    low, high = cell.expected or (result.coverage,) * 2
    return result.coverage - min(max(result.coverage, low), high)


def summary(results: list[tuple[Cell, Found, Found]]) -> str:
    """How many cells there are, and each that is off."""
    wrong = [(cell, faults(cell, first, fresh)) for cell, first, fresh in results]
    off_by = sum(bool(each) for _, each in wrong)
    lines = [f"{len(results)} cells, seeds {SEEDS[0]} and {SEEDS[1]}; {off_by} off:\n"]
    lines += [f"- {cell.section}: {cell.name}: {', '.join(each)}" for cell, each in wrong if each]
    allowed = [
        (result.coverage, cell.name)
        for cell, *both in results
        if cell.rule and not cell.limit
        for result in both
    ]
    claims = [
        (result.false_met, cell.name)
        for cell, *both in results
        if cell.rule and not cell.limit
        for result in both
        if not math.isnan(result.false_met)
    ]
    if allowed and claims:
        lines.append(
            f"\nLowest coverage where a verdict is allowed: {min(allowed)[0]:.1%} ({min(allowed)[1]})."
        )
        lines.append(f'Most false "met" there: {max(claims)[0]:.1%} ({max(claims)[1]}).\n')
    return "\n".join(lines)


def tables(results: list[tuple[Cell, Found, Found]]) -> str:
    """A table for each section."""
    parts = []
    for section, group in groupby(results, key=lambda each: each[0].section):
        parts.append(f"## {section}\n")
        names = 'cell|runs|given|coverage (se)|expected|off|half-width|expected|false "met"|fresh|'
        parts.append(f"|{names}|\n|{'--|' * 11}")
        parts += [row(*each) for each in group]
        parts.append("")
    return "\n".join(parts)


def row(cell: Cell, first: Found, fresh: Found) -> str:
    """A cell as a line of its table."""
    low, high = cell.expected or (math.nan, math.nan)
    expected = _number(low) if low == high else f"{_number(low)}-{_number(high)}"
    wider = "" if cell.tolerance == 0.02 else f" (±{cell.tolerance:g})"
    notes = [*(["**" + ", ".join(wrong) + "**"] if (wrong := faults(cell, first, fresh)) else []), cell.limit]
    if not cell.rule and not cell.limit:
        notes.append("no verdict by this")
    if cell.bias is not None:
        notes.append(f"bias {first.bias:.3f}, expected {cell.bias:.3f}")
    if not math.isnan(first.met):
        notes.append(f"target met in {first.met:.1%}, fresh {fresh.met:.1%}")
    columns = [
        cell.name,
        str(first.runs),
        f"{first.given:.0%}",
        f"{_number(first.coverage)} ({_number(first.error)})",
        expected + wider if cell.expected else "",
        f"{100 * off(cell, first):+.1f}" if cell.expected else "",
        _number(first.half, 2) if cell.half else "",
        _number(cell.half, 2),
        _number(first.false_met),
        _number(fresh.coverage),
        "; ".join(each for each in notes if each),
    ]
    return "| " + " | ".join(columns) + " |"


def _number(value: float | None, digits: int = 3) -> str:
    if value is None or math.isnan(value):
        return ""
    return f"{value:.{digits}f}" if abs(value) < 10 else f"{value:.0f}"


def _wanted(cell: Cell, only: str, quick: bool) -> bool:
    if quick and not any(cell.name.startswith(each) for each in QUICK):
        return False
    return only in f"{cell.section}: {cell.name}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
