"""Measure the swap of a model under load and the roll-back of one that gives NaN."""

from __future__ import annotations

import asyncio
import hashlib
import statistics
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from msgspec import UNSET
from onnx import TensorProto, helper, numpy_helper

from agent.app import App
from agent.config import load
from agent.pipeline.model_run import Inference
from agent.pipeline.model_runner import ModelRunner
from agent.slots.slot_state import Confirm
from wire.clock import Clock

HZ = 50  # windows a second
SWAPS = 6  # of each kind
_FAILS_AT = 3_000  # the value of the input from which the bad version gives NaN
_DECIDED = ("confirmed", "rolled-back", "refused")


def run() -> list[dict[str, Any]]:
    """Return the rows: windows lost by swaps, and gaps between two results beside those without a swap.

    A replay gives its rows in groups, 125 ms apart: that is the gap without a swap.
    """
    with tempfile.TemporaryDirectory() as name:
        found = asyncio.run(_measure(Path(name)))
    return [
        {
            "what": what,
            "ours": ours,
            "peer": peer,
            "ratio": peer and ours / peer,
            "unit": "windows" if "lost" in what else "ms",
        }
        for what, (ours, peer) in found.items()
    ]


class _Results:
    """When each result of the slot came, and for which time of the input."""

    def __init__(self, app: App) -> None:
        self.at_s: list[float] = []
        self.of_ns: list[int] = []
        self.names: list[str] = []
        self.nan_s = 0.0
        done = app.pipeline._host.done
        loop = asyncio.get_running_loop()

        def taken(runner: ModelRunner, inference: Inference) -> None:
            now_s = loop.time()
            self.at_s.append(now_s)
            self.of_ns.append(inference.reading.at_ns)
            self.names.append(runner.ref.name)
            if inference.result.nan and not self.nan_s:
                self.nan_s = now_s
            done(runner, inference)

        object.__setattr__(app.pipeline._host, "done", taken)

    def gap_ms(self, begin: int) -> float:
        """The longest time between two results since the result `begin`."""
        times = self.at_s[begin - 1 :]
        return max(b - a for a, b in pairwise(times)) * 1e3

    def lost(self) -> tuple[int, int]:
        """Windows that gave no result, by the times of the input: where the model changed, and elsewhere."""
        at, elsewhere = 0, 0
        for (one, a_ns), (other, b_ns) in pairwise(zip(self.names, self.of_ns, strict=True)):
            missing = round((b_ns - a_ns) * HZ / 1e9) - 1
            at += missing if one != other else 0
            elsewhere += missing if one == other else 0
        return at, elsewhere


async def _measure(work: Path) -> dict[str, tuple[float, float]]:
    clock = Clock()
    app = App(load(_config(work), clock), clock, "bench")
    task = asyncio.create_task(app.run())
    try:
        await _until(lambda: app.ready.is_set() and app.pipeline.opened)
        results = _Results(app)
        await _until(lambda: len(results.at_s) > HZ)
        offered = [app.slots.store.add(_package(work, f"v{at}", 1e9)) for at in range(SWAPS)]
        calm, swaps = [], []
        for _ in range(SWAPS):
            at = len(results.at_s)
            await _until(lambda at=at: len(results.at_s) > at + 2 * HZ)  # type: ignore[misc]
            calm.append(results.gap_ms(at))
        for digest in offered:
            at = len(results.at_s)
            await _offer(app, digest, 1)
            await _until(lambda at=at: len(results.at_s) > at + HZ)  # type: ignore[misc]
            swaps.append(results.gap_ms(at))
        lost, busy = results.lost()
        reload_ms = await _reload(app, work, results)
        bad = app.slots.store.add(_package(work, "bad", _FAILS_AT))
        await _offer(app, bad, 1, Confirm(results=1_000_000, nan=0.0, soak_s=600))
        await _until(lambda: bool(results.nan_s) and results.names[-1] != "bad")
        first = next(at for at, name in enumerate(results.names) if name == "bad")
        again = next(at for at in range(first, len(results.names)) if results.names[at] != "bad")
    finally:
        app.stop()
        await task
    usual = statistics.median(calm)
    return {
        f"windows that {SWAPS} swaps lost, beside those dropped elsewhere": (lost, busy),
        "longest gap between two results around a swap, median of the swaps": (
            statistics.median(swaps),
            usual,
        ),
        "longest of these gaps, beside the longest without a swap": (max(swaps), max(calm)),
        "longest gap when the config names another package and is read again": (reload_ms, usual),
        "from the first NaN to the first result of the version before": (
            (results.at_s[again] - results.nan_s) * 1e3,
            usual,
        ),
    }


async def _offer(app: App, digest: str, attempt: int, confirm: Confirm | None = None) -> None:
    why = await app.slots.offer("m", digest, attempt, confirm or Confirm(results=HZ))
    assert not why.why, why

    def decided() -> bool:
        found = app.slots.report("m", app.pipeline.runners["m"])
        states = (*_DECIDED, "unconfirmed") if confirm else _DECIDED
        return found is not UNSET and found.state in states and found.digest == digest

    await _until(decided)


async def _reload(app: App, work: Path, results: _Results) -> float:
    """The gap of a reload, which names another package."""
    _config(work, "other")
    at = len(results.at_s)
    app.reload()
    await _until(lambda: results.names[-1] == "other" and len(results.at_s) > at + HZ)
    return results.gap_ms(at)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(300):
        while not condition():  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.01)


def _config(work: Path, name: str = "base") -> Path:
    rows = work / "rows.csv"
    if not rows.exists():
        rows.write_text("t,a\n" + "".join(f"{at / HZ},{at + 1}\n" for at in range(100_000)))
    options = {"file": str(rows), "time": "t", "rate_hz": HZ, "stream": "rows", "fields": {"a": "a"}}
    document = {
        "node": "t/p/s/n",
        "broker": {"url": "mqtt://127.0.0.1:9"},
        "state": "state",
        "devices": {"arm": {"adapter": "replay", "options": options}},
        "models": {"m": {"package": str(_package(work, name, 1e9)), "input": "arm/rows"}},
    }
    path = work / "agent.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def _package(work: Path, name: str, limit: float) -> Path:
    """A model of windows of 4 rows; NaN if a number is above `limit`."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
            helper.make_node("Sub", ["limit", "most"], ["left"]),
            helper.make_node("Sqrt", ["left"], ["y"]),
        ],
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(np.array(limit, np.float32), "limit")],
    )
    opset = [helper.make_opsetid("", 17)]
    body = helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    folder = work / name
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(body)
    manifest = {
        "name": name,
        "version": "1.0.0",
        "licence": "CC0-1.0",
        "sha256": hashlib.sha256(body).hexdigest(),
        "input": {"kind": "window", "name": "x", "signals": ["a"], "rate_hz": HZ, "length": 4},
        "output": {"decoder": "regression", "fields": {"y": {}}},
    }
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    return folder
