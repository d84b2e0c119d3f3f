"""Rebuilds this package: simulates streets, trains a small network on them, exports, measures.

    python make.py                  # about four minutes; writes model.onnx, manifest.yaml, golden, README.md
    python make.py --measure        # measures the existing model on the held-out streets
    python make.py --field CSV      # measures the same network on the hourly UCI Air Quality recording

pm25_reference.py, which it runs at the end, writes reference.json: how, is written there.
Needs edgebed[sim] in addition to the dependencies below.
"""
# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.13.0", "numpy", "onnx>=1.21", "onnxruntime>=1.28.1", "pyyaml"]
# ///

from __future__ import annotations

import argparse
import csv
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pm25_reference
import yaml
from onnx import numpy_helper, parser

from edgebed.intervals import bootstrap
from edgebed.model_tools.card import write as write_card
from simulators.plants.air import RATE_HZ, SIGNALS, UNITS, Air

HERE = Path(__file__).resolve().parent
VERSION = "1.0.0"
PARTS, PER_PART = 15, 60  # fifteen minutes
LENGTH, HOP = PARTS * PER_PART, 30
AHEAD = (270, 330)  # samples from the end of the window: the minute around five minutes from now
SHOWN = SIGNALS.index("pm2_5")
TRAIN, TUNE, HELD_OUT = range(1000, 1400), range(3000, 3040), range(9000, 9120)  # seeds; a seed is a street
BREATHED_S = 4 * 3600  # of each street, at a random time
QUANTILES = (0.5, 0.1, 0.9)
HIDDEN, EPOCHS, BATCH = (64, 32), 15, 256
PLUME = 15.0  # ug/m3 above the lower half of the quarter of an hour: a plume

Array = np.ndarray[Any, np.dtype[Any]]


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--measure", action="store_true", help="only measure the existing model")
    options.add_argument("--field", type=Path, help="only measure the network on AirQualityUCI.csv")
    chosen = options.parse_args()
    if chosen.field:
        print(field(chosen.field))
        return
    if not chosen.measure:
        breathed = [breathe(seed) for seed in TRAIN]
        x = np.concatenate([features(seen) for seen, _ in breathed])
        y = np.concatenate([growth(later, plain(seen)["persistence"]) for seen, later in breathed])
        (HERE / "model.onnx").write_bytes(export(fit(x, y, EPOCHS)))
        write_golden()
    quality = measure()
    write_manifest(quality)
    pm25_reference.main()
    write_card(HERE)


# -- quarters of an hour -------------------------------------------------------------------------------------


def breathe(seed: int, hop: int = 60) -> tuple[Array, Array]:
    """Windows (n, 900, 5) of one street and the PM2.5 that is shown five minutes after each, ug/m3."""
    start = int(np.random.default_rng([seed, 7]).integers(0, 24 * 3600))
    rows = Air(seed).block(start, BREATHED_S).astype(np.float32)
    ends = np.arange(LENGTH, len(rows) - AHEAD[1], hop)
    later = np.array([rows[end + AHEAD[0] : end + AHEAD[1], SHOWN].mean() for end in ends])
    return np.stack([rows[end - LENGTH : end] for end in ends]), later


def growth(later: Array, now: Array) -> Array:
    """The target of the training: the growth in logarithms."""
    return np.log1p(later) - np.log1p(now)


def features(seen: Array) -> Array:
    """(n, 900, 5) to (n, FEATURES); `GRAPH` computes the same in ONNX."""
    rows = seen.reshape(len(seen), PARTS, PER_PART, len(SIGNALS))
    mean = rows.mean(axis=2)
    return condensed(mean, np.abs(rows - mean[:, :, None]).mean(axis=2)[:, :, :3])


def condensed(mean: Array, unrest: Array) -> Array:
    """Means (n, 15, 5) and mean deviations of the particles (n, 15, 3) to features."""
    now = mean[:, -1:, SHOWN : SHOWN + 1]
    particles = np.log1p(np.maximum(mean[:, :, :3], 0)) - np.log1p(np.maximum(now, 0))
    weather = mean[:, :, 3:] / 30
    parts = [
        particles.reshape(len(mean), -1),
        (unrest / (np.maximum(now, 0) + 5)).reshape(len(mean), -1),
        np.log1p(np.maximum(now[:, 0], 0)),
        weather[:, -1],
        weather[:, -1] - weather[:, 0],
    ]
    return np.concatenate(parts, axis=1).astype(np.float32)


