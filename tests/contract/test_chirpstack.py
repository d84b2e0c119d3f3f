"""The ChirpStack adapter against simulated sensors, through a line with all faults."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any, ClassVar

import pytest

from adapters.base import AdapterError, DeviceStalled, DeviceUnreachable
from adapters.chirpstack.adapter import ChirpStack
from adapters.chirpstack.options import ChirpStackOptions, UplinkField
from adapters.testing import AdapterContract, Rig, read_until
from edgebed.broker import BrokerProcess
from simulators.devices.chirpstack import APPLICATION, LoraNetwork, dev_eui
from simulators.faults import FaultProxy
from wire.clock import NS_PER_S, Clock
from wire.messages import Quality

SENSORS = {f"kerb-{n + 1}": dev_eui(n) for n in range(4)}
FIELDS: dict[str, str | UplinkField] = {
    "occupied": UplinkField(path="occupied", t="bool"),
    "noise": UplinkField(raw="1:i16", scale=0.1, unit="dB[SPL]", dec=1),
    "water_level": UplinkField(path="/water/level", unit="mm"),
    "temperature": "temperature",
    "battery": UplinkField(raw="5:u16", scale=0.001, unit="V"),
}


def options(port: int, **more: Any) -> ChirpStackOptions:
    quick = {
        "application": APPLICATION,
        "sensors": SENSORS,
        "fields": FIELDS,
        "silence_s": 2.0,
        "timeout_s": 5.0,
    }
    return ChirpStackOptions(url=f"mqtt://127.0.0.1:{port}", **(quick | more))


def street(broker: BrokerProcess, *faults: str) -> LoraNetwork:
    """Four sensors; each sends ten uplinks in a real second."""
    return LoraNetwork(seed=3, clock=Clock(50.0), broker_url=broker.url, period_s=5.0, faults=faults)


class TestChirpStack(AdapterContract):
    adapter = ChirpStack
    good_options: ClassVar = {
        "url": "mqtt://hub.example",
        "application": APPLICATION,
        "sensors": SENSORS,
        "fields": {"x": "x"},
    }
    bad_options: ClassVar = [
        ({**good_options, "url": "mqtt://me:geheim@hub.example"}, "password_file"),
        ({**good_options, "application": "+"}, "topic level"),
        ({**good_options, "sensors": {"kerb": "0102"}}, "sensors"),
        ({**good_options, "sensors": {"Kerb 1": dev_eui(0)}}, "not an id"),
        ({**good_options, "sensors": {"a": dev_eui(0), "b": dev_eui(0).upper()}}, "twice"),
        ({**good_options, "fields": {"x": UplinkField()}}, "either"),
        ({**good_options, "fields": {"x": UplinkField(path="a", raw="0:u8")}}, "either"),
        ({**good_options, "fields": {"x": UplinkField(path="a", scale=2.0)}}, "scale"),
        ({**good_options, "fields": {"x": UplinkField(raw="0:u7")}}, "BYTE:TYPE"),
        ({**good_options, "fields": {"x": UplinkField(raw="240:u32")}}, "242"),
        ({**good_options, "fields": {"x": UplinkField(raw="0:u8", t="str")}}, "not a str"),
        ({**good_options, "fields": {"x": UplinkField(raw="0:u8", scale=0.0)}}, "scale"),
        ({**good_options, "fields": {"rssi": "x"}}, "radio"),
        ({**good_options, "fields": {}, "radio": False}, "nothing to read"),
    ]
    secrets = ("geheim",)

    @pytest.fixture
    async def rig(self, mosquitto: BrokerProcess) -> AsyncIterator[Rig]:
        async with street(mosquitto) as network, FaultProxy(mosquitto.port) as link:
            yield Rig(lambda: ChirpStack(options(link.port), network.clock), link)


async def test_the_rows_are_what_the_sensors_measured(broker: BrokerProcess) -> None:
    async with street(broker, "din@20") as network:
        async with ChirpStack(options(broker.port), network.clock) as adapter:
            rows = await read_until(adapter, lambda seen: len(seen) == 24)
            counters = dict(adapter.counters)  # messages that wait at the close count as dropped
        for row in rows:
            truth = network.truth(row.at_ns)
            assert row.stream == f"kerb-{int(truth['sensor']) + 1}"  # type: ignore[arg-type]
            assert row.values["occupied"] is truth["occupied"]
            for name, off in (
                ("noise", 0.051),
                ("water_level", 0.001),
                ("temperature", 0.001),
                ("battery", 1e-3),
            ):
                assert row.values[name] == pytest.approx(truth[name], abs=off), name
        assert {row.quality for row in rows} == {Quality.GOOD}
        one = [row for row in rows if row.stream == "kerb-1"]
        assert {b.at_ns - a.at_ns for a, b in pairwise(one)} == {5 * NS_PER_S}
        counts = [int(row.values["f_cnt"]) for row in one]  # type: ignore[arg-type]
        assert counts == list(range(counts[0], counts[0] + len(one)))
        assert {-120 < float(row.values["rssi"] or 0) < -60 for row in rows} == {True}
        assert set(counters) <= {"join_events", "status_events"}


async def test_lost_and_repeated_uplinks_are_counted_but_not_a_new_join(
    mosquitto: BrokerProcess,
) -> None:
    async with (
        street(mosquitto, "lost@20x0.3", "duplicates@20x0.5") as network,
        ChirpStack(options(mosquitto.port), network.clock) as adapter,
    ):
        rows = await read_until(adapter, lambda seen: len(seen) == 60)
        lost = adapter.counters["lost_uplinks"]
        keys = [(row.stream, row.values["f_cnt"]) for row in rows]
        assert len(set(keys)) == len(keys)
        gaps = sum(
            int(b) - int(a) - 1  # type: ignore[arg-type]
            for name in SENSORS
            for a, b in pairwise(count for stream, count in keys if stream == name)
        )
        assert lost == gaps > 5
        network.repair()
        # a loss shows at the next uplink of its sensor, and the adapter may be behind the network
        counted = adapter.counters
        await read_until(adapter, lambda _: counted["duplicates"] == network.duplicates > 5)
        await read_until(adapter, lambda _: counted["lost_uplinks"] == network.lost)
        lost = counted["lost_uplinks"]
        network.inject("reset")
        await read_until(adapter, lambda _: adapter.counters.get("counter_resets") == 4)
        assert adapter.counters["lost_uplinks"] - lost <= network.lost - lost


@pytest.mark.parametrize(
    ("fault", "counter"),
    [
        ("malformed", "not_json"),
        ("wrong-serial", "wrong_identity"),
        ("no-time", "no_time"),
        ("silent", ""),
        ("broken", ""),
    ],
)
async def test_odd_uplinks_are_flagged_or_counted(mosquitto: BrokerProcess, fault: str, counter: str) -> None:
    async with street(mosquitto) as network:
        async with ChirpStack(options(mosquitto.port), network.clock) as adapter:
            await read_until(adapter, lambda seen: len(seen) == 4)
            network.inject(fault)
            if fault == "no-time":
                rows = await read_until(adapter, lambda seen: seen[-1].quality is Quality.UNCERTAIN)
                assert abs(rows[-1].at_ns - network.clock.now_ns()) < 100 * NS_PER_S  # receipt
            else:
                with pytest.raises(DeviceStalled):
                    await read_until(adapter, lambda _: False)
            assert not counter or adapter.counters[counter] >= 1
            network.repair()
        async with ChirpStack(options(mosquitto.port, silence_s=10.0), network.clock) as adapter:
            await read_until(adapter, lambda seen: len(seen) == 4)


async def test_nan_and_times_that_go_back(mosquitto: BrokerProcess) -> None:
    async with street(mosquitto) as network:
        async with ChirpStack(options(mosquitto.port), network.clock) as adapter:
            rows = await read_until(adapter, lambda seen: len(seen) == 4)
            network.inject("nan")
            await read_until(
                adapter, lambda seen: seen[-1].values["temperature"] != seen[-1].values["temperature"]
            )
            network.repair()
            network.inject("backward")
            await read_until(adapter, lambda seen: seen[-1].at_ns < rows[0].at_ns - 500 * NS_PER_S)
            network.repair()
            network.inject("no-codec")
            half = await read_until(adapter, lambda seen: seen[-1].values["temperature"] is None)
            assert half[-1].quality is Quality.UNCERTAIN
            assert half[-1].values["noise"] == pytest.approx(55, abs=15)
            assert adapter.counters["incomplete"] >= 1
        only = {"temperature": "temperature"}
        async with ChirpStack(options(mosquitto.port, fields=only), network.clock) as adapter:
            with pytest.raises(AdapterError, match="codec"):
                await read_until(adapter, lambda _: False)
            assert adapter.counters["no_fields"] >= 1


async def test_too_large_messages_and_other_ports_are_not_read(roomy: BrokerProcess) -> None:
    async with street(roomy, "huge@0-40") as network:
        async with ChirpStack(options(roomy.port, silence_s=20.0), network.clock) as adapter:
            rows = await read_until(adapter, lambda seen: len(seen) == 1)
            assert adapter.counters["too_large"] >= 1
            assert rows[0].quality is Quality.GOOD
        async with ChirpStack(options(roomy.port, f_port=9), network.clock) as adapter:
            with pytest.raises(DeviceStalled):
                await read_until(adapter, lambda _: False)
            assert adapter.counters["other_ports"] >= 4


async def test_without_a_broker_one_sentence_reports_it() -> None:
    with pytest.raises(ValueError, match="broker_url"):
        LoraNetwork()
    with pytest.raises(DeviceUnreachable):
        await ChirpStack(options(1), Clock()).open()
