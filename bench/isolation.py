"""Models in a process of their own beside models in a thread, and other models while one process fails.

Rounds of both alternate. CPU is that of the agent and its workers. `peer` is the thread, or the time before
the fault.
"""

from __future__ import annotations

import os
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from agent import process_children
from agent.inference.decoders import ModelError
from agent.inference.isolation import worker
from agent.inference.isolation.worker import Worker
from agent.inference.model_cache import ModelCache
from agent.inference.package import load_package
from wire.shipped import folder

_ROUNDS, _RUNS = 12, 40
_PHASE_S = 5.0
_RATE_HZ = 50.0  # of the rows that the other model gets


def run() -> list[dict[str, Any]]:
    """Return the rows: a frame and a window, the memory of a worker, and results while another one fails."""
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as name:
        cache = ModelCache(Path(name))
        try:
            rows = [
                *_compared(cache, "street-detector", "frame 640x480", lambda model: model.run_frame(picture)),
                *_compared(cache, "joint-anomaly", "window", _window(cache, "joint-anomaly")),
            ]
            return [*rows, *_faults(cache)]
        finally:
            cache.close()


def _model(cache: ModelCache, name: str, isolation: Any) -> Any:
    return cache.model(load_package(folder("models") / name), isolation=isolation)


def _window(cache: ModelCache, name: str) -> Callable[[Any], object]:
    spec = _model(cache, name, "thread").manifest.input
    rows = np.random.default_rng(1).normal(0, 1, (spec.length, len(spec.signals))).astype(np.float32)
    return lambda model: model.run_window(rows)


def _compared(cache: ModelCache, name: str, what: str, call: Callable[[Any], object]) -> list[dict[str, Any]]:
    models = [_model(cache, name, "process"), _model(cache, name, "thread")]
    wall: list[list[float]] = [[], []]
    cpu = [float("inf")] * 2
    for _ in range(_ROUNDS):
        for at, model in enumerate(models):
            call(model)
            begin_s = process_children.cpu_s()
            for _ in range(_RUNS if at else 2 * _RUNS):  # the CPU time of a worker has steps of 10 ms
                begin = time.perf_counter()
                call(model)
                wall[at].append((time.perf_counter() - begin) * 1e3)
            spent = (process_children.cpu_s() - begin_s) / (_RUNS if at else 2 * _RUNS)
            cpu[at] = min(cpu[at], spent * 1e3) if spent else cpu[at]
    p50 = [statistics.median(each) for each in wall]
    label = f"{what}, {name}, process beside thread"
    return [
        {"what": f"{label}: p50", "ours": p50[0], "peer": p50[1], "ratio": p50[0] / p50[1], "unit": "ms"},
        {"what": f"{label}: CPU", "ours": cpu[0], "peer": cpu[1], "ratio": cpu[0] / cpu[1], "unit": "ms"},
        {"what": f"worker of {name}: PSS", "ours": _pss_mb(models[0].pid), "unit": "MB"},
    ]


def _faults(cache: ModelCache) -> list[dict[str, Any]]:
    """Results of one model in 5 s, before and while the worker of another one fails in each way."""
    worker.SILENT_S, worker.PAUSE_S = 2.0, 0.2  # so that 5 s have the whole of it
    good, bad = _model(cache, "joint-anomaly", "process"), _model(cache, "harsh-event", "process")
    assert isinstance(bad, Worker)
    calls = {name: _window(cache, name) for name in ("joint-anomaly", "harsh-event")}
    before = _results(good, bad, calls, lambda: None)
    rows = []
    for fault in ("crash", "hang", "slow"):
        bad._deaths = 0
        got = _results(good, bad, calls, lambda fault=fault: _fail(bad.pid, fault))  # type: ignore[misc]
        what = f"results of another model in {_PHASE_S:g} s, {_RATE_HZ:g} Hz, while a worker does: {fault}"
        rows.append({"what": what, "ours": got, "peer": before, "ratio": got / before, "unit": ""})
    return rows


def _fail(pid: int, fault: str) -> None:
    if fault == "crash":
        os.kill(pid, signal.SIGSEGV)
    elif fault == "hang":
        os.kill(pid, signal.SIGSTOP)
    else:
        for _ in range(8):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.4)
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.05)


def _results(good: Any, bad: Any, calls: dict[str, Any], fail: Callable[[], None]) -> int:
    until_s, results = time.monotonic() + _PHASE_S, 0

    def other() -> None:
        while time.monotonic() < until_s:
            try:
                calls["harsh-event"](bad)
            except ModelError:
                continue

    threads = [threading.Thread(target=other), threading.Thread(target=fail)]
    for thread in threads:
        thread.start()
    while time.monotonic() < until_s:
        calls["joint-anomaly"](good)
        results += 1
        time.sleep(1 / _RATE_HZ)
    for thread in threads:
        thread.join()
    return results


def _pss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1_024 / 1e6
    return 0.0
