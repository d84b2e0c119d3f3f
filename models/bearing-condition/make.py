"""Rebuilds this package: band energies of real bearings, a linear classifier on them, and its figures.

    EDGEBED_FIELD_DATA=... python make.py              # seconds; writes model.onnx, manifest.yaml, golden/
    EDGEBED_FIELD_DATA=... python make.py --measure    # measures the existing model

Reads four recordings of the Case Western Reserve University Bearing Data Center from `signals/cwru/*.npz` in
that folder; they are not part of this package. Same recordings, same weights, except the last digits.
"""
# /// script
# requires-python = ">=3.11"
# dependencies = ["edgebed", "numpy", "onnx>=1.21", "onnxruntime>=1.28.1", "pyyaml"]
# ///

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import yaml
from onnx import TensorProto, helper, numpy_helper

from edgebed.intervals import wilson
from edgebed.model_tools.card import write as write_card

HERE = Path(__file__).resolve().parent
VERSION = "1.0.0"
RATE_HZ, LENGTH = 12_000, 2048
LABELS = ("normal", "ball", "inner race")
FRAME, STEP = 256, 128  # samples of a spectrum, and from one spectrum to the next
BANDS, LINES = (
    12,
    96,
)  # of 375 Hz each, up to 4.5 kHz: above it the filter of each recorder would separate the classes
FLOOR = 1e-4  # share of the energy: a band below it counts as silent
TRAIN, HELD_OUT = (0.0, 0.5), (0.6, 1.0)  # parts of a recording; the tenth between them is not used
GAINS = (0.1, 0.3, 3.0, 10.0)
NOISE_DB = (20, 10, 0)  # energy of the vibration divided by that of the added white noise

Array = np.ndarray[Any, np.dtype[Any]]
Judge = Callable[[Array], int]


class Recording(NamedTuple):
    """One file: its class, its load, and how many samples make one at 12 kHz."""

    file: str
    label: int
    load_hp: int
    decimate: int


RECORDINGS = (
    Recording(
        "1797_Normal", 0, 0, 4
    ),  # 48 kHz: at this rate its lines match the others, at 119.8, 161.7 and 191.7 Hz
    Recording("1797_B_28_DE12", 1, 0, 1),
    Recording("1797_IR_28_DE12", 2, 0, 1),
    Recording("1730_B_28_DE12", 1, 3, 1),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="only measure the existing model")
    measure_only = parser.parse_args().measure
    named = os.environ.get("EDGEBED_FIELD_DATA")
    if not named:
        parser.error("EDGEBED_FIELD_DATA is not set: set it to the folder with signals/cwru")
    data = load(Path(named))
    if not measure_only:
        (HERE / "model.onnx").write_bytes(export(*fit(training(data, ball_load_hp=0))))
        write_golden()
    quality = measure(data, fan_end(Path(named)))
    write_manifest(quality)
    write_card(HERE)


# -- recordings --------------------------------------------------------------------------------------------


def load(field_data: Path) -> dict[Recording, Array]:
    """The drive-end acceleration of each recording at 12 kHz."""
    found = {}
    for recording in RECORDINGS:
        with np.load(field_data / "signals" / "cwru" / f"{recording.file}.npz") as arrays:
            found[recording] = decimated(arrays["DE"][:, 0], recording.decimate)
    return found


def fan_end(field_data: Path) -> Array:
    """The normal run as recorded by the second sensor, at the other end of the motor."""
    with np.load(field_data / "signals" / "cwru" / f"{RECORDINGS[0].file}.npz") as arrays:
        return decimated(arrays["FE"][:, 0], RECORDINGS[0].decimate)


