"""Clocks unset, set and stepped under a running agent: nothing is lost or reordered, and readers see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent import health
from agent.app import App
from agent.config import load
from collector.app import Collector
from collector.config import CollectorConfig, Http
from collector.store.chunk import Unpacked
from collector.store.reader import read_rows, read_series
from collector.store.source import ALL, StoredChunk
from collector.store.sqlite_source import SqliteSource
from edgebed.broker import BrokerProcess
from edgebed.drill.clock import SteppedClock, step
from edgebed.drill.device import FIELD, STREAM, NumberedDevice
from simulators.faults import FaultProxy
from tests.polling import until
from wire.broker import Broker
from wire.clock import Clock

NODE = "acme/trial/hall/n1"
YEARS_S = 1.6e9
HOUR_MS = 3_600_000
FAR_MS = 4_102_444_800_000


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[BrokerProcess]:
    """One kind of broker is enough: brokers do not read times."""
    with BrokerProcess("nats", tmp_path / "broker") as running:
        yield running


class Site:
    """An agent with a clock stepped by a file, a device without a clock and a device with its own clock."""

    def __init__(self, folder: Path, collector: Collector, proxy: FaultProxy, app: App) -> None:
        self.clock_file = folder / "clock.json"
        self.collector, self.proxy, self.app = collector, proxy, app

    def rows(self, device: str) -> Any:
        reader = SqliteSource(self.collector.store.folder)
        try:
            return read_rows(reader, (NODE, device, STREAM), start_ms=0, end_ms=FAR_MS).columns()
        finally:
            reader.close()

    def unset(self, device: str) -> list[tuple[int, int]]:
        """Spans that a chart marks as stamped by a clock that was not set."""
        reader, now_ms = SqliteSource(self.collector.store.folder), Clock().now_ms()
        try:
            return read_series(
                reader, (NODE, device, STREAM), FIELD, start_ms=now_ms - HOUR_MS, end_ms=now_ms, points=1000
            ).unset
        finally:
            reader.close()

    def numbers_as_stored(self, device: str) -> list[int]:
        """Row numbers by message number: the order in which the agent took them."""
        reader = SqliteSource(self.collector.store.folder)
        try:
            chunks = [
                each.content
                for each in reader.chunks_between((NODE, device, STREAM), 0, ALL)
                if isinstance(each, StoredChunk)
            ]
        finally:
            reader.close()
        messages = sorted(message for chunk in chunks for message in _numbered(chunk))
        return [number for _, numbers in messages for number in numbers]

    def steps(self) -> list[float]:
        reader = SqliteSource(self.collector.store.folder)
        try:
            events = reader.events(NODE, "_", limit=100, before=(FAR_MS, "", 0), kind="clock-step")
            return [event["value"] for _, event in reversed(events)]
        finally:
            reader.close()

    @property
    def head(self) -> int:
        return self.app.outbox.head

    async def drained(self) -> None:
        await until(lambda: self.app.outbox.stats().depth == 0, "everything is stored")


def _numbered(chunk: Unpacked) -> list[tuple[int, list[int]]]:
    numbers, at, found = chunk.columns[FIELD].tolist(), 0, []
    for seq, count in chunk.head.messages:
        found.append((seq, numbers[at : at + count]))
        at += count
    return found


@asynccontextmanager
async def site(folder: Path, broker: BrokerProcess, *, reachable: bool = True) -> AsyncIterator[Site]:
    store = CollectorConfig(broker=Broker(url=broker.url), store=folder / "store", http=Http(port=0))
    collector = Collector(store, Clock())
    collecting = asyncio.create_task(collector.run(), name="collector")
    try:
        async with (
            NumberedDevice(50.0) as plain,
            NumberedDevice(50.0) as own,
            FaultProxy(broker.port) as proxy,
        ):
            if not reachable:
                proxy.refuse()
            without = {key: value for key, value in plain.options().items() if not key.startswith("time_")}
            document = {
                "node": NODE,
                "broker": {"url": f"mqtt://127.0.0.1:{proxy.port}"},
                "state": "state",
                "devices": {
                    "plain": {"adapter": "serial", "options": without},
                    "own": {"adapter": "serial", "options": {**own.options(), "max_skew_s": 1e12}},
                },
            }
            path = folder / "agent.yaml"
            path.write_text(yaml.safe_dump(document))
            clock = SteppedClock(folder / "clock.json")
            app = App(load(path, clock), clock, "1", clock.state)
            serving = asyncio.create_task(app.serve(), name="agent")
            try:
                await app.ready.wait()
                yield Site(folder, collector, proxy, app)
            finally:
                app.stop()
                await serving
    finally:
        collector.stop()
        await collecting


async def test_a_clock_that_is_first_set_after_the_start(tmp_path: Path, broker: BrokerProcess) -> None:
    step(tmp_path / "clock.json", offset_s=-YEARS_S, synced=False)
    began_ms = Clock().now_ms()
    async with site(tmp_path, broker, reachable=False) as made:
        await until(lambda: made.head >= 6, "something is taken with a clock of decades ago")
        step(made.clock_file)
        await until(lambda: made.app.time.state() == 1, "the agent detects that it is set")
        made.proxy.refuse(False)
        await until(lambda: made.app.uplink.connected, "it connects")
        await made.drained()
        await until(made.steps, "the step is reported")
        plain, own, steps = made.rows("plain"), made.rows("own"), made.steps()
        order = made.numbers_as_stored("plain")
        assert made.unset("plain") == made.unset("own") == []
    ended_ms = Clock().now_ms()
    for device, rows in (("plain", plain), ("own", own)):
        times = [us // 1000 for us in rows["us"]]
        assert began_ms - 1_000 < min(times) <= max(times) < ended_ms + 1_000, device
        assert rows["f"][FIELD] == sorted(rows["f"][FIELD]), "in order of time they are in order"
    assert {clk for _, clk, *_ in plain["clock"]} == {1}, "restamped, and marked so"
    assert own["clock"][0][1] is None, "the device's own time: the state of its clock is unknown"
    assert order == list(range(order[0], order[0] + len(order)))
    assert steps == [pytest.approx(YEARS_S, abs=2)]


async def test_steps_of_an_hour_forth_and_back(tmp_path: Path, broker: BrokerProcess) -> None:
    step(tmp_path / "clock.json")
    async with site(tmp_path, broker) as made:
        for offset_s in (3600.0, 0.0, -3600.0, 0.0):
            before = made.head
            await until(lambda before=before: made.head >= before + 4, "it continues")
            step(made.clock_file, offset_s=offset_s)
        before = made.head
        await until(lambda: made.head >= before + 4, "it continues")
        await until(lambda: len(made.steps()) == 4, "the steps are reported")
    rows, order = made.rows("plain"), made.numbers_as_stored("plain")
    (entry,) = made.collector.ledger.entries(NODE)
    assert (entry.stored, entry.missing_count, entry.gap_count) == (made.head, 0, 0)
    assert order == list(range(order[0], order[0] + len(order))), "nothing lost, and in order of numbers"
    assert sorted(rows["f"][FIELD]) == order
    assert sorted(made.steps()) == [pytest.approx(s, abs=1) for s in (-3600, -3600, 3600, 3600)]
    assert rows["q"].count(6) == 2, "each step back is flagged where it happened: TIME_BACKWARD"
    own = made.rows("own")
    assert own["f"][FIELD] == sorted(own["f"][FIELD])
    # while the node's clock is an hour behind, the device seems to be ahead: doubtful, and used as it is
    assert set(own["q"]) == {0, 3}, "a device with its own time keeps it"


async def test_an_unset_clock_is_visible_to_readers(
    tmp_path: Path, broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "HEARTBEAT_S", 1.0)
    step(tmp_path / "clock.json", offset_s=-90.0, synced=False)
    async with site(tmp_path, broker) as made:
        await until(
            lambda: made.collector.fleet.offset(NODE).uncertainty_ms is not None, "the offset is known"
        )
        before = made.head
        await until(lambda: made.head >= before + 4, "it continues")
        await made.drained()
        rows, (view,) = made.rows("plain"), made.collector.fleet.views(NODE)
        (span,) = made.unset("plain")
    assert {clk for _, clk, *_ in rows["clock"]} == {0}
    assert span == (rows["us"][0] // 1000, rows["us"][-1] // 1000)
    _, _, skew_ms, uncertainty_ms = rows["clock"][-1]
    assert abs(skew_ms - 90_000) <= uncertainty_ms < 5_000
    assert (view.clk, view.skew_ms) == (0, pytest.approx(90_000, abs=5_000))
    assert "clock-unsynced" in {one.code for one in view.problems}
