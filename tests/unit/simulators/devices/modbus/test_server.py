"""The simulated Modbus devices: frames as the specifications print them, the same seed the same registers."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import pytest

from simulators.devices.modbus.device import ModbusCobot, ParticulateSensor
from simulators.devices.modbus.server import AnswerFaults, ModbusException, RtuFrames, answer, crc, rtu_answer
from wire.clock import NS_PER_S, Clock
from wire.errors import TryAgain


class Bank:
    """The device of the examples in MODBUS Application Protocol V1.1b3."""

    unit_id = 17

    def read(self, table: str, address: int, count: int) -> Sequence[int]:
        if table == "holding" and (address, count) == (0x6B, 3):
            return [555, 0, 100]
        if table == "input" and (address, count) == (8, 1):
            return [10]
        if table == "coil" and (address, count) == (0x13, 0x13):
            return [0xCD6B05 >> shift & 1 for shift in [*range(16, 24), *range(8, 16), *range(3)]]
        if table == "discrete" and (address, count) == (0xC4, 0x16):
            return [0xACDB35 >> shift & 1 for shift in [*range(16, 24), *range(8, 16), *range(6)]]
        raise ModbusException(2)

    def objects(self) -> Mapping[int, bytes]:
        return {0: b"Company identification", 1: b"Product code XX", 2: b"V2.11"}

    def answer_faults(self) -> AnswerFaults:
        return AnswerFaults()


@pytest.mark.parametrize(
    ("request_pdu", "expected"),
    [
        ("0100130013", "0103CD6B05"),
        ("0200C40016", "0203ACDB35"),
        ("03006B0003", "0306022B00000064"),
        ("0400080001", "0402000A"),
        ("0300000001", "8302"),  # no such register
        ("03006B0000", "8303"),  # none of them
        ("03006B007E", "8303"),  # more than 125
        ("03FFFF0002", "8302"),  # past the last
        ("0100130FFF", "8103"),  # more than 2000
        ("03006B", "8303"),
        ("0700", "8701"),  # a function it does not know
        ("", "8001"),
        ("2B0D0100", "AB01"),
        ("2B0E0500", "AB03"),
        ("2B0E0409", "AB02"),
        ("2B0E0402", "2B0E04810000010205" + b"V2.11".hex().upper()),
    ],
)
def test_the_examples_of_the_application_protocol(request_pdu: str, expected: str) -> None:
    assert answer(Bank(), bytes.fromhex(request_pdu), AnswerFaults()).hex().upper() == expected


def test_checksums_as_printed() -> None:
    # MODBUS over Serial Line V1.02, 6.2.2: the checksum of 02 07 is sent as 41 12
    assert crc(bytes.fromhex("0207")) == bytes.fromhex("4112")


async def test_frames_out_of_noise_and_pieces() -> None:
    frames, asked = RtuFrames(), bytes.fromhex("1103006B00037687")
    found = []
    for byte in b"\x00\xffnoise" + asked + asked[:5] + asked:
        found += frames.feed(bytes([byte]))
    assert found == [asked[:-2]] * 2
    assert await rtu_answer(Bank(), asked[:-2]) == (
        bytes.fromhex("1103060" + "22B00000064") + crc(bytes.fromhex("110306022B00000064"))
    )
    assert await rtu_answer(Bank(), b"\x12" + asked[1:-2]) is None  # another unit's


def test_the_same_seed_shows_the_same_registers_at_any_time_and_order() -> None:
    for kind, table in ((ParticulateSensor, "input"), (ModbusCobot, "holding")):
        first, second, other = kind(seed=3), kind(seed=3), kind(seed=4)
        forwards = [first.held(table, index) for index in range(30)]
        backwards = [second.held(table, index) for index in reversed(range(30))]
        assert forwards == backwards[::-1]
        assert forwards != [other.held(table, index) for index in range(30)]


async def test_faults_begin_now_and_are_taken_back() -> None:
    clock = Clock(start_ns=1_800_000_000 * NS_PER_S)
    async with ParticulateSensor(seed=1, clock=clock) as sensor, ModbusCobot(seed=1, clock=clock) as robot:
        well = dict(sensor.held("input", 0))
        sensor.inject("nan")
        assert struct.pack(">2H", sensor.held("input", 0)[10], sensor.held("input", 0)[11])[:2] == b"\x7f\xc0"
        sensor.inject("plume@5-65x3")
        assert sensor.truth(sensor.start_ns + 60 * NS_PER_S) != {}
        blown = sensor.truth(sensor.start_ns + 60 * NS_PER_S)["pm2_5"]
        sensor.repair()
        assert dict(sensor.held("input", 0)) == well
        calm = sensor.truth(sensor.start_ns + 60 * NS_PER_S)["pm2_5"]
        assert float(blown or 0) > float(calm or 0) + 50
        assert sensor.truth(sensor.start_ns + 1) == {}
        assert sensor.truth(sensor.start_ns - NS_PER_S) == {}
        robot.inject("friction:2")
        assert robot.truth(robot.start_ns + NS_PER_S)["faulty_joint"] == 2
        robot.inject("stop")
        assert robot.held("holding", 0)[261] == 1
        for device in (sensor, robot):
            for wrong in ("rust", "plume@9-3", "friction:9", "nan@x", "silent@4-2"):
                with pytest.raises(ValueError, match="fault"):
                    device.inject(wrong)


async def test_a_port_in_use_is_named() -> None:
    async with ParticulateSensor() as first:
        with pytest.raises(TryAgain, match="cannot listen"):
            async with ParticulateSensor(port=first.port):
                pass
