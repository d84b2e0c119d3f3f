"""The MQTT adapter against real brokers, through a line with all faults."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import aiomqtt
import pytest

from adapters.base import (
    AdapterError,
    DeviceStalled,
    DeviceUnreachable,
    OptionsError,
    ProtocolViolation,
    Reading,
)
from adapters.mqtt import session as mqtt_session
from adapters.mqtt.adapter import Mqtt
from adapters.mqtt.options import MqttField, MqttTopicOptions, TimeOptions
from adapters.testing import AdapterContract, Rig, read
from agent.pipeline.source import Source
from agent.pipeline.validation import Validator
from edgebed.broker import BrokerProcess, free_port
from simulators.devices.mqtt.device import KerbSensors
from simulators.devices.mqtt.publisher import Publisher, broker_of
from simulators.faults import FaultProxy
from tests.plans import plan_of
from tests.polling import until
from wire.clock import NS_PER_S, Clock
from wire.messages import Quality

TOPIC = "hall/press/air"
YEAR_2026 = 1_767_225_600 * NS_PER_S


def options(port: int, **more: Any) -> MqttTopicOptions:
    patience = {"silence_s": 2.0, "timeout_s": 5.0}  # longer than a busy machine needs between two messages
    quick = {"topics": [TOPIC], "fields": {"temp": "air.temp"}, **patience}
    return MqttTopicOptions(url=f"mqtt://127.0.0.1:{port}", **(quick | more))


@asynccontextmanager
async def publisher(url: str) -> AsyncIterator[Publisher]:
    device = Publisher(broker_of("test", url, 0), "device")
    await device.open()
    try:
        yield device
    finally:
        await device.close()


@asynccontextmanager
async def thermometer(url: str) -> AsyncIterator[None]:
    """Publishes a temperature 50 times a second."""
    async with publisher(url) as device:

        async def run() -> None:
            for number in range(1_000_000):
                device.publish(TOPIC, b'{"air": {"temp": %d.5}}' % number)
                await asyncio.sleep(0.02)

        running = asyncio.create_task(run(), name="thermometer")
        try:
            yield
        finally:
            running.cancel()
            await asyncio.wait({running})


class TestMqtt(AdapterContract):
    adapter = Mqtt
    good_options: ClassVar = {"url": "mqtt://hub.example", "topics": ["a/b"], "fields": {"x": "x"}}
    bad_options: ClassVar = [
        ({**good_options, "url": "http://hub.example"}, "mqtt://"),
        ({**good_options, "url": "mqtt://me:geheim@hub.example"}, "password_file"),
        ({**good_options, "username": "me"}, "password_file"),
        ({**good_options, "ca_file": Path("ca.pem")}, "mqtts://"),
        ({**good_options, "topics": []}, "topics"),
        ({**good_options, "topics": ["tb1/acme/#"]}, "loop"),
        ({**good_options, "topics": ["a", "#"]}, "loop"),
        ({**good_options, "topics": ["+/x"]}, "loop"),
        ({**good_options, "topics": ["$share/group/tb1/x"]}, "loop"),
        ({**good_options, "topics": ["a/#/b"]}, "last one"),
        ({**good_options, "topics": ["a/b+"]}, "whole level"),
        ({**good_options, "topics": [""]}, "not a topic filter"),
        ({**good_options, "fields": {}}, "fields"),
        ({**good_options, "fields": {"Not A Field": "x"}}, "field name"),
        ({**good_options, "fields": {"x": "a..b"}}, "pointer"),
        ({**good_options, "format": "csv"}, "column"),
        ({**good_options, "format": "number"}, "leave the path empty"),
        ({**good_options, "format": "text", "fields": {"x": "", "y": ""}}, "one field"),
        ({**good_options, "keep": {"x": 1}}, "`keep`"),
        ({**good_options, "format": "number", "fields": {"x": ""}, "time": {"path": "1"}}, "path"),
    ]
    secrets = ("geheim",)

    @pytest.fixture
    async def rig(self, broker: BrokerProcess) -> AsyncIterator[Rig]:
        async with thermometer(broker.url), FaultProxy(broker.port) as link:
            yield Rig(lambda: Mqtt(options(link.port), Clock()), link)


async def test_each_message_is_a_row_and_unusable_ones_are_counted(broker: BrokerProcess) -> None:
    given = options(
        broker.port,
        topics=["hall/+/air"],
        fields={
            "temp": MqttField(path="/air/temp", unit="Cel", min=-40, max=85),
            "count": MqttField(path="n", t="i64"),
            "word": MqttField(path="w", t="str"),
        },
        keep={"machine": 2},
        time=TimeOptions(path="at"),
        max_message_bytes=60_000,
        silence_s=30.0,  # the test is not about silence
    )
    clock = Clock(start_ns=YEAR_2026 + 5 * NS_PER_S)
    good = {"air": {"temp": 21.5}, "n": 7.0, "w": "용접 3번"}
    bodies = [
        json.dumps({**good, "at": "2026-01-01T00:00:01.5Z"}).encode(),
        b'{"air": {"temp": NaN}, "n": 1, "w": "", "at": "2026-01-01T09:00:02+09:00"}',
        json.dumps({"air": {"temp": "hot"}, "n": 7.5, "w": 1, "at": "2026-01-01T00:00:01Z"}).encode(),
        json.dumps({"air": {}, "n": 7, "w": "x", "at": "2026-01-01T00:00:03Z"}).encode(),
        json.dumps({**good, "at": "yesterday"}).encode(),
        json.dumps({**good, "at": "0001-01-01T00:00:00Z"}).encode(),
        *(b"\x80\x81", b"", b"[" * 30_000, b'{"a":' * 10_000, json.dumps(good).encode()[:20]),
        b'{"another": 1}',
        b"x" * 60_001,
        json.dumps({**good, "n": 1e300, "at": "2026-01-01T00:00:09Z"}).encode(),
    ]
    async with Mqtt(given, clock) as adapter, publisher(broker.url) as device:
        for body in bodies:
            device.publish("hall/press/air", body, qos=1)
        rows = await read(adapter, 7)
        counted = adapter.counters
    assert rows[0].values == {"temp": 21.5, "count": 7, "word": "용접 3번", "machine": "press"}
    assert [row.at_ns - YEAR_2026 for row in rows[:4]] == [s * NS_PER_S // 2 for s in (3, 4, 2, 6)]
    assert all(5 * NS_PER_S <= row.at_ns - YEAR_2026 < 60 * NS_PER_S for row in rows[4:6])  # receipt
    assert math.isnan(rows[1].values["temp"])  # type: ignore[arg-type]  # the agent flags it
    assert rows[2].values == {"temp": None, "count": None, "word": None, "machine": "press"}
    wrong, doubtful = Quality.WRONG_TYPE, Quality.UNCERTAIN
    assert [row.quality for row in rows] == [0, 0, wrong, doubtful, doubtful, doubtful, 0]
    assert counted == {
        "not_json": 5,
        "no_fields": 1,
        "too_large": 1,
        "incomplete": 1,
        "no_time": 1,
        "clock_not_believed": 1,
    }
    flagged: Counter[str] = Counter()
    agent = Validator(Mqtt(given, clock).streams(), clock, flagged)
    for row in rows:
        agent.check(row)
    assert flagged == {
        "not_finite": 1,
        "wrong_type": 2,  # a number that is a text, and one too large for an i64
        "time_backward": 1,
        "uncertain": 3,
    }


async def test_the_rows_are_what_the_street_measured(broker: BrokerProcess) -> None:
    clock = Clock(20.0)
    given = options(
        broker.port,
        topics=["street/+/reading"],
        fields={
            "occupied": MqttField(path="bay.occupied", t="bool"),
            "noise": MqttField(path="/air/0/noise", unit="dB[SPL]"),
            "water_level": "water",
        },
        keep={"sensor": 2},
        time=TimeOptions(path="at", format="ms"),
    )
    async with KerbSensors(seed=6, clock=clock, broker_url=broker.url) as street:
        async with Mqtt(given, clock) as adapter:
            rows = await read(adapter, 30)
            assert adapter.counters == {}
            street.inject("broken")
            with pytest.raises(DeviceStalled):
                await read(adapter, 100)
            street.repair()
        async with Mqtt(given, clock) as adapter:
            rows += await read(adapter, 10)
        for row in rows:
            truth = street.truth(row.at_ns)
            assert row.values["sensor"] == f"kerb-{int(truth['sensor'] or 0) + 1}"
            assert row.values["occupied"] is truth["occupied"]
            assert row.values["noise"] == pytest.approx(truth["noise"], abs=1e-3)
            assert row.values["water_level"] == pytest.approx(truth["water_level"], abs=1e-3)
    assert {b.at_ns - a.at_ns for a, b in pairwise(rows[:30])} == {NS_PER_S // 2}


@pytest.mark.parametrize("broker", ["nats"], indirect=True)
async def test_numbers_text_and_csv(broker: BrokerProcess) -> None:
    async def one(body: bytes, **given: Any) -> Reading:
        given = {"fields": {"x": ""}, **given}
        async with Mqtt(options(broker.port, **given), Clock()) as adapter, publisher(broker.url) as device:
            device.publish(TOPIC, body, qos=1)
            return (await read(adapter, 1))[0]

    assert (await one(b" 21.5\n", format="number")).values == {"x": 21.5}
    assert (await one(b"21,5", format="number")).values == {"x": 21.5}
    assert (await one("열림".encode(), format="text", fields={"x": MqttField(t="str")})).values == {
        "x": "열림"
    }
    fields: dict[str, object] = {"n": MqttField(path="3", t="i64"), "ok": MqttField(path="1", t="bool")}
    row = await one(
        b'true;"a;b";9007199254740993;1767225600.25\r\n',
        format="csv",
        separator=";",
        fields=fields,
        time=TimeOptions(path="4", format="s"),
        max_skew_s=1e9,
    )
    assert row.values == {"ok": True, "n": 9_007_199_254_740_993}
    assert row.at_ns == YEAR_2026 + NS_PER_S // 4


async def test_a_retained_message_is_flagged_or_ignored(broker: BrokerProcess) -> None:
    async with publisher(broker.url) as device:
        device.publish(TOPIC, b'{"air": {"temp": 1.0}}', qos=1, retain=True)
        async with Mqtt(options(broker.port, topics=["hall/#"]), Clock()) as first:
            await read(first, 1)  # the broker has it now
        rows = []
        for retained in ("flag", "ignore"):
            async with Mqtt(options(broker.port, retained=retained), Clock()) as adapter:
                await asyncio.sleep(0.2)
                device.publish(TOPIC, b'{"air": {"temp": 2.0}}', qos=1)
                rows.append([(row.values["temp"], row.quality) for row in await read(adapter, 1)])
                assert adapter.counters == {"retained": 1}
    assert rows == [[(1.0, Quality.UNCERTAIN)], [(2.0, Quality.GOOD)]]


async def test_messages_that_a_slow_reader_loses_are_counted(broker: BrokerProcess) -> None:
    async with Mqtt(options(broker.port, queue=5), Clock()) as adapter, publisher(broker.url) as device:
        for number in range(20):
            device.publish(TOPIC, b'{"air": {"temp": %d}}' % number, qos=1)
        await until(lambda: adapter.counters.get("dropped") == 15)
        assert [row.values["temp"] for row in await read(adapter, 5)] == [15, 16, 17, 18, 19]


async def test_messages_that_wait_at_the_close_are_counted(broker: BrokerProcess) -> None:
    async with publisher(broker.url) as device, Mqtt(options(broker.port, queue=1), Clock()) as adapter:
        for number in range(3):
            device.publish(TOPIC, b'{"air": {"temp": %d}}' % number, qos=1)
        await until(lambda: adapter.counters.get("dropped") == 2)  # and one waits
    assert adapter.counters == {"dropped": 3}


async def test_a_flood_of_unusable_messages_counts_as_silence(mosquitto: BrokerProcess) -> None:
    async with Mqtt(options(mosquitto.port), Clock()) as adapter, publisher(mosquitto.url) as device:

        async def flood() -> None:
            while True:
                device.publish(TOPIC, b'{"air": {"temp": 2')
                await asyncio.sleep(0.01)

        flooding = asyncio.create_task(flood(), name="flood")
        with pytest.raises(DeviceStalled, match=r"nothing usable.*not usable: the message is not JSON"):
            await read(adapter, 1)
        flooding.cancel()
        assert adapter.counters["not_json"] > 20


async def test_messages_of_two_megabytes(roomy: BrokerProcess) -> None:
    large = b'{"air": {"temp": 1.0}, "x": "' + b"x" * 2_000_000 + b'"}'
    async with publisher(roomy.url) as device:
        async with Mqtt(options(roomy.port), Clock()) as adapter:
            device.publish(TOPIC, large, qos=1)
            device.publish(TOPIC, b'{"air": {"temp": 2.0}}', qos=1)
            assert [row.values["temp"] for row in await read(adapter, 1)] == [2.0]
            assert adapter.counters == {"too_large": 1}
        async with Mqtt(options(roomy.port, max_message_bytes=2_097_152), Clock()) as adapter:
            device.publish(TOPIC, large, qos=1)
            assert [row.values["temp"] for row in await read(adapter, 1)] == [1.0]
            device.publish(TOPIC, b"x" * 5_000_000, qos=1)
            with pytest.raises(ProtocolViolation, match="a message of 5000"):
                await read(adapter, 1)


async def test_a_broker_that_refuses_is_an_error(tmp_path: Path) -> None:
    class Strict(BrokerProcess):
        def command(self) -> list[str]:
            command = super().command()
            denied = '{ deny: ["hall.>"] }'
            with Path(command[-1]).open("a") as conf:
                conf.write(
                    "authorization { users: [ { user: me, password: secret-7,"
                    f' permissions: {{ publish: ">", subscribe: {denied} }} }} ] }}\n'
                )
            return command

    (tmp_path / "right").write_text("secret-7\n")
    (tmp_path / "wrong").write_text("secret-8\n")
    with Strict("nats", tmp_path / "strict") as broker:
        login = {"username": "me", "password_file": tmp_path / "right"}
        async with Mqtt(options(broker.port, **login, topics=["yard/air"]), Clock()):
            pass
        with pytest.raises(DeviceUnreachable, match="refuses the subscription to hall/press/air"):
            await Mqtt(options(broker.port, **login), Clock()).open()
        login["password_file"] = tmp_path / "wrong"
        with pytest.raises(DeviceUnreachable) as caught:
            await Mqtt(options(broker.port, **login), Clock()).open()
        assert "secret" not in str(caught.value)
        login["password_file"] = tmp_path / "none"
        with pytest.raises(OptionsError, match="none"):
            await Mqtt(options(broker.port, **login), Clock()).open()


async def test_a_dead_connection_is_detected_before_the_silence_limit(
    mosquitto: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_session, "KEEPALIVE_S", 1)
    async with (
        FaultProxy(mosquitto.port) as link,
        Mqtt(options(link.port, silence_s=3_600.0), Clock()) as adapter,
    ):
        link.black_hole()
        with pytest.raises(DeviceUnreachable, match="did not answer a ping"):
            await read(adapter, 1)


async def test_a_broker_of_mqtt_5_only(mosquitto: BrokerProcess) -> None:
    talks: set[asyncio.Task[Any]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)

    async def gate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if talk := asyncio.current_task():
            talks.add(talk)
        greeting = await reader.readexactly(9)  # CONNECT, its length (1 byte), "MQTT" and the version
        if greeting[8] != 5:
            writer.close()
            return
        server_reads, server_writes = await asyncio.open_connection(mosquitto.host, mosquitto.port)
        server_writes.write(greeting)
        await asyncio.gather(pump(reader, server_writes), pump(server_reads, writer))

    server = await asyncio.start_server(gate, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, thermometer(mosquitto.url):
        for protocol in ("auto", 5):
            async with Mqtt(options(port, protocol=protocol), Clock()) as adapter:
                assert await read(adapter, 3)
        with pytest.raises(DeviceUnreachable, match="closed the connection before it answered CONNECT"):
            await Mqtt(options(port, protocol="3.1.1"), Clock()).open()
        await asyncio.wait(talks)


@pytest.fixture
def certificates(tmp_path: Path, require: Callable[[str], str]) -> Path:
    """Two certificates for 127.0.0.1, each its own authority, and their keys."""
    for name in ("broker", "other"):
        subprocess.run(
            [
                *(require("openssl"), "req", "-x509", "-nodes", "-days", "2", "-subj", f"/CN={name}"),
                *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
                *("-addext", "subjectAltName=IP:127.0.0.1"),
                *("-keyout", f"{name}.key", "-out", f"{name}.pem"),
            ],
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )
    return tmp_path


async def test_an_encrypted_connection(
    configured: Callable[[str], BrokerProcess], certificates: Path
) -> None:
    port = free_port()
    broker = configured(
        f"listener {port} 127.0.0.1\ncertfile {certificates}/broker.pem\nkeyfile {certificates}/broker.key\n"
    )
    secured = {"url": f"mqtts://127.0.0.1:{port}", "topics": [TOPIC], "fields": {"temp": "air.temp"}}
    async with thermometer(broker.url):
        given = MqttTopicOptions(**secured, ca_file=certificates / "broker.pem")  # type: ignore[arg-type]
        async with Mqtt(given, Clock()) as adapter:
            assert await read(adapter, 3)
        given = MqttTopicOptions(**secured, ca_file=certificates / "other.pem")  # type: ignore[arg-type]
        with pytest.raises(DeviceUnreachable, match="certificate") as caught:
            await Mqtt(given, Clock()).open()
        assert (
            caught.value.reason_code == "device-unreachable"
        )  # not the errno that OpenSSL's number looks like
        given = MqttTopicOptions(**secured, ca_file=certificates / "none.pem")  # type: ignore[arg-type]
        with pytest.raises(OptionsError, match=r"none\.pem"):
            await Mqtt(given, Clock()).open()


async def test_a_device_publishes_again_what_the_broker_missed(mosquitto: BrokerProcess) -> None:
    seen: set[str] = set()
    async with publisher(mosquitto.url) as device:
        mosquitto.kill()
        for number in range(30):  # more than may be on the wire at once
            device.publish(f"missed/{number}", b"x", qos=1, retain=True)
        device.publish("missed/lost", b"x", retain=True)
        mosquitto.start()
        async with aiomqtt.Client("127.0.0.1", mosquitto.port) as reader, asyncio.timeout(60):
            await reader.subscribe("missed/#", qos=1)
            async for message in reader.messages:
                seen.add(message.topic.value)
                if len(seen) == 30:
                    break
    assert seen == {f"missed/{number}" for number in range(30)}, "QoS 0 is lost, as on a real device"


async def test_a_broker_that_is_restarted_is_read_again(mosquitto: BrokerProcess) -> None:
    for _ in range(2):
        async with Mqtt(options(mosquitto.port), Clock()) as adapter, thermometer(mosquitto.url):
            assert await read(adapter, 3)
            mosquitto.kill()
            with pytest.raises(DeviceUnreachable):
                await read(adapter, 100_000)
        with pytest.raises(DeviceUnreachable):
            await Mqtt(options(mosquitto.port), Clock()).open()
        mosquitto.start()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n" * 20,
        b"\x20\x02\x00\x00" + b"\x30\xff\xff\xff\x7f" + bytes(100_000),  # CONNACK, then 256 MB announced
        b"\x20\x02\x00\x00" + b"\x90\x03\x00\x01\x80" * 3,  # CONNACK, SUBACK that refuses
        b"\x20\x02\x00\x00" + b"\x30\x02\x00\x09",  # a topic longer than its message
        bytes(range(256)) * 50,
        b"",
    ],
    ids=["http", "endless", "refused", "short", "noise", "eof"],
)
async def test_any_wrong_answer_is_one_error_soon(answer: bytes) -> None:
    talks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if talk := asyncio.current_task():
            talks.add(talk)
        await reader.read(100)
        writer.write(answer)
        with contextlib.suppress(OSError):
            await reader.read(1_000)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        adapter = Mqtt(options(server.sockets[0].getsockname()[1]), Clock())
        async with asyncio.timeout(60):
            with pytest.raises(AdapterError):
                await opened_and_read(adapter)
            await asyncio.wait(talks)


async def opened_and_read(adapter: Mqtt) -> None:
    async with adapter:
        await read(adapter, 1)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (
            bytes.fromhex("08d0860312100a01781801200a69000000000000f03f"),
            "Sparkplug B payload on {}: not read",
        ),
        (b"ON", "the text 'ON' on {}: not read; the message is not JSON: "),
        (b"[1]", "JSON array of 1 on {}: not read; the message contains no field of `fields`"),
        (b"x" * 5_000, "5000 bytes on {}: not read; see max_message_bytes"),
    ],
)
async def test_the_state_names_what_arrived_and_is_not_read(
    broker: BrokerProcess, body: bytes, what: str
) -> None:
    """Also while the other topics are read; the first usable message ends it."""
    topic = "spBv1.0/g/DDATA/e/d"
    given = options(broker.port, topics=[TOPIC, topic], max_message_bytes=4_000, silence_s=60.0)
    source = Source(
        "dev",
        plan_of(lambda: Mqtt(given, Clock()), stall_s=2.0),
        lambda _: None,
        clock=Clock(),
        changed=lambda: None,
    )
    task = asyncio.create_task(source.run())
    try:
        async with publisher(broker.url) as device:

            def send(also: bytes) -> bool:
                device.publish(topic, also, qos=1)
                return source.state.state == "degraded"

            await until(lambda: send(body), "a silent device is degraded")
            words = what.format(topic)
            assert source.state.why.startswith(f"no reading for 2 s: {words}"), source.state.why
            async with thermometer(broker.url):
                await until(lambda: send(body) and source.state.code == "part-not-read")
                assert source.state.why.startswith(f"a part of its data is not read: {words}")
                await until(lambda: not send(b'{"air": {"temp": 1}}') and source.state.state == "ok")
    finally:
        task.cancel()
        await asyncio.wait({task})