def decimated(signal: Array, by: int) -> Array:
    """One of `by` samples, without frequencies above half of the new rate."""
    n = len(signal) // by
    out: Array = np.fft.irfft(np.fft.rfft(signal)[: n // 2 + 1], n) / by if by > 1 else signal
    return out


def windows(signal: Array, part: tuple[float, float] = (0.0, 1.0), hop: int = LENGTH) -> list[Array]:
    """Windows (2048,) of a part of a recording; without overlap unless `hop` is smaller."""
    first, end = (round(share * len(signal)) for share in part)
    return [signal[at : at + LENGTH].astype(np.float32) for at in range(first, end - LENGTH + 1, hop)]


def training(data: dict[Recording, Array], *, ball_load_hp: int) -> list[tuple[Array, int]]:
    """Windows of the first half of each recording (ball: of one load), with varied noise and speed."""
    rng = np.random.default_rng(1)
    found = []
    for recording, signal in data.items():
        if recording.label == 1 and recording.load_hp != ball_load_hp:
            continue
        for window in windows(signal, TRAIN, 256):
            found.append((window, recording.label))
            at = np.clip(np.arange(LENGTH) * rng.uniform(0.95, 1.05), 0, LENGTH - 1)  # shaft speed varied
            turned = np.interp(at, np.arange(LENGTH), window)
            found.append((noisy(turned, rng.uniform(0, 30), rng), recording.label))
    return found


def noisy(window: Array, db: float, rng: np.random.Generator) -> Array:
    """The window with added white noise, which has `db` dB less energy than the window."""
    noise = rng.standard_normal(len(window)) * window.std() * 10 ** (-db / 20)
    return (window + noise).astype(np.float32)


# -- the fit -----------------------------------------------------------------------------------------------


def features(window: Array) -> Array:
    """Logarithms of the bands' shares of the energy, (12,); `export` computes the same in ONNX."""
    turning = kernels() @ np.lib.stride_tricks.sliding_window_view(window - window.mean(), FRAME)[::STEP].T
    power = (turning**2).mean(axis=1)
    bands = power.reshape(2, BANDS, -1).sum(axis=(0, 2))
    return np.log(bands / (bands.sum() + 1e-12) + FLOOR)


@cache
def kernels() -> Array:
    """Cosines, then sines, of 1..96 turns in a frame, under a Hann window, (192, 256)."""
    turns = 2 * np.pi * np.outer(np.arange(1, LINES + 1), np.arange(FRAME)) / FRAME
    return np.concatenate([np.cos(turns), np.sin(turns)]) * np.hanning(FRAME + 1)[:-1]


def fit(found: list[tuple[Array, int]]) -> tuple[Array, Array]:
    """Weights (12, 3) and biases (3,) of a softmax regression with a ridge, by gradient descent."""
    x = np.stack([features(window) for window, _ in found])
    mean, std = x.mean(axis=0), x.std(axis=0)
    x = (x - mean) / std
    labels = np.array([label for _, label in found])
    share = 1.0 / np.bincount(labels, minlength=3)[labels] / 3  # each class has the same weight
    wanted = np.eye(3)[labels]
    weights, bias = np.zeros((BANDS, 3)), np.zeros(3)
    for _ in range(3_000):
        logits = x @ weights + bias
        share_of = np.exp(logits - logits.max(axis=1, keepdims=True))
        off = (share_of / share_of.sum(axis=1, keepdims=True) - wanted) * share[:, None]
        weights -= 0.5 * (x.T @ off + 1e-3 * weights)
        bias -= 0.5 * off.sum(axis=0)
    weights = weights / std[:, None]
    return weights, bias - mean @ weights


def export(weights: Array, bias: Array) -> bytes:
    """The ONNX file; its result does not depend on scale and mean of the signal."""
    line = np.arange(2 * LINES)
    across = np.zeros((2 * LINES, BANDS))
    across[line, line % LINES // (LINES // BANDS)] = 1
    constants = {
        "row": np.array([1, 1, LENGTH], np.int64),
        "kernels": kernels()[:, None].astype(np.float32),
        "across": across.astype(np.float32),
        "tiny": np.array(1e-12, np.float32),
        "floor": np.array(FLOOR, np.float32),
        "weights": weights.astype(np.float32),
        "bias": bias.astype(np.float32),
        "one": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Reshape", ["x", "row"], ["signal"]),
        helper.make_node("ReduceMean", ["signal"], ["mean"], axes=[2], keepdims=1),
        helper.make_node("Sub", ["signal", "mean"], ["swinging"]),
        helper.make_node("Conv", ["swinging", "kernels"], ["turning"], strides=[STEP]),
        helper.make_node("Mul", ["turning", "turning"], ["squared"]),
        helper.make_node("ReduceMean", ["squared"], ["power"], axes=[2], keepdims=0),
        helper.make_node("MatMul", ["power", "across"], ["bands"]),
        helper.make_node("ReduceSum", ["bands", "one"], ["whole"], keepdims=1),
        helper.make_node("Add", ["whole", "tiny"], ["energy"]),
        helper.make_node("Div", ["bands", "energy"], ["shares"]),
        helper.make_node("Add", ["shares", "floor"], ["heard"]),
        helper.make_node("Log", ["heard"], ["features"]),
        helper.make_node("MatMul", ["features", "weights"], ["weighed"]),
        helper.make_node("Add", ["weighed", "bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "bearing-condition",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, LENGTH, 1])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, len(LABELS)])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, producer_name="edgebed", opset_imports=opset, ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    body: bytes = model.SerializeToString(deterministic=True)
    return body


# -- measuring ---------------------------------------------------------------------------------------------


def network(body: bytes) -> Judge:
    """The model as a function from window (2048,) to label."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(body, options, providers=["CPUExecutionProvider"])
    return lambda window: int(np.argmax(session.run(None, {"x": window[None, :, None]})[0]))


def baseline(found: list[tuple[Array, int]]) -> Judge:
    """The nearest class by RMS and kurtosis of the training windows, like a vibration switch."""
    x = np.stack([summary(window) for window, _ in found])
    labels = np.array([label for _, label in found])
    spread = np.mean([x[labels == label].std(axis=0) for label in range(3)], axis=0)
    middles = np.stack([x[labels == label].mean(axis=0) for label in range(3)])
    return lambda window: int(np.argmin((((summary(window) - middles) / spread) ** 2).sum(axis=1)))


def summary(window: Array) -> Array:
    """Logarithms of RMS and kurtosis."""
    swinging = window.astype(np.float64) - window.mean()
    variance = float((swinging**2).mean())
    return np.log([np.sqrt(variance), (swinging**4).mean() / variance**2])


def held_out(data: dict[Recording, Array], *, ball_load_hp: int = 0) -> Iterator[tuple[str, Array, int]]:
    """(group, window, label) that `training(ball_load_hp=...)` does not use.

    The last four tenths of the training recordings; the whole recording of the ball at the other load.
    """
    for recording, signal in data.items():
        other = recording.label == 1 and recording.load_hp != ball_load_hp
        group = f"{LABELS[recording.label]}, {recording.load_hp} hp"
        for window in windows(signal, (0.0, 1.0) if other else HELD_OUT):
            yield group, window, recording.label


def measure(data: dict[Recording, Array], other_sensor: Array) -> dict[str, Any]:
    """Every figure of the card."""
    found = training(data, ball_load_hp=0)
    plain = found[::2]  # the baseline is trained without added noise
    judges = {"model": network((HERE / "model.onnx").read_bytes()), "baseline": baseline(plain)}
    seen = list(held_out(data))
    rng = np.random.default_rng(2)
    conditions = {
        f"gain x{gain:g}": [(w * np.float32(gain), label) for _, w, label in seen] for gain in GAINS
    }
    for db in NOISE_DB:
        conditions[f"white noise, {db} dB"] = [(noisy(w, db, rng), label) for _, w, label in seen]
    conditions["normal, sensor at the fan end"] = [(w, 0) for w in windows(other_sensor)]
    quality: dict[str, Any] = {}
    for name, judge in judges.items():
        table = np.zeros((3, 3), np.int64)
        groups: dict[str, list[bool]] = {}
        for group, window, label in seen:
            result = judge(window)
            table[label, result] += 1
            groups.setdefault(group, []).append(result == label)
        quality[name] = {
            "windows": len(seen),
            "accuracy": round(float(np.trace(table) / table.sum()), 4),
            "confusion": table.tolist(),
            "by_recording": {group: round(float(np.mean(right)), 4) for group, right in groups.items()},
            "by_condition": {
                condition: round(float(np.mean([judge(w) == label for w, label in cases])), 4)
                for condition, cases in conditions.items()
            },
        }
    turned = network(export(*fit(training(data, ball_load_hp=3))))
    cases = [(w, label) for group, w, label in held_out(data, ball_load_hp=3) if group == "ball, 0 hp"]
    quality["trained_at_3_hp"] = {
        "windows": len(cases),
        "ball at 0 hp": round(float(np.mean([turned(w) == label for w, label in cases])), 4),
    }
    return quality


# -- the package -------------------------------------------------------------------------------------------


def write_golden() -> None:
    """Write the golden vectors: synthetic vibration, because the recordings may not be published."""
    session = onnxruntime.InferenceSession(HERE / "model.onnx", providers=["CPUExecutionProvider"])
    folder = HERE / "golden"
    folder.mkdir(exist_ok=True)
    rng, seconds = np.random.default_rng(3), np.arange(LENGTH) / RATE_HZ
    knocks = np.convolve(seconds % (1 / 141.0) < 1 / RATE_HZ, np.exp(-np.arange(60) / 12.0), "full")[:LENGTH]
    examples = {
        "hum": np.sin(2 * np.pi * 120 * seconds) + 0.3 * np.sin(2 * np.pi * 1050 * seconds),
        "noise": rng.standard_normal(LENGTH),
        "knocks": knocks * np.sin(2 * np.pi * 3000 * seconds) + 0.02 * rng.standard_normal(LENGTH),
        "silence": np.zeros(LENGTH),
    }
    for name, signal in examples.items():
        window = signal.astype(np.float32)[:, None]
        np.savez_compressed(
            folder / f"{name}.npz", input=window, output_0=session.run(None, {"x": window[None]})[0]
        )


def write_manifest(quality: dict[str, Any]) -> None:
    manifest = {
        "name": "bearing-condition",
        "version": VERSION,
        "licence": "Apache-2.0",
        "description": "Vibration of a motor's drive-end bearing: normal, damaged ball, damaged inner race.",
        "sha256": hashlib.sha256((HERE / "model.onnx").read_bytes()).hexdigest(),
        "input": {
            "kind": "window",
            "name": "x",
            "signals": ["vibration"],
            "rate_hz": RATE_HZ,
            "length": LENGTH,
            "hop": LENGTH,
        },
        "output": {
            "decoder": "classification",
            "labels": list(LABELS),
            "softmax": True,
            "scores": True,
            "alarm": ["ball", "inner race"],
        },
        "budgets": {"p99_ms": 5, "rss_mb": 30},
        "data": {
            "source": "Case Western Reserve University Bearing Data Center: real recordings of a test rig",
            "train": "first half of normal, ball and inner race at 0 hp (1797 rpm)",
            "held_out": "last four tenths of the same, and all of ball at 3 hp (1730 rpm)",
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
    model, rule = quality["model"], quality["baseline"]
    right = [row[at] for at, row in enumerate(model["confusion"])]

    def rows(key: str) -> str:
        return "\n".join(
            f"| {name} | {share:.1%} | {rule[key][name]:.1%} |" for name, share in model[key].items()
        )

    def matrix(table: list[list[int]]) -> str:
        return "\n".join(f"| {LABELS[at]} | {' | '.join(map(str, row))} |" for at, row in enumerate(table))

    return {
        "recordings": rows("by_recording").splitlines(),
        "conditions": rows("by_condition").splitlines(),
        "confusion": matrix(model["confusion"]).splitlines(),
        "windows": model["windows"],
        "all": [round(end, 4) for end in wilson(sum(right), model["windows"])],
        "normal": [round(end, 4) for end in wilson(right[0], sum(model["confusion"][0]))],
        "few": sum(model["confusion"][0]),
    }


if __name__ == "__main__":
    main()
    print("sign the package again: edgebed model sign", HERE.name, "--key KEY")
