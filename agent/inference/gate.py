"""The gate that every model must pass: a child process with limits loads it, runs it and measures it.

A model that crashes, hangs or takes too much memory does so in the child. The reports of models that passed
are kept by content, so that a restart of the agent does not wait for the gate again.
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
from agent.inference.package import Package, load_package
from agent.inference.preprocess import FrameTensor
from agent.inference.session import CPU, Model
from wire.plugins import version
from wire.reasons import Reason, because

WALL_S = 90.0  # for the whole child
_CPU_S = 60
_MEMORY = 4 << 30  # bytes of address space; Python, OpenCV and onnxruntime map 1.5 GB before any model
_RUNS, _MEASURE_S = 60, 0.6
_GOLDEN_FILES, _GOLDEN_BYTES = 32, 64_000_000
_TOLERANCE = 0.01  # of the largest expected number: CPUs and onnxruntime versions differ by less


class GateReport(Struct, kw_only=True):
    """The result of the gate; `why` is empty for a model that passed."""

    why: str = ""
    code: str = ""
    args: dict[str, Any] = {}
    provider: str = ""
    golden: int = 0  # vectors whose outputs are as expected
    p50_ms: float = 0.0  # of a whole run, picture or window to result; on a CPU the thread's own time
    p99_ms: float = 0.0
    rss_mb: float = 0.0  # that opening and running it added, without onnxruntime itself
    remembered: bool = False  # from an earlier start


def verify(package: Package, *, providers: Sequence[str] = CPU, memory: Path | None = None) -> GateReport:
    """Run the gate for the package, or return the report of an earlier run.

    Raises:
        ModelError: the package did not pass, with the reason.
    """
    saved = memory / f"{_key(package, providers)}.json" if memory is not None else None
    if saved is not None and (report := _remembered(saved)) is not None:
        return report
    report = _in_child(package.path, providers)
    if report.why:
        raise ModelError(f"{package.path}: {report.why}").coded(report.code, **report.args)
    if saved is not None:
        _remember(saved, report)
    return report


def inspect(package: Package, providers: Sequence[str]) -> GateReport:
    """Open the package, compare golden vectors, measure, and check the budgets; the child runs this.

    Raises:
        ModelError: with the reason.
    """
    _import_shared(package)
    before_mb = _rss_mb()
    model = Model(package, providers=providers)
    report = GateReport(provider=model.provider)
    for path in _golden_files(package.path):
        _compare(model, path)
        report.golden += 1
    budgets = package.manifest.budgets
    for _ in range(3):  # other work on the machine can spoil a measurement
        report.p50_ms, report.p99_ms = _measure(model)
        if not budgets.p99_ms or report.p99_ms <= budgets.p99_ms:
            break
    else:
        raise ModelError(
            f"99 of 100 runs take {report.p99_ms:.1f} ms, budgets.p99_ms allows {budgets.p99_ms:g}"
        ).coded("model-too-slow", p99_ms=report.p99_ms, budget_ms=budgets.p99_ms)
    report.rss_mb = round(_rss_mb() - before_mb, 1)
    if budgets.rss_mb and report.rss_mb > budgets.rss_mb:
        raise ModelError(
            f"it takes {report.rss_mb:.0f} MB of memory, budgets.rss_mb allows {budgets.rss_mb:g}"
        ).coded("model-too-large", rss_mb=report.rss_mb, budget_mb=budgets.rss_mb)
    return report


# -- the child ---------------------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> None:
    """`python -m agent.inference.gate FOLDER PROVIDER...`: one JSON report on standard output."""
    folder, *providers = arguments
    _limit()
    try:
        report = inspect(load_package(Path(folder)), providers or CPU)
    except ModelError as error:
        report = _refused(
            Reason(str(error).removeprefix(f"{folder}: "), error.reason_code, error.reason_args)
        )
    except MemoryError:
        report = _refused(
            because(
                f"it needs more than {_MEMORY >> 30} GB of memory", "model-memory-limit", gb=_MEMORY >> 30
            )
        )
    sys.stdout.buffer.write(msgspec.json.encode(report))
    sys.stdout.flush()
    os._exit(0)  # skips the shutdown of the interpreter, where a hostile model could still act


def _in_child(folder: Path, providers: Sequence[str]) -> GateReport:
    command = [sys.executable, "-P", "-m", "agent.inference.gate", str(folder.resolve()), *providers]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=WALL_S, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired:
        return _refused(
            because(f"it gave no answer within {WALL_S:g} s", "model-gate-timeout", seconds=WALL_S)
        )
    except OSError as error:
        return _refused(because(f"the gate could not be started: {error.strerror or error}", "model-refused"))
    if done.returncode < 0:
        word = signal.Signals(-done.returncode).name
        if word in ("SIGXCPU", "SIGKILL"):
            why = f"it used more than {_CPU_S} s of CPU when the gate ran it"
            return _refused(because(why, "model-gate-timeout", seconds=_CPU_S))
        return _refused(because(f"it crashed ({word}) when the gate ran it", "model-crashed", signal=word))
    try:
        return msgspec.json.decode(done.stdout, type=GateReport)
    except msgspec.DecodeError:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        why = f"the gate failed: {lines[-1][:300] if lines else f'exit code {done.returncode}'}"
        return _refused(because(why, "model-refused"))


def _refused(reason: Reason) -> GateReport:
    return GateReport(why=reason.why, code=reason.code, args=dict(reason.args))


def _limit() -> None:
    limits = {
        resource.RLIMIT_CPU: _CPU_S,
        resource.RLIMIT_AS: _MEMORY,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 256,
    }
    for which, limit in limits.items():
        hard = resource.getrlimit(which)[1]
        soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        # the soft limit of CPU time sends SIGXCPU, which shows the reason; the hard one sends SIGKILL
        resource.setrlimit(which, (soft, soft + 5 if hard == resource.RLIM_INFINITY else hard))


def _import_shared(package: Package) -> None:
    """Import what every model needs, so that `rss_mb` does not count it."""
    import onnxruntime  # noqa: F401

    if isinstance(spec := package.manifest.input, FrameInput):
        FrameTensor(spec)


def _golden_files(folder: Path) -> list[Path]:
    found = sorted((folder / "golden").glob("*.npz"))
    if len(found) > _GOLDEN_FILES:
        raise ModelError(f"golden has {len(found)} vectors; {_GOLDEN_FILES} are allowed")
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
        limit = _TOLERANCE * max(1e-9, float(np.abs(want).max(initial=0)))
        if not (off <= limit).all():  # written so that NaN fails too
            raise ModelError(f"golden/{path.name}: output {at} is off by up to {off.max():.4g}")
    if vector:
        raise ModelError(f"golden/{path.name}: the model has no {', '.join(sorted(vector))}")


def _read_golden(path: Path) -> dict[str, NDArray[Any]]:
    import zipfile  # only the child needs it

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
        raise ModelError(f"golden/{path.name} has no array named input")
    return found


def _measure(model: Model) -> tuple[float, float]:
    """Median and 99th percentile in ms of whole runs on noise; refuses outputs that are not numbers.

    On the CPU the thread's own time counts, so that other work on the machine does not.
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
        raise ModelError("its outputs are not numbers (NaN) for a plain input").coded("model-output-nan")
    while len(spent) < _RUNS and (len(spent) < 5 or time.perf_counter() < until):
        begin = spent_s()
        run(noise)
        spent.append((spent_s() - begin) * 1e3)
    return round(float(np.percentile(spent, 50)), 3), round(float(np.percentile(spent, 99)), 3)


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


# -- reports of models that passed ------------------------------------------------------------------------


def _key(package: Package, providers: Sequence[str]) -> str:
    """A key of the model, the manifest, the golden vectors and the versions that run them."""
    versions = [f"{name} {version(name)}" for name in ("onnxruntime", "onnxruntime-gpu", "numpy", "edgebed")]
    sha256 = hashlib.sha256(
        json.dumps([package.sha256, package.manifest.hash, *versions, *providers]).encode()
    )
    for path in _golden_files(package.path):
        with suppress(OSError):
            sha256.update(path.read_bytes())
    return sha256.hexdigest()


def _remembered(saved: Path) -> GateReport | None:
    try:
        report = msgspec.json.decode(saved.read_bytes(), type=GateReport)
    except (OSError, msgspec.DecodeError):
        return None  # not there, or damaged by a power cut: the gate runs again
    report.remembered = True
    return report


def _remember(saved: Path, report: GateReport) -> None:
    draft = saved.with_suffix(f".{os.getpid()}.tmp")
    with suppress(OSError):  # with a full disk the next start runs the gate again
        saved.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(msgspec.json.encode(report))
        draft.replace(saved)


if __name__ == "__main__":
    main(sys.argv[1:])
