"""Two collectors with two ids on one broker, and an agent that deletes what both have: a disk may die."""

from __future__ import annotations

import asyncio
import shutil
from asyncio.subprocess import DEVNULL
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from agent.uplink import collectors, in_flight
from edgebed.broker import BrokerProcess
from edgebed.processes import edgebed_command
from tests.brokers import LONG_TEST_KINDS
from tests.integration.conftest import Box, CollectorProcess
from tests.polling import until
from wire.codec import encode
from wire.messages import Ack

ONE, TWO = "collector-1", "collector-2"
pytestmark = pytest.mark.parametrize("broker", LONG_TEST_KINDS, indirect=True)
StartBox = Callable[..., Awaitable[Box]]


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_flight, "RESEND_S", 2.0)
    monkeypatch.setattr(collectors, "RESEND_S", 2.0)
    monkeypatch.setattr(collectors, "AWAY_S", 1.0)
    monkeypatch.setattr(collectors, "SETTLE_S", 1.0)


async def run(*arguments: str) -> int:
    """The exit code of an edgebed command."""
    child = await asyncio.create_subprocess_exec(*edgebed_command(*arguments), stdout=DEVNULL)
    return await child.wait()


def entry(collector: CollectorProcess) -> dict[str, Any]:
    """The ledger of the only outbox."""
    found = collector.ask("ledger")["entries"]
    return dict(found[0]) if found else {"stored": 0, "missing_count": 0, "gap_count": 0}


async def test_a_disk_that_dies_costs_nothing_that_was_acknowledged(
    broker: BrokerProcess, tmp_path: Path, start_box: StartBox
) -> None:
    one = CollectorProcess(tmp_path / "one", broker, name=ONE)
    two = CollectorProcess(tmp_path / "two", broker, name=TWO)
    with one, two:
        await asyncio.to_thread(one.online)
        await asyncio.to_thread(two.online)
        box = await start_box("n1", broker.port, (ONE, TWO))
        box.take(300)
        await until(lambda: box.depth == 0, "both have everything")
        assert (entry(one)["stored"], entry(two)["stored"]) == (300, 300)

        await asyncio.to_thread(one.kill)
        shutil.rmtree(tmp_path / "one" / "store")
        box.take(200)
        await until(lambda: entry(two)["stored"] == 500, "the other one stores on")
        acked = box.outbox.stats().acked
        assert acked == 300
        assert box.depth == 200, "what one collector lacks stays"
        assert entry(two)["missing_count"] == entry(two)["gap_count"] == 0

        one.start()
        await asyncio.to_thread(one.online)
        await until(lambda: box.depth == 0, "the new disk has what came meanwhile")
        assert entry(one)["stored"] >= 200
        assert (entry(two)["stored"], entry(two)["missing_count"]) == (500, 0)

        await asyncio.to_thread(one.stop)
        box.take(50)
        source = f"http://127.0.0.1:{two.port}"
        store = str(tmp_path / "one" / "store")
        assert await run("collector", "refetch", store, "--from", source) == 0
        one.start()
        await asyncio.to_thread(one.online)
        await until(lambda: box.depth == 0, "both have everything")
        assert (entry(one)["stored"], entry(one)["missing_count"]) == (550, 0)
        url = f"http://127.0.0.1:{one.port}"
        assert await run("ledger", "--url", url, "--against", source) == 0
        assert await run("ledger", "--store", store, "--audit") == 0


async def test_a_collector_that_is_away_holds_up_no_other_and_gets_everything_later(
    broker: BrokerProcess, tmp_path: Path, start_box: StartBox
) -> None:
    """It was never there, so the broker kept nothing for it; more waits than the window holds."""
    count = 4 * in_flight.WINDOW
    with CollectorProcess(tmp_path / "one", broker, name=ONE) as one:
        await asyncio.to_thread(one.online)
        box = await start_box("n1", broker.port, (ONE, TWO))
        for _ in range(8):
            box.take(count // 8)
            await asyncio.sleep(0.1)
        await until(lambda: entry(one)["stored"] == count, "the one that is there has everything")
        sent = box.uplink.counters["sent"]
        await asyncio.sleep(4)  # two intervals
        assert box.uplink.counters["sent"] - sent <= 5, "one message is tried again, not all"
        assert box.depth == count

        with CollectorProcess(tmp_path / "two", broker, name=TWO) as two:
            await asyncio.to_thread(two.online)
            await until(lambda: box.depth == 0, "the other one has everything")
            assert (entry(two)["stored"], entry(two)["missing_count"]) == (count, 0)
            assert box.uplink.counters["sent"] < 3 * count
        assert entry(one)["stored"] == count


async def test_an_ack_of_another_collector_and_a_retained_one_release_nothing(
    broker: BrokerProcess, publisher: Any, start_box: StartBox
) -> None:
    """Retained acks of both collectors are on the broker before the node connects."""
    box = await start_box("n1", broker.port, (ONE, TWO))
    topic = f"{box.address.base}/ack"

    def ack(by: str, *, retain: bool = False) -> None:
        body = encode(Ack(ep=box.outbox.ep, ok=[(1, 1000)], by=by, ts=1))
        publisher.publish(topic, body, qos=1, retain=retain).wait_for_publish(30)

    await until(lambda: box.uplink.connected, "it connects")
    box.take(5)
    await until(lambda: box.uplink.counters.get("sent", 0) >= 5, "all are sent")
    ack("collector-9")
    await until(lambda: box.uplink.counters.get("foreign_acks", 0) == 1, "it is counted")
    assert box.depth == 5
    ack(ONE)
    ack(TWO)
    await until(lambda: box.depth == 0, "both have acknowledged")

    ack(ONE, retain=True)
    await box.stop()
    again = await start_box("n1", broker.port, (ONE,))
    again.take(5)
    await until(lambda: again.uplink.counters.get("sent", 0) >= 5, "all are sent")
    await until(lambda: again.uplink.counters.get("ignored", 0) >= 1, "the retained ack is ignored")
    assert again.depth == 5
    publisher.publish(topic, b"", qos=1, retain=True).wait_for_publish(30)


async def test_a_share_of_one_collector_holds_up_only_its_copy(
    broker: BrokerProcess, tmp_path: Path, start_box: StartBox
) -> None:
    tight = "{node: {messages_per_s: 25}}"
    with (
        CollectorProcess(tmp_path / "one", broker, name=ONE) as one,
        CollectorProcess(tmp_path / "two", broker, tight, name=TWO) as two,
    ):
        await asyncio.to_thread(one.online)
        await asyncio.to_thread(two.online)
        box = await start_box("n1", broker.port, (ONE, TWO))
        box.take(400)
        await until(lambda: entry(one)["stored"] == 400, "the other one stores everything")
        assert box.depth > 0
        await until(lambda: box.depth == 0, "the rest comes as its share grows", 120)
        assert (entry(two)["stored"], entry(two)["missing_count"]) == (400, 0)
