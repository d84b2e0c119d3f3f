"""Set-points on real protocols: a register of the simulated sensor, a topic of a real broker."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from adapters.base import AdapterError, DeviceUnreachable, OptionsError, ProtocolViolation
from adapters.modbus.adapter import Modbus
from adapters.modbus.options import ModbusOptions
from adapters.modbus.set_point import ModbusWrite
from adapters.modbus.values import number, words_of
from adapters.mqtt.adapter import Mqtt
from adapters.mqtt.options import MqttTopicOptions, MqttWrite
from adapters.set_point import SetPoint
from edgebed.broker import BrokerProcess
from simulators.devices.modbus.device import ParticulateSensor
from simulators.devices.modbus.server import LineKind
from tests import paho_client
from tests.contract.modbus_bus import Bus, Request
from tests.polling import until
from wire.clock import Clock

FAN: dict[str, Any] = {"register": 0, "scale": 0.1}
REGISTERS: dict[str, dict[str, Any]] = {
    "fan": FAN,
    "heater": {"register": 0, "kind": "coil"},
    "air": {"register": 8, "kind": "input", "type": "f32"},
    "flag": {"register": 3, "type": "bit", "bit": 2},
    "half": {"register": 4, "mask": 0xFF},
    "other": {"register": 9},
}


def modbus(url: str, register: str = "fan", **more: Any) -> Modbus:
    limits = {key: more.pop(key) for key in ("min", "max", "safe") if key in more}
    write = ModbusWrite(register=register, **{"min": 0, "max": 80, "safe": 20, **limits})
    given = {"url": url, "registers": REGISTERS, "timeout_s": 1.0, "retries": 0, **more}
    options = msgspec.convert(given, ModbusOptions)
    return Modbus(msgspec.structs.replace(options, allow_write=True, write=write), Clock())


@asynccontextmanager
async def opened(point: SetPoint | None) -> AsyncIterator[SetPoint]:
    assert point is not None
    await point.open()
    try:
        yield point
    finally:
        await point.close()


@pytest.mark.parametrize("line", ["tcp", "rtu+tcp", "rtu"])
async def test_a_register_changes_and_is_read_back(line: LineKind) -> None:
    async with ParticulateSensor(seed=1, line=line) as device:
        async with opened(modbus(device.url).set_point) as fan:
            assert await fan.read() == 60.0
            await fan.write(12.3)
            assert device.settings["holding", 0] == 123
            assert await fan.read() == 12.3
            device.settings["holding", 0] = 777  # another master
            assert await fan.read() == 77.7
        async with opened(modbus(device.url, "heater", max=1, safe=0).set_point) as heater:
            await heater.write(1.0)
            assert (device.settings["coil", 0], await heater.read()) == (1, 1.0)


async def test_a_device_that_refuses_or_is_gone_is_an_error() -> None:
    async with ParticulateSensor(seed=1) as device:
        async with opened(modbus(device.url).set_point) as fan:
            device.inject("refuse@0x3")
            await asyncio.sleep(0)
            with pytest.raises(AdapterError, match=r"refuses 30 in fan: exception 3, illegal data value"):
                await fan.write(30)
            device.repair()
            await fan.write(30)
        async with opened(modbus(device.url, "other").set_point) as other:
            with pytest.raises(AdapterError, match="exception 2"):
                await other.write(30)
        point = modbus(device.url).set_point
        assert point is not None
        await device.unplug()
        with pytest.raises(DeviceUnreachable):
            await point.open()


async def test_a_device_that_writes_single_registers_only() -> None:
    held = {"0": 5}

    async def habit(request: Request) -> Sequence[bytes]:
        function, _, number = struct.unpack_from(">BHH", request.pdu)
        if function == 6:
            held["0"] = number
            return [request.answer(request.pdu)]
        if function == 3:
            return [request.answer(struct.pack(">BBH", 3, 2, held["0"]))]
        return [request.answer(request.refusal(1))]

    async with Bus("tcp", habit) as bus, opened(modbus(bus.url).set_point) as fan:
        await fan.write(1.2)
        assert (held["0"], await fan.read()) == (12, 1.2)


async def test_a_device_that_comes_back_or_is_another_is_not_written_as_before() -> None:
    async with ParticulateSensor(seed=1) as device:
        identity = {"product": "PM-16"}
        point = modbus(device.url, identity=identity).set_point
        async with opened(point) as fan:
            await fan.write(30)
            await device.unplug()
            async with device:  # it has started again
                with pytest.raises(DeviceUnreachable, match="takes a new one"):
                    await fan.read()
                await fan.close()
                await fan.open()
                await fan.write(31)
                assert device.settings["holding", 0] == 310
                device.inject("other-device")
                await fan.close()
                with pytest.raises(ProtocolViolation, match="Kettle"):
                    await fan.open()


def test_a_broadcast_is_refused() -> None:
    with pytest.raises(OptionsError, match="every unit"):
        modbus("tcp://127.0.0.1:1", unit_id=0)


@pytest.mark.parametrize(
    ("register", "limits", "why"),
    [
        ("none", {}, "has no register 'none'"),
        ("air", {}, "is read only"),
        ("flag", {}, "part of a register"),
        ("half", {}, "part of a register"),
        ("fan", {"min": 90}, "max 80 is not above min 90"),
        ("fan", {"safe": 90}, "safe 90 is not within"),
        ("fan", {"max": float("nan")}, "finite"),
        ("fan", {"max": float("inf")}, "finite"),
        ("fan", {"safe": 20.05}, "its steps are 0.1"),
        ("fan", {"min": -2, "safe": -1}, "beyond u16"),
        ("heater", {}, "a bit is 0 or 1"),
    ],
)
def test_limits_that_cannot_work_are_refused(register: str, limits: dict[str, float], why: str) -> None:
    with pytest.raises(OptionsError, match=why):
        modbus("tcp://127.0.0.1:1", register, **limits)


def test_numbers_outside_of_the_limits_are_not_written() -> None:
    fan = modbus("tcp://127.0.0.1:1", max=7_000).set_point
    assert fan is not None
    assert [fan.refusal(good) for good in (0, 0.1, 33.3, 80)] == [""] * 4
    for bad in (-0.1, 7_001, 0.05, float("nan"), float("inf"), 6_553.6):
        assert fan.refusal(bad), bad


@pytest.mark.parametrize("coded", ["u16", "s16", "u32", "s32", "u64", "s64", "f32", "f64"])
@pytest.mark.parametrize("order", ["abcd", "cdab", "badc", "dcba"])
def test_every_coding_is_written_as_it_is_read(coded: str, order: str) -> None:

    for raw in (0, 1, 258, 0x7F01, *(() if coded[0] == "u" else (-1, -300))):
        assert number(words_of(raw, coded, order), coded, order) == raw


def topic(port: int, name: str = "hall/fan/set", **more: Any) -> Mqtt:
    write = MqttWrite(topic=name, min=0, max=80, safe=20)
    options = MqttTopicOptions(
        url=f"mqtt://127.0.0.1:{port}",
        topics=["hall/fan/state"],
        fields={"speed": "speed"},
        allow_write=True,
        write=write,
        timeout_s=2.0,
        **more,
    )
    return Mqtt(options, Clock())


class Listener:
    """Another client of the broker."""

    def __init__(self, port: int) -> None:
        self.got: list[tuple[bytes, bool]] = []
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self.subscribed = False
        self.client.on_message = lambda _c, _d, m: self.got.append((m.payload, m.retain))
        self.client.on_subscribe = lambda *_: setattr(self, "subscribed", True)
        self.client.connect("127.0.0.1", port)
        self.client.subscribe("hall/fan/set", 1)
        self.client.loop_start()

    def close(self) -> None:
        paho_client.end(self.client)


@pytest.fixture
async def listener(broker: BrokerProcess) -> AsyncIterator[Listener]:
    made = Listener(broker.port)
    await until(lambda: made.subscribed)
    yield made
    made.close()


async def test_a_topic_is_written_and_not_retained(broker: BrokerProcess, listener: Listener) -> None:
    async with opened(topic(broker.port).set_point) as fan:
        await fan.write(40.0)
        await fan.write(12.25)
        assert await fan.read() == 12.25
        listener.client.publish("hall/fan/set", "77", qos=1)  # another master
        await until(lambda: len(listener.got) == 3)

        async def is_seen() -> bool:
            return await fan.read() == 77.0

        await until(is_seen)
        await fan.write(20.0)
    await until(lambda: len(listener.got) == 4)
    late = Listener(broker.port)
    await until(lambda: late.subscribed)
    late.client.publish("hall/fan/set", "end", qos=1)
    await until(lambda: late.got)
    late.close()
    assert listener.got[:4] == [(b"40", False), (b"12.25", False), (b"77", False), (b"20", False)]
    assert late.got == [(b"end", False)]


async def test_the_broker_sends_the_safe_number_when_the_connection_breaks(
    broker: BrokerProcess, listener: Listener
) -> None:
    point = topic(broker.port).set_point
    assert point is not None
    await point.open()
    await point.write(40.0)
    await point.close()  # without the safe number
    await until(lambda: listener.got == [(b"40", False), (b"20", False)])


async def test_other_messages_on_the_topic_are_no_number(broker: BrokerProcess, listener: Listener) -> None:
    async with opened(topic(broker.port).set_point) as fan:
        for body in (b"fast", b"", b"nan", b"inf", b"1" * 65, b"\xff"):
            await fan.write(40.0)
            listener.client.publish("hall/fan/set", body, qos=1)

            async def is_gone() -> bool:
                return await fan.read() is None

            await until(is_gone)


@pytest.mark.parametrize(
    ("rights", "why"),
    [("publish: hall.fan.set", "refuses the subscription"), ("subscribe: hall.fan.set", "no message on")],
)
async def test_a_login_needs_both_rights(tmp_path: Path, rights: str, why: str) -> None:
    verb, subject = rights.split(": ")
    other = "subscribe" if verb == "publish" else "publish"

    class Strict(BrokerProcess):
        def command(self) -> list[str]:
            command = super().command()
            allowed = f'{{ {verb}: "{subject}", {other}: {{ deny: ["hall.>"] }} }}'
            with Path(command[-1]).open("a") as conf:
                conf.write(
                    f"authorization {{ users: [ {{ user: me, password: x-7, permissions: {allowed} }} ] }}\n"
                )
            return command

    (tmp_path / "password").write_text("x-7\n")
    with Strict("nats", tmp_path / "strict") as broker:
        made = topic(broker.port, username="me", password_file=tmp_path / "password")
        with pytest.raises(AdapterError, match=why):
            async with opened(made.set_point) as fan:
                await fan.write(40.0)


@pytest.mark.parametrize("name", ["hall/+/set", "hall/#", "$SYS/x", "tb1/acme/p1/s1/n2/cmd/x", "#"])
def test_topics_of_many_or_of_edgebed_are_refused(name: str) -> None:
    with pytest.raises(OptionsError, match=r"write\.topic"):
        topic(1, name)


def test_nothing_may_be_written_unless_the_options_allow_it() -> None:

    with pytest.raises(OptionsError, match="`write` does not say"):
        Mqtt(msgspec.structs.replace(topic(1).options, write=None), Clock())
    assert Mqtt(msgspec.structs.replace(topic(1).options, allow_write=False), Clock()).set_point is None
    options = msgspec.structs.replace(modbus("tcp://127.0.0.1:1").options, allow_write=False)
    assert Modbus(options, Clock()).set_point is None
