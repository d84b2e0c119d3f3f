"""Fences of pilots on one device: real agents side by side, one with limits, and an uplink with a limit."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from agent.commands import Commands
from agent.fences.fences import Fences
from agent.fences.settings import FenceSettings
from agent.outbox import Message, Outbox, OutboxSettings, keep_committing
from agent.uplink.uplink import NodeHooks, NodeIdentity, Uplink, UplinkSettings
from edgebed.broker import BrokerProcess
from tests.integration.conftest import BOOT, CollectorProcess
from tests.running_agent import RunningAgent, Subscriber
from tests.unit.agent.conftest import Packages
from wire.broker import Broker
from wire.clock import Clock
from wire.messages import AgentInfo, Batch, Birth, ClockState, Status
from wire.task_cancellation import end
from wire.topics import Address

# the fence is the same with every broker
one_broker = pytest.mark.parametrize("broker", ["mosquitto"], indirect=True)


@pytest.fixture
def busy(tmp_path: Path) -> Path:
    """A model that multiplies two large matrices for each window of 4 rows."""
    packages, size = Packages(tmp_path), 2_000
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["c", "mean"], ["scaled"]),
        helper.make_node("MatMul", ["scaled", "c"], ["product"]),
        helper.make_node("ReduceMean", ["product"], ["y"], keepdims=0),
    ]
    constants = {"c": np.full((size, size), 1e-4, np.float32)}
    return packages.write(
        packages.model(nodes, inputs={"x": (1, 4, 2)}, outputs={"y": ()}, constants=constants)
    )


@pytest.fixture
def collector(broker: BrokerProcess, tmp_path: Path) -> Iterator[CollectorProcess]:
    made = CollectorProcess(tmp_path / "collector", broker)
    made.start()
    made.online()
    yield made
    made.stop()


@pytest.fixture
def start(broker: BrokerProcess, tmp_path: Path, busy: Path) -> Iterator[Callable[..., RunningAgent]]:
    """`start("acme/fenced", fence)`: an agent of that pilot with the busy model."""
    agents: list[RunningAgent] = []

    def begin(pilot: str, fence: dict[str, Any]) -> RunningAgent:
        folder = tmp_path / pilot.replace("/", "-")
        folder.mkdir()
        models = {"busy": {"package": str(busy), "input": "arm/rows", "events": "never"}}
        agent = RunningAgent(folder, broker.url, node=f"{pilot}/s/n", models=models, fence=fence)
        agents.append(agent)
        agent.start()
        return agent

    yield begin
    for agent in agents:
        agent.child.stop()


def model(status: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = status["models"]["busy"]
    return found


def opened(agent: RunningAgent) -> None:
    agent.until(lambda now: model(now)["state"] == "ok", "the model runs")


def the_rest(agent: RunningAgent) -> dict[str, Any]:
    """Stop an agent; returns its last status, which has the newest counters."""
    assert agent.child.stop() == 0
    return agent.status()


@one_broker
def test_a_pilot_over_its_fence_is_slowed_by_name_and_the_other_keeps_its_rate(
    start: Callable[..., RunningAgent], collector: CollectorProcess
) -> None:
    fenced, free = start("acme/fenced", {"inferences_per_s": 2}), start("other/free", {})
    for agent in (fenced, free):
        opened(agent)
    seen = fenced.until(lambda now: model(now).get("code") == "fence-inferences", "the limit is named")
    assert "inferences/s: fence.inferences_per_s" in model(seen)["why"]
    assert model(seen)["state"] == "ok"

    def shown() -> bool:
        view = collector.ask("nodes/acme/fenced/s/n")
        return view["fence"] == {"inferences_per_s": 2, "disk_mb": 256} and any(
            one["code"] == "fence" and one["slot"] == "busy" for one in view["trouble"]
        )

    collector.until(shown, "the collector shows the fence")
    free.until(lambda now: now["day_inferences"] >= 60, "the other runs")
    slowed, whole = the_rest(fenced), the_rest(free)
    assert model(slowed)["fenced"] > model(slowed)["runs"] > 0
    assert slowed["day_inferences"] <= 2 * slowed["uptime_s"] + 6, "the rate and its burst"
    assert slowed["day_skipped"] == model(slowed)["fenced"]
    assert "fenced" not in model(whole)
    assert whole["day_skipped"] == 0
    for node in ("acme/fenced/s/n", "other/free/s/n"):
        collector.until(lambda node=node: complete(collector, node), f"all data of {node} are stored")
    stored = collector.ask("usage?pilot=acme/fenced")
    used = stored["days"]
    # a run that was begun may end after the record of the stop, or not at all
    assert abs(model(slowed)["runs"] - sum(day["inferences"] for day in used)) <= 1
    assert 0 < sum(day["skipped"] for day in used) <= slowed["day_skipped"]
    assert min(day["sent_bytes"] for day in used) > 0
    assert 0 < sum(day["cpu_s"] for day in used) <= sum(day["cpu_s"] for day in slowed["usage"].values())
    (node,) = stored["nodes"]
    assert (node["metered"], node["fence"]) == (True, {"inferences_per_s": 2, "disk_mb": 256})
    assert [one["reason"]["code"] for one in node["trouble"]] in ([], ["fence-inferences"])
    assert collector.ask("usage")["pilots"] == ["acme/fenced", "other/free"]


def complete(collector: CollectorProcess, node: str) -> bool:
    """Whether the ledger of a node that has ended has every message."""
    ledger = collector.ask(f"nodes/{node}")["ledger"]
    taken: int = ledger["taken"]
    return taken == ledger["stored"] > 0 == ledger["missing_count"] == ledger["gap_count"]


@pytest.mark.slow
@one_broker
def test_cpu_time_stays_within_the_fence_and_readings_are_complete(
    start: Callable[..., RunningAgent], collector: CollectorProcess
) -> None:
    limit = 0.25
    agent = start("acme/fenced", {"cpu_pct": 25})
    opened(agent)
    # the model was loaded and checked: the debt of the start is paid before the first run
    first = agent.until(lambda now: model(now).get("code") == "fence-cpu", "the limit is named")
    agent.until(lambda now: now["uptime_s"] > first["uptime_s"] + 15, "it goes on")
    last = the_rest(agent)
    used_s, seconds = (last[key] - first[key] for key in ("day_cpu_s", "uptime_s"))
    # the burst is two seconds of the limit, and an inference that began may end
    assert used_s <= limit * (seconds + 2) + 2.0
    assert model(last)["runs"] > model(first)["runs"]
    collector.until(lambda: complete(collector, "acme/fenced/s/n"), "all data are stored")


@one_broker
def test_memory_over_the_fence_stops_the_newest_model_and_readings_go_on(
    start: Callable[..., RunningAgent],
) -> None:
    agent = start("acme/fenced", {"memory_mb": 64})
    stopped = agent.until(lambda now: model(now).get("code") == "fence-memory", "the model is refused")
    assert "64 MB are allowed: fence.memory_mb" in model(stopped)["why"]
    assert model(stopped)["state"] == "failed"
    assert stopped["fence_by"] == "agent"
    assert "the agent keeps the limits of CPU and memory itself" in agent.child.log.read_text()
    readings = stopped["devices"]["arm"]["readings"]
    agent.until(lambda now: now["devices"]["arm"]["readings"] > readings, "readings go on")


async def test_an_uplink_sends_no_more_than_its_fence_and_loses_nothing(
    broker: BrokerProcess, tmp_path: Path
) -> None:
    per_s, size = 50_000, 5_000
    fences = Fences(FenceSettings(uplink_kb_per_s=per_s // 1_000), Clock())
    outbox = Outbox.open(tmp_path / "outbox", OutboxSettings(max_mb=16), Clock())
    uplink = Uplink(
        NodeIdentity(Address("acme", "trial", "hall", "n1"), BOOT, "1"),
        Broker(url=broker.url),
        outbox,
        Clock(),
        NodeHooks(
            describe=lambda: Birth(ts=0, boot=BOOT, sess=0, ep=outbox.ep, agent=AgentInfo(ver="1")),
            status=lambda: Status(state="online", ts=0, boot=BOOT, sess=0),
            clock_state=lambda: ClockState.NTP,
            on_command=Commands(tmp_path, Clock(), {}).handle,
        ),
        UplinkSettings(tmp_path, ack="puback", fences=fences),
    )
    dice = random.Random(1)
    for _ in range(60):
        text = dice.randbytes(size // 2).hex()  # cannot be compressed by more than a half
        body = Batch(t0=Clock().now_ms(), per=1, n=1, f={"text": [text]})
        outbox.append(Message("data", "arm", "joints", body))
    outbox.commit()
    reader = Subscriber(broker.port)  # a broker without a reader releases nothing
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    tasks = [asyncio.create_task(keep_committing(outbox, 5)), asyncio.create_task(uplink.run())]
    try:
        while outbox.stats().depth:
            sent, elapsed_s = uplink.sent_bytes, loop.time() - began_s
            assert sent <= per_s * (elapsed_s + 1) + size + 1_000, "the rate, its burst and one message"
            assert elapsed_s < 120, "the backlog does not end"
            uplink.live("arm", "joints", {"ts": 1, "x": 1.0})
            await asyncio.sleep(0.02)
        assert fences.reached.code == "fence-uplink"
        assert uplink.sent_bytes > 60 * size / 2
    finally:
        await end(tasks)
        outbox.close()
        reader.close()
