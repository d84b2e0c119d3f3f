"""Bad input over MQTT: like tests/contract/test_bad_input.py, with a broker in between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import aiomqtt

from adapters.base import Adapter
from adapters.chirpstack.adapter import ChirpStack
from adapters.chirpstack.options import ChirpStackOptions, UplinkField
from adapters.mqtt.adapter import Mqtt
from adapters.mqtt.options import MqttField, MqttTopicOptions, TimeOptions
from adapters.vda5050.adapter import Vda5050
from adapters.vda5050.options import Vda5050Options
from edgebed.broker import BrokerProcess
from wire.clock import NS_PER_S, Clock
from wire.messages import Quality

START_S = 1_772_000_000
FUTURE_S = 400 * 86_400
GOOD, RANGE, NAN, DOUBT = Quality.GOOD, Quality.OUT_OF_RANGE, Quality.NOT_FINITE, Quality.UNCERTAIN
SAME, BACK, TYPE = Quality.TIME_REPEATED, Quality.TIME_BACKWARD, Quality.WRONG_TYPE


def slow_clock() -> Clock:
    """The agent's clock: so slow that everything is received at the start."""
    return Clock(0.001, START_S * NS_PER_S)


def at(second: float) -> datetime:
    return datetime.fromtimestamp(START_S + second, UTC)


async def published(
    judge: Any, broker: BrokerProcess, adapter: Adapter, sent: Sequence[tuple[str, bytes]], rows: int
) -> Any:
    """The validated rows and counters of messages that are published after the adapter has subscribed."""
    found = judge()
    reading = asyncio.create_task(found.read(adapter, rows), name="reading")
    async with aiomqtt.Client(broker.host, broker.port) as client:
        await asyncio.sleep(0.3)
        for topic, body in sent:
            await client.publish(topic, body, qos=1)
        await reading
    return found


async def test_topics(judge: Any, mosquitto: BrokerProcess) -> None:
    fields = {"t": MqttField(max=50), "where": MqttField(path="where", t="str")}
    fields["t"] = MqttField(path="t", max=50)
    options = MqttTopicOptions(
        url=mosquitto.url,
        topics=["현장/+"],
        fields=dict(fields),
        keep={"site": 2},
        time=TimeOptions(path="at"),
    )

    def body(second: float, value: str = "20", where: str = '"홀"') -> bytes:
        return f'{{"t": {value}, "where": {where}, "at": "{at(second).isoformat()}"}}'.encode()

    times = [body(second) for second in (0, 1, 1, 0.5, FUTURE_S, 2)]
    odd = [body(3, "NaN"), body(4, "1e999"), body(5, "99"), body(6, '"x"'), body(7, "NaN", '"\\ud800"')]
    bad = [body(8)[:20], body(8, where='"대구"').decode().encode("cp949"), b"\xff", body(8)]
    sent = [("현장/대구", each) for each in (*times, *odd, *bad)]
    clock = slow_clock()
    found = await published(judge, mosquitto, Mqtt(options, clock), sent, 12)
    assert found.qualities == [GOOD, GOOD, SAME, BACK, BACK, GOOD, NAN, NAN, RANGE, TYPE, TYPE, GOOD]
    assert found.rows[0].values == {"t": 20.0, "where": "홀", "site": "대구"}
    assert {"not_json": 3, "clock_not_believed": 1}.items() <= found.counters.items()


EUI, APPLICATION = "0102030405060708", "6b1e0a3c-0000-4000-8000-000000000001"


async def test_uplinks(judge: Any, mosquitto: BrokerProcess) -> None:
    options = ChirpStackOptions(
        url=mosquitto.url,
        application=APPLICATION,
        sensors={"yard": EUI},
        fields={"t": UplinkField(path="온도", max=50), "where": UplinkField(path="where", t="str")},
        radio=False,
    )

    def uplink(count: int, second: float, value: Any = 20, eui: str = EUI) -> bytes:
        document = {
            "deduplicationId": f"{count}",
            "time": at(second).isoformat(),
            "deviceInfo": {"devEui": eui, "applicationId": APPLICATION},
            "fCnt": count,
            "fPort": 1,
            "object": {"온도": value, "where": "홀"},
        }
        return json.dumps(document, ensure_ascii=False).encode()

    times = [uplink(n, second) for n, second in enumerate((0, 1, 1, 0.5, FUTURE_S, 2), 1)]
    odd = [uplink(n, n, value) for n, value in enumerate((float("nan"), 99, "뜨거움"), 7)]
    bad = [
        uplink(10, 10)[:50],
        uplink(10, 10, eui="0" * 16),
        uplink(9, 9, "뜨거움"),
        uplink(10, 10).decode().encode("cp949"),
    ]
    topic = f"application/{APPLICATION}/device/{EUI}/event/up"
    sent = [(topic, each) for each in (*times, *odd, *bad, uplink(12, 12))]
    found = await published(judge, mosquitto, ChirpStack(options, slow_clock()), sent, 10)
    assert found.qualities == [GOOD, GOOD, SAME, BACK, BACK, GOOD, NAN, RANGE, TYPE, GOOD]
    counted = {
        "not_json": 2,
        "wrong_identity": 1,
        "duplicates": 1,
        "lost_uplinks": 2,
        "clock_not_believed": 1,
    }
    assert counted.items() <= found.counters.items()


async def test_vehicles(judge: Any, mosquitto: BrokerProcess) -> None:
    options = Vda5050Options(url=mosquitto.url, manufacturer="로봇", serial="amr-1", orders=False)

    def state(number: int, second: float, serial: str = "amr-1", **more: Any) -> bytes:
        document = {
            "headerId": number,
            "timestamp": at(second).isoformat(),
            "version": "2.0.0",
            "manufacturer": "로봇",
            "serialNumber": serial,
            "orderId": "",
            "orderUpdateId": 0,
            "lastNodeId": "창고 3",
            "lastNodeSequenceId": 0,
            "driving": False,
            "operatingMode": "AUTOMATIC",
            "nodeStates": [],
            "edgeStates": [],
            "batteryState": {"batteryCharge": more.pop("charge", 80), "charging": False},
            "errors": [],
            "safetyState": {"eStop": "NONE", "fieldViolation": False},
        }
        return json.dumps(document | more, ensure_ascii=False).encode()

    times = [state(n, second) for n, second in enumerate((0, 1, 1, 0.5, FUTURE_S, 2), 1)]
    odd = [state(7, 7, charge=float("nan")), state(8, 8, charge=120), state(9, 9, operatingMode="잠")]
    bad = [state(10, 10)[:100], state(10, 10).decode().encode("cp949"), state(10, 10), state(11, 11, "amr-2")]
    sent = [("uagv/v2/로봇/amr-1/state", each) for each in (*times, *odd, *bad)]
    found = await published(judge, mosquitto, Vda5050(options, slow_clock()), sent, 100)
    assert found.qualities == [GOOD, GOOD, SAME, BACK, BACK, GOOD, NAN, RANGE, DOUBT, GOOD]
    assert found.rows[0].values["last_node_id"] == "창고 3"
    assert {"not_json": 2, "unknown_word": 1, "clock_not_believed": 1}.items() <= found.counters.items()
    assert "are from 로봇/amr-2, not 로봇/amr-1" in found.error
