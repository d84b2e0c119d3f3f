"""Rebuilds this package: drives simulated cars hard and calmly, trains a small net, exports and measures it.

    python make.py                  # about four minutes; writes model.onnx, manifest.yaml, golden, README.md
    python make.py --measure        # measures the existing model on the held-out cars

Needs edgebed[sim] in addition to the dependencies below.
"""
# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.13.0", "numpy", "onnx>=1.21", "onnxruntime>=1.28.1", "pyyaml"]
# ///

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import yaml
from onnx import numpy_helper, parser

from edgebed.intervals import bootstrap, wilson
from edgebed.model_tools.card import write as write_card
from simulators.faults.fault import Fault
from simulators.plants.vehicle import LABELS, RATE_HZ, SIGNALS, UNITS, Vehicle

HERE = Path(__file__).resolve().parent
VERSION = "1.0.0"
SEES = ("speed", "acceleration", "yaw_rate", "pedal", "brake_pressure")
COLUMNS = [SIGNALS.index(name) for name in SEES]
LENGTH, HOP = 30, 5  # samples: three seconds, each half second
ENOUGH = 8  # samples of a manoeuvre give a window its class; windows with fewer are not used in training
TRAIN, TUNE, HELD_OUT = range(1000, 1120), range(3000, 3100), range(9000, 9150)  # seeds; a seed is a car
DRIVEN_S = 3600  # of each car in normal driving
ASKED_S = 1200  # of each car with a manoeuvre on request every 20 s
FALSE_ALARMS_PER_H = 0.5  # the target of model and rule on TUNE
SAME_ALARM_S = 3.0
LATE_S = 2.5  # after the end of a manoeuvre: a later alarm does not belong to it
HIDDEN, EPOCHS, BATCH = (48, 24), 8, 256

Array = np.ndarray[Any, np.dtype[Any]]


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--measure", action="store_true", help="only measure the existing model")
    if not options.parse_args().measure:
        weights = fit(TRAIN, EPOCHS)
        weights["caution"] = np.array([calibrate(weights), 0.0, 0.0, 0.0])
        (HERE / "model.onnx").write_bytes(export(weights))
        write_golden()
    quality = measure()
    write_manifest(quality)
    write_card(HERE)


# -- drives --------------------------------------------------------------------------------------------------


def drives(seed: int, asked: str = "") -> tuple[Array, Array]:
    """Signals (n, 5) of one car and the label of each sample; `asked`: a manoeuvre every 20 s."""
    rng = np.random.default_rng([seed, 78])
    size, start_s = float(rng.uniform(0.8, 1.3)), int(rng.integers(0, 9000))
    faults = [Fault(asked, "", start_s, start_s + ASKED_S, size)] if asked else []
    n = (ASKED_S if asked else DRIVEN_S) * RATE_HZ
    car = Vehicle(seed, faults)
    rows = car.block(start_s * RATE_HZ, n)[:, COLUMNS].astype(np.float32)
    return rows, car.labels(start_s * RATE_HZ, n)


def windows(rows: Array) -> Array:
    """(n, 30, 5), the windows that the agent would make."""
    return np.stack([rows[at : at + LENGTH] for at in range(0, len(rows) - LENGTH + 1, HOP)])


def learnable(seed: int, asked: str) -> tuple[Array, Array]:
    """Features and classes of the windows with a clear class."""
    rows, labels = drives(seed, asked)
    marks = windows(np.stack([labels == k for k in range(1, len(LABELS))], axis=1)).sum(axis=1)
    most = marks.argmax(axis=1)
    clear = (marks.max(axis=1) == 0) | (marks.max(axis=1) >= ENOUGH)
    clear &= (marks.max(axis=1) > 0) | (np.arange(len(marks)) % 3 == 0)  # a third of the calm ones
    classes = np.where(marks.max(axis=1) == 0, 0, most + 1)
    return features(windows(rows)[clear]), classes[clear]


def features(seen: Array) -> Array:
    """(n, 30, 5) to (n, FEATURES); `GRAPH` computes the same in ONNX."""
    scaled = seen * SCALE
    sideways = scaled[:, :, :1] * scaled[:, :, 2:3]
    return np.concatenate([scaled, sideways], axis=2).reshape(len(seen), -1)


SCALE = np.array([1 / 36, 1 / 3, 0.1, 0.02, 0.05], np.float32)  # to about 1
FEATURES = LENGTH * (len(SEES) + 1)

