"""The devices of the demo pilots, read by their ready configs: what the plant did, and what acts on it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

import adapters
from edgebed.broker import BrokerProcess
from simulators.devices.mqtt.publisher import Publisher, broker_of
from simulators.devices.mqtt.trial import AlarmDesk, Signal, TrialDevice, TripComputer
from simulators.devices.opcua_cell import ProductionCobot
from simulators.plants.trial_plants import SLOT_S
from tests.polling import until
from wire.clock import NS_PER_MS, NS_PER_S, Clock

NODES = Path(__file__).parents[2] / "configs/pilots/nodes"
FAST = 10.0
DAY_NS = 86_400 * NS_PER_S


def adapter_of(file: str, device: str, url: str, clock: Clock) -> Any:
    """The adapter of a device as the ready config has it, at another address."""
    found = yaml.safe_load((NODES / file).read_text())["devices"][device]
    kind = adapters.load(found["adapter"])
    given = {**found["options"], "url": url}
    return kind(msgspec.convert(given, kind.Options), clock)


async def read_until(adapter: Any, rows: list[Any], enough: Any) -> None:
    async with asyncio.timeout(120), adapter, contextlib.aclosing(adapter.readings()) as readings:
        async for reading in readings:
            rows.append(reading)
            if enough():
                return


@contextlib.asynccontextmanager
async def someone(url: str) -> Any:
    publisher = Publisher(broker_of("test", url, 0), "someone")
    await publisher.open()
    try:
        yield publisher
    finally:
        await publisher.close()


@pytest.mark.parametrize(
    ("kind", "file", "device", "number", "bad"),
    [
        (TripComputer, "car-01.yaml", "trip", b"90", b"fast"),
        (Signal, "signal-01.yaml", "signal", b"5", b"nan"),
    ],
)
async def test_a_set_point_acts_on_the_plant_and_is_in_its_log(
    mosquitto: BrokerProcess, kind: type[TrialDevice], file: str, device: str, number: bytes, bad: bytes
) -> None:
    clock, rows = Clock(FAST), list[Any]()
    async with (
        kind(seed=5, clock=clock, broker_url=mosquitto.url) as simulator,
        someone(mosquitto.url) as agent,
    ):
        reading = asyncio.create_task(
            read_until(adapter_of(file, device, mosquitto.url, clock), rows, lambda: len(rows) >= 12)
        )
        await until(lambda: len(rows) >= 4, "rows before the set-point")
        agent.publish(simulator.listens, bad)
        agent.publish(simulator.listens, number)
        await reading
        first, last = rows[0], rows[-1]
        for row in rows:
            truth = simulator.truth(row.at_ns)
            assert truth
            assert {name: row.values[name] for name in truth} == truth
        found = simulator.compare(first.at_ns + NS_PER_S, last.at_ns + NS_PER_S)
        for name in set(found.actual) & set(last.values):
            assert last.values[name] - first.values[name] == pytest.approx(found.actual[name])
        if kind is Signal:
            assert [rows[at].values["clearance"] for at in (0, -1)] == [3.0, 5.0]
        else:
            assert found.with_change["energy"] < found.actual["energy"] < found.without["energy"]


async def test_the_alarm_desk_holds_back_what_a_model_judges_and_nothing_else(
    mosquitto: BrokerProcess,
) -> None:
    # from here on the plant has alarms of both kinds in both halves
    clock, rows = Clock(2 * FAST, start_ns=1_800_000_000 * NS_PER_S), list[Any]()
    async with (
        AlarmDesk(seed=5, clock=clock, broker_url=mosquitto.url) as desk,
        someone(mosquitto.url) as agent,
    ):
        topic = "tb1/acme/ward-pilot/ward-3/bed-01/event/monitor/news2"
        start_ns = desk.start_ns // (SLOT_S * NS_PER_S) * SLOT_S * NS_PER_S
        agent.publish(topic, b"not an event")
        for second in range(45):  # a model that acts judges these seconds, and none later
            event = {"ts": start_ns // NS_PER_MS + 1_000 * second, "type": "normal", "slot": "news2"}
            agent.publish(topic, json.dumps(event).encode())
        await read_until(
            adapter_of("bed-01.yaml", "ward", mosquitto.url, clock),
            rows,
            lambda: rows[-1].at_ns >= start_ns + 90 * NS_PER_S,
        )
        shown = {row.at_ns: row.values["false_alarms"] for row in rows}
        assert {at_ns: desk.truth(at_ns)["false_alarms"] for at_ns in shown} == shown
        judged, other = (
            desk.compare(start_ns + from_s * NS_PER_S, start_ns + to_s * NS_PER_S)
            for from_s, to_s in ((5, 45), (45, 90))
        )
        assert judged.actual == judged.with_change
        assert judged.actual != judged.without
        assert other.actual == other.without
        assert other.actual != other.with_change


async def test_a_call_in_time_shortens_the_stop_of_the_cell(mosquitto: BrokerProcess) -> None:
    clock, rows = Clock(FAST, start_ns=1_800_000_000 * NS_PER_S), list[Any]()
    async with (
        ProductionCobot(seed=5, clock=clock, broker_url=mosquitto.url, trial_s=10.0) as cell,
        someone(mosquitto.url) as agent,
    ):
        plant, midnight_ns = cell.plant, cell.start_ns // DAY_NS * DAY_NS
        # some periods ahead: on a busy machine the calls take seconds to arrive
        first = plant.step_at(clock.now_ns(), cell.start_ns) // plant.steps + 5

        def at_ns(period: int, within_s: float = 0.0) -> int:
            return midnight_ns + round((period * plant.period_s + within_s) * NS_PER_S)

        in_time, too_late = plant.wear(first).from_s + 0.2, plant.wear(first + 1).stop_s
        for period, within_s in ((first, in_time), (first + 1, too_late)):
            event = {"ts": at_ns(period, within_s) // NS_PER_MS, "type": "anomaly"}
            agent.publish(
                "tb1/acme/cobot-trial/hall-1/cobot-01/event/arm/anomaly", json.dumps(event).encode()
            )
        adapter = adapter_of("cobot-01.yaml", "cell", cell.url, clock)
        await read_until(adapter, rows, lambda: rows[-1].at_ns > at_ns(first + 2))
        called, missed = (cell.compare(at_ns(each), at_ns(each + 1)) for each in (first, first + 1))
        assert called.actual == called.with_change
        assert missed.actual == missed.without
        assert called.with_change["stop_s"] < called.without["stop_s"]
        for row in rows:
            assert row.values["running"] == cell.truth(row.at_ns)["running"]
        assert rows[-1].values["parts"] > rows[0].values["parts"]
