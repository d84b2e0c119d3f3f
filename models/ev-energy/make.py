"""Rebuilds this package: drives simulated cars, trains a small net on their next minute, exports, measures.

    python make.py                  # about five minutes; writes model.onnx, manifest.yaml, golden/, README.md
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
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import yaml
from onnx import numpy_helper, parser

from edgebed.intervals import bootstrap
from edgebed.model_tools.card import write as write_card
from simulators.plants.vehicle import RATE_HZ, SIGNALS, UNITS, Vehicle

HERE = Path(__file__).resolve().parent
VERSION = "1.0.0"
SEES = (
    "speed",
    "acceleration",
    "yaw_rate",
    "pedal",
    "brake_pressure",
    "pack_voltage",
    "pack_current",
    "slope",
)
COLUMNS = [SIGNALS.index(name) for name in SEES]
LENGTH, HOP, AHEAD = 600, 50, 600  # samples: input of a minute, each five seconds, and the minute after it
PARTS, PER_PART = 12, LENGTH // 12
LATEST = 5  # samples that show the present state
TRAIN, TUNE, HELD_OUT = range(1000, 1300), range(3000, 3040), range(9000, 9100)  # seeds; a seed is a car
DRIVEN_S = 3600  # of each car, at a random time
SHIFT_S = 105 * 120  # driven between two charges
QUANTILES = (0.5, 0.1, 0.9)
HIDDEN, EPOCHS, BATCH = (96, 48), 16, 256

Array = np.ndarray[Any, np.dtype[Any]]


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--measure", action="store_true", help="only measure the existing model")
    if not options.parse_args().measure:
        (HERE / "model.onnx").write_bytes(export(fit(TRAIN, EPOCHS)))
        write_golden()
    quality = measure()
    write_manifest(quality)
    write_card(HERE)


# -- minutes of driving --------------------------------------------------------------------------------------


def drives(seed: int, hop: int = HOP) -> tuple[Array, Array, Array]:
    """Windows (n, 600, 8) of one car, the Wh of the minute after each, and the Wh in the window."""
    car = Vehicle(seed)
    start = int(np.random.default_rng([seed, 77]).integers(0, SHIFT_S - DRIVEN_S)) * RATE_HZ
    n = DRIVEN_S * RATE_HZ
    rows = car.block(start, n)[:, COLUMNS].astype(np.float32)
    used = np.concatenate([[0.0], np.cumsum([car.energy(start + at, hop) for at in range(0, n, hop)])])
    ends = np.arange(LENGTH, n - AHEAD, hop)
    seen = np.stack([rows[end - LENGTH : end] for end in ends])
    at, minute = ends // hop, LENGTH // hop
    return seen, used[at + minute] - used[at], used[at] - used[at - minute]


def features(seen: Array) -> Array:
    """(n, 600, 8) to (n, FEATURES); `GRAPH` computes the same in ONNX."""
    v, a, yaw, pedal, brake, volt, ampere, slope = np.moveaxis(seen * SCALE, 2, 0)
    every = [
        v,
        v * v,
        v * v * v,
        np.maximum(a, 0),
        np.maximum(-a, 0),
        np.abs(yaw),
        pedal,
        brake,
        volt * ampere,
        slope,
        slope * v,
        volt,
        (v < STANDING).astype(np.float32),
    ]
    parts = np.stack(every, axis=2).reshape(len(seen), PARTS, PER_PART, len(every)).mean(axis=2)
    now = (seen[:, -LATEST:] * SCALE).mean(axis=1)
    return np.concatenate([parts.reshape(len(seen), -1), now], axis=1).astype(np.float32)


SCALE = np.array([1 / 36, 1.0, 0.1, 0.05, 0.2, 0.0025, 0.02, 1 / 3], np.float32)  # to about 1
STANDING = 0.01  # of 36 km/h
FEATURES = 13 * PARTS + len(SEES)

GRAPH = f"""
<ir_version: 8, opset_import: ["" : 17], producer_name: "edgebed">
ev_energy (float[1, {LENGTH}, {len(SEES)}] x) => (float[1, 3] energy)
{{
    s = Mul (x, scale)
    v, a, yaw, pedal, brake, volt, ampere, slope = Split <axis = 2> (s, ones)
    v2 = Mul (v, v)
    v3 = Mul (v2, v)
    faster = Relu (a)
    minus = Neg (a)
    slower = Relu (minus)
    turning = Abs (yaw)
    power = Mul (volt, ampere)
    climb = Mul (slope, v)
    still = Less (v, standing)
    stands = Cast <to = 1> (still)
    motion = Concat <axis = 2> (v, v2, v3, faster, slower, turning)
    rest = Concat <axis = 2> (pedal, brake, power, slope, climb, volt, stands)
    every = Concat <axis = 2> (motion, rest)
    rows = Reshape (every, in_parts)
    means = ReduceMean <axes = [2], keepdims = 0> (rows)
    parts = Reshape (means, flat)
    latest = Slice (s, from, to, time)
    now = ReduceMean <axes = [1], keepdims = 0> (latest)
    found = Concat <axis = 1> (parts, now)
    centred = Sub (found, mean)
    scaled = Div (centred, std)
    bounded = Clip (scaled, low, high)
    h0 = Gemm (bounded, w0, b0)
    r0 = Relu (h0)
    h1 = Gemm (r0, w1, b1)
    r1 = Relu (h1)
    out = Gemm (r1, w2, b2)
    middle = Gather <axis = 1> (out, first)
    spread = Gather <axis = 1> (out, others)
    width = Softplus (spread)
    signed = Mul (width, signs)
    around = Add (signed, middle)
    three = Concat <axis = 1> (middle, around)
    wh = Mul (three, unit)
    energy = Add (wh, typical)
}}
"""


# -- the fit -------------------------------------------------------------------------------------------------


def fit(seeds: Iterable[int], epochs: int) -> dict[str, Array]:
    """Train the network on its features; the loss is the pinball loss of the three quantiles."""
    import torch

    torch.manual_seed(1)
    torch.set_num_threads(1)
    pairs = [(features(seen), after) for seen, after, _ in map(drives, seeds)]
    x, y = np.concatenate([f for f, _ in pairs]), np.concatenate([after for _, after in pairs])
    mean, std = x.mean(axis=0), x.std(axis=0) + 1e-6
    typical, unit = float(np.median(y)), float(y.std())
    inputs = torch.from_numpy(np.clip((x - mean) / std, -5, 5).astype(np.float32))
    wanted = torch.from_numpy(((y - typical) / unit).astype(np.float32))
    layers: list[Any] = []
    for width, wider in zip((FEATURES, *HIDDEN), HIDDEN, strict=False):
        layers += [torch.nn.Linear(width, wider), torch.nn.ReLU(), torch.nn.Dropout(0.1)]
    net = torch.nn.Sequential(*layers, torch.nn.Linear(HIDDEN[-1], 3))
    learner = torch.optim.AdamW(net.parameters(), weight_decay=1e-3)
    steps = len(x) // BATCH
    plan = torch.optim.lr_scheduler.OneCycleLR(learner, 4e-3, total_steps=epochs * steps)
    for epoch in range(epochs):
        order, total = torch.randperm(len(x)), 0.0
        for step in range(steps):
            some = order[step * BATCH : (step + 1) * BATCH]
            out = net(inputs[some])
            width = torch.nn.functional.softplus(out[:, 1:])
            guess = torch.stack([out[:, 0], out[:, 0] - width[:, 0], out[:, 0] + width[:, 1]], dim=1)
            off = wanted[some, None] - guess
            loss = torch.maximum(off * torch.tensor(QUANTILES), off * (torch.tensor(QUANTILES) - 1)).mean()
            learner.zero_grad()
            loss.backward()
            learner.step()
            plan.step()
            total += float(loss.detach())
        print(f"epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}", flush=True)
    linear = [each for each in net if isinstance(each, torch.nn.Linear)]
    weights = {"mean": mean, "std": std, "typical": np.array([typical]), "unit": np.array([unit])}
    for at, each in enumerate(linear):
        weights |= {f"w{at}": each.weight.detach().numpy().T, f"b{at}": each.bias.detach().numpy()}
    return weights


def export(weights: dict[str, Array]) -> bytes:
    """The ONNX file: from the unscaled signals to Wh."""
    model = parser.parse_model(GRAPH)
    whole = {
        "ones": [1] * len(SEES),
        "in_parts": [1, PARTS, PER_PART, 13],
        "flat": [1, -1],
        "from": [-LATEST],
        "to": [LENGTH],
        "time": [1],
        "first": [0],
        "others": [1, 2],
    }
    real = {"scale": SCALE, "standing": STANDING, "low": -5.0, "high": 5.0, "signs": [[-1.0, 1.0]], **weights}
    constants = [
        *((name, np.array(numbers, np.int64)) for name, numbers in whole.items()),
        *((name, np.array(numbers, np.float32)) for name, numbers in real.items()),
    ]
    model.graph.initializer.extend(numpy_helper.from_array(numbers, name) for name, numbers in constants)
    onnx.checker.check_model(model, full_check=True)
    body: bytes = model.SerializeToString(deterministic=True)
    return body


# -- measuring -----------------------------------------------------------------------------------------------


def open_model(body: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(body, options, providers=["CPUExecutionProvider"])


def guessed(session: onnxruntime.InferenceSession, seen: Array) -> Array:
    """(n, 3): Wh of the next minute, its 10 % and its 90 % quantile."""
    return np.concatenate([session.run(None, {"x": window[None]})[0] for window in seen])


def measure() -> dict[str, Any]:
    """Every figure of the card, on held-out cars; the baselines were tuned on the tuning cars."""
    session = open_model((HERE / "model.onnx").read_bytes())
    tuned = [drives(seed, 2 * HOP)[1:] for seed in TUNE]
    after, before = (np.concatenate(columns) for columns in zip(*tuned, strict=True))
    line = np.polyfit(before, after, 1)
    held = [drives(seed, 2 * HOP) for seed in HELD_OUT]
    model = np.concatenate([guessed(session, seen) for seen, _, _ in held])
    truth, last = (np.concatenate([each[at] for each in held]) for at in (1, 2))
    guesses = {
        "model": model[:, 0],
        "last_minute": last,
        "typical_minute": np.full(len(truth), np.median(after)),
        "line_of_last_minute": np.polyval(line, last),
    }
    found: dict[str, Any] = {name: _errors(guess, truth) for name, guess in guesses.items()}
    for name, guess in guesses.items():
        off = [np.abs(guess - true) for guess, true in _by_car(guess, held)]
        found[name]["mae_wh_95"] = bootstrap([each.sum() for each in off], [len(each) for each in off], 1)
    inside = (truth >= model[:, 1]) & (truth <= model[:, 2])
    found["model"]["inside_band"] = round(float(inside.mean()), 3)
    found["model"]["band_wh"] = round(float((model[:, 2] - model[:, 1]).mean()), 1)
    by_car = [np.abs(guess - true).mean() for guess, true in _by_car(model[:, 0], held)]
    found["worst_car_mae"] = round(float(max(by_car)), 1)
    found["minutes"], found["mean_wh"], found["std_wh"] = (
        len(truth),
        round(float(truth.mean()), 1),
        round(float(truth.std()), 1),
    )
    # ten consecutive minutes: errors of single minutes cancel out, a bias would not
    ten = [
        np.abs((guess[::6] - true[::6])[: len(true[::6]) // 10 * 10].reshape(-1, 10).sum(axis=1))
        / np.abs(true[::6][: len(true[::6]) // 10 * 10].reshape(-1, 10).sum(axis=1))
        for guess, true in _by_car(model[:, 0], held)
    ]
    found["ten_minutes_off"] = round(float(np.median(np.concatenate(ten))), 3)
    return found


def _by_car(guess: Array, held: list[tuple[Array, Array, Array]]) -> Iterable[tuple[Array, Array]]:
    at = 0
    for _, after, _ in held:
        yield guess[at : at + len(after)], after
        at += len(after)


def _errors(guess: Array, truth: Array) -> dict[str, float]:
    off = guess - truth
    return {
        "mae_wh": round(float(np.abs(off).mean()), 1),
        "rmse_wh": round(float(np.sqrt((off**2).mean())), 1),
        "bias_wh": round(float(off.mean()), 1),
        "r2": round(float(1 - (off**2).mean() / truth.var()), 3),
    }


# -- the package ---------------------------------------------------------------------------------------------


def write_golden() -> None:
    session = open_model((HERE / "model.onnx").read_bytes())
    folder = HERE / "golden"
    folder.mkdir(exist_ok=True)
    seen, after, _ = drives(HELD_OUT[0])
    examples = {"hungry": int(after.argmax()), "frugal": int(after.argmin()), "first": 0}
    for name, at in examples.items():
        np.savez_compressed(folder / f"{name}.npz", input=seen[at], output_0=guessed(session, seen[at][None]))


def write_manifest(quality: dict[str, Any]) -> None:
    manifest = {
        "name": "ev-energy",
        "version": VERSION,
        "licence": "Apache-2.0",
        "description": "Wh that an electric car will take in the next minute, with an 80 % band.",
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
            "decoder": "regression",
            "fields": {name: {"unit": "W.h", "dec": 1} for name in ("energy", "energy_low", "energy_high")},
        },
        "budgets": {"p99_ms": 5, "rss_mb": 40},
        "data": {
            "source": "simulators/plants/vehicle.py: synthetic, no real car was measured",
            "units": {name: UNITS[name] for name in SEES},
            "train": f"{len(TRAIN)} cars, an hour each (seeds {TRAIN.start}-{TRAIN.stop - 1})",
            "tune": f"{len(TUNE)} cars, for the baselines (seeds {TUNE.start}-{TUNE.stop - 1})",
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
    names = {
        "model": "this model",
        "line_of_last_minute": "a straight line of the last minute's energy",
        "typical_minute": "always the typical minute (median)",
        "last_minute": "as much as the last minute (persistence)",
    }
    rows = "\n".join(
        f"| {label} | {q['mae_wh']:.1f} | {q['mae_wh_95'][0]:.1f} to {q['mae_wh_95'][1]:.1f} "
        f"| {q['rmse_wh']:.1f} | {q['bias_wh']:+.1f} | {q['r2']:.2f} |"
        for label, q in ((label, quality[name]) for name, label in names.items())
    )
    weights = FEATURES * HIDDEN[0] + HIDDEN[0] * HIDDEN[1] + HIDDEN[1] * 3 + sum(HIDDEN) + 3
    return {
        "rows": rows.splitlines(),
        "cars": len(HELD_OUT),
        "weights": weights,
    }


if __name__ == "__main__":
    main()
    print("sign the package again: edgebed model sign", HERE.name, "--key KEY")
