"""Rebuilds this package: renders street scenes, trains a small detector on them, exports and measures it.

    python make.py                  # about 12 minutes on two cores; writes model.onnx, manifest.yaml, golden/
    python make.py --measure        # measures the existing model on the held-out scenes

street_reference.py, which it runs at the end, writes reference.json: how, is written there.
Needs edgebed[sim] in addition to the dependencies below.
"""
# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.13.0", "numpy", "onnx>=1.21", "onnxruntime>=1.28.1", "opencv-python-headless"]
# ///

from __future__ import annotations

import argparse
import hashlib
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import street_reference
from street_figures import Seen, average_precision, count_errors, hits, people, precision_interval
from street_pictures import HEIGHT, WIDTH, augmented, pictures

from edgebed.model_tools.card import write as write_card
from simulators.plants.scene import LABELS, Scene

HERE = Path(__file__).resolve().parent
STRIDE = 8
COLUMNS, ROWS = WIDTH // STRIDE, HEIGHT // STRIDE
TRAIN, TUNE, HELD_OUT = range(1000, 1250), range(3000, 3016), range(9000, 9040)  # seeds; no scene is in two
PER_SCENE, SHOWN = 14, 12  # pictures of each for training, and for tuning and measuring

# name, reads, in, out, kernel, stride, dilation, groups: "a+b" joins channels, "^a" is a at twice the size
Layer = tuple[str, str, int, int, int, int, int, int]
NET: list[Layer] = [
    ("stem", "images", 3, 16, 3, 2, 1, 1),
    ("s4", "stem", 16, 32, 3, 2, 1, 1),
    ("s4b", "s4", 32, 32, 3, 1, 1, 4),
    ("s8", "s4b", 32, 48, 3, 2, 1, 1),
    ("s8b", "s8", 48, 48, 3, 1, 1, 1),
    ("s16", "s8b", 48, 80, 3, 2, 1, 1),
    ("s16b", "s16", 80, 80, 3, 1, 1, 2),
    ("s16c", "s16b", 80, 80, 3, 1, 2, 2),
    ("s16d", "s16c", 80, 80, 3, 1, 4, 2),
    ("s16e", "s16d+s16", 160, 64, 1, 1, 1, 1),
    ("join", "^s16e+s8b", 112, 64, 1, 1, 1, 1),
    ("neck", "join", 64, 64, 3, 1, 1, 2),
    ("head", "neck", 64, 5 + len(LABELS), 1, 1, 1, 1),  # the last one has no ReLU
]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="only measure the existing model")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--scenes", type=int, default=len(TRAIN))
    options = parser.parse_args()
    if not options.measure:
        weights = train(TRAIN[: options.scenes], options.epochs)
        export(weights, HERE / "model.onnx")
        write_manifest(0.35, {})
    score = tune()
    write_manifest(score, {})
    write_golden()
    quality = measure()
    write_manifest(score, quality)
    street_reference.main()
    write_card(HERE)


# -- training ----------------------------------------------------------------------------------------------


