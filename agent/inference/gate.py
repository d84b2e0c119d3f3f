"""The gate no model acts on a device without: a child process with limits loads it, runs it and measures it.

A model that crashes, hangs or eats memory does so in the child. What passed is remembered by content, so
that a restart of the agent need not wait for it again.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from agent.inference.decoders import ModelError
from agent.inference.manifest import FrameInput
from agent.inference.model_cache import CPU
from agent.inference.package import Model, Package, load_package
from agent.inference.preprocess import FrameTensor
from wire.plugins import version

WALL_S = 90.0  # for the whole child
_CPU_S = 60
_MEMORY = 4 << 30  # bytes of address space; Python, OpenCV and onnxruntime map 1.5 GB before any model
_RUNS, _MEASURE_S = 60, 0.6
_GOLDEN_FILES, _GOLDEN_BYTES = 32, 64_000_000
_TOLERANCE = 0.01  # of the largest expected number: CPUs and onnxruntime versions differ by less


class Report(Struct, kw_only=True):
    """What the gate found; `why` is empty for a model that passed."""

    why: str = ""
    provider: str = ""
    golden: int = 0  # vectors that came out as they should
    p50_ms: float = 0.0  # of a whole run, picture or window to result; on a CPU its own time, not the clock's
    p99_ms: float = 0.0
    rss_mb: float = 0.0  # that opening and running it added; onnxruntime itself not counted
    remembered: bool = False  # from an earlier time


def verify(package: Package, *, providers: Sequence[str] = CPU, memory: Path | None = None) -> Report:
    """Let the package pass the gate.

    Raises:
        ModelError: it did not, with the reason.
    """
    note = memory / f"{_key(package, providers)}.json" if memory is not None else None
    if note is not None and (report := _remembered(note)) is not None:
        return report
    report = _in_child(package.path, providers)
    if report.why:
        raise ModelError(f"{package.path}: {report.why}")
    if note is not None:
        _remember(note, report)
    return report


def inspect(package: Package, providers: Sequence[str]) -> Report:
    """What the child does: open, compare with golden vectors, measure, hold against the budgets.

    Raises:
        ModelError: with the reason.
    """
    _import_what_any_model_needs(package)
    before_mb = _rss_mb()
    model = Model(package, providers=providers)
    report = Report(provider=model.provider)
    for path in _golden_files(package.path):
        _compare(model, path)
        report.golden += 1
    budgets = package.manifest.budgets
    for _ in range(3):  # a machine that is busy with something else gets another chance
        report.p50_ms, report.p99_ms = _measure(model)
        if not budgets.p99_ms or report.p99_ms <= budgets.p99_ms:
            break
    else:
        raise ModelError(
            f"99 of 100 runs take {report.p99_ms:.1f} ms, budgets.p99_ms allows {budgets.p99_ms:g}"
        )
    report.rss_mb = round(_rss_mb() - before_mb, 1)
    if budgets.rss_mb and report.rss_mb > budgets.rss_mb:
        raise ModelError(
            f"it takes {report.rss_mb:.0f} MB of memory, budgets.rss_mb allows {budgets.rss_mb:g}"
        )
    return report


# -- the child ---------------------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> None:
    """`python -m agent.inference.gate FOLDER PROVIDER...`: one JSON report on standard output."""
    folder, *providers = arguments
    _limit()
    try:
        report = inspect(load_package(Path(folder)), providers or CPU)
    except ModelError as error:
        report = Report(why=str(error).removeprefix(f"{folder}: "))
    except MemoryError:
        report = Report(why=f"it needs more than {_MEMORY >> 30} GB of memory")
    sys.stdout.buffer.write(msgspec.json.encode(report))
    sys.stdout.flush()
    os._exit(0)  # a hostile model gets no say in how the interpreter shuts down


def _in_child(folder: Path, providers: Sequence[str]) -> Report:
    command = [sys.executable, "-P", "-m", "agent.inference.gate", str(folder.resolve()), *providers]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=WALL_S, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired:
        return Report(why=f"it gave no answer within {WALL_S:g} s")
    except OSError as error:
        return Report(why=f"the gate could not be started: {error.strerror or error}")
    if done.returncode < 0:
        word = signal.Signals(-done.returncode).name
        reason = (
            f"it used more than {_CPU_S} s of CPU"
            if word in ("SIGXCPU", "SIGKILL")
            else f"it crashed ({word})"
        )
        return Report(why=f"{reason} when it was tried")
    try:
        return msgspec.json.decode(done.stdout, type=Report)
    except msgspec.DecodeError:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit code {done.returncode}"]
        return Report(why=f"the gate failed: {said[-1][:300]}")


def _limit() -> None:
    limits = {
        resource.RLIMIT_CPU: _CPU_S,
        resource.RLIMIT_AS: _MEMORY,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 256,
    }
    for which, wanted in limits.items():
        hard = resource.getrlimit(which)[1]
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        # above the soft limit of CPU time comes SIGXCPU, which tells its reason; SIGKILL would not
        resource.setrlimit(which, (most, most + 5 if hard == resource.RLIM_INFINITY else hard))


def _import_what_any_model_needs(package: Package) -> None:
    import onnxruntime  # noqa: F401 - imported for its size alone

    if isinstance(spec := package.manifest.input, FrameInput):
        FrameTensor(spec)


def _golden_files(folder: Path) -> list[Path]:
    found = sorted((folder / "golden").glob("*.npz"))
    if len(found) > _GOLDEN_FILES:
        raise ModelError(f"golden holds {len(found)} vectors; {_GOLDEN_FILES} are allowed")
    return found


def _compare(model: Model, path: Path) -> None:
    vector = _read_golden(path)
    outputs = model.raw(vector.pop("input"))
    for at, got in enumerate(outputs):
        want = vector.pop(f"output_{at}", None)
        if want is None:
            continue
        if got.shape != want.shape:
            raise ModelError(f"golden/{path.name}: output {at} is {list(got.shape)}, not {list(want.shape)}")
        off = np.abs(got.astype(np.float64) - want.astype(np.float64))
        if not (
            off <= _TOLERANCE * max(1e-9, float(np.abs(want).max(initial=0)))
        ).all():  # so that NaN fails too
            raise ModelError(f"golden/{path.name}: output {at} is off by up to {off.max():.4g}")
    if vector:
        raise ModelError(f"golden/{path.name}: the model has no {', '.join(sorted(vector))}")


def _read_golden(path: Path) -> dict[str, NDArray[Any]]:
    import zipfile  # in the child alone: the daemon does without it

    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > _GOLDEN_BYTES:
            raise ModelError(f"golden/{path.name} unpacks to {size} bytes; {_GOLDEN_BYTES} are allowed")
        with np.load(path, allow_pickle=False) as loaded:
            found = {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(f"golden/{path.name} cannot be read: {error}") from error
    if "input" not in found:
        raise ModelError(f"golden/{path.name} holds no array named input")
    return found


def _measure(model: Model) -> tuple[float, float]:
    """Median and 99th percentile in ms of whole runs on noise; refuses outputs that are not numbers.

    On the CPU the thread's own time counts: what else the machine does is no fault of the model.
    """
    spent_s = time.thread_time if model.provider in CPU else time.perf_counter
    spec, rng = model.manifest.input, np.random.default_rng(1)
    spent: list[float] = []
    until = time.perf_counter() + _MEASURE_S
    if isinstance(spec, FrameInput):
        picture = rng.integers(0, 256, (spec.size[1], spec.size[0], 3), dtype=np.uint8)
        noise: NDArray[Any] = picture
        run: Any = model.run_frame
    else:
        noise = rng.normal(spec.mean or 0.0, spec.std or 1.0, (spec.length, len(spec.signals))).astype(
            np.float32
        )
        run = model.run_window
    if any(np.isnan(output.astype(np.float64)).any() for output in model.raw(noise)):
        raise ModelError("its outputs are not numbers (NaN) for a plain input")
    while len(spent) < _RUNS and (len(spent) < 5 or time.perf_counter() < until):
        begin = spent_s()
        run(noise)
        spent.append((spent_s() - begin) * 1e3)
    return round(float(np.percentile(spent, 50)), 3), round(float(np.percentile(spent, 99)), 3)


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


# -- what passed before ------------------------------------------------------------------------------------


def _key(package: Package, providers: Sequence[str]) -> str:
    """Changes with the model, the manifest, the golden vectors and what runs them."""
    versions = [f"{name} {version(name)}" for name in ("onnxruntime", "onnxruntime-gpu", "numpy", "edgebed")]
    digest = hashlib.sha256(
        json.dumps([package.sha256, package.manifest.hash, *versions, *providers]).encode()
    )
    for path in _golden_files(package.path):
        with suppress(OSError):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _remembered(note: Path) -> Report | None:
    try:
        report = msgspec.json.decode(note.read_bytes(), type=Report)
    except (OSError, msgspec.DecodeError):
        return None  # not there, or torn by a power cut: the gate decides anew
    report.remembered = True
    return report


def _remember(note: Path, report: Report) -> None:
    draft = note.with_suffix(f".{os.getpid()}.tmp")
    with suppress(OSError):  # a full disk costs the next start a second, no more
        note.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(msgspec.json.encode(report))
        draft.replace(note)


if __name__ == "__main__":
    main(sys.argv[1:])
