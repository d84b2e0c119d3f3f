"""A running agent with models takes another configuration: what runs, what is freed, what comes back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from agent.app import App
from agent.config import load
from agent.configuration import describe
from agent.pipeline.changes import Changes, Setup
from agent.pipeline.model_run import Inference
from agent.pipeline.model_runner import ModelRunner
from agent.pipeline.running import Running
from agent.remote.settings import RemoteSettings
from agent.remote.trial import Trials
from tests.polling import until
from tests.running_agent import replay, write_rows
from wire.clock import Clock

Change = Callable[[dict[str, Any]], object]


class Written:
    """A config file that a test changes."""

    def __init__(self, folder: Path, package: Path) -> None:
        self.path = folder / "agent.yaml"
        write_rows(folder / "rows.csv", 5_000)
        self.document: dict[str, Any] = {
            "node": "t/p/s/n",
            "broker": {"url": "mqtt://127.0.0.1:9"},
            "state": "state",
            "remote": {"soak_s": 3},
            "devices": {"arm": replay(loop=True)},
            "models": {"mean": {"package": str(package), "input": "arm/rows"}},
        }

    def write(self) -> Path:
        self.path.write_text(yaml.safe_dump(self.document))
        return self.path


@contextlib.asynccontextmanager
async def running(path: Path) -> AsyncIterator[App]:
    clock = Clock()
    app = App(load(path, clock), clock, "9.9")
    task = asyncio.create_task(app.run())
    try:
        await until(lambda: app.ready.is_set() or task.done(), "the agent is ready")
        yield app
    finally:
        app.stop()
        await asyncio.wait_for(task, 90)


async def reloaded(app: App) -> str:
    """Read the config again and wait for the result."""
    before = app.configuration.outcome
    app.reload()
    await until(
        lambda: (now := app.configuration.outcome) is not before and now and now.state != "soaking",
        "a result",
    )
    assert app.configuration.outcome is not None
    return app.configuration.outcome.state


async def test_a_model_changes_while_its_device_and_the_other_model_go_on(
    packages: Any, tmp_path: Path
) -> None:
    one = packages.write(packages.constant(np.zeros(1)), name="one")
    two = packages.write(packages.constant(np.ones(1)), name="two")
    written = Written(tmp_path, one)
    written.document["models"]["other"] = {"package": str(one), "input": "arm/rows"}
    async with running(written.write()) as app:
        await until(lambda: app.pipeline.runners["other"].counters["runs"] > 2, "both models run")
        source, other = app.sources["arm"], app.pipeline.runners["other"]
        written.document["models"]["mean"]["package"] = str(two)
        written.write()
        assert await reloaded(app) == "applied"
        assert app.sources["arm"] is source
        assert source.state.state == "ok"
        assert source.counters["lost"] == 0
        assert app.pipeline.runners["other"] is other
        assert app.pipeline.models()["mean"].name == "two"
        runs = other.counters["runs"]
        await until(lambda: other.counters["runs"] > runs, "the other model goes on")
        del written.document["models"]
        written.write()
        assert await reloaded(app) == "applied"
        assert app.pipeline.models() == {}
        assert list(app.pipeline.streams("arm")) == ["rows"]
        readings = source.readings
        await until(lambda: source.readings > readings + 10, "no model holds the device back")


async def test_no_input_is_lost_while_another_package_is_opened(packages: Any, tmp_path: Path) -> None:
    window = {"kind": "window", "name": "x", "signals": ["a", "b"], "rate_hz": 10, "length": 4}
    one, two = (
        packages.write(packages.constant(np.array([value])), name=name, input=window)
        for name, value in (("one", 1.0), ("two", 2.0))
    )
    written = Written(tmp_path, one)
    written.document["models"]["mean"]["isolation"] = "thread"
    async with running(written.write()) as app:
        await until(lambda: app.pipeline.runners["mean"].counters["runs"] > 2, "the model runs")
        old = app.pipeline.runners["mean"]
        lost = {name: old.counters[name] for name in ("before_gate", "dropped", "gaps")}
        seen: list[tuple[str, int]] = []
        done = old._host.done

        def record(runner: ModelRunner, inference: Inference) -> None:
            seen.append((runner.ref.name, inference.reading.at_ns))
            done(runner, inference)

        object.__setattr__(old._host, "done", record)
        written.document["models"]["mean"]["package"] = str(two)
        written.write()
        assert await reloaded(app) == "applied"
        await until(lambda: bool(seen) and seen[-1][0] == "two", "the new model gives results")
        new = app.pipeline.runners["mean"]
        assert {name: new.counters[name] for name in lost} == lost
        assert seen[0][0] == "one", "the old model answers until the new one is open"
        times = [at_ns for _, at_ns in seen]
        assert times == sorted(set(times)), "each once and in order"
        assert app.pipeline.spare == app.pipeline.candidates == app.pipeline._next == {}


async def test_a_model_that_the_gate_refuses_brings_the_old_one_back(packages: Any, tmp_path: Path) -> None:
    good = packages.write(packages.constant(np.zeros(1)), name="good")
    bad = packages.write(packages.constant(np.array([np.nan])), name="bad")
    written = Written(tmp_path, good)
    async with running(written.write()) as app:
        await until(lambda: app.pipeline.models()["mean"].state == "ok", "the model is open")
        written.document["models"]["mean"]["package"] = str(bad)
        written.write()
        assert await reloaded(app) == "reverted"
        assert app.configuration.problem.code == "config-reverted"
        assert "model mean" in app.configuration.problem.why
        await until(lambda: app.pipeline.models()["mean"].state == "ok", "the old model is open again")
        assert app.pipeline.models()["mean"].name == "good"


async def test_what_did_not_work_before_need_not_work_after(tmp_path: Path, packages: Any) -> None:
    written = Written(tmp_path, tmp_path)
    del written.document["models"]
    written.document["devices"]["gone"] = replay(file="gone.csv")
    async with running(written.write()) as app:
        await until(lambda: app.sources["arm"].state.state == "ok", "the other device works")
        await until(lambda: app.sources["gone"].state.state == "degraded", "the device is not there")
        settings, running_now = app.plan.config.remote, app.running
        assert isinstance(settings, RemoteSettings)
        assert isinstance(running_now, Running)
        trials = Trials(running_now, app.pipeline, app.clock, settings.soak_s, app._open_models)
        assert trials.broken() == {"device gone"}
        written.document["devices"]["gone"] = replay(file="gone.csv", rate=2.0)
        written.write()
        assert await reloaded(app) == "applied"


async def test_a_device_that_was_changed_goes_on_counting(tmp_path: Path) -> None:
    written = Written(tmp_path, tmp_path)
    del written.document["models"]
    async with running(written.write()) as app:
        await until(lambda: app.sources["arm"].readings > 30, "rows are read")
        before = app.sources["arm"]
        written.document["devices"]["arm"]["stall_s"] = 20
        written.write()
        assert await reloaded(app) == "applied"
        after = app.sources["arm"]
        assert after is not before
        assert after.readings >= before.readings > 30


def test_the_changes_are_described_in_one_line() -> None:
    assert describe(Changes(), Setup({})) == "nothing differs"
    gone = Changes(devices=frozenset({"b", "a"}), models=frozenset({"m"}))
    assert describe(gone, Setup({})) == "without device a, b; without model m"