def train(seeds: range, epochs: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Train; returns name -> (weights, bias) with the normalisation folded in."""
    import torch

    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    stored, truths = _dataset(seeds)
    net = _module()
    weights = sum(p.numel() for p in net.parameters())
    print(f"{len(stored)} pictures, {weights} weights", flush=True)
    batch = 16
    steps = len(stored) // batch
    decay = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-3)
    plan = torch.optim.lr_scheduler.OneCycleLR(decay, 4e-3, total_steps=steps * epochs + 1, pct_start=0.15)
    net.train()
    for epoch in range(epochs):
        total = 0.0
        order = rng.permutation(len(stored))
        for step in range(steps):
            made = [augmented(stored[at], truths[at], rng) for at in order[step * batch : (step + 1) * batch]]
            images = torch.from_numpy(np.stack([p for p, _ in made]).transpose(0, 3, 1, 2) / np.float32(255))
            out = net(images.contiguous(memory_format=torch.channels_last))
            loss = _loss(out, [boxes for _, boxes in made])
            decay.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            decay.step()
            plan.step()
            total += float(loss.detach())
        print(f"epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}", flush=True)
    net.eval()
    return {name: net.folded(name) for name, *_ in NET}


def _dataset(seeds: range) -> tuple[np.ndarray, list[np.ndarray]]:
    """Pictures in the size of the model, in a file to save memory, and boxes in px."""
    folder = Path(tempfile.mkdtemp(prefix="street-"))
    shape = (len(seeds) * PER_SCENE, HEIGHT, WIDTH, 3)
    stored: Any = np.lib.format.open_memmap(folder / "pictures.npy", mode="w+", dtype=np.uint8, shape=shape)
    truths = []
    for at, (picture, boxes) in enumerate(pictures(seeds, PER_SCENE)):
        stored[at] = cv2.resize(picture, (WIDTH, HEIGHT))
        rows = [(c, x * WIDTH, y * HEIGHT, (x + w) * WIDTH, (y + h) * HEIGHT) for c, x, y, w, h in boxes]
        truths.append(np.array(rows, np.float32).reshape(-1, 5))
    return stored, truths


def _module() -> Any:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, _, cin, cout, kernel, stride, dilation, groups in NET:
                pad = dilation * (kernel // 2)
                last = name == NET[-1][0]
                setattr(self, name, nn.Conv2d(cin, cout, kernel, stride, pad, dilation, groups, bias=last))
                if not last:
                    setattr(self, name + "_norm", nn.BatchNorm2d(cout))
            with torch.no_grad():
                self.head.bias[0] = -4.0  # few cells contain an object: start with a low objectness

        def forward(self, images: Any) -> Any:
            have = {"images": images}
            for name, reads, *_ in NET:
                parts = [
                    nn.functional.interpolate(have[part[1:]], scale_factor=2)
                    if part[0] == "^"
                    else have[part]
                    for part in reads.split("+")
                ]
                x = getattr(self, name)(torch.cat(parts, 1) if len(parts) > 1 else parts[0])
                last = name == NET[-1][0]
                have[name] = x if last else torch.relu(getattr(self, name + "_norm")(x))
            return have[NET[-1][0]]

        def folded(self, name: str) -> tuple[np.ndarray, np.ndarray]:
            conv = getattr(self, name)
            weight = conv.weight.detach()
            if name == NET[-1][0]:
                return weight.numpy(), conv.bias.detach().numpy()
            norm = getattr(self, name + "_norm")
            gain = norm.weight.detach() / torch.sqrt(norm.running_var + norm.eps)
            bias = norm.bias.detach() - norm.running_mean * gain
            return (weight * gain[:, None, None, None]).numpy(), bias.numpy()

    return Net().to(memory_format=torch.channels_last)


def _loss(out: Any, truths: list[np.ndarray]) -> Any:
    """The loss: objectness by the overlap of its box, boxes by generalised IoU, classes by cross entropy."""
    import torch
    from torch.nn import functional

    cells = _assign(truths)
    at = torch.from_numpy(cells[:, :3].astype(np.int64))
    picked = out[at[:, 0], :, at[:, 1], at[:, 2]]
    x = (torch.tanh(picked[:, 1]) + at[:, 2]) * STRIDE
    y = (torch.tanh(picked[:, 2]) + at[:, 1]) * STRIDE
    w, h = torch.sigmoid(picked[:, 3]) * WIDTH, torch.sigmoid(picked[:, 4]) * HEIGHT
    wanted = torch.from_numpy(cells[:, 4:])
    overlap, generalised = _overlap(torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1), wanted)
    target = torch.zeros_like(out[:, 0])
    target[at[:, 0], at[:, 1], at[:, 2]] = overlap.detach().clamp(0, 1)
    found = torch.sigmoid(out[:, 0])
    focus = (found - target).abs() ** 2
    seen = (focus * functional.binary_cross_entropy_with_logits(out[:, 0], target, reduction="none")).sum()
    count = max(1, len(cells))
    named = functional.cross_entropy(
        picked[:, 5:], torch.from_numpy(cells[:, 3].astype(np.int64)), reduction="sum"
    )
    return (4.0 * seen + 2.0 * (1 - generalised).sum() + 0.5 * named) / count


def _assign(truths: list[np.ndarray]) -> np.ndarray:
    """Rows (picture, row, column, class, x0, y0, x1, y1): up to four cells whose tanh can reach a centre."""
    rows: dict[tuple[int, int, int], tuple[float, ...]] = {}
    for picture, boxes in enumerate(truths):
        # large boxes first, so that a small object in front keeps its cells
        for cls, x0, y0, x1, y1 in sorted(boxes.tolist(), key=lambda b: (b[1] - b[3]) * (b[4] - b[2])):
            column, row = (x0 + x1) / 2 / STRIDE, (y0 + y1) / 2 / STRIDE
            for r in (int(row), int(row) + 1):
                for c in (int(column), int(column) + 1):
                    if r < ROWS and c < COLUMNS and abs(row - r) < 0.97 and abs(column - c) < 0.97:
                        rows[picture, r, c] = (cls, x0, y0, x1, y1)
    return np.array([(*cell, *box) for cell, box in rows.items()], np.float32).reshape(-1, 8)


def _overlap(a: Any, b: Any) -> tuple[Any, Any]:
    import torch

    inner = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    outer = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - inner
    iou = inner / (union + 1e-6)
    return iou, iou - (outer - union) / (outer + 1e-6)


# -- export ------------------------------------------------------------------------------------------------


def export(weights: dict[str, tuple[np.ndarray, np.ndarray]], path: Path) -> None:
    """Write the network as ONNX, with sigmoid on objectness and softmax on classes, as the head expects."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, tensors = [], [numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "twice")]
    for name, reads, _, _, kernel, stride, dilation, groups in NET:
        parts = []
        for part in reads.split("+"):
            parts.append(part if part[0] != "^" else f"{part[1:]}_up")
            if part[0] == "^":
                nearest = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
                nodes.append(helper.make_node("Resize", [part[1:], "", "twice"], parts[-1:], **nearest))
        source = parts[0]
        if len(parts) > 1:
            source = f"{name}_in"
            nodes.append(helper.make_node("Concat", parts, [source], axis=1))
        weight, bias = weights[name]
        tensors += [numpy_helper.from_array(weight, f"{name}_w"), numpy_helper.from_array(bias, f"{name}_b")]
        last = name == NET[-1][0]
        out = "logits" if last else f"{name}_c"
        shape = {
            "kernel_shape": [kernel] * 2,
            "strides": [stride] * 2,
            "pads": [dilation * (kernel // 2)] * 4,
            "dilations": [dilation] * 2,
            "group": groups,
        }
        nodes.append(helper.make_node("Conv", [source, f"{name}_w", f"{name}_b"], [out], **shape))
        if not last:
            nodes.append(helper.make_node("Relu", [out], [name]))
    classes = len(LABELS)
    tensors.append(numpy_helper.from_array(np.array([1, 4, classes], np.int64), "widths"))
    nodes += [
        helper.make_node("Split", ["logits", "widths"], ["l_obj", "reg", "l_cls"], axis=1),
        helper.make_node("Sigmoid", ["l_obj"], ["obj"]),
        helper.make_node("Softmax", ["l_cls"], ["cls"], axis=1),
        helper.make_node("Concat", ["obj", "reg", "cls"], ["map"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "street-detector",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, HEIGHT, WIDTH])],
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, [1, 5 + classes, ROWS, COLUMNS])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    print(f"{path.name}: {path.stat().st_size} bytes", flush=True)


# -- the package -------------------------------------------------------------------------------------------

MANIFEST = """\
name: street-detector
version: 1.0.0
licence: Apache-2.0
description: People, cars and buses in the simulated street scene; trained on rendered pictures only.
file: model.onnx
sha256: {sha256}
input:
  kind: frame
  name: images
  size: [{width}, {height}]
  colour: bgr
  scale: 255
  fit: stretch
output:
  decoder: detection
  head: fastestdet
  labels: [{labels}]
  score: {score}
  iou: 0.5
  max_boxes: 60
  count: [{labels}]
budgets: {{p99_ms: 40, rss_mb: 40}}
data:
  synthetic: true
  source: simulators/plants/scene.py by make.py, JPEG quality 60 to 95, 640x480 scaled to {width}x{height}
  train: scenes of seeds {train}, {per_scene} pictures each
  tune: scenes of seeds {tune}, for the score threshold
  held_out: scenes of seeds {held_out}, for the figures below
"""


def write_manifest(score: float, quality: dict[str, Any], folder: Path = HERE) -> None:
    text = MANIFEST.format(
        sha256=hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest(),
        width=WIDTH,
        height=HEIGHT,
        labels=", ".join(LABELS),
        score=score,
        train=f"{TRAIN[0]} to {TRAIN[-1]}",
        tune=f"{TUNE[0]} to {TUNE[-1]}",
        held_out=f"{HELD_OUT[0]} to {HELD_OUT[-1]}",
        per_scene=PER_SCENE,
    )
    lines = [f"  {key}: {value}" for key, value in quality.items()]
    text += "\n".join(["quality:", *lines, ""]) if lines else ""
    (folder / "manifest.yaml").write_text(text + texts())


def texts() -> str:
    """The card in the manifest, which people write."""
    before = (HERE / "manifest.yaml").read_text()
    return before[before.index("card:\n  intended_use") :]


def write_golden() -> None:
    """Write two small pictures and the output of the model; the gate compares them on every new device."""
    from agent.inference.package import load_package
    from agent.inference.session import Model

    (HERE / "golden").mkdir(exist_ok=True)
    model = Model(load_package(HERE))
    for name, seed, index in (("day", 9012, 130), ("night", 9006, 130)):
        picture = Scene(seed, WIDTH, HEIGHT).frame(index)
        np.savez_compressed(HERE / "golden" / f"{name}.npz", input=picture, output_0=model.raw(picture)[0])


# -- figures -----------------------------------------------------------------------------------------------


def tune() -> float:
    """The score threshold with the smallest error of counts on the tuning scenes."""
    seen = _detect(TUNE, SHOWN)
    errors = {score / 100: sum(count_errors(seen, score / 100)) for score in range(20, 61, 5)}
    best = min(errors, key=lambda score: errors[score])
    print("tuned:", {score: round(error, 3) for score, error in errors.items()}, "->", best, flush=True)
    return best


def measure() -> dict[str, Any]:
    """The figures on the held-out scenes, through the preprocessing and decoder of the agent."""
    from agent.inference.package import load_package

    score = load_package(HERE).manifest.output.score
    seen = _detect(HELD_OUT, SHOWN)
    by_class = [[hits(picture, cls) for picture in seen] for cls in range(len(LABELS))]
    precision = [average_precision(each) for each in by_class]
    errors = count_errors(seen, score)
    counts = np.array(
        [[sum(box[0] == cls for box in truth) for cls in range(len(LABELS))] for _, truth in seen]
    )
    usual = np.median(_training_counts(), axis=0)
    baseline = np.abs(counts - usual).mean(axis=0)
    found: dict[str, Any] = {"pictures": len(seen), "map50": round(float(np.mean(precision)), 3)}
    found["map50_95"] = precision_interval(by_class, len(HELD_OUT))
    found |= people(seen, score)
    found |= {f"ap50_{label}": round(precision[cls], 3) for cls, label in enumerate(LABELS)}
    found |= {f"count_mae_{label}": round(errors[cls], 3) for cls, label in enumerate(LABELS)}
    found |= {f"baseline_mae_{label}": round(float(baseline[cls]), 3) for cls, label in enumerate(LABELS)}
    found["baseline"] = "always the median count of the training scenes"
    for key, value in found.items():
        print(f"{key}: {value}", flush=True)
    return found


def _detect(seeds: range, per_scene: int) -> list[Seen]:
    """Detections down to a score of 0.05, with the truth."""
    import shutil

    from agent.inference.package import load_package
    from agent.inference.session import Model

    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(HERE / "model.onnx", folder)
        write_manifest(0.05, {}, Path(folder))
        model = Model(load_package(Path(folder)))
    seen = []
    for picture, truth in pictures(seeds, per_scene):
        boxes = [(box.cls, box.score, box.box) for box in model.run_frame(picture).boxes]
        seen.append((boxes, truth))
    return seen


def _training_counts() -> np.ndarray:
    counts = []
    for seed in TRAIN[:60]:
        scene = Scene(seed, 64, 64)
        picked = np.random.default_rng(seed).integers(0, 100_000, 4).tolist()
        counts += [[Scene.counts(scene, index)[label] for label in LABELS] for index in picked]
    return np.array(counts)


if __name__ == "__main__":
    main()
    print("sign the package again: edgebed model sign", HERE.name, "--key KEY")