FEATURES = PARTS * 6 + 5

GRAPH = f"""
<ir_version: 8, opset_import: ["" : 17], producer_name: "edgebed">
pm25_nowcast (float[1, {LENGTH}, {len(SIGNALS)}] x) => (float[1, 3] later)
{{
    rows = Reshape (x, in_parts)
    kept = ReduceMean <axes = [2]> (rows)
    off = Sub (rows, kept)
    distance = Abs (off)
    rough = ReduceMean <axes = [2], keepdims = 0> (distance)
    mean = Reshape (kept, by_part)
    dusts, airs = Split <axis = 2> (mean, three_two)
    unrest, ignored = Split <axis = 2> (rough, three_two)
    positive = Relu (dusts)
    above = Add (positive, one)
    logs = Log (above)
    last = Slice (positive, from, to, time)
    now = Gather <axis = 2> (last, shown)
    now1 = Add (now, one)
    lognow = Log (now1)
    relative = Sub (logs, lognow)
    now5 = Add (now, five)
    shaken = Div (unrest, now5)
    weather = Div (airs, thirty)
    weather0 = Slice (weather, start, second, time)
    weather1 = Slice (weather, from, to, time)
    turned = Sub (weather1, weather0)
    f0 = Flatten (relative)
    f1 = Flatten (shaken)
    f2 = Flatten (lognow)
    f3 = Flatten (weather1)
    f4 = Flatten (turned)
    found = Concat <axis = 1> (f0, f1, f2, f3, f4)
    centred = Sub (found, typical)
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
    grown = Mul (three, unit)
    level = Add (grown, f2)
    most = Exp (level)
    all = Sub (most, one)
    later = Relu (all)
}}
"""


# -- the fit -------------------------------------------------------------------------------------------------


def fit(x: Array, y: Array, epochs: int) -> dict[str, Array]:
    """Train the network; the loss is the pinball loss of three quantiles (logarithms keep quantiles)."""
    import torch

    torch.manual_seed(1)
    torch.set_num_threads(1)
    typical, std, unit = x.mean(axis=0), x.std(axis=0) + 1e-6, float(y.std())
    inputs = torch.from_numpy(np.clip((x - typical) / std, -5, 5).astype(np.float32))
    wanted = torch.from_numpy((y / unit).astype(np.float32))
    layers: list[Any] = []
    for width, wider in zip((FEATURES, *HIDDEN), HIDDEN, strict=False):
        layers += [torch.nn.Linear(width, wider), torch.nn.ReLU(), torch.nn.Dropout(0.1)]
    net = torch.nn.Sequential(*layers, torch.nn.Linear(HIDDEN[-1], len(QUANTILES)))
    learner = torch.optim.AdamW(net.parameters(), weight_decay=1e-2)
    steps = len(x) // BATCH
    plan = torch.optim.lr_scheduler.OneCycleLR(learner, 4e-3, total_steps=epochs * steps)
    share = torch.tensor(QUANTILES)
    for epoch in range(epochs):
        order, total = torch.randperm(len(x)), 0.0
        for step in range(steps):
            some = order[step * BATCH : (step + 1) * BATCH]
            out = net(inputs[some])
            width = torch.nn.functional.softplus(out[:, 1:])
            guess = torch.stack([out[:, 0], out[:, 0] - width[:, 0], out[:, 0] + width[:, 1]], dim=1)
            off = wanted[some, None] - guess
            loss = torch.maximum(off * share, off * (share - 1)).mean()
            learner.zero_grad()
            loss.backward()
            learner.step()
            plan.step()
            total += float(loss.detach())
        print(f"epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}", flush=True)
    weights = {"typical": typical, "std": std, "unit": np.array([unit])}
    for at, each in enumerate(layer for layer in net if isinstance(layer, torch.nn.Linear)):
        weights |= {f"w{at}": each.weight.detach().numpy().T, f"b{at}": each.bias.detach().numpy()}
    return weights


def net_of(weights: dict[str, Array], x: Array) -> Array:
    """Median growth in logarithms, (n,), in numpy."""
    x = np.clip((x - weights["typical"]) / weights["std"], -5, 5)
    for at in range(2):
        x = np.maximum(x @ weights[f"w{at}"] + weights[f"b{at}"], 0)
    return (x @ weights["w2"] + weights["b2"])[:, 0] * weights["unit"]