GRAPH = f"""
<ir_version: 8, opset_import: ["" : 17], producer_name: "edgebed">
harsh_event (float[1, {LENGTH}, {len(SEES)}] x) => (float[1, {len(LABELS)}] logits)
{{
    s = Mul (x, scale)
    v, a, yaw, pedal, brake = Split <axis = 2> (s, ones)
    sideways = Mul (v, yaw)
    every = Concat <axis = 2> (s, sideways)
    found = Flatten (every)
    bounded = Clip (found, low, high)
    h0 = Gemm (bounded, w0, b0)
    r0 = Relu (h0)
    h1 = Gemm (r0, w1, b1)
    r1 = Relu (h1)
    out = Gemm (r1, w2, b2)
    logits = Add (out, caution)
}}
"""


# -- the fit -------------------------------------------------------------------------------------------------


def fit(seeds: Iterable[int], epochs: int) -> dict[str, Array]:
    """Train the network on windows of every kind of driver."""
    import torch

    torch.manual_seed(1)
    torch.set_num_threads(1)
    pairs = [learnable(seed, asked) for seed in seeds for asked in ("", *LABELS[1:])]
    x, y = np.concatenate([f for f, _ in pairs]), np.concatenate([classes for _, classes in pairs])
    inputs, wanted = torch.from_numpy(np.clip(x, -5, 5)), torch.from_numpy(y)
    layers: list[Any] = []
    for width, wider in zip((FEATURES, *HIDDEN), HIDDEN, strict=False):
        layers += [torch.nn.Linear(width, wider), torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers, torch.nn.Linear(HIDDEN[-1], len(LABELS)))
    learner = torch.optim.AdamW(net.parameters(), weight_decay=1e-2)
    steps = len(x) // BATCH
    plan = torch.optim.lr_scheduler.OneCycleLR(learner, 4e-3, total_steps=epochs * steps)
    print(f"{len(x)} windows: {np.bincount(y).tolist()}", flush=True)
    for epoch in range(epochs):
        order, total = torch.randperm(len(x)), 0.0
        for step in range(steps):
            some = order[step * BATCH : (step + 1) * BATCH]
            loss = torch.nn.functional.cross_entropy(net(inputs[some]), wanted[some])
            learner.zero_grad()
            loss.backward()
            learner.step()
            plan.step()
            total += float(loss.detach())
        print(f"epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}", flush=True)
    linear = [each for each in net if isinstance(each, torch.nn.Linear)]
    weights = {f"w{at}": each.weight.detach().numpy().T for at, each in enumerate(linear)}
    return weights | {f"b{at}": each.bias.detach().numpy() for at, each in enumerate(linear)}


def calibrate(weights: dict[str, Array]) -> float:
    """The bonus of `calm` with which calm drives of the tuning cars give few false alarms."""
    logits = [net(weights, features(windows(drives(seed)[0]))) for seed in TUNE]
    truth = [drives(seed)[1] for seed in TUNE]
    for caution in np.arange(0.0, 12.0, 0.25):
        guesses = [(each + np.array([caution, 0, 0, 0])).argmax(axis=1) for each in logits]
        if sum(false_alarms(*pair) for pair in zip(guesses, truth, strict=True)) <= _allowed(TUNE):
            break
    return float(caution)


def net(weights: dict[str, Array], x: Array) -> Array:
    """Logits without the bonus of `calm`, in numpy."""
    x = np.clip(x, -5, 5)
    for at in range(2):
        x = np.maximum(x @ weights[f"w{at}"] + weights[f"b{at}"], 0)
    out: Array = x @ weights["w2"] + weights["b2"]
    return out


def export(weights: dict[str, Array]) -> bytes:
    """The ONNX file: from the unscaled signals to logits."""
    model = parser.parse_model(GRAPH)
    real = {"scale": SCALE, "low": -5.0, "high": 5.0, **weights}
    constants = [("ones", np.ones(len(SEES), np.int64))]
    constants += [(name, np.array(numbers, np.float32)) for name, numbers in real.items()]
    model.graph.initializer.extend(numpy_helper.from_array(numbers, name) for name, numbers in constants)
    onnx.checker.check_model(model, full_check=True)
    body: bytes = model.SerializeToString(deterministic=True)
    return body


# -- measuring -----------------------------------------------------------------------------------------------


