"""How often the watch of drift alarms where nothing drifted, and how soon where something did.

    python -m bench.drift

The input is that of the package joint-anomaly: simulated robots, each seed another robot. The reference is
made of some, the alarms are counted on others. What the watch costs is compared with the runs of the model.
Prints the tables of bench/results.md.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.inference.package import load_package
from agent.inference.reference import Reference, make
from agent.inference.session import Model
from agent.pipeline.input_watch import InputWatch
from agent.pipeline.windows import Window
from simulators.plants.cobot import RATE_HZ, SIGNALS, Cobot
from wire.clock import NS_PER_S
from wire.messages import Quality
from wire.shipped import folder

HOP, SPAN_S, WINDOW_S = 25, 1_200, 60.0
Rows = NDArray[Any]
Change = Callable[[Rows], Rows]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--robots", type=int, default=100, help="held-out robots, 20 minutes each")
    held_out = range(9_000, 9_000 + parser.parse_args().robots)
    print("| reference | windows | robots with a false alarm | windows in alarm |")
    print("|---|---|---|---|")
    for many in (1, 6, 20, 40):
        found = reference(range(1_000, 1_000 + many))
        alarms = [watched(found, robot(seed)) for seed in held_out]
        share = np.mean([np.mean(each) for each in alarms])
        print(
            f"| {many} robots | {found.windows} | {sum(any(each) for each in alarms)} of {len(alarms)}"
            f" | {share:.2%} |"
        )
    print("\n| change of joint 2, with the reference of 40 robots | robots found | windows (median) |")
    print("|---|---|---|")
    for name, change in CHANGES.items():
        alarms = [watched(found, change(robot(seed))) for seed in held_out[:40]]
        late = [each.index(True) + 1 for each in alarms if any(each)]
        print(f"| {name} | {len(late)} of {len(alarms)} | {np.median(late) if late else '-'} |")
    print(f"\nCPU time of the watch beside that of the model's runs: {cost(found):.1%}")


def cost(found: Reference) -> float:
    """The CPU time of the watch as a share of that of the runs, the least of rounds that alternate."""
    model = Model(load_package(folder("models") / "joint-anomaly"))
    length, rows = 100, robot(1_003).astype(np.float32)
    ends = range(length, len(rows), HOP)
    windows = [(Window(rows[end - length : end], Quality.GOOD, end), _at_ns(end)) for end in ends]
    spent: list[list[float]] = [[], []]
    for _ in range(9):
        watch = InputWatch(found, SIGNALS, Counter())
        begin_s = time.process_time()
        for window, at_ns in windows:
            watch.came += HOP
            watch.window(at_ns, window)
        spent[0].append(time.process_time() - begin_s)
        begin_s = time.process_time()
        for window, _ in windows:
            model.run_window(window.rows)
        spent[1].append(time.process_time() - begin_s)
    return min(spent[0]) / min(spent[1])


def robot(seed: int) -> Rows:
    """20 minutes of a robot, from a cold start."""
    return Cobot(seed).block(0, round(SPAN_S * RATE_HZ))


def pieces(rows: Rows) -> Iterator[tuple[int, Rows]]:
    """The rows as the windows of the model bring them, with their times."""
    for end in range(HOP, len(rows) + 1, HOP):
        yield _at_ns(end), rows[end - HOP : end].astype(np.float32)


def _at_ns(end: int) -> int:
    return round(end / RATE_HZ * NS_PER_S)


def reference(seeds: range) -> Reference:
    """The reference of some robots."""
    return make(SIGNALS, WINDOW_S, [list(pieces(robot(seed))) for seed in seeds])


def watched(found: Reference, rows: Rows) -> list[bool]:
    """For each window of time whether there was an alarm at its end."""
    watch = InputWatch(found, SIGNALS, Counter())
    alarms = []
    each_s = round(WINDOW_S * RATE_HZ / HOP)
    for at, (at_ns, piece) in enumerate(pieces(rows)):
        watch.window(at_ns, Window(piece, Quality.GOOD, (at + 1) * HOP))
        if at and at % each_s == 0:
            alarms.append(watch.reason.code == "model-input-drift")
    return alarms


def _of(column: str, change: Change) -> Change:
    def changed(rows: Rows) -> Rows:
        rows = rows.copy()
        at = SIGNALS.index(column)
        rows[:, at] = change(rows[:, at])
        return rows

    return changed


CHANGES: dict[str, Change] = {
    "none": lambda rows: rows,
    "torque x 1.1": _of("j2_torque", lambda values: values * 1.1),
    "torque x 1.5": _of("j2_torque", lambda values: values * 1.5),
    "position + 2 deg": _of("j2_position", lambda values: values + 2),
    "position + 10 deg": _of("j2_position", lambda values: values + 10),
    "position in radians": _of("j2_position", np.radians),
    "sign of the velocity": _of("j2_velocity", np.negative),
    "noise of 5 N.m on the torque": _of(
        "j2_torque", lambda values: values + np.random.default_rng(1).normal(0, 5, len(values))
    ),
    "joints 2 and 3 swapped": lambda rows: rows[
        :, [*range(3), *range(6, 9), *range(3, 6), *range(9, len(SIGNALS))]
    ],
}


if __name__ == "__main__":
    main()
