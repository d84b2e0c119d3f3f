"""Measures a model package on this machine: times, CPU and memory, with one and more threads."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from agent.inference import gate, gate_process
from agent.inference.decoders import ModelError
from agent.inference.package import Package, load_package
from agent.inference.session import Model
from agent.process_children import private_mb
from edgebed.model_tools.child import ask
from wire.reasons import Reason

_WALL_S = 120.0
_MOST_CPU_S = 40.0  # of all measurements together; the child may use 60
_MOST_RUNS = 2000  # of one thread
_LEAST_RUNS = 20


class Level(Struct, kw_only=True):
    """What runs cost while `threads` threads run the model at the same time."""

    threads: int
    runs: int
    p50_ms: float  # from the input to the result, as a clock shows it
    p99_ms: float
    cpu_p50_ms: float  # CPU time of a run, which other work on the machine does not change
    cpu_p99_ms: float
    cores: float  # that are busy: CPU seconds of the process per second
    per_s: float  # runs of all threads together


class Bench(Struct, kw_only=True):
    """The measurement of a package; `over` has a sentence for each budget that is exceeded."""

    why: str = ""
    model: str = ""
    provider: str = ""
    open_ms: float = 0.0
    rss_mb: float = 0.0  # private memory that opening and running it added, without onnxruntime itself
    levels: list[Level] = []
    budgets: dict[str, float] = {}
    over: list[str] = []


def bench(package: Package, threads: int, seconds: float) -> Bench:
    """Measure the package in a child process with the gate's limits, with 1, 2, 4, ... `threads` threads.

    Raises:
        ModelError: it cannot be opened or run, or the child ended.
    """
    arguments = [str(package.path.resolve()), str(threads), str(seconds)]
    found = ask(__name__, arguments, _WALL_S, Bench, f"{package.path}: ", "its report cannot be read")
    found.model, found.budgets = package.manifest.ref, msgspec.to_builtins(package.manifest.budgets)
    found.over = list(_over(found))
    return found


def _over(found: Bench) -> Sequence[str]:
    limits = [("p99_ms", found.levels[0].cpu_p99_ms, "ms"), ("rss_mb", found.rss_mb, "MB")]
    return [
        f"{key} is {value:g} {unit}, budgets.{key} allows {found.budgets[key]:g}"
        for key, value, unit in limits
        if 0 < found.budgets[key] < value
    ]


def main(arguments: Sequence[str]) -> None:
    """`python -m edgebed.model_tools.bench ... FOLDER THREADS SECONDS`, as `gate_process.run` starts it."""

    def work(rest: Sequence[str]) -> bytes:
        folder, threads, seconds = rest
        try:
            return msgspec.json.encode(_measure(load_package(Path(folder)), int(threads), float(seconds)))
        except ModelError as error:
            raise ModelError(str(error).removeprefix(folder).lstrip("/: ")) from error

    def refused(reason: Reason) -> bytes:
        return msgspec.json.encode(Bench(why=reason.why or "it is refused"))

    gate_process.answer(arguments, work, refused)


def _measure(package: Package, threads: int, seconds: float) -> Bench:
    gate.import_shared(package)
    before_mb, begin = private_mb(os.getpid()), time.perf_counter()
    model = Model(package)
    found = Bench(provider=model.provider, open_ms=round((time.perf_counter() - begin) * 1e3, 1))
    noise, run = gate.noise_of(model), gate.runner(model)
    counts = sorted({min(1 << at, threads) for at in range(threads.bit_length() + 1)})
    each_s = min(seconds, _MOST_CPU_S / sum(counts))
    found.levels = [_level(run, noise, 1, each_s)]
    found.rss_mb = round(private_mb(os.getpid()) - before_mb, 1)  # as the gate measures it
    found.levels += [_level(run, noise, count, each_s) for count in counts[1:]]
    return found


def _level(run: Callable[[Any], Any], noise: Any, threads: int, seconds: float) -> Level:
    spent: list[list[tuple[float, float]]] = [[] for _ in range(threads)]
    failed: list[ModelError] = []
    ready = threading.Barrier(threads)

    def work(mine: list[tuple[float, float]]) -> None:
        ready.wait()
        until = time.perf_counter() + seconds
        try:
            while len(mine) < _MOST_RUNS and (len(mine) < _LEAST_RUNS or time.perf_counter() < until):
                begin, cpu = time.perf_counter(), time.thread_time()
                run(noise)
                mine.append((time.perf_counter() - begin, time.thread_time() - cpu))
        except ModelError as error:
            failed.append(error)

    begin, cpu = time.perf_counter(), time.process_time()
    workers = [threading.Thread(target=work, args=(each,)) for each in spent]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    wall_s, cpu_s = time.perf_counter() - begin, time.process_time() - cpu
    if failed:
        raise failed[0]
    every = np.array([one for each in spent for one in each]) * 1e3
    points = [[round(float(np.percentile(every[:, at], p)), 3) for p in (50, 99)] for at in (0, 1)]
    return Level(
        threads=threads,
        runs=len(every),
        p50_ms=points[0][0],
        p99_ms=points[0][1],
        cpu_p50_ms=points[1][0],
        cpu_p99_ms=points[1][1],
        cores=round(cpu_s / wall_s, 2),
        per_s=round(len(every) / wall_s, 1),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
