"""A model that hangs, crashes, leaks or is slow in its own process takes no row from the rest."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from adapters.base import Adapter, Options, Reading
from agent.inference import gate
from agent.inference.isolation import worker
from agent.inference.model_cache import ModelCache
from agent.outbox import Message
from agent.pipeline.changes import Changes, Setup
from agent.pipeline.pipeline import Pipeline
from agent.pipeline.settings import DeviceConfig, DevicePlan, PublishConfig, SlotConfig
from agent.pipeline.sinks import Sinks
from tests.polling import until
from wire.clock import Clock
from wire.messages import Batch, ClockState, Field, Stream

ROWS = Stream(rate_hz=100, fields={"a": Field(), "b": Field()})


class Silent(Adapter):
    """A device whose rows the test gives."""

    class Options(Options, kw_only=True, frozen=True, forbid_unknown_fields=True):
        """None."""

    def streams(self) -> dict[str, Stream]:
        return {"rows": ROWS}

    async def readings(self) -> AsyncIterator[Reading]:
        return
        yield


def faulty(packages: Any) -> bytes:
    """A model that goes as often round a loop, and fills as much memory, as its largest inputs say."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["again"], ["still"]), helper.make_node("Identity", ["v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, []),
        ],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["of_each"], axes=[1], keepdims=0),
        helper.make_node("Cast", ["of_each"], ["signed"], to=TensorProto.INT64),
        helper.make_node("Abs", ["signed"], ["numbers"]),
        helper.make_node("Split", ["numbers"], ["times", "length"], axis=1),
        helper.make_node("Reshape", ["times", "none"], ["rounds"]),
        helper.make_node("Loop", ["rounds", "true", "zero"], ["last"], body=graph),
        helper.make_node("Reshape", ["length", "one"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["long"]),
        helper.make_node("ReduceSum", ["long"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["nothing", "last"], ["y"]),
    ]
    constants = {
        "none": np.array([], np.int64),
        "one": np.array([1]),
        "true": np.array(True),
        "zero": np.zeros((), np.float32),
    }
    body: bytes = packages.model(
        nodes, inputs={"x": (1, 4, 2)}, outputs={"y": ()}, constants=constants, opset=13
    )
    return body


class Agent:
    """A pipeline with two devices; the model `bad` of one can be made to fail, `good` is of the other."""

    def __init__(self, packages: Any, folder: Path) -> None:
        good = [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)]
        body = packages.model(good, inputs={"x": (1, 4, 2)}, outputs={"y": ()})
        window = {"kind": "window", "name": "x", "signals": ["a", "b"], "rate_hz": 100, "length": 4, "hop": 4}
        bad, fine = (
            packages.write(each, name=name, input=window)
            for name, each in (("bad", faulty(packages)), ("good", body))
        )
        models = {
            "bad": SlotConfig(package=bad, input="first/rows"),
            "good": SlotConfig(package=fine, input="second/rows"),
        }
        clock = Clock()
        device = DeviceConfig(adapter="silent", publish=PublishConfig(live_hz=0))
        plan = DevicePlan(device, Silent, Silent.Options(), {"rows": ROWS})
        self.messages: list[Message] = []
        self.cache = ModelCache(folder, unsigned="process")
        self.pipeline = Pipeline(
            {"first": plan, "second": plan},
            models,
            clock,
            cache=self.cache,
            clock_state=lambda: ClockState.NTP,
            sinks=Sinks(
                send=self.messages.append,
                live=lambda _device, _stream, _body: None,
                snap=lambda _device, _stream, _body: None,
                changed=lambda: None,
            ),
        )
        self._index = 0

    @property
    def bad(self) -> Any:
        return self.pipeline.runners["bad"]

    async def rows(self, count: int, faults: int = 0, **fault: float) -> tuple[int, int]:
        """Give rows to both devices at 100 Hz; returns how many rows and results of `good` were sent.

        The first windows of `bad`, `faults` of them, have the values `fault`.
        """
        sinks = [self.pipeline.sink(name) for name in ("first", "second")]
        self.messages.clear()
        runs = self.pipeline.runners["good"].counters["runs"]
        for number in range(count):
            self._index += 1
            values = {"a": 1.0, "b": 1.0, **(fault if number < 4 * faults else {})}
            at_ns = 1_760_000_000_000_000_000 + self._index * 10_000_000
            sinks[0](Reading("rows", at_ns, values))
            sinks[1](Reading("rows", at_ns, {"a": 1.0, "b": 1.0}))
            await asyncio.sleep(0.01)
        self.pipeline.flush()
        batches = [m.body for m in self.messages if isinstance(m.body, Batch) and m.name == "rows"]
        sent = sum(len(batch.f["a"]) for batch in batches)
        return sent, self.pipeline.runners["good"].counters["runs"] - runs


