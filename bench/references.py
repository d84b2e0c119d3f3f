"""How often the references of the shipped packages alarm on fresh machines, and which faults they find.

    python -m bench.references [--fresh 40] [--recordings FOLDER]

Prints the tables of bench/results.md. Fresh seeds are other robots, streets, patients and scenes than those
of the references. FOLDER has recordings of real cameras (*.avi, *.mp4) and pictures (*.jpg) below it.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from agent.inference.inputs import WindowInput
from agent.inference.package import load_package
from agent.inference.reference import PICTURE, Reference, make
from agent.offline.model_reference import by_second
from agent.pipeline.input_watch import InputWatch, measured
from agent.pipeline.windows import Window
from simulators.faults.fault import Fault
from wire.clock import NS_PER_S
from wire.messages import Quality
from wire.shipped import folder

FRESH = 200_000  # the first seed
FAULTY = 10  # machines for each fault
Rows = NDArray[Any]
Change = Callable[[Rows], Rows]


def _column(at: int, change: Change) -> Change:
    def changed(rows: Rows) -> Rows:
        rows = rows.copy()
        rows[:, at] = change(rows[:, at])
        return rows

    return changed


def _faults(*words: str) -> dict[str, Sequence[Fault]]:
    found: dict[str, Sequence[Fault]] = {}
    for word in words:
        kind, part, size = word.split(":")
        found[f"{kind} {part} x{size}"] = [Fault(kind, part, 0, 1e9, float(size))]
    return found


SIGNALS: dict[str, tuple[dict[str, Sequence[Fault]], dict[str, Change]]] = {
    "joint-anomaly": (
        _faults("friction:2:0.5", "friction:2:1", "backlash:2:0.5", "backlash:2:1", "spike:2:0.5")
        | _faults("stuck-sensor:2:1"),
        {
            "torque 2 x 1.5": _column(5, lambda values: values * 1.5),
            "position 2 + 2 deg": _column(3, lambda values: values + 2),
            "position 2 in radians": _column(3, np.radians),
        },
    ),
    "pm25-nowcast": (
        _faults("plume::1", "dust::1", "drift::1", "stuck:pm2_5:1", "stuck:temperature:1"),
        {
            "PM2.5 in mg/m3": _column(1, lambda values: values / 1_000),
            "temperature in degF": _column(3, lambda values: values * 1.8 + 32),
            "humidity 0 to 1": _column(4, lambda values: values / 100),
        },
    ),
    "ecg-rhythm": (
        _faults("noise::0.3", "noise::1"),
        {
            "in uV": lambda rows: rows * 1_000,
            "in V": lambda rows: rows / 1_000,
            "a constant": lambda rows: rows * 0,
            "1 mV more": lambda rows: rows + 1,
        },
    ),
}  # fmt: skip
PICTURES: dict[str, Change] = {
    "none": lambda picture: picture,
    "blurred, sigma 1": lambda picture: cv2.GaussianBlur(picture, (0, 0), 1),
    "blurred, sigma 3": lambda picture: cv2.GaussianBlur(picture, (0, 0), 3),
    "a 16th of the light": lambda picture: picture // 16,
    "over-exposed": lambda picture: cv2.convertScaleAbs(picture, alpha=4, beta=60),
    "one grey": lambda picture: np.full_like(picture, 128),
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fresh", type=int, default=40, help="machines without a fault, for each package")
    parser.add_argument("--recordings", type=Path, help="a folder with recordings and pictures of cameras")
    chosen = parser.parse_args()
    fresh = range(FRESH, FRESH + chosen.fresh)
    print(
        "| package | change | machines with an alarm | of windows or looks | reasons |\n|---|---|---|---|---|"
    )
    for name, (faults, changes) in SIGNALS.items():
        _signals(name, faults, changes, fresh)
    _scenes(fresh)
    if chosen.recordings is not None:
        print("\n| recording | change | in alarm | reasons |\n|---|---|---|---|")
        for path in sorted(chosen.recordings.rglob("*.*")):
            _recording(path)


def _signals(
    name: str, faults: dict[str, Sequence[Fault]], changes: dict[str, Change], fresh: Iterable[int]
) -> None:
    module, found, spec = _opened(name)
    assert isinstance(spec, WindowInput)

    def judged(rows: Rows) -> list[str]:
        watch, codes, end = InputWatch(found, spec.signals, Counter()), [], 0
        for at_ns, piece in by_second(rows, spec.rate_hz):
            end += len(piece)
            watch.window(at_ns, Window(piece, Quality.GOOD, end))
            codes.append(watch.reason.code)
        return codes

    _row(name, "none", [judged(module.session(seed)) for seed in fresh])
    few = range(FRESH, FRESH + FAULTY)
    for label, fault in faults.items():
        _row(name, label, [judged(module.session(seed, fault)) for seed in few])
    for label, change in changes.items():
        _row(name, label, [judged(change(module.session(seed))) for seed in few])


def _scenes(fresh: Iterable[int]) -> None:
    module, found, _ = _opened("street-detector")
    scenes = {seed: module.pictures(seed) for seed in fresh}
    for label, change in PICTURES.items():
        _row("street-detector", label, [_looks(found, map(change, each)) for each in scenes.values()])
    still = [_looks(found, [each[0]] * len(each)) for each in scenes.values()]
    _row("street-detector", "the same picture", still)


def _looks(found: Reference | None, pictures: Iterable[Rows]) -> list[str]:
    watch, codes = InputWatch(found, PICTURE, Counter()), []
    for at, picture in enumerate(pictures):
        watch.picture(at * NS_PER_S, picture)
        codes.append(watch.reason.code)
    return codes


def _recording(path: Path) -> None:
    """Ten looks at a picture; of a recording every second picture, with a reference of its first half."""
    found = None
    if path.suffix == ".jpg" and (picture := cv2.imread(str(path))) is not None:
        pictures: list[Any] = [picture] * 10
    elif path.suffix in (".avi", ".mp4"):
        video = cv2.VideoCapture(str(path))
        half = int(video.get(cv2.CAP_PROP_FRAME_COUNT)) // 2
        seen = [measured(each)[None, :] for each in _every_second(video, half)]
        found = make(PICTURE, 10, [[(at * NS_PER_S, each) for at, each in enumerate(seen)]])
        pictures = list(_every_second(video, half))
    else:
        return
    for label, change in PICTURES.items():
        codes = _looks(found, map(change, pictures))
        print(f"| {path.name} | {label} | {sum(map(bool, codes))} of {len(codes)} | {_reasons([codes])} |")


def _every_second(video: cv2.VideoCapture, most: int) -> Iterator[Any]:
    for at in range(most):
        if video.grab() and at % 2 == 0:
            yield video.retrieve()[1]


def _opened(name: str) -> tuple[ModuleType, Reference, Any]:
    """The program that made the reference of a package, the reference, and the input."""
    package = load_package(folder("models") / name)
    found = package.manifest.reference
    assert found is not None
    path = next(package.path.glob("*_reference.py"))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(package.path))
    spec.loader.exec_module(module)
    return module, found, package.manifest.input


def _reasons(every: list[list[str]]) -> str:
    return ", ".join(sorted({code for codes in every for code in codes if code}))


def _row(name: str, label: str, every: list[list[str]]) -> None:
    alarms = sum(any(codes) for codes in every)
    share = np.mean([bool(code) for codes in every for code in codes])
    print(f"| {name} | {label} | {alarms} of {len(every)} | {share:.1%} | {_reasons(every)} |", flush=True)


if __name__ == "__main__":
    main()