def open_model(body: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(body, options, providers=["CPUExecutionProvider"])


def judged(session: onnxruntime.InferenceSession, seen: Array) -> Array:
    """The class of each window, (n,)."""
    return np.array([session.run(None, {"x": window[None]})[0][0].argmax() for window in seen])


class Rule:
    """The rule: thresholds on half-second means, each as low as its share of false alarms allows.

    Hard braking and acceleration by the accelerometer, hard cornering by speed times yaw rate.
    """

    def __init__(self) -> None:
        drawn = [drives(seed) for seed in TUNE]
        peaks = [self.peaks(windows(rows)) for rows, _ in drawn]
        self.limits = np.array([1.0, 1.0, 1.0])
        for kind in range(3):
            alone = np.full(3, np.inf)
            for limit in np.arange(1.5, 9.0, 0.05):
                alone[kind] = limit
                wrong = sum(
                    false_alarms(self.classes(each, alone), labels)
                    for each, (_, labels) in zip(peaks, drawn, strict=True)
                )
                if wrong <= _allowed(TUNE) / 3:
                    break
            self.limits[kind] = limit

    def __call__(self, seen: Array) -> Array:
        return self.classes(self.peaks(seen), self.limits)

    def peaks(self, seen: Array) -> Array:
        """Deceleration, acceleration, sideways acceleration in m/s2, (n, 3)."""
        sums = np.cumsum(seen, axis=1)
        mean = (sums[:, 5:] - sums[:, :-5]) / 5
        sideways = np.abs(mean[:, :, 0] / 3.6 * np.radians(mean[:, :, 2]))
        return np.stack(
            [(-mean[:, :, 1]).max(axis=1), mean[:, :, 1].max(axis=1), sideways.max(axis=1)], axis=1
        )

    def classes(self, peaks: Array, limits: Array) -> Array:
        """The kind that is furthest above its limit, or 0."""
        over = peaks / limits
        out: Array = np.where(over.max(axis=1) >= 1, over.argmax(axis=1) + 1, 0)
        return out


def manoeuvres(labels: Array) -> list[tuple[int, int, int]]:
    """(kind, first sample, sample after the last)."""
    edges = np.flatnonzero(np.diff(labels, prepend=0, append=0))
    return [(int(labels[a]), int(a), int(b)) for a, b in pairwise(edges) if labels[a]]


def alarms(classes: Array) -> list[tuple[int, int]]:
    """(kind, last sample of the first window) of each alarm; windows in a row are one alarm."""
    out: list[tuple[int, int]] = []
    until = dict.fromkeys(range(1, len(LABELS)), -1e9)
    for at in np.flatnonzero(classes):
        kind, end = int(classes[at]), int(at) * HOP + LENGTH
        if end > until[kind]:
            out.append((kind, end))
        until[kind] = end + SAME_ALARM_S * RATE_HZ
    return out


def false_alarms(classes: Array, labels: Array) -> int:
    """The number of alarms without a manoeuvre of their kind near the window."""
    return sum(kind not in labels[max(0, end - LENGTH - 5) : end] for kind, end in alarms(classes))


def found(classes: Array, labels: Array) -> list[tuple[int, float]]:
    """The kind of each manoeuvre, and after how many seconds a window had that kind (NaN: no window)."""
    ends = np.arange(len(classes)) * HOP + LENGTH
    out = []
    for kind, first, last in manoeuvres(labels):
        hits = ends[(ends > first) & (ends <= last + LATE_S * RATE_HZ) & (classes == kind)]
        out.append((kind, float(hits[0] - first) / RATE_HZ if len(hits) else np.nan))
    return out


def _allowed(seeds: range) -> float:
    return FALSE_ALARMS_PER_H * len(seeds) * DRIVEN_S / 3600


def measure() -> dict[str, Any]:
    """Every figure of the card, on held-out cars."""
    session = open_model((HERE / "model.onnx").read_bytes())
    rule = Rule()
    judges: dict[str, Callable[[Array], Array]] = {
        "model": lambda seen: judged(session, seen),
        "rule": rule,
    }
    driven = [drives(seed) for seed in HELD_OUT]
    asked = [drives(seed, kind) for seed in HELD_OUT[:60] for kind in LABELS[1:]]
    quality: dict[str, Any] = {"limits": [round(float(limit), 2) for limit in rule.limits]}
    for name, judge in judges.items():
        classes = [judge(windows(rows)) for rows, _ in driven]
        wrong = [false_alarms(each, labels) for each, (_, labels) in zip(classes, driven, strict=True)]
        hours = [DRIVEN_S / 3600] * len(wrong)
        own = [hit for each, (_, labels) in zip(classes, driven, strict=True) for hit in found(each, labels)]
        requested = [hit for rows, labels in asked for hit in found(judge(windows(rows)), labels)]
        quality[name] = {
            "false_alarms_per_hour": round(sum(wrong) / sum(hours), 2),
            "false_alarms_per_hour_95": bootstrap(wrong, hours, 2),
            **_rates(own + requested),
            "by_kind": {
                LABELS[kind]: _rates([hit for hit in own + requested if hit[0] == kind])
                for kind in range(1, len(LABELS))
            },
        }
        quality["own"], quality["requested"] = len(own), len(requested)
    quality["hours"] = len(HELD_OUT) * DRIVEN_S / 3600
    return quality


def _rates(hits: list[tuple[int, float]]) -> dict[str, Any]:
    delays = np.array([delay for _, delay in hits])
    noticed = int(np.isfinite(delays).sum())
    return {
        "noticed": round(noticed / len(delays), 4),
        "noticed_95": [round(end, 4) for end in wilson(noticed, len(delays))],
        "median_delay_s": round(float(np.nanmedian(delays)), 1),
    }


# -- the package ---------------------------------------------------------------------------------------------


def write_golden() -> None:
    session = open_model((HERE / "model.onnx").read_bytes())
    folder = HERE / "golden"
    folder.mkdir(exist_ok=True)
    for name in LABELS:
        rows, labels = drives(HELD_OUT[0], "" if name == "calm" else name)
        kinds = [each for each in manoeuvres(labels) if each[0] == LABELS.index(name)]
        at = (kinds[0][2] if kinds else 600) - LENGTH
        window = rows[at : at + LENGTH]
        np.savez_compressed(
            folder / f"{name}.npz", input=window, output_0=session.run(None, {"x": window[None]})[0]
        )


def write_manifest(quality: dict[str, Any]) -> None:
    manifest = {
        "name": "harsh-event",
        "version": VERSION,
        "licence": "Apache-2.0",
        "description": "Hard braking, acceleration and cornering of a car, from its CAN bus.",
        "sha256": hashlib.sha256((HERE / "model.onnx").read_bytes()).hexdigest(),
        "input": {
            "kind": "window",
            "name": "x",
            "signals": list(SEES),
            "rate_hz": RATE_HZ,
            "length": LENGTH,
            "hop": HOP,
        },
        "output": {
            "decoder": "classification",
            "labels": list(LABELS),
            "softmax": True,
            "alarm": list(LABELS[1:]),
        },
        "budgets": {"p99_ms": 5, "rss_mb": 40},
        "data": {
            "source": "simulators/plants/vehicle.py: synthetic, no real car was measured",
            "units": {name: UNITS[name] for name in SEES},
            "train": f"{len(TRAIN)} cars, two hours each (seeds {TRAIN.start}-{TRAIN.stop - 1})",
            "tune": f"{len(TUNE)} cars, an hour each (seeds {TUNE.start}-{TUNE.stop - 1})",
            "held_out": f"{len(HELD_OUT)} cars (seeds {HELD_OUT.start}-{HELD_OUT.stop - 1})",
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
    model, rule = quality["model"], quality["rule"]
    lines = [("all", model, rule)]
    lines += [(kind, model["by_kind"][kind], rule["by_kind"][kind]) for kind in LABELS[1:]]
    rows = "\n".join(
        f"| {kind} | {m['noticed']:.1%} | {m['median_delay_s']:.1f} s "
        f"| {r['noticed']:.1%} | {r['median_delay_s']:.1f} s |"
        for kind, m, r in lines
    )
    weights = FEATURES * HIDDEN[0] + HIDDEN[0] * HIDDEN[1] + HIDDEN[1] * 4 + sum(HIDDEN) + 4
    both = {"model": model, "rule": rule}
    return {
        "rows": rows.splitlines(),
        "sure": {name: "{:.2f} to {:.2f}".format(*q["false_alarms_per_hour_95"]) for name, q in both.items()},
        "noticed": {name: "{:.1%} to {:.1%}".format(*q["noticed_95"]) for name, q in both.items()},
        "weights": weights,
        "cars": len(HELD_OUT),
    }


if __name__ == "__main__":
    main()
    print("sign the package again: edgebed model sign", HERE.name, "--key KEY")
