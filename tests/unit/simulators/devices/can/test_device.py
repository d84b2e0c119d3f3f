"""The simulated car's bus: the manual's lines, the DBC file as cantools reads it, repeatable chance."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import can
import cantools
import pytest
from cantools.database.can import Database

from simulators import KINDS, load
from simulators.devices.can.device import FAULTS, VehicleBus
from simulators.devices.can.ecu import ANSWERS, FUNCTIONAL, PHYSICAL, Ecu
from simulators.devices.can.slcan import BusFrame, Slcan
from simulators.devices.can.vehicle_frames import frames
from simulators.plants.vehicle import SIGNALS, Vehicle
from tests.polling import until
from wire.clock import NS_PER_S, Clock
from wire.errors import TryAgain

DBC = Path(__file__).parents[5] / "configs" / "dbc" / "edgebed-ev.dbc"
START_NS = 1_800_000_000 * NS_PER_S
VIN = "EDGEBED0V00000001"
# signal of the DBC -> of the plant
MEANT = {
    "Speed": "speed",
    "Acceleration": "acceleration",
    "YawRate": "yaw_rate",
    "Accelerator": "pedal",
    "BrakePressure": "brake_pressure",
    "Voltage": "pack_voltage",
    "Current": "pack_current",
    "StateOfCharge": "soc",
    "Slope": "slope",
    "Altitude": "altitude",
    "CellTemperature": "cell_temperature",
}


@pytest.fixture(scope="module")
def dbc() -> Database:
    database = cantools.database.load_file(str(DBC))
    assert isinstance(database, Database)
    return database


def decoded(dbc: Database, sent: list[BusFrame]) -> dict[str, float]:
    found: dict[str, float] = {}
    for frame in sent:
        message = dbc.get_message_by_frame_id(frame.id)
        assert message.is_extended_frame == frame.extended
        assert message.length == len(frame.data)
        found |= message.decode_simple(frame.data, decode_choices=False)  # type: ignore[arg-type]
    return found


def test_frames_say_what_the_dbc_reads_in_them(dbc: Database) -> None:
    car = Vehicle(3)
    steps = {signal.name: signal for message in dbc.messages for signal in message.signals}
    for index in range(0, 6_000, 37):
        at_ns = START_NS + index * NS_PER_S // 10
        true = car.sample(index)
        found = decoded(dbc, frames(index, at_ns, true, frozenset()))
        assert found["UnixTime"] == at_ns // 1_000_000
        assert found["Cycle"] == index % 256
        assert found["CellVoltage"] == pytest.approx(true["pack_voltage"] / 96, abs=0.00006)
        for name, meant in MEANT.items():
            step = 1e-4 if steps[name].is_float else steps[name].scale
            assert found[name] == pytest.approx(true[meant], abs=step * 0.51), name
            low, high = steps[name].minimum, steps[name].maximum
            assert low is not None
            assert high is not None
            assert low <= found[name] <= high, f"a healthy car leaves the range of {name}"


def test_every_signal_of_the_dbc_is_sent(dbc: Database) -> None:
    sent = decoded(dbc, frames(0, START_NS, Vehicle(1).sample(0), frozenset()))
    assert sent.keys() == {signal.name for message in dbc.messages for signal in message.signals}


def test_faults_of_control_units(dbc: Database) -> None:
    true = Vehicle(1).sample(0)
    found = decoded(dbc, frames(0, START_NS, true, frozenset({"not-available", "out-of-range", "nan"})))
    assert found["Current"] == pytest.approx(32_767 * 0.02)
    assert found["StateOfCharge"] == pytest.approx(655.35)
    assert found["Speed"] == pytest.approx(300)
    assert found["Slope"] != found["Slope"], "not a number"
    wild = frames(0, START_NS, dict.fromkeys(SIGNALS, 1e6), frozenset())
    assert struct.unpack("<H", wild[-1].data[:2]) == (65_534,), "all ones is kept for not available"


class Line:
    """A serial adapter and what it puts on the bus."""

    def __init__(self) -> None:
        self.sent: list[BusFrame] = []
        self.adapter = Slcan(self.sent.append)


def test_the_manuals_lines() -> None:
    line = Line()
    feed = line.adapter.feed
    for typed, answered in [
        (b"\r\r\r", b"\r\r\r"),
        (b"V\r", b"V1011\r"),
        (b"N\r", b"NEB01\r"),
        (b"t1002FFFF\r", b"\a"),  # closed
        (b"F\r", b"\a"),
        (b"S6\r", b"\r"),
        (b"S9\r", b"\a"),
        (b"s031C\r", b"\r"),
        (b"M00000000\r", b"\r"),
        (b"mFFFFFFFF\r", b"\r"),
        (b"O\r", b"\r"),
        (b"O\r", b"\a"),
        (b"S6\r", b"\a"),
        (b"t10021133\r", b"z\r"),
        (b"T0000010021133\r", b"Z\r"),
        (b"r1002\r", b"z\r"),
        (b"R000001002\r", b"Z\r"),
        (b"t1003112\r", b"\a"),
        (b"t8000\r", b"\a"),  # 11 bits
        (b"t1009000000000000000000\r", b"\a"),
        (b"F\r", b"F00\r"),
        (b"C\r", b"\r"),
        (b"C\r", b"\a"),
        (b"Z1\r", b"\r"),
        (b"L\r", b"\r"),
        (b"t1000\r", b"\a"),  # it listens only
        (b"Q\r", b"\a"),
        (b"x" * 65, b"\a"),
    ]:
        assert feed(typed) == answered, typed
    assert line.sent == [
        BusFrame(0x100, b"\x11\x33"),
        BusFrame(0x100, b"\x11\x33", extended=True),
        BusFrame(0x100, bytes(2), remote=True),
        BusFrame(0x100, bytes(2), extended=True, remote=True),
    ]
    assert line.adapter.line(BusFrame(0x100, b"\x11\xab"), 61_234) == b"t100211AB04D2\r"
    line.adapter.overrun()
    assert feed(b"F\rF\r") == b"F08\rF00\r"


def test_a_command_comes_in_any_pieces() -> None:
    whole, pieces = Line(), Line()
    typed = b"S6\rO\rt10021133\rC\r" * 3
    answers = b"".join(pieces.adapter.feed(bytes([byte])) for byte in typed)
    assert answers == whole.adapter.feed(typed)
    assert pieces.sent == whole.sent


@pytest.mark.parametrize("request_id", [FUNCTIONAL, PHYSICAL])
async def test_the_control_unit_answers_byte_for_byte(request_id: int) -> None:
    sent: asyncio.Queue[BusFrame] = asyncio.Queue()
    values = dict.fromkeys(_NAMES, 0.0) | {"vehicle_speed": 60.4, "coolant_temperature": 83.0}
    ecu = Ecu(sent.put_nowait, lambda: values | {"odometer": 12_345.67}, frozenset, VIN)
    running = asyncio.create_task(ecu.run(), name="ecu")

    async def asked(data: str) -> str:
        ecu.take(BusFrame(request_id, bytes.fromhex(data)))
        async with asyncio.timeout(60):
            frame = await sent.get()
        assert frame.id == ANSWERS
        return frame.data.hex()

    assert await asked("02010d0000000000") == "03410d3caaaaaaaa"
    assert await asked("0201050000000000") == "0341057baaaaaaaa"
    assert await asked("0201a60000000000") == "0641a60001e240aa"
    assert await asked("0201000000000000") == "06410008188003aa"
    assert await asked("0201800000000000") == "06418000000001aa"
    assert await asked("0201a00000000000") == "0641a004000000aa"
    assert await asked("0209020000000000") == "1014490201" + VIN[:3].encode().hex()
    ecu.take(BusFrame(PHYSICAL, bytes.fromhex("300105")))  # one frame, 5 ms apart, then ask again
    assert (await sent.get()).data == b"\x21" + VIN[3:10].encode()
    assert sent.empty()
    ecu.take(BusFrame(PHYSICAL, bytes.fromhex("300000")))
    assert (await sent.get()).data == b"\x22" + VIN[10:].encode()
    if request_id == PHYSICAL:
        assert await asked("0222f19000000000") == "037f2211aaaaaaaa"
        assert await asked("02012f0000000000") == "037f0131aaaaaaaa"
    for nonsense in ("", "00", "08", "0701", "10ff", "2100"):
        ecu.take(BusFrame(request_id, bytes.fromhex(nonsense)))
    assert await asked("02010d0000000000") == "03410d3caaaaaaaa"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


_NAMES = ("engine_speed", "throttle", "run_time", "control_voltage", "ambient_temperature", "accelerator_d",
          "hybrid_battery")  # fmt: skip


async def test_truth_faults_and_their_repair() -> None:
    async with VehicleBus(seed=2, clock=Clock(50, START_NS), faults=["stuck:speed@3-9"]) as car:
        assert car.start_ns % NS_PER_S == 0
        assert car.truth(car.start_ns - 1) == {}
        true = car.truth(car.start_ns + 20 * NS_PER_S)
        assert true.keys() >= {*SIGNALS, "label", "gear", "odometer", "vehicle_speed"}
        assert float(true["odometer"] or 0) > float(car.truth(car.start_ns)["odometer"] or 0)
        assert true == asked_again(car, 200)
        for fault in FAULTS:
            car.inject(fault)
        car.inject("brake@20-22")
        car.repair()
        for wrong in ("fire", "silent@5-4", "stuck:nothing"):
            with pytest.raises(ValueError, match="fault"):
                car.inject(wrong)
        with pytest.raises(TryAgain, match="--port"):
            async with VehicleBus(port=car.port):
                pass
    assert load("can") is VehicleBus
    assert KINDS["can"][0] == "simulators.devices.can.device"


def asked_again(car: VehicleBus, index: int) -> dict[str, object]:
    """Asked in another order, the same."""
    for other in (900, 0, index):
        found = car.truth(car.start_ns + other * NS_PER_S // 10)
    return dict(found)


async def test_python_cans_own_slcan_reads_the_car(dbc: Database) -> None:
    def read(url: str) -> list[can.Message | None]:
        with can.Bus(interface="slcan", channel=url, bitrate=500_000, sleep_after_open=0) as bus:  # type: ignore[call-arg]
            received = [bus.recv(2.0) for _ in range(14)]
            bus.send(
                can.Message(arbitration_id=FUNCTIONAL, data=bytes.fromhex("02010d"), is_extended_id=False)
            )
            while (one := bus.recv(2.0)) is not None and one.arbitration_id != ANSWERS:
                pass
            return [*received, one]

    async with VehicleBus(seed=2, clock=Clock(10, START_NS)) as car:
        *cycles, answer = await asyncio.to_thread(read, car.url)
        seen = {one.arbitration_id for one in cycles if one is not None}
        assert seen == {message.frame_id for message in dbc.messages}
        assert answer is not None
        assert answer.data[:3] == bytes.fromhex("03410d")
        at_ns = 0
        for one in cycles:
            assert one is not None
            found = dbc.get_message_by_frame_id(one.arbitration_id).decode_simple(bytes(one.data))
            if isinstance(at_ms := found.get("UnixTime"), int):
                at_ns = at_ms * 1_000_000
            if "Voltage" in found and at_ns:
                assert found["Voltage"] == pytest.approx(car.truth(at_ns)["pack_voltage"], abs=0.0051)
        assert at_ns > car.start_ns - 1


async def test_a_client_that_reads_nothing_loses_frames_and_does_not_block_others() -> None:
    async with VehicleBus(seed=2, clock=Clock(50, START_NS), faults=["foreign@0x200"]) as car:
        _, slow = await asyncio.open_connection("127.0.0.1", car.port)
        slow.transport.pause_reading()  # type: ignore[attr-defined]
        slow.write(b"S6\rO\r")
        await until(lambda: car.lost > 0)
        written = car.written
        await until(lambda: car.written > written + 20)
        slow.transport.abort()
