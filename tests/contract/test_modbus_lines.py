"""The Modbus adapter on shared lines, idle connections, busy devices, and against bytes that do not fit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from adapters.base import AdapterError, DeviceStalled, ProtocolViolation, Reading
from adapters.modbus.adapter import Modbus
from adapters.modbus.options import ModbusOptions
from adapters.testing import read
from simulators.devices.modbus.server import LineKind, crc
from tests import polling
from tests.contract.modbus_bus import CLOSE, Bus, Habit, Request, ok, units
from wire.clock import Clock

LINES: list[LineKind] = ["tcp", "rtu", "rtu+tcp"]


def meter(bus: Bus, unit: int = 1, **more: Any) -> Modbus:
    given: dict[str, Any] = {
        "url": bus.url,
        "unit_id": unit,
        "registers": {"n": {"register": 1}},
        "period_s": 0.05,
        "timeout_s": 1.0,
        "retries": 1,
        "data_age_s": 60,
    }
    return Modbus(msgspec.convert(given | more, ModbusOptions), Clock())


def numbers(rows: list[Reading], field: str = "n") -> set[Any]:
    return {row.values[field] for row in rows}


# --- several units


@pytest.mark.parametrize("line", LINES)
async def test_units_share_a_line_that_takes_one_connection(line: LineKind) -> None:
    async with Bus(line, units(1, 2, 3), one_connection=True) as bus:
        meters = [meter(bus, unit, timeout_s=10.0 if line == "tcp" else 1.0) for unit in (1, 2, 3)]
        async with meters[0], meters[1], meters[2]:
            found = await asyncio.gather(*(read(each, 5) for each in meters))
        assert [numbers(rows) for rows in found] == [{101}, {201}, {301}]
        assert (bus.refused, bus.live) == (0, 0 if line == "rtu" else bus.live)
        async with meter(bus, 2) as again:  # the line was closed with its last unit, and opens again
            assert numbers(await read(again, 1)) == {201}


@pytest.mark.parametrize("line", LINES)
async def test_a_dead_unit_costs_the_others_one_timeout_at_a_time(line: LineKind) -> None:
    async with Bus(line, units(1, 3)) as bus, meter(bus, 1) as first, meter(bus, 3) as third:
        for _ in range(2):
            reading = [asyncio.create_task(read(each, 30)) for each in (first, third)]
            asked = len(bus.requests)
            with pytest.raises(DeviceStalled, match="no answer as unit 2"):
                await meter(bus, 2, timeout_s=0.3, retries=3).open()
            between = [request.unit for request in bus.requests[asked:]]
            for rows, unit in zip(await asyncio.gather(*reading), (1, 3), strict=True):
                assert numbers(rows) == {100 * unit + 1}
        tries = [at for at, unit in enumerate(between) if unit == 2]
        assert len(tries) == 1, "a unit that did not answer is asked once while others use the line"
        assert bus.asked(2) == 4 + 1
        alone = [request.unit for request in bus.requests]
        first_tries = [at for at, unit in enumerate(alone) if unit == 2][:4]
        assert all(b - a > 1 for a, b in pairwise(first_tries)), "others between them"


@pytest.mark.parametrize("line", LINES)
async def test_a_unit_with_another_fault_leaves_the_others_alone(line: LineKind) -> None:
    async def habit(request: Request) -> Sequence[bytes]:
        if request.unit == 2:
            return [request.answer(request.refusal(2))]
        if request.unit == 4:
            return [request.answer(request.refusal(0x0B))]
        return [request.answer()]

    async with Bus(line, habit) as bus, meter(bus, 1) as first:
        reading = asyncio.create_task(read(first, 40))
        for unit, said in ((2, "illegal data address"), (4, "unit 4: exception 11, gateway")):
            with pytest.raises(AdapterError, match=said):
                await meter(bus, unit).open()
        assert numbers(await reading) == {101}


async def test_units_of_one_line_keep_their_own_periods() -> None:
    async with (
        Bus("tcp", ok) as bus,
        meter(bus, 1, period_s=0.02) as fast,
        meter(bus, 2, period_s=0.5) as slow,
    ):
        quick = asyncio.create_task(read(fast, 10_000))
        await read(slow, 4)
        quick.cancel()
        await asyncio.wait({quick})
        assert bus.asked(1) > 2 * bus.asked(2)
        assert bus.connections == 1


async def test_a_late_answer_of_one_unit_is_not_taken_for_another() -> None:
    async def habit(request: Request) -> Sequence[bytes]:
        if request.unit == 1 and request.number % 3 == 0:
            await asyncio.sleep(0.4)
        return [request.answer()]

    async with (
        Bus("rtu", habit) as bus,
        meter(bus, 1, timeout_s=0.25, retries=5) as late,
        meter(bus, 2, timeout_s=0.25, retries=5) as other,
    ):
        found = await asyncio.gather(read(late, 6, within_s=60), read(other, 6, within_s=60))
    assert [numbers(rows) for rows in found] == [{101}, {201}]


async def test_two_devices_that_read_one_unit_do_not_take_each_others_answers() -> None:
    async def habit(request: Request) -> Sequence[bytes]:
        if request.number % 4 == 0:
            await asyncio.sleep(0.4)
        return [request.answer()]

    async with (
        Bus("rtu", habit) as bus,
        meter(bus, timeout_s=0.25, retries=5, registers={"n": {"register": 1}}) as one,
        meter(bus, timeout_s=0.25, retries=5, registers={"n": {"register": 50}}) as two,
    ):
        found = await asyncio.gather(read(one, 5, within_s=60), read(two, 5, within_s=60))
    assert [numbers(rows) for rows in found] == [{101}, {150}]


# --- connections that the device closes


@pytest.mark.parametrize("line", ["tcp", "rtu+tcp"])
async def test_a_gateway_that_closes_idle_connections_costs_no_row(line: LineKind) -> None:
    async with Bus(line, ok, idle_s=0.05) as bus, meter(bus, period_s=0.4) as adapter:
        rows = await read(adapter, 5)
        assert numbers(rows) == {101}
        assert adapter.counters["reconnects"] >= 3
        assert bus.connections >= 4
        assert "missed_polls" not in adapter.counters


@pytest.mark.parametrize("line", ["tcp", "rtu+tcp"])
async def test_a_device_that_closes_after_each_answer(line: LineKind) -> None:
    async def habit(request: Request) -> Sequence[bytes]:
        return [request.answer(), CLOSE]

    registers = {name: {"register": at} for name, at in (("a", 1), ("b", 50), ("c", 90))}
    async with Bus(line, habit) as bus, meter(bus, registers=registers) as adapter:
        rows = await read(adapter, 5)
        assert [numbers(rows, name) for name in "abc"] == [{101}, {150}, {190}]
        assert bus.connections >= 18


async def test_another_device_after_a_reconnect_is_noticed() -> None:
    async def habit(request: Request) -> Sequence[bytes]:
        pdu = request.registers()
        if request.connection > 1:
            pdu = pdu[:2] + bytes(len(pdu) - 2)
        return [request.answer(pdu)]

    identity = {"registers": [{"register": 7, "value": 107}]}
    async with Bus("tcp", habit, idle_s=0.05) as bus, meter(bus, period_s=0.5, identity=identity) as adapter:
        with pytest.raises(ProtocolViolation, match="is another device: holding 7 holds 0"):
            await read(adapter, 100)


async def test_the_row_of_opening_is_kept_for_a_slow_device() -> None:
    async with Bus("tcp", ok) as bus, meter(bus, period_s=3_600, data_age_s=0) as adapter:
        assert numbers(await read(adapter, 1)) == {101}


# --- a busy device


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("code", [5, 6, 11])  # 11: the gateway had no answer from the unit in time
async def test_a_busy_device_is_asked_again_within_the_period(line: LineKind, code: int) -> None:
    async def habit(request: Request) -> Sequence[bytes]:
        busy = request.number % 3 == 0
        return [request.answer(request.refusal(code) if busy else None)]

    registers = {name: {"register": at} for name, at in (("a", 1), ("b", 50), ("c", 90))}
    async with Bus(line, habit) as bus, meter(bus, registers=registers, period_s=1) as adapter:
        rows = await read(adapter, 3)
        assert [numbers(rows, name) for name in "abc"] == [{101}, {150}, {190}]
        assert adapter.counters["retries"] >= 3
        assert f"exception_{code}" not in adapter.counters


# --- bytes that do not fit


def as_rtu(request: Request) -> bytes:
    frame = bytes([request.unit]) + request.registers()
    return frame + crc(frame)


def tampered(change: Any) -> Habit:
    async def habit(request: Request) -> Sequence[bytes]:
        changed: Sequence[bytes] = change(request)
        return changed

    return habit


@pytest.mark.parametrize(
    ("line", "change", "said"),
    [
        ("tcp", lambda r: [r.answer(transaction=r.transaction + 1)], r"transaction [23], which was not"),
        ("tcp", lambda r: [r.answer()[:5] + b"\x06" + r.answer()[6:]], "length of 6, and 5 bytes"),
        ("tcp", lambda r: [r.answer()[:9]], "breaks off, or its length is wrong"),
        ("tcp", lambda r: [r.answer()[:5]], "breaks off within its header"),
        ("tcp", lambda r: [r.answer(unit=7)], "asked for unit 1 and answers as unit 7"),
        ("tcp", lambda r: [r.answer(b"\x04" + r.registers()[1:])], "function 4 with 1 registers, asked was"),
        ("tcp", lambda r: [r.answer(b"\x03\x04\0\0\0\0")], "function 3 with 2 registers, asked was"),
        ("tcp", lambda r: [b"\xff" * 20], r"not Modbus TCP: 20 bytes .*\(ff ff.*protocol 65535"),
        ("tcp", lambda r: [r.answer(r.refusal(0x0A))], "unit 1: exception 10, gateway path unavailable"),
        ("tcp", lambda r: [r.answer(r.refusal(0x0B))], "unit 1: exception 11, gateway: the device behind"),
        ("tcp", lambda r: [as_rtu(r)], r"frame of Modbus RTU: use rtu\+tcp://"),
        ("rtu", lambda r: [r.frame], "it is the echo of the request"),
        ("rtu", lambda r: [r.answer()[:4]], "breaks off after 4 of 7 bytes"),
        ("rtu", lambda r: [r.answer()[:-1] + b"\xff"], "its checksum is .* would be right"),
        ("rtu", lambda r: [b"\x55\xaa\x55"], "55 aa 55.*: there is no answer in it: check baud"),
        ("rtu", lambda r: [r.answer(unit=7)], "asked for unit 1 and answers as unit 7"),
        ("rtu", lambda r: [r.answer(b"\x04" + r.registers()[1:])], "function 4 with 1 registers, asked was"),
        ("rtu+tcp", lambda r: [b"\0\x01\0\0\0\x05\x01\x03\x02\0\x65"], "frame of Modbus TCP: use tcp://"),
    ],
)  # fmt: skip
async def test_bytes_that_do_not_fit_are_named(line: LineKind, change: Any, said: str) -> None:
    async with Bus(line, tampered(change)) as bus:
        with pytest.raises(AdapterError, match=said):
            await meter(bus, timeout_s=0.2).open()


@pytest.mark.parametrize("line", ["rtu", "rtu+tcp"])
@pytest.mark.parametrize(
    "change",
    [
        lambda r: [r.frame + r.answer()],
        lambda r: [r.frame, r.answer()],
        lambda r: [b"\0" + r.answer()],
        lambda r: [b"\0\xff\x01\x03" + r.answer()],
        lambda r: [b"\x01", r.answer()],
        lambda r: [r.frame + b"\0" + r.answer()],
        lambda r: [r.answer()[:3], r.answer()[3:]],
        lambda r: [r.answer(unit=9) + r.answer()],
    ],
    ids=["echo", "echo-apart", "zero", "noise", "noise-apart", "both", "in-parts", "another-unit"],
)
async def test_echo_and_noise_are_skipped(line: LineKind, change: Any) -> None:
    async with Bus(line, tampered(change)) as bus, meter(bus) as adapter:
        assert numbers(await read(adapter, 5)) == {101}
        assert "retries" not in adapter.counters


@pytest.mark.parametrize("line", LINES)
async def test_a_second_answer_is_not_taken_for_the_next(line: LineKind) -> None:
    registers = {name: {"register": at} for name, at in (("a", 1), ("b", 50), ("c", 90))}
    double = tampered(lambda r: [r.answer() * 2])
    async with Bus(line, double) as bus, meter(bus, registers=registers) as adapter:
        rows = await read(adapter, 10)
    assert [numbers(rows, name) for name in "abc"] == [{101}, {150}, {190}]


async def test_an_answer_that_is_always_late_names_the_timeout() -> None:
    async def habit(request: Request) -> Sequence[bytes]:
        await asyncio.sleep(0.5)
        return [request.answer()]

    async with Bus("tcp", habit) as bus:
        adapter = meter(bus, timeout_s=0.2, retries=0)
        for _ in range(2):
            with pytest.raises(AdapterError) as caught:
                await adapter.open()
        await polling.until(lambda: len(bus.requests) == 2)
    assert "no answer as unit 1" in str(caught.value)


async def test_a_sentinel_names_its_words() -> None:
    registers = {"n": {"register": 1}, "t": {"register": 2, "type": "s16", "invalid": [102]}}
    async with Bus("tcp", ok) as bus, meter(bus, registers=registers) as adapter:
        (row,) = await read(adapter, 1)
    assert row.values == {"n": 101, "t": None}
    assert adapter.unread["t"].what == "t: its registers hold 0x66, which `invalid` lists as no reading"


async def test_a_cancelled_unit_leaves_the_line_to_the_others() -> None:
    async with Bus("rtu", units(1)) as bus, meter(bus, 1) as first:
        opening = asyncio.create_task(meter(bus, 2, timeout_s=3.0).open())
        await polling.until(lambda: bus.asked(2))
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await opening
        assert numbers(await read(first, 3)) == {101}