@pytest.mark.slow
async def test_the_rest_goes_on_while_a_model_fails_in_each_way(
    packages: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "PAUSE_S", 0.05)
    monkeypatch.setattr(worker, "_LOOK_S", 0.0)
    agent = Agent(packages, tmp_path / "gate")
    await agent.pipeline.open_models()
    task = asyncio.create_task(agent.pipeline.run())
    codes: list[str] = []
    try:
        await until(lambda: agent.pipeline.models()["good"].state == "ok")
        assert agent.bad.state.state == "ok"
        before, results = await agent.rows(100)
        assert before == 200
        assert results > 12, "the others were dropped by a busy machine"
        assert agent.bad.counters["runs"] > 0
        shown = agent.bad.shown
        assert (shown.isolation, shown.pid) == ("process", agent.bad.model.pid)
        assert shown.mb > 10

        for fault in ("slow", "hang", "leak", "crash"):
            agent.bad.model._deaths = 0  # each fault for itself
            values = {"slow": {"a": 100_000.0}, "hang": {"a": 1e15}, "leak": {"b": 60e6}}.get(fault, {})
            monkeypatch.setattr(worker, "SILENT_S", 1.0 if fault == "hang" else 60.0)
            agent.bad.model._limit_mb = 200.0 if fault == "leak" else 10_000.0
            if fault == "crash":
                os.kill(agent.bad.model.pid, signal.SIGSEGV)
            sent, results = await agent.rows(100, 25 if fault == "slow" else 1, **values)
            assert sent == 200, f"{fault}: no row of telemetry is lost"
            assert results > 12, f"{fault}: the other model goes on"
            if fault != "slow":
                await until(lambda: agent.bad.counters["worker_ended"] > len(codes))
                codes.append(fault)
            monkeypatch.setattr(worker, "SILENT_S", 60.0)
            await agent.rows(12)
            await until(lambda: agent.bad.state.state == "ok" and not agent.bad.busy)
    finally:
        task.cancel()
        await asyncio.wait([task])
        agent.pipeline.close()
    assert codes == ["hang", "leak", "crash"]
    assert agent.bad.model.pid == 0


async def test_a_model_that_is_refused_takes_no_input_any_more(
    packages: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "PAUSE_S", 0.01)
    monkeypatch.setattr(worker, "DEATHS", 1)
    agent = Agent(packages, tmp_path / "gate")
    await agent.pipeline.open_models()
    task = asyncio.create_task(agent.pipeline.run())
    try:
        await until(lambda: agent.bad.state.state == "ok")
        assert "bad" in agent.pipeline.streams("first")
        os.kill(agent.bad.model.pid, signal.SIGSEGV)
        while agent.bad.at_work:
            await agent.rows(5)
        assert (agent.bad.state.state, agent.bad.state.code) == ("failed", "model-refused-deaths")
        assert agent.bad.counters["worker_ended"] == 1
        assert "bad" not in agent.pipeline.streams("first")
        counted = dict(agent.bad.counters)
        sent, _ = await agent.rows(20)
        assert sent == 40
        assert dict(agent.bad.counters) == counted
        assert agent.bad.shown.pid == 0
        again = await asyncio.to_thread(agent.bad.prepare)
        assert again.model.code == "model-refused-deaths", "also for the next slot with this package"
    finally:
        task.cancel()
        await asyncio.wait([task])
        agent.pipeline.close()


async def test_a_slot_that_goes_while_its_gate_runs_leaves_no_process(
    packages: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = Agent(packages, tmp_path / "gate")
    pipeline, verify = agent.pipeline, gate.verify
    looked, gone = threading.Event(), threading.Event()

    def slow(package: Any, **options: Any) -> gate.GateReport:
        report = verify(package, **options)
        if package.path.name == "bad":
            looked.set()
            assert gone.wait(60)
        return report

    monkeypatch.setattr(gate, "verify", slow)
    opening = asyncio.create_task(pipeline.open_models())
    try:
        await until(looked.is_set)
        await until(lambda: pipeline.models()["good"].state == "ok")
        good = pipeline.runners["good"]
        setup = Setup(pipeline.devices, {"good": good.settings})
        await pipeline.change(setup, Changes(models=frozenset({"bad"})))
        gone.set()
        await opening
        assert agent.cache._workers is not None
        await until(lambda: len(agent.cache._workers._open) == 1)
        assert [each.pid for each in agent.cache._workers._open] == [good.model.pid]  # type: ignore[union-attr]
        pipeline._models.keep([])  # nothing is in use, but what is about to be installed
        opened = await asyncio.to_thread(good.prepare)
        pipeline.forget_models()
        good.install(opened)
        pipeline.forget_models()
        assert good.model.run_window(np.ones((4, 2), np.float32)).values  # type: ignore[union-attr]
    finally:
        gone.set()
        pipeline.close()
