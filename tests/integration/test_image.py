"""A device is restored from an image of its state folder: its new messages are stored, each once."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgebed.broker import BrokerProcess
from edgebed.processes import Child, edgebed_command
from tests.brokers import LONG_TEST_KINDS
from tests.integration.conftest import Box, CollectorProcess
from tests.polling import until
from wire.codec import encode
from wire.messages import Ack

NODE = "acme/trial/hall/n1"
pytestmark = pytest.mark.parametrize("broker", LONG_TEST_KINDS, indirect=True)
StartBox = Callable[..., Awaitable[Box]]


@pytest.fixture
async def collector(broker: BrokerProcess, tmp_path: Path) -> AsyncIterator[CollectorProcess]:
    with CollectorProcess(tmp_path / "centre", broker) as running:
        await asyncio.to_thread(running.online)
        yield running


def entries(collector: CollectorProcess) -> dict[str, dict[str, Any]]:
    return {one["ep"]: one for one in collector.ask("ledger")["entries"]}


async def test_the_daemon_starts_a_new_outbox_and_nothing_new_is_lost(
    broker: BrokerProcess, collector: CollectorProcess, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text("t,a\n" + "".join(f"{i / 50},{i}\n" for i in range(100)))
    options = {"file": "rows.csv", "time": "t", "rate_hz": 50, "stream": "rows", "loop": True}
    config = {
        "node": NODE,
        "broker": {"url": broker.url},
        "state": "state",
        "devices": {"arm": {"adapter": "replay", "options": {**options, "fields": {"a": "a"}}}},
    }
    path = tmp_path / "agent.yaml"
    path.write_text(yaml.safe_dump(config))
    agent = Child("agent", edgebed_command("agent", "run", str(path)), tmp_path / "agent.log")

    def stored(ep: str = "") -> int:
        found = entries(collector)
        return sum(one["stored"] for key, one in found.items() if not ep or key == ep)

    with agent:
        await until(lambda: stored() >= 2, "the first messages are stored")
        await asyncio.to_thread(agent.stop)
        shutil.copytree(tmp_path / "state", tmp_path / "image")
        (old,) = entries(collector)
        before = stored()
        agent.start()
        await until(lambda: stored() >= before + 10, "it goes on")
        await asyncio.to_thread(agent.stop)
        known = stored(old)

        shutil.rmtree(tmp_path / "state")
        (tmp_path / "image").rename(tmp_path / "state")
        agent.start()
        await until(lambda: len(entries(collector)) == 2, "it starts a new outbox", 120)
        (new,) = set(entries(collector)) - {old}
        await until(lambda: stored(new) >= 5, "its new messages are stored")
        await asyncio.to_thread(agent.stop)
    await until(lambda: entries(collector)[new]["waiting"] == 0, "all are stored")
    found = entries(collector)
    assert (found[new]["missing_count"], found[new]["gap_count"]) == (0, 0)
    assert (stored(old), found[old]["missing_count"]) == (known, 0)
    events = collector.ask(f"nodes/{NODE}/devices/_/events?type=new-outbox")["events"]
    assert [(one["code"], one["args"]["ep"]) for one in events] == [("state-set-back", old)]
    assert "its state folder was set back" in (tmp_path / "agent.log").read_text()


async def test_every_message_after_the_restore_is_stored_once(
    broker: BrokerProcess, collector: CollectorProcess, tmp_path: Path, start_box: StartBox
) -> None:
    """The uplink alone, with messages that differ in their columns."""
    box = await start_box("n1", broker.port)
    box.take(20)
    await until(lambda: box.depth == 0, "all are stored")
    await box.stop()
    shutil.copytree(tmp_path / "n1", tmp_path / "image")
    box = await start_box("n1", broker.port)
    box.take(100)
    await until(lambda: box.depth == 0, "all are stored")
    await box.stop()
    old = box.outbox.ep

    shutil.rmtree(tmp_path / "n1")
    (tmp_path / "image").rename(tmp_path / "n1")
    box = await start_box("n1", broker.port)
    box.take(30, size=300)
    await until(lambda: bool(box.ahead), "the collector states its number")
    assert box.ahead == [("collector-1", 120)]
    box.take(5, size=300)
    assert box.depth == 35, "an acknowledgement of the old numbers releases nothing"
    box.outbox.ask_renewal()
    await box.stop()
    box = await start_box("n1", broker.port)
    assert box.outbox.ep != old
    await until(lambda: box.depth == 0, "all are stored")
    found = entries(collector)
    assert (found[old]["stored"], found[box.outbox.ep]["stored"]) == (120, 35)
    assert box.ahead == []
    rows = collector.ask(f"nodes/{NODE}/devices/arm/rows?stream=joints&from=0")
    assert sum(text is not None for text in rows["f"]["text"]) == 35


async def test_a_forged_or_stale_ahead_does_nothing_to_a_healthy_node(
    broker: BrokerProcess, publisher: Any, start_box: StartBox
) -> None:
    box = await start_box("n1", broker.port, ("collector-1",))
    await until(lambda: box.uplink.connected, "it connects")
    box.take(10)
    await until(lambda: box.uplink.counters.get("sent", 0) >= 10, "all are sent")
    topic = f"{box.address.base}/ack"

    def ack(ahead: int, by: str = "collector-1", ep: str = "") -> None:
        body = encode(Ack(ep=ep or box.outbox.ep, ok=[], by=by, ts=1, ahead=ahead))
        publisher.publish(topic, body, qos=1).wait_for_publish(30)

    ack(10)  # a number that it gave
    ack(99, ep="00" * 8)  # of an earlier outbox
    ack(99, by="collector-9")  # not a collector of this node
    await until(lambda: box.uplink.counters.get("foreign_acks", 0) == 1, "it is counted")
    assert box.ahead == []
    assert box.depth == 10
