"""Rebuilds this package: fits joint torques to simulated robots, calibrates, exports, measures on others.

    python make.py                  # about two minutes; writes model.onnx, manifest.yaml, golden/, README.md
    python make.py --measure        # measures the existing model on the held-out robots

joint_reference.py, which it runs at the end, writes reference.json: how, is written there.
Needs edgebed[sim] in addition to the dependencies below. The same seeds give the same model:
the fit has a closed form. Another CPU may change the last digit of a weight.
"""
# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy", "onnx>=1.21", "onnxruntime>=1.28.1", "pyyaml"]
# ///

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import joint_reference
import numpy as np
import onnxruntime
import yaml
from joint_graph import Graph

from edgebed.intervals import bootstrap, wilson
from edgebed.model_tools.card import write as write_card
from simulators.faults.fault import Fault
from simulators.plants.cobot import FAULT_KINDS, JOINTS, RATE_HZ, SIGNALS, Cobot

HERE = Path(__file__).resolve().parent
VERSION = "1.0.0"
LENGTH, HOP, EDGE = 100, 25, 3
INNER = LENGTH - 2 * EDGE
TRAIN, TUNE, HELD_OUT = range(1000, 1040), range(3000, 3200), range(9000, 9120)  # seeds; a seed is a robot
TUNE_S, HELD_OUT_S = 180, 600  # of each robot from a cold start, when friction is highest
TUNE_H, HELD_OUT_H = len(TUNE) * TUNE_S / 3600, len(HELD_OUT) * HELD_OUT_S / 3600
FALSE_ALARMS_PER_H = 0.5  # the target of the threshold on TUNE
SIZES = (0.3, 0.5, 1.0, 1.5)
SAME_ALARM = 20  # windows (10 s): alarms closer together are one
STILL = 0.0003  # deg: a position that changes by less from sample to sample, on average, is frozen

