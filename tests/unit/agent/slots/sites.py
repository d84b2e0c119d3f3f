"""A config with one slot, packages for it, and an agent of it in this process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from msgspec import UNSET
from onnx import helper

from agent.app import App
from agent.config import load
from agent.slots.model_store import ModelStore
from agent.slots.slot_state import Confirm
from tests.polling import until
from tests.running_agent import replay, write_rows
from wire.clock import NS_PER_S, Clock
from wire.messages import ModelSlot

QUICK = Confirm(results=5, soak_s=60)
INPUT = {"kind": "window", "name": "x", "signals": ["a", "b"], "rate_hz": 50, "length": 4}
CALM = INPUT | {"rate_hz": 10}  # a busy machine drops no window of it
ENDS = ("confirmed", "rolled-back", "refused")


class SteppedClock(Clock):
    """The clock of the machine, set wrong by `step_s`."""

    step_s = 0

    def now_ns(self) -> int:
        return super().now_ns() + self.step_s * NS_PER_S


class Site:
    """A config with one slot, and packages for it."""

    def __init__(self, folder: Path, packages: Any) -> None:
        self.path, self.state = folder / "agent.yaml", folder / "state"
        self.store = ModelStore(self.state)
        self.packages = packages
        self.rows = folder / "rows.csv"
        write_rows(self.rows, 100)
        self.base = self.constant(0.0, "base")
        self.document: dict[str, Any] = {
            "node": "t/p/s/n",
            "broker": {"url": "mqtt://127.0.0.1:9"},
            "state": "state",
            "remote": {"soak_s": 3},
            "devices": {"arm": replay(loop=True)},
            "models": {"m": {"package": str(self.base), "input": "arm/rows", "isolation": "thread"}},
        }

    def constant(self, value: float, name: str, **manifest: Any) -> Path:
        """A package that always gives `value`."""
        manifest.setdefault("input", INPUT)
        made: Path = self.packages.write(self.packages.constant(np.array([value])), name=name, **manifest)
        return made

    def above(self, limit: float, name: str) -> Path:
        """A package whose result is the logarithm of `limit` minus the largest input: NaN above the limit."""
        nodes = [
            helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
            helper.make_node("Sub", ["limit", "most"], ["left"]),
            helper.make_node("Sqrt", ["left"], ["y"]),
        ]
        model = self.packages.model(
            nodes,
            inputs={"x": (1, 4, 2)},
            outputs={"y": ()},
            constants={"limit": np.array(limit, np.float32)},
        )
        made: Path = self.packages.write(model, name=name, input=INPUT)
        return made

    def write(self) -> Path:
        self.path.write_text(yaml.safe_dump(self.document))
        return self.path


class Running:
    """The agent of a site; keeps the rows that its model sent."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.rows: list[float] = []
        self.times: list[int] = []

    def report(self) -> ModelSlot:
        found = self.app.slots.report("m", self.app.pipeline.runners["m"])
        assert found is not UNSET
        return found

    async def offer(self, digest: str, attempt: int = 1, confirm: Confirm = QUICK) -> ModelSlot:
        """Offer a version and wait until it is decided."""
        why = await self.app.slots.offer("m", digest, attempt, confirm)
        assert why.why == ""
        await until(lambda: self.report().state in ENDS, "it is decided")
        return self.report()

    def runs(self) -> str:
        """The name of the model that gives results."""
        return self.app.pipeline.runners["m"].ref.name

    async def works(self, name: str) -> None:
        """Wait until the model of this name gives results."""
        await until(lambda: self.runs() == name, f"{name} runs")
        many = self.app.pipeline.runners["m"].counters["runs"]
        await until(lambda: self.app.pipeline.runners["m"].counters["runs"] > many + 3, f"{name} works")


@contextlib.asynccontextmanager
async def running(path: Path, clock: Clock | None = None) -> AsyncIterator[Running]:
    clock = clock or Clock()
    app = App(load(path, clock), clock, "9.9")
    task = asyncio.create_task(app.run())
    try:
        await until(lambda: app.ready.is_set() or task.done(), "the agent is ready")
        if task.done():
            await task
        await until(lambda: app.pipeline.opened, "the models are open")
        yield Running(app)
    finally:
        app.stop()
        await asyncio.wait_for(task, 90)