def export(weights: dict[str, Array]) -> bytes:
    """The ONNX file: from the unscaled signals to ug/m3."""
    model = parser.parse_model(GRAPH)
    whole = {
        "in_parts": [1, PARTS, PER_PART, len(SIGNALS)],
        "by_part": [1, PARTS, len(SIGNALS)],
        "three_two": [3, 2],
        "shown": [SHOWN],
        "start": [0],
        "second": [1],
        "from": [PARTS - 1],
        "to": [PARTS],
        "time": [1],
        "first": [0],
        "others": [1, 2],
    }
    real = {"one": 1.0, "five": 5.0, "thirty": 30.0, "low": -5.0, "high": 5.0, "signs": [[-1.0, 1.0]]}
    constants = [(name, np.array(numbers, np.int64)) for name, numbers in whole.items()]
    constants += [(name, np.array(numbers, np.float32)) for name, numbers in (real | weights).items()]
    model.graph.initializer.extend(numpy_helper.from_array(numbers, name) for name, numbers in constants)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


# -- measuring -----------------------------------------------------------------------------------------------


def open_model(body: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(body, options, providers=["CPUExecutionProvider"])


def guessed(session: onnxruntime.InferenceSession, seen: Array) -> Array:
    """(n, 3): PM2.5 in five minutes, its 10 % and its 90 % quantile, ug/m3."""
    return np.concatenate([session.run(None, {"x": window[None]})[0] for window in seen])


def plain(seen: Array) -> dict[str, Array]:
    """Predictions without a model, each (n,)."""
    shown = seen[:, :, SHOWN]
    return {
        "persistence": shown[:, -PER_PART:].mean(axis=1),
        "quarter_mean": shown.mean(axis=1),
        "quarter_median": np.median(shown, axis=1),
    }


def measure() -> dict[str, Any]:
    """Every figure of the card, on held-out streets; the mixture was tuned on others."""
    session = open_model((HERE / "model.onnx").read_bytes())
    tuned = [breathe(seed) for seed in TUNE]
    mixing = [np.stack([*plain(seen).values(), np.ones(len(seen))], axis=1) for seen, _ in tuned]
    wanted = np.concatenate([later for _, later in tuned])
    shares = np.linalg.lstsq(np.concatenate(mixing), wanted, rcond=None)[0]
    held = [breathe(seed) for seed in HELD_OUT]
    truth = np.concatenate([later for _, later in held])
    model = np.concatenate([guessed(session, seen) for seen, _ in held])
    guesses: dict[str, Array] = {"model": model[:, 0]}
    every = [plain(seen) for seen, _ in held]
    guesses |= {name: np.concatenate([each[name] for each in every]) for name in every[0]}
    guesses["mixture"] = np.stack([*list(guesses.values())[1:], np.ones(len(truth))], axis=1) @ shares
    passing = guesses["persistence"] > guesses["quarter_median"] + PLUME
    found: dict[str, Any] = {
        name: {
            **_errors(guess, truth),
            "mae_in_plumes": round(float(np.abs(guess - truth)[passing].mean()), 2),
            "mae_else": round(float(np.abs(guess - truth)[~passing].mean()), 2),
        }
        for name, guess in guesses.items()
    }
    streets = np.cumsum([len(later) for _, later in held])[:-1]
    for name, guess in guesses.items():
        off = np.split(np.abs(guess - truth), streets)
        found[name]["mae_95"] = bootstrap([each.sum() for each in off], [len(each) for each in off], 2)
    inside = (truth >= model[:, 1]) & (truth <= model[:, 2])
    found["model"]["inside_band"] = round(float(inside.mean()), 3)
    found["windows"], found["mean"] = len(truth), round(float(truth.mean()), 1)
    found["in_plumes"] = round(float(passing.mean()), 3)
    ours, theirs = (
        np.array([each.mean() for each in np.split(np.abs(guesses[name] - truth), streets)])
        for name in ("model", "persistence")
    )
    found["streets_better"] = round(float((ours < theirs).mean()), 3)
    return found


def _errors(guess: Array, truth: Array) -> dict[str, float]:
    off = guess - truth
    return {
        "mae": round(float(np.abs(off).mean()), 2),
        "rmse": round(float(np.sqrt((off**2).mean())), 2),
        "bias": round(float(off.mean()), 2),
    }


def field(path: Path) -> dict[str, float]:
    """Measure the same features and net on real hourly air: NOx an hour ahead, the last third of a year.

    It shows if the method is better than persistence on real air. It does not measure PM2.5 or minutes.
    """
    columns = ("CO_GT", "NOx_GT", "NO2_GT", "T", "RH")
    with path.open(encoding="utf-8") as lines:
        rows = np.array([[float(row[name]) for name in columns] for row in csv.DictReader(lines)])
    rows[rows == -200] = np.nan  # missing
    ends = [end for end in range(PARTS, len(rows)) if np.isfinite(rows[end - PARTS : end + 1, :]).all()]
    mean = np.stack([rows[end - PARTS : end] for end in ends])
    later, now = np.array([rows[end, SHOWN] for end in ends]), mean[:, -1, SHOWN]
    x = condensed(mean, np.zeros((len(mean), PARTS, 3)))
    cut = int(len(x) * 0.67)
    weights = fit(x[:cut], growth(later[:cut], now[:cut]), 30)
    guess = np.expm1(net_of(weights, x[cut:]) + np.log1p(now[cut:]))
    truth = later[cut:]
    return {
        "hours": float(len(truth)),
        "mean": round(float(truth.mean()), 1),
        "model_mae": round(float(np.abs(guess - truth).mean()), 1),
        "persistence_mae": round(float(np.abs(now[cut:] - truth).mean()), 1),
    }


# -- the package ---------------------------------------------------------------------------------------------


def write_golden() -> None:
    session = open_model((HERE / "model.onnx").read_bytes())
    folder = HERE / "golden"
    folder.mkdir(exist_ok=True)
    seen, _ = breathe(HELD_OUT[0])
    passing = plain(seen)["persistence"] - plain(seen)["quarter_median"]
    for name, at in {"calm": int(np.abs(passing).argmin()), "plume": int(passing.argmax())}.items():
        np.savez_compressed(folder / f"{name}.npz", input=seen[at], output_0=guessed(session, seen[at][None]))


def write_manifest(quality: dict[str, Any]) -> None:
    manifest = {
        "name": "pm25-nowcast",
        "version": VERSION,
        "licence": "Apache-2.0",
        "description": "PM2.5 that a street sensor will show in five minutes, with an 80 % band.",
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
            "decoder": "regression",
            "fields": {
                name: {"unit": UNITS["pm2_5"], "dec": 1}
                for name in ("pm2_5_in_5_min", "pm2_5_low", "pm2_5_high")
            },
        },
        "budgets": {"p99_ms": 5, "rss_mb": 40},
        "data": {
            "source": "simulators/plants/air.py: synthetic, no real air was measured",
            "units": dict(UNITS),
            "train": f"{len(TRAIN)} streets, four hours each (seeds {TRAIN.start}-{TRAIN.stop - 1})",
            "tune": f"{len(TUNE)} streets, for the mixture (seeds {TUNE.start}-{TUNE.stop - 1})",
            "held_out": f"{len(HELD_OUT)} streets (seeds {HELD_OUT.start}-{HELD_OUT.stop - 1})",
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
        "mixture": "a mixture of the three below, by least squares",
        "quarter_median": "median of the last 15 minutes",
        "persistence": "as much as in the last minute (persistence)",
        "quarter_mean": "mean of the last 15 minutes",
    }
    rows = "\n".join(
        f"| {label} | {q['mae']:.2f} | {q['mae_95'][0]:.2f} to {q['mae_95'][1]:.2f} | {q['rmse']:.2f} "
        f"| {q['bias']:+.2f} | {q['mae_in_plumes']:.1f} | {q['mae_else']:.2f} |"
        for label, q in ((label, quality[name]) for name, label in names.items())
    )
    weights = FEATURES * HIDDEN[0] + HIDDEN[0] * HIDDEN[1] + HIDDEN[1] * 3 + sum(HIDDEN) + 3
    return {
        "rows": rows.splitlines(),
        "weights": weights,
        "streets": len(HELD_OUT),
    }


if __name__ == "__main__":
    main()
    print("sign the package again: edgebed model sign", HERE.name, "--key KEY")