Array = np.ndarray[Any, np.dtype[Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="only measure the existing model")
    if not parser.parse_args().measure:
        (HERE / "model.onnx").write_bytes(build())
        write_golden()
    quality = measure()
    write_manifest(quality)
    joint_reference.main()
    write_card(HERE)


def build() -> bytes:
    """Return the ONNX file; on the same machine always the same bytes."""
    weights = fit(TRAIN)
    return export(weights, calibrate(weights))


# -- the fit: what torque a healthy robot needs for a motion ------------------------------------------------


def fit(seeds: Iterable[int]) -> dict[str, Array]:
    """Least squares of torque on features of the motion, and on those features times the payload.

    Half of each robot's minute is cold, half is warm. The payload is known as in a calibration run; later the
    model estimates it.
    """
    left: Any = 0.0
    right: Any = 0.0
    for seed in seeds:
        robot = Cobot(seed)
        for start in (0, 60_000):
            motion, torque = features(robot.block(start, 3_000))
            weight = robot.payload(start, 3_000)[EDGE:-EDGE, None]
            columns = np.concatenate([motion, weight * motion[:, LOADED]], axis=1)
            left = left + columns.T @ columns
            right = right + columns.T @ torque
    solved = rounded(np.linalg.solve(left + 1e-3 * np.eye(len(left)), right))
    return {"motion": solved[:FEATURES], "load": solved[FEATURES:]}


def features(rows: Array) -> tuple[Array, Array]:
    """(T, 18) to features (T - 6, FEATURES) and torques (T - 6, 6); `export` computes the same in ONNX."""
    q, qd, torque = rows[:, 0::3], rows[:, 1::3], rows[:, 2::3]
    slope = sum(weight * qd[at : len(qd) - 2 * EDGE + at] for at, weight in enumerate(SLOPE))
    q, qd, torque = q[EDGE:-EDGE], qd[EDGE:-EDGE], torque[EDGE:-EDGE]
    angles = q @ ANGLES
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    both = waves[:, 2:3] * waves[:, 3:4]
    parts = [np.ones_like(both), waves, both, slope / 200, qd / 50, np.tanh(qd), np.tanh(qd / 3)]
    return np.concatenate(parts, axis=1), torque


SLOPE = np.arange(-EDGE, EDGE + 1) * RATE_HZ / 28.0  # deg/s2 from 7 velocities
ANGLES = np.zeros((JOINTS, 4))  # absolute angles of upper arm, forearm and wrist, and of joint 5, in radians
ANGLES[[1, 1, 2, 1, 2, 3, 4], [0, 1, 1, 2, 2, 2, 3]] = np.pi / 180
FEATURES = 1 + 8 + 1 + 4 * JOINTS
LOADED = slice(0, 10 + JOINTS)  # weight and inertia: features that a payload changes
NOISE = np.array([0.66, 0.90, 0.47, 0.14, 0.12, 0.11])  # N.m: residual of the fit on healthy robots


def rounded(numbers: Array, digits: int = 5) -> Array:
    """Round to `digits` significant digits: other CPUs then give almost the same file."""
    power = 10.0 ** (digits - 1 - np.floor(np.log10(np.abs(numbers) + 1e-300)))
    out: Array = np.round(numbers * power) / power
    return out


def calibrate(weights: dict[str, Array]) -> Array:
    """Factors (2, 6) that bring the rubbing and knocking statistics of healthy robots below 1."""
    session = open_model(export(weights, np.ones((2, JOINTS)), statistics=True))
    robots = [statistics(session, windows(seed, 0, TUNE_S)) for seed in TUNE]
    limits = np.quantile(np.concatenate(robots)[:, :2], 0.9999, axis=0)
    for slack in np.arange(0.7, 2.0, 0.02):
        alarms = [(robot[:, :2] >= limits * slack).any(axis=(1, 2)) for robot in robots]
        if sum(map(onsets, alarms)) / TUNE_H <= FALSE_ALARMS_PER_H:
            break
    return rounded(1.0 / (limits * slack), 4)


# -- the model ---------------------------------------------------------------------------------------------


def export(weights: dict[str, Array], factors: Array, *, statistics: bool = False) -> bytes:
    """The ONNX model; with `statistics` its only output is (1, 3, 6): rubbing, knocking, frozen."""
    graph = Graph([1, LENGTH, len(SIGNALS)])
    signal = {
        name: graph("Gather", "x", graph.whole(range(at, 18, 3)), axis=2)
        for at, name in enumerate(("q", "qd", "torque"))
    }
    inner = {name: graph.cut(full, 1, EDGE, LENGTH - EDGE) for name, full in signal.items()}

    # the features of `features`
    across = graph("Transpose", signal["qd"], perm=[0, 2, 1])
    kernel = graph.real(np.tile(SLOPE / 200, (JOINTS, 1, 1)))
    slope = graph("Transpose", graph("Conv", across, kernel, group=JOINTS), perm=[0, 2, 1])
    angles = graph("MatMul", inner["q"], graph.real(ANGLES))
    sine, cosine = graph("Sin", angles), graph("Cos", angles)
    both = graph("Mul", graph.cut(sine, 2, 2, 3), graph.cut(sine, 2, 3, 4))
    pull = graph("Concat", sine, cosine, both, slope, axis=2)
    speeds = [
        graph("Mul", inner["qd"], graph.real(0.02)),
        graph("Tanh", inner["qd"]),
        graph("Tanh", graph("Div", inner["qd"], graph.real(3.0))),
    ]
    motion = graph("Concat", pull, *speeds, axis=2)

    # the residual torque at each instant, without the effect of any payload
    left = graph("Sub", inner["torque"], graph.linear(motion, weights["motion"]))
    load = graph.linear(pull, weights["load"])
    pairs = graph.whole([1, INNER // 2, 2, JOINTS])
    left_in_pairs, load_in_pairs = graph("Reshape", left, pairs), graph("Reshape", load, pairs)
    weighed = graph("Mul", load_in_pairs, graph.real(NOISE**-2.0))
    axes = graph.whole([2, 3])
    measured = graph("ReduceSum", graph("Mul", weighed, left_in_pairs), axes)
    known = graph("ReduceSum", graph("Mul", weighed, load_in_pairs), axes)
    payload = graph("Div", measured, graph("Add", known, graph.real(1.0)))
    unloaded = graph("Sub", left_in_pairs, graph("Mul", payload, load_in_pairs))
    unloaded = graph("Reshape", unloaded, graph.whole([1, INNER, JOINTS]))

    # rubbing: residual torque against the motion
    way = graph("Tanh", graph("Mul", inner["qd"], graph.real(0.5)))
    time = graph.whole([1])
    against = graph("ReduceSum", graph("Mul", unloaded, way), time, keepdims=0)
    moved = graph("ReduceSum", graph("Mul", way, way), time, keepdims=0)
    rubbing = graph("Div", against, graph("Sqrt", graph("Add", moved, graph.real(4.0))))
    rubbing = graph("Mul", rubbing, graph.real(factors[0] / NOISE))

    # knocking: torque that jumps and returns within a sample
    middle, before, after = (graph.cut(left, 1, 1 + d, INNER - 1 + d) for d in (0, -1, 1))
    jump = graph("Sub", middle, graph("Mul", graph("Add", before, after), graph.real(0.5)))
    knocking = graph("ReduceMax", graph("Abs", jump), axes=[1], keepdims=0)
    knocking = graph("Mul", knocking, graph.real(factors[1] / NOISE))

    # frozen: a position without any noise for half a second
    step = graph("Sub", graph.cut(signal["q"], 1, 1, 97), graph.cut(signal["q"], 1, 0, 96))
    quarters = graph("Reshape", graph("Abs", step), graph.whole([1, 4, 24, JOINTS]))
    quietest = graph("ReduceMin", graph("ReduceMean", quarters, axes=[2], keepdims=0), axes=[1], keepdims=0)
    frozen = graph("Div", graph.real(STILL), graph("Add", quietest, graph.real(STILL / 1000)))

    if statistics:
        stacked = [graph("Unsqueeze", each, graph.whole([1])) for each in (rubbing, knocking, frozen)]
        return graph.model([("statistics", graph("Concat", *stacked, axis=1), [1, 3, JOINTS])])
    worst = graph("Clip", graph("Max", rubbing, knocking, frozen), graph.real(0.0), graph.real(1000.0))
    scores = graph("Reshape", worst, graph.whole([JOINTS]))
    score = graph("ReduceMax", scores, axes=[0], keepdims=1)
    return graph.model([("score", score, [1]), ("scores", scores, [JOINTS])])


# -- measuring ---------------------------------------------------------------------------------------------


def open_model(body: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(body, options, providers=["CPUExecutionProvider"])


def windows(seed: int, start_s: int, seconds: int, faults: Iterable[Fault] = ()) -> Array:
    """(n, 100, 18) float32, the windows that the agent would make."""
    rows = Cobot(seed, tuple(faults)).block(start_s * RATE_HZ, seconds * RATE_HZ).astype(np.float32)
    starts = range(0, len(rows) - LENGTH + 1, HOP)
    return np.stack([rows[at : at + LENGTH] for at in starts])


def statistics(session: onnxruntime.InferenceSession, data: Array) -> Array:
    """(n, 3, 6)."""
    return np.concatenate([session.run(None, {"x": window[None]})[0] for window in data])


def scored(session: onnxruntime.InferenceSession, data: Array) -> tuple[Array, Array]:
    """Scores (n,) and the joint 1..6 that each names."""
    runs = [session.run(None, {"x": window[None]}) for window in data]
    return np.array([run[0][0] for run in runs]), np.array([int(np.argmax(run[1])) + 1 for run in runs])


class Baseline:
    """The baseline: z-scores of mean, spread and largest step of each signal in the window."""

    def __init__(self) -> None:
        healthy = [self.summary(windows(seed, 0, TUNE_S)) for seed in TUNE]
        together = np.concatenate(healthy)
        self.mean, self.std = together.mean(axis=0), together.std(axis=0)
        zs = [self.z(robot).max(axis=1) for robot in healthy]
        self.threshold = 3.0
        while sum(onsets(z >= self.threshold) for z in zs) / TUNE_H > FALSE_ALARMS_PER_H:
            self.threshold *= 1.01

    def summary(self, data: Array) -> Array:
        """(n, 54)."""
        steps = np.abs(np.diff(data, axis=1)).max(axis=1)
        return np.concatenate([data.mean(axis=1), data.std(axis=1), steps], axis=1)

    def z(self, summary: Array) -> Array:
        out: Array = np.abs(summary - self.mean) / self.std
        return out

    def scored(self, data: Array) -> tuple[Array, Array]:
        z = self.z(self.summary(data))
        return z.max(axis=1) / self.threshold, z.argmax(axis=1) % len(SIGNALS) // 3 + 1


def onsets(alarms: Array) -> int:
    """The number of alarms; alarms close together count as one."""
    at = np.flatnonzero(alarms)
    return int(len(at) > 0) + int((np.diff(at) > SAME_ALARM).sum())


def auroc(healthy: Array, faulty: Array) -> float:
    """AUROC: the probability that a faulty window scores above a healthy one."""
    order = np.argsort(np.concatenate([healthy, faulty]), kind="stable")
    ranks = np.empty(len(order))
    ranks[order] = np.arange(1, len(order) + 1)
    wins = ranks[len(healthy) :].sum() - len(faulty) * (len(faulty) + 1) / 2
    return float(wins / (len(healthy) * len(faulty)))


def episodes() -> Iterator[tuple[str, float, int, Array]]:
    """(kind, size, joint, windows completely inside 20 s of the fault), each on a robot at a random time."""
    robots = iter(np.random.default_rng(5).permutation(np.repeat(np.array(HELD_OUT), 20)).tolist())
    for kind in FAULT_KINDS:
        for size in SIZES if kind != "stuck-sensor" else (1.0,):
            for joint in range(1, JOINTS + 1):
                for _ in range(16):
                    seed = next(robots)
                    start = int(np.random.default_rng([seed, joint]).integers(10, 3_000))
                    fault = Fault(kind, str(joint), float(start), float(start + 20), size)
                    yield kind, size, joint, windows(seed, start, 20, [fault])


def measure() -> dict[str, Any]:
    """Every figure of the card, on held-out robots."""
    session = open_model((HERE / "model.onnx").read_bytes())
    baseline = Baseline()
    judges = {"model": lambda data: scored(session, data), "baseline": baseline.scored}
    healthy = [windows(seed, 0, HELD_OUT_S) for seed in HELD_OUT]
    faulty = list(episodes())
    found: dict[str, Any] = {}
    for name, judge in judges.items():
        calm = [judge(data)[0] for data in healthy]
        together = np.concatenate(calm)
        wrong = [onsets(score >= 1.0) for score in calm]
        judged = [(kind, size, joint, *judge(data)) for kind, size, joint, data in faulty]
        report: dict[str, Any] = {
            "false_alarms_per_hour": round(sum(wrong) / HELD_OUT_H, 2),
            "false_alarms_per_hour_95": bootstrap(wrong, [HELD_OUT_S / 3600] * len(wrong), 2),
            "robots_with_false_alarms": round(float(np.mean([bool((s >= 1.0).any()) for s in calm])), 3),
            "auroc": round(auroc(together, np.concatenate([score for *_, score, _ in judged])), 3),
            **_rates(judged),
            "by_fault": {},
        }
        for kind in FAULT_KINDS:
            for size in SIZES if kind != "stuck-sensor" else (1.0,):
                some = [each for each in judged if each[0] == kind and each[1] == size]
                label = kind if kind == "stuck-sensor" else f"{kind} x{size:g}"
                report["by_fault"][label] = {
                    "auroc": round(auroc(together, np.concatenate([score for *_, score, _ in some])), 3),
                    **_rates(some),
                }
        found[name] = report
    found["healthy_hours"], found["episodes"] = HELD_OUT_H, len(faulty)
    return found


def _rates(judged: list[tuple[str, float, int, Array, Array]]) -> dict[str, Any]:
    noticed = [bool((score >= 1.0).any()) for *_, score, _ in judged]
    hits = [(blamed[score >= 1.0] == joint) for _, _, joint, score, blamed in judged]
    right = np.concatenate(hits)
    return {
        "detected": round(float(np.mean(noticed)), 3),
        "detected_95": [round(end, 3) for end in wilson(sum(noticed), len(noticed))],
        "right_joint": round(float(right.mean()), 3) if len(right) else 0.0,
    }


# -- the package -------------------------------------------------------------------------------------------


def write_golden() -> None:
    session = open_model((HERE / "model.onnx").read_bytes())
    folder = HERE / "golden"
    folder.mkdir(exist_ok=True)
    examples = {"healthy": (), **{kind: (Fault(kind, "3"),) for kind in FAULT_KINDS}}
    for name, faults in examples.items():
        window = windows(HELD_OUT[0], 60, 4, faults)[0]
        score, scores = session.run(None, {"x": window[None]})
        np.savez_compressed(folder / f"{name}.npz", input=window, output_0=score, output_1=scores)


def write_manifest(quality: dict[str, Any]) -> None:
    manifest = {
        "name": "joint-anomaly",
        "version": VERSION,
        "licence": "Apache-2.0",
        "description": "Friction, backlash, torque spikes, stuck sensors of a 6-axis cobot, and which joint.",
        "sha256": hashlib.sha256((HERE / "model.onnx").read_bytes()).hexdigest(),
        "input": {
            "kind": "window",
            "name": "x",
            "signals": list(SIGNALS),
            "rate_hz": RATE_HZ,
            "length": LENGTH,
            "hop": HOP,
        },
        "output": {
            "decoder": "anomaly",
            "threshold": 1.0,
            "parts": [f"j{joint}" for joint in range(1, JOINTS + 1)],
        },
        "budgets": {"p99_ms": 5, "rss_mb": 40},
        "data": {
            "source": "simulators/plants/cobot.py: synthetic, no real robot was measured",
            "train": f"{len(TRAIN)} robots, 2 minutes each (seeds {TRAIN.start}-{TRAIN.stop - 1})",
            "tune": f"{len(TUNE)} robots, {TUNE_S // 60} minutes each (seeds {TUNE.start}-{TUNE.stop - 1})",
            "held_out": f"{len(HELD_OUT)} robots (seeds {HELD_OUT.start}-{HELD_OUT.stop - 1})",
        },
        "quality": {**quality, "card": figures(quality)},
    }
    text = yaml.safe_dump(manifest, sort_keys=False, width=110, default_flow_style=None)
    (HERE / "manifest.yaml").write_text("# Written by make.py, but for the card.\n" + text + texts())


def texts() -> str:
    """The card in the manifest, which people write."""
    before = (HERE / "manifest.yaml").read_text()
    return before[before.index("card:\n  intended_use") :]


def figures(quality: dict[str, Any]) -> dict[str, Any]:
    """Tables and numbers that the card in the manifest shows beside those of `quality`."""
    both = {name: quality[name] for name in ("model", "baseline")}
    model, baseline = both.values()
    rows = "\n".join(
        f"| {label} | {m['auroc']:.3f} | {m['detected']:.0%} | {m['right_joint']:.0%} "
        f"| {b['auroc']:.3f} | {b['detected']:.0%} | {b['right_joint']:.0%} |"
        for (label, m), b in zip(model["by_fault"].items(), baseline["by_fault"].values(), strict=True)
    )
    return {
        "rows": rows.splitlines(),
        "sure": {name: "{:.2f} to {:.2f}".format(*q["false_alarms_per_hour_95"]) for name, q in both.items()},
        "noticed": {name: "{:.1%} to {:.1%}".format(*q["detected_95"]) for name, q in both.items()},
        "hours": quality["healthy_hours"],
        "robots": len(HELD_OUT),
        "tuned": len(TUNE),
        "episodes": quality["episodes"],
        "weights": FEATURES * JOINTS + (10 + JOINTS) * JOINTS,
    }


if __name__ == "__main__":
    main()
    print("sign the package again: edgebed model sign", HERE.name, "--key KEY")
