"""When the Modbus adapter polls, and how it treats samples that change during a poll."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from adapters.base import DeviceStalled, Reading
from adapters.modbus.adapter import Modbus, _PollSchedule
from adapters.modbus.options import ModbusOptions
from simulators.devices.modbus.server import AnswerFaults, TcpListener
from wire.clock import NS_PER_S, Clock
from wire.messages import Quality

START_NS = 1_800_000_000 * NS_PER_S


class Stepped(Clock):
    """A clock whose sleepers wake at once, and which the test sets."""

    def __init__(self) -> None:
        super().__init__(start_ns=START_NS)
        self.now, self.up = START_NS, 0

    def now_ns(self) -> int:
        return self.now

    def monotonic_ns(self) -> int:
        return self.up

    async def sleep_until(self, at_ns: int) -> None:
        self.passes(max(0, at_ns - self.now) / NS_PER_S)

    def passes(self, seconds: float) -> None:
        self.now += int(seconds * NS_PER_S)
        self.up += int(seconds * NS_PER_S)


def options(**raw: Any) -> ModbusOptions:
    given = {"url": "tcp://127.0.0.1:1", "registers": {"a": {"register": 0}}, "timeout_s": 1.0} | raw
    return msgspec.convert(given, ModbusOptions)


async def polls(pace: _PollSchedule, clock: Stepped, n: int) -> list[float]:
    seen = []
    for _ in range(n):
        await pace.next()
        seen.append((clock.now - START_NS) / NS_PER_S)
    return seen


async def test_polls_are_between_the_samples() -> None:
    clock, counters = Stepped(), Counter[str]()
    clock.passes(0.7)
    assert await polls(_PollSchedule(options(), clock, counters), clock, 3) == [1.5, 2.5, 3.5]
    assert await polls(_PollSchedule(options(polls=2), clock, counters), clock, 3) == [3.75, 4.25, 4.75]
    assert counters == {}


async def test_missed_polls_are_counted() -> None:
    clock, counters = Stepped(), Counter[str]()
    pace = _PollSchedule(options(), clock, counters)
    await polls(pace, clock, 2)
    clock.passes(0.9)  # a little late: the next poll is on time
    assert await polls(pace, clock, 1) == [2.5]
    clock.passes(10.2)
    assert await polls(pace, clock, 1) == [13.5]
    assert counters == {"missed_polls": 10}


@pytest.mark.parametrize("hours", [-1.0, 1.0, 400_000.0])
async def test_a_clock_that_is_set_stops_nothing(hours: float) -> None:
    clock, counters = Stepped(), Counter[str]()
    pace = _PollSchedule(options(), clock, counters)
    await polls(pace, clock, 2)
    clock.now += int(hours * 3600) * NS_PER_S
    before = clock.up
    await polls(pace, clock, 3)
    assert clock.up - before <= 3 * NS_PER_S
    assert counters == {}


class Changing:
    """A device that takes a new sample each `every` requests, until `calm_after`."""

    unit_id = 1

    def __init__(self, every: int, calm_after: int) -> None:
        self.requests, self.every, self.calm_after = 0, every, calm_after

    def read(self, table: str, address: int, count: int) -> Sequence[int]:
        self.requests += 1
        sample = min(self.requests, self.calm_after) // self.every
        return [sample] * count

    def objects(self) -> Mapping[int, bytes]:
        return {}

    def answer_faults(self) -> AnswerFaults:
        return AnswerFaults()


async def rows(device: Changing, n: int) -> tuple[list[Reading], dict[str, int]]:
    listener = TcpListener(device, "127.0.0.1", 0)
    await listener.open()
    given = options(
        url=f"tcp://127.0.0.1:{listener.port}",
        registers={"a": {"register": 0}, "b": {"register": 50}, "c": {"register": 100}},
        counter={"register": 10},
        period_s=0.01,
        data_age_s=60,
    )
    found: list[Reading] = []
    try:
        async with Modbus(given, Clock()) as adapter:
            async for reading in adapter:
                found.append(reading)
                if len(found) == n:
                    break
            return found, adapter.counters
    finally:
        await listener.close()


async def test_a_row_never_mixes_two_samples() -> None:
    found, counters = await rows(Changing(every=7, calm_after=10**9), 10)
    for row in found:
        assert len(set(row.values.values())) == 1
        assert row.quality is Quality.GOOD
    assert counters["torn"] > 0


async def test_a_device_that_always_changes_is_uncertain() -> None:
    found, _ = await rows(Changing(every=2, calm_after=10**9), 3)
    assert {row.quality for row in found} == {Quality.UNCERTAIN}


class Scripted(Changing):
    """A device whose registers hold the next words of a list at each request, then stay as they are."""

    def __init__(self, *answers: Sequence[int]) -> None:
        super().__init__(every=1, calm_after=0)
        self.answers = list(answers)

    def read(self, table: str, address: int, count: int) -> Sequence[int]:
        words = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return words[address : address + count]


NAN = 0x7FC0


@pytest.mark.parametrize(
    ("marker", "answers", "expected"),
    [
        # the mark (register 0) stays, the value (registers 1 and 2, a float) changes
        ({"counter": {"register": 0}}, [(5, 0x3F80, 0), (5, 0x3F80, 0), (5, 0x4000, 0), (6, 0x4000, 0)], 3),
        (
            {"time": {"register": 3, "type": "u32", "unit": "s"}},
            [(0, 0x3F80, 0, 9, 9), (0, 0x4000, 0, 9, 9), (0, 0x4040, 0, 9, 9)],
            2,
        ),
        ({"counter": {"register": 0}}, [(5, NAN, 0), (5, NAN, 0), (5, NAN, 0), (5, 0x3F80, 0)], 2),
    ],
    ids=["counter", "time", "nan"],
)
async def test_a_poll_is_left_out_only_if_neither_mark_nor_values_changed(
    marker: dict[str, Any], answers: list[tuple[int, ...]], expected: int
) -> None:
    listener = TcpListener(Scripted(*answers), "127.0.0.1", 0)
    await listener.open()
    given = options(
        url=f"tcp://127.0.0.1:{listener.port}",
        registers={"a": {"register": 1, "type": "f32"}},
        period_s=0.02,
        data_age_s=0.4,
        **marker,
    )
    async with Modbus(given, Clock()) as adapter:
        rows = adapter.readings()
        for _ in range(expected):
            await anext(rows)
        with pytest.raises(DeviceStalled, match="stays at"):
            await anext(rows)
    await listener.close()


async def test_a_device_in_local_time_is_named_in_its_state() -> None:
    """Nine hours ahead, as from a clock in Korea; the name stays while the rows come."""
    clock = Clock(start_ns=START_NS)
    local = START_NS // NS_PER_S + 9 * 3600
    words = [(7, (local + at) >> 16, (local + at) & 0xFFFF) for at in range(3)]
    listener = TcpListener(Scripted(*words), "127.0.0.1", 0)
    await listener.open()
    given = options(
        url=f"tcp://127.0.0.1:{listener.port}",
        time={"register": 1, "type": "u32"},
        period_s=0.02,
        data_age_s=0.4,
    )
    async with Modbus(given, clock) as adapter:
        rows = adapter.readings()
        since = set()
        for _ in range(2):
            assert (await anext(rows)).quality is Quality.UNCERTAIN
            (unread,) = adapter.unread.values()
            assert unread.what.startswith("its times are 9.0 h ahead of this machine")
            since.add(unread.since_s)
        assert len(since) == 1
        with pytest.raises(DeviceStalled):
            await anext(rows)
    await listener.close()
