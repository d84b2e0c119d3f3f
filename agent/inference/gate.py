"""The gate that every model must pass: a child process with limits loads it, runs it and measures it.

A model that crashes, hangs or takes too much memory does so in the child. The reports of models are kept
until the package changes, so that a restart of the agent does not wait for the gate again.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from agent.inference import (
    decoders,
    execution_providers,
    gate_process,
    golden,
    manifest,
    package_files,
    remembered,
)
from agent.inference.decoders import ModelError, Result
from agent.inference.execution_providers import CPU
from agent.inference.inputs import FrameInput
from agent.inference.package import Package, load_package
from agent.inference.preprocess import FrameTensor
from agent.inference.session import Model, Scanned
from agent.inference.signing import signature_check
from agent.inference.signing.trust import Trust
from agent.process_children import private_mb
from wire.plugins import version
from wire.printable import printable
from wire.reasons import MAX_ARGS, Reason, because

WALL_S = 90.0  # for the whole child
_RUNS, _MEASURE_S = 60, 0.6
_LONGEST_WHY, _LONGEST_LINE = 20, 400  # lines of a reason, characters of a line
NOBODY = Trust()
# reasons that can end without a change of the package
_MACHINE = frozenset({"provider-missing", "provider-unused"})


class GateReport(Struct, kw_only=True):
    """The result of the gate; `why` is empty for a model that passed."""

    why: str = ""
    code: str = ""
    args: dict[str, Any] = {}
    provider: str = ""
    share: float = 1.0  # of the nodes of the model, which run on the provider
    golden: int = 0  # vectors whose outputs are as expected
    p50_ms: float = 0.0  # of a whole run, picture or window to result; on a CPU the thread's own time
    p99_ms: float = 0.0
    rss_mb: float = 0.0  # private memory that opening and running it added, without onnxruntime itself
    remembered: bool = False  # from an earlier start
    signed_by: str = ""  # the trusted key that signed the package; the child does not decide this
    scanned: Scanned = Scanned()


def verify(
    package: Package,
    *,
    providers: Sequence[str] = CPU,
    memory: Path | None = None,
    stopping: threading.Event | None = None,
    trust: Trust = NOBODY,
) -> GateReport:
    """Run the gate for the package, or return the report of an earlier run; `stopping` ends it.

    Raises:
        ModelError: the package did not pass, now or earlier, with the reason.
    """
    stopping = stopping or threading.Event()
    signed = signature_check.check(package, trust, memory=memory, stopping=stopping)
    key = _key(package, providers)
    saved = _saved(key, memory)
    report = remembered.read(saved, GateReport) if saved is not None else None
    if report is not None:
        report.remembered = True
    else:
        report, lasting = _in_child(package, providers, stopping, signed.files)
        lasting = lasting and report.code not in _MACHINE and key == _key(package, providers)
        if saved is not None and lasting:  # else the package may have changed while the gate ran
            remembered.write(saved, report)
    if report.why:
        raise ModelError(f"{package.path}: {report.why}").coded(report.code, **report.args)
    report.signed_by = signed.by
    return report


def refusal(package: Package, providers: Sequence[str], memory: Path | None) -> Callable[[Reason], None]:
    """A function that keeps why the package, as it is now, must not run again until it changes."""
    saved = _saved(_key(package, providers), memory)

    def refuse(why: Reason) -> None:
        if saved is not None:
            remembered.write(saved, _refused(why))

    return refuse


def inspect(
    package: Package, providers: Sequence[str], signed: Mapping[str, str] | None = None
) -> GateReport:
    """Open the package, compare golden vectors, measure, and check the budgets; the child runs this.

    `signed` has the sha256 of each golden vector of a package with a signature.

    Raises:
        ModelError: with the reason.
    """
    import_shared(package)
    before_mb = private_mb(os.getpid())
    vectors = golden.names(package.path)
    model = Model(package, providers=providers)
    report = GateReport(provider=model.provider, share=model.share, scanned=model.scanned)
    for name in vectors:
        golden.compare(package.path, name, partial(_plausible, model), (signed or {}).get(name, ""))
        report.golden += 1
    noise = noise_of(model)
    _require_plausible(model, noise)
    budgets = package.manifest.budgets
    for _ in range(3):  # other work on the machine can spoil a measurement
        report.p50_ms, report.p99_ms = _measure(model, noise)
        if not budgets.p99_ms or report.p99_ms <= budgets.p99_ms:
            break
    else:
        raise ModelError(
            f"99 of 100 runs take {report.p99_ms:.1f} ms, budgets.p99_ms allows {budgets.p99_ms:g}"
        ).coded("model-too-slow", p99_ms=report.p99_ms, budget_ms=budgets.p99_ms)
    report.rss_mb = round(private_mb(os.getpid()) - before_mb, 1)
    if budgets.rss_mb and report.rss_mb > budgets.rss_mb:
        raise ModelError(
            f"it takes {report.rss_mb:.0f} MB of memory, budgets.rss_mb allows {budgets.rss_mb:g}"
        ).coded("model-too-large", rss_mb=report.rss_mb, budget_mb=budgets.rss_mb)
    return report


# -- the child ---------------------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> None:
    """`python -m agent.inference.gate ... FOLDER HASH SIGNED PROVIDER...`, as `gate_process.run` starts it.

    HASH is that of the manifest, SIGNED the name and sha256 of golden vectors as JSON.
    """
    gate_process.answer(arguments, _report, lambda reason: msgspec.json.encode(_refused(reason)))


def _report(arguments: Sequence[str]) -> bytes:
    folder, expected, signed, *providers = arguments
    try:
        package = load_package(Path(folder))
        if package.manifest.hash != expected:
            raise ModelError("the manifest changed while the gate ran: restart the agent")
        return msgspec.json.encode(
            inspect(package, providers or CPU, msgspec.json.decode(signed, type=dict[str, str]))
        )
    except ModelError as error:
        why = str(error).removeprefix(folder).removeprefix("/").removeprefix(": ")
        raise ModelError(why).coded(error.reason_code, **error.reason_args) from error


def _in_child(
    package: Package, providers: Sequence[str], stopping: threading.Event, signed: Mapping[str, str]
) -> tuple[GateReport, bool]:
    """The child's report, and whether another run would give the same."""
    vectors = {name: digest for name, digest in signed.items() if name.startswith(f"{golden.FOLDER}/")}
    texts = [package.manifest.hash, msgspec.json.encode(vectors).decode()]
    arguments = [str(package.path.resolve()), *texts, *providers]
    done = gate_process.run(arguments, WALL_S, stopping)
    if done.failure is not None:
        return _refused(done.failure), done.lasting
    try:
        report = msgspec.json.decode(done.report, type=GateReport)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        why = f"the gate failed: its report cannot be read: {printable(error)}"
        return _refused(because(why, "model-refused")), True
    return _harmless(report), True


