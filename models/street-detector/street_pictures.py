"""Pictures of simulated streets with their boxes, as from a camera and as varied for training."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from simulators.plants.scene import LABELS, Scene

WIDTH, HEIGHT = 320, 240  # px that the model sees


def pictures(
    seeds: range, per_scene: int
) -> Iterator[tuple[np.ndarray, list[tuple[int, float, float, float, float]]]]:
    """640x480 pictures after JPEG compression, with boxes (class, x, y, w, h) as shares."""
    for seed in seeds:
        scene, rng = Scene(seed), np.random.default_rng(seed)
        for index in rng.integers(0, 100_000, per_scene).tolist():
            quality = int(rng.integers(60, 96))
            _, jpeg = cv2.imencode(".jpg", scene.frame(index), [cv2.IMWRITE_JPEG_QUALITY, quality])
            boxes = [
                (LABELS.index(label), x / 640, y / 480, w / 640, h / 480)
                for label, x, y, w, h in scene.truth(index)
            ]
            yield cv2.imdecode(jpeg, cv2.IMREAD_COLOR), boxes


def augmented(
    picture: np.ndarray, boxes: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Mirror, zoom and shift a picture and change its light; boxes (n, 5) as class, x0, y0, x1, y1 in px."""
    zoom = rng.uniform(0.85, 1.3)
    dx, dy = (rng.uniform(min(0, side - side * zoom), max(0, side - side * zoom)) for side in (WIDTH, HEIGHT))
    flip = -1 if rng.random() < 0.5 else 1
    shift = dx if flip > 0 else WIDTH - dx
    matrix = np.array([[zoom * flip, 0, shift], [0, zoom, dy]])
    out = cv2.warpAffine(picture, matrix, (WIDTH, HEIGHT), borderValue=(114, 114, 114)).astype(np.float32)
    out = out * rng.uniform(0.75, 1.25) * rng.uniform(0.93, 1.07, 3).astype(np.float32) + rng.uniform(-12, 12)
    moved = boxes.copy()
    ends = boxes[:, [1, 3]] * zoom * flip + shift
    moved[:, 1], moved[:, 3] = np.clip(ends.min(1), 0, WIDTH), np.clip(ends.max(1), 0, WIDTH)
    moved[:, [2, 4]] = np.clip(boxes[:, [2, 4]] * zoom + dy, 0, HEIGHT)
    left = (moved[:, 3] - moved[:, 1]) * (moved[:, 4] - moved[:, 2])
    whole = (boxes[:, 3] - boxes[:, 1]) * (boxes[:, 4] - boxes[:, 2]) * zoom * zoom
    kept = left > 0.3 * whole
    return np.clip(out, 0, 255), moved[kept]
