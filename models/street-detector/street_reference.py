"""Writes reference.json, which the watch of drift compares with: simulated streets.

    python street_reference.py        # some minutes

make.py runs it too. `session` gives the same of any other seed, and of pictures that were changed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from agent.inference import reference
from agent.inference.package import load_package
from agent.offline.model_reference import from_rows
from agent.pipeline.input_watch import measured
from simulators.plants.scene import Scene

HERE = Path(__file__).resolve().parent
SEEDS = range(1000, 1120)  # scenes of the training: hours, weathers, places of the camera
WINDOW_S = 30.0
LOOKS, FPS = 62, 10

Array = np.ndarray[Any, np.dtype[Any]]


def pictures(seed: int) -> list[Array]:
    """A picture of a street each second, 640x480, after JPEG compression."""
    scene, rng = Scene(seed), np.random.default_rng([seed, 79])
    begin, quality = int(rng.integers(0, 100_000)), int(rng.integers(60, 96))
    frames = (scene.frame(begin + at * FPS) for at in range(LOOKS))
    packed = (cv2.imencode(".jpg", each, [cv2.IMWRITE_JPEG_QUALITY, quality])[1] for each in frames)
    return [cv2.imdecode(each, cv2.IMREAD_COLOR) for each in packed]


def session(seed: int, change: Callable[[Array], Array] = lambda picture: picture) -> Array:
    """Brightness, contrast, sharpness, dark and bright pixels of a minute, (n, 5)."""
    return np.array([measured(change(picture)) for picture in pictures(seed)])


def main() -> None:
    made = from_rows(load_package(HERE).manifest, map(session, SEEDS), WINDOW_S)
    (HERE / reference.FILE).write_bytes(reference.written(made))
    print(f"{reference.FILE}: {len(made.features)} features, {made.windows} windows")


if __name__ == "__main__":
    main()