def _harmless(report: GateReport) -> GateReport:
    """The report with every text shown safely: it comes from a process that a model may have taken over."""
    lines = report.why.splitlines()[:_LONGEST_WHY]
    report.why = "\n".join(printable(line, _LONGEST_LINE) for line in lines)
    report.code, report.provider = printable(report.code, 48), printable(report.provider, 64)
    report.signed_by = ""
    report.args = {
        printable(name, 48): printable(value) if isinstance(value, str) else value
        for name, value in list(report.args.items())[:MAX_ARGS]
        if isinstance(value, str | int | float)
    }
    return report


def _refused(reason: Reason) -> GateReport:
    return GateReport(why=reason.why or "it is refused", code=reason.code, args=dict(reason.args))


def import_shared(package: Package) -> None:
    """Import what every model needs, so that `rss_mb` does not count it."""
    import onnxruntime  # noqa: F401

    if isinstance(spec := package.manifest.input, FrameInput):
        FrameTensor(spec)


def noise_of(model: Model) -> NDArray[Any]:
    """A picture or a window of noise, as the manifest describes it."""
    spec, rng = model.manifest.input, np.random.default_rng(1)
    if isinstance(spec, FrameInput):
        return rng.integers(0, 256, (spec.size[1], spec.size[0], 3), dtype=np.uint8)
    window = rng.normal(spec.mean or 0.0, spec.std or 1.0, (spec.length, len(spec.signals)))
    if model.whole and not spec.mean:  # as a code, a count or a place in a table
        window = np.abs(window)
    return window.astype(np.float32)


def runner(model: Model) -> Callable[[NDArray[Any]], Result]:
    return model.run_frame if isinstance(model.manifest.input, FrameInput) else model.run_window


def _require_plausible(model: Model, noise: NDArray[Any]) -> None:
    """Raise ModelError unless the outputs are numbers that the decoder can have been made for."""
    outputs = model.raw(noise)
    if any(np.isnan(output.astype(np.float64)).any() for output in outputs):
        raise ModelError("its outputs are not numbers (NaN) for a plain input").coded("model-output-nan")
    if why := model.doubt(outputs):
        raise ModelError(why)
    if runner(model)(noise).nan:
        raise ModelError("its results are infinite for a plain input").coded("model-output-nan")


def _plausible(model: Model, given: NDArray[Any]) -> list[NDArray[Any]]:
    """The outputs for a golden vector, which the decoder must be able to read."""
    outputs = model.raw(given)
    if why := model.doubt(outputs):
        raise ModelError(why)
    return outputs


def _measure(model: Model, noise: NDArray[Any]) -> tuple[float, float]:
    """Median and 99th percentile in ms of whole runs on noise.

    On the CPU the thread's own time counts, so that other work on the machine does not.
    """
    spent_s = time.thread_time if model.provider in CPU else time.perf_counter
    spent: list[float] = []
    until = time.perf_counter() + _MEASURE_S
    run = runner(model)
    while len(spent) < _RUNS and (len(spent) < 5 or time.perf_counter() < until):
        begin = spent_s()
        run(noise)
        spent.append((spent_s() - begin) * 1e3)
    return round(float(np.percentile(spent, 50)), 3), round(float(np.percentile(spent, 99)), 3)


# -- reports of earlier runs ------------------------------------------------------------------------------


def _key(package: Package, providers: Sequence[str]) -> str:
    """A key of the manifest, of what the kernel knows about the files, of the versions and of the machine.

    It reads no file of the package: a changed file has another size or time.
    """
    found = package.manifest
    versions = [f"{name} {version(name)}" for name in (*execution_providers.PACKAGES, "numpy", "edgebed")]
    labels = getattr(found.output, "labels_file", "")
    try:
        vectors: Sequence[str] = golden.names(package.path)
    except ModelError as error:
        vectors = [golden.FOLDER, str(error)]
    names = sorted({*found.files, manifest.FILE, found.file, *([labels] if labels else [])})
    names += vectors
    files = package_files.fingerprint(package.path, names)
    decoder = decoders.installed(found.decoder)
    parts = [found.hash, versions, decoder, files, gate_process.machine(), *providers]
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def _saved(key: str, memory: Path | None) -> Path | None:
    return memory / f"{key}.json" if memory is not None else None


if __name__ == "__main__":
    main(sys.argv[1:])
