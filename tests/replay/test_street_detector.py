"""The shipped detector on scenes it never saw: it passes the gate and counts better than a guess."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agent.inference import gate
from agent.inference.package import load_package
from agent.inference.session import Model
from simulators.plants.scene import Scene

PACKAGE = Path(__file__).parents[2] / "models/street-detector"


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(load_package(PACKAGE))


def test_the_package_passes_the_gate(tmp_path: Path) -> None:
    report = gate.verify(load_package(PACKAGE), memory=tmp_path)
    assert report.golden >= 2


def test_it_counts_better_than_a_guess(model: Model) -> None:
    """Against the best constant there is, the median of these very pictures."""
    seen, true = [], []
    for seed in (9003, 9012, 9021, 9030):
        scene = Scene(seed)
        for index in range(0, 3000, 300):
            values = model.run_frame(scene.frame(index)).values
            seen.append([values["person"], values["car"]])
            true.append([scene.counts(index)[label] for label in ("person", "car")])
    off = np.abs(np.array(seen, float) - np.array(true)).mean(axis=0)
    guess = np.abs(np.array(true) - np.median(true, axis=0)).mean(axis=0)
    assert (off < 0.6 * guess).all(), (off, guess)


def test_boxes_lie_on_what_is_there(model: Model) -> None:
    scene, hits, total = Scene(9012), 0, 0
    for index in range(50, 2000, 150):
        boxes = model.run_frame(scene.frame(index)).boxes
        for label, x, y, w, h in scene.truth(index):
            if w * h > 1500:
                total += 1
                wanted = (x / 640, y / 480, (x + w) / 640, (y + h) / 480)
                hits += any(box.label == label and iou(corners(box.box), wanted) > 0.5 for box in boxes)
    assert total > 20
    assert hits >= 0.8 * total


def corners(box: tuple[float, ...]) -> tuple[float, ...]:
    return box[0], box[1], box[0] + box[2], box[1] + box[3]


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    inner = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return inner / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner)
