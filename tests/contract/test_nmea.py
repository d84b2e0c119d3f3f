"""The NMEA adapter against the simulated receiver: TCP with line faults, and a pseudo terminal."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any, ClassVar

import pytest

from adapters.base import AdapterError, DeviceStalled, DeviceUnreachable, ProtocolViolation
from adapters.nmea.adapter import Nmea
from adapters.nmea.options import NmeaOptions
from adapters.testing import AdapterContract, Rig, read, until
from agent.pipeline.validation import Validator
from simulators.devices.nmea import GnssReceiver
from simulators.faults import FaultProxy
from wire.clock import NS_PER_S, Clock
from wire.messages import Quality

SEED = 3


def options(url: str, **more: Any) -> NmeaOptions:
    return NmeaOptions(**{"url": url, "silence_s": 2.0, "timeout_s": 5.0} | more)


class TestNmea(AdapterContract):
    adapter = Nmea
    good_options: ClassVar = {"url": "serial:///dev/ttyUSB0?baud=38400"}
    bad_options: ClassVar = [
        ({"url": "http://x:1"}, "tcp://host:port"),
        ({"url": "tcp://x"}, "tcp://host:port"),
        ({"url": "tcp://x:99999"}, "port"),
        ({"url": "tcp://[x:1"}, "no usable host"),
        ({"url": "serial://ttyUSB0"}, "serial:///dev"),
        ({"url": "serial:///dev/ttyUSB0?baud=fast"}, "9600"),
        ({"url": "serial:///dev/ttyUSB0?speed=9600"}, "baud"),
        ({"url": "tcp://me:geheim@x:1"}, "password"),
        ({"url": "tcp://x:1", "silence_s": 0}, "silence_s"),
    ]
    secrets = ("geheim",)

    @pytest.fixture
    async def rig(self) -> AsyncIterator[Rig]:
        async with (
            GnssReceiver(seed=SEED, clock=Clock(5), rate_hz=10) as receiver,
            FaultProxy(receiver.port) as link,
        ):
            url = f"tcp://127.0.0.1:{link.port}"
            yield Rig(lambda: Nmea(options(url, bad_lines=1_000), receiver.clock), link)


@pytest.mark.parametrize("terminal", [False, True], ids=["tcp", "pty"])
@pytest.mark.parametrize("rate_hz", [1, 10])
async def test_every_position_arrives_once_and_as_the_vehicle_was(terminal: bool, rate_hz: int) -> None:
    clock = Clock(20)
    async with (
        GnssReceiver(seed=SEED, clock=clock, rate_hz=rate_hz, terminal=terminal) as receiver,
        Nmea(options(receiver.url), clock) as adapter,
    ):
        rows = await read(adapter, 25)
        assert adapter.counters == {}
        assert {b.at_ns - a.at_ns for a, b in pairwise(rows)} == {NS_PER_S // rate_hz}
        for row in rows:
            truth = receiver.truth(row.at_ns)
            assert truth, "the row's time is not the time of a sample"
            assert row.quality is Quality.GOOD
            assert row.values["fix"] == 1
            for name, tolerance in [
                ("latitude", 1e-7),
                ("longitude", 1e-7),
                ("altitude", 0.051),
                ("speed", 1e-3),
            ]:
                assert row.values[name] == pytest.approx(truth[name], abs=tolerance), name
            if row.values["heading"] is not None:
                assert row.values["heading"] == pytest.approx(truth["heading"], abs=0.006)


async def test_what_the_receiver_doubts_or_gets_wrong_is_flagged() -> None:
    clock = Clock(10)
    async with (
        GnssReceiver(seed=SEED, clock=clock, rate_hz=10) as receiver,
        Nmea(options(receiver.url), clock) as adapter,
    ):
        receiver.inject("no-fix")
        row = await until(adapter, lambda row: row.quality is not Quality.GOOD)
        assert row.quality is Quality.UNCERTAIN
        assert row.values["latitude"] is None
        assert row.values["fix"] == 0
        receiver.repair()
        await until(adapter, lambda row: row.quality is Quality.GOOD)
        receiver.inject("checksumx0.3")
        await until(adapter, lambda row: adapter.counters.get("bad_checksum", 0) > 5)
        receiver.repair()
        receiver.inject("half-line")
        row = await until(adapter, lambda row: adapter.counters.get("cut_sentence", 0) > 5)
        assert row.values["latitude"] is not None, "RMC is read after the beginning of a GGA that was cut"
        receiver.repair()
        receiver.inject("jump")
        row = await until(
            adapter,
            lambda row: (
                abs(float(row.values["latitude"] or 0) - float(receiver.truth(row.at_ns)["latitude"] or 0))
                > 0.004
            ),
        )
        receiver.repair()
        receiver.inject("silent")
        with pytest.raises(DeviceStalled, match="no position"):
            await read(adapter, 100_000)


async def test_a_time_that_goes_back_is_flagged_by_the_agent_and_rows_go_on() -> None:
    clock = Clock(10)
    async with (
        GnssReceiver(seed=SEED, clock=clock, rate_hz=10) as receiver,
        Nmea(options(receiver.url), clock) as adapter,
    ):
        validator = Validator(adapter.streams(), clock, counters := Counter())
        found: list[Quality] = []
        for _ in range(2):
            found += [seen.quality for row in await read(adapter, 5) if (seen := validator.check(row))]
            receiver.inject("backward")
        found += [seen.quality for row in await read(adapter, 20) if (seen := validator.check(row))]
    assert counters == {"time_backward": 1}
    assert found.count(Quality.TIME_BACKWARD) == 1


async def test_a_week_counter_that_rolls_over_is_not_believed() -> None:
    clock = Clock(10)
    async with (
        GnssReceiver(seed=SEED, clock=clock, rate_hz=10) as receiver,
        Nmea(options(receiver.url), clock) as adapter,
    ):
        rows = await read(adapter, 5)
        receiver.inject("rollover")
        rows += await read(adapter, 30)
        assert adapter.counters == {"clock_not_believed": 1}
        assert abs(rows[-1].at_ns - clock.now_ns()) < 3_600 * NS_PER_S
        receiver.repair()
        rows = await read(adapter, 30)
        assert receiver.truth(rows[-1].at_ns), "the receiver's own time is used again"


async def test_an_unplugged_port_is_an_error_and_opens_again() -> None:
    for _ in range(3):
        async with (
            GnssReceiver(seed=SEED, clock=Clock(5), rate_hz=10, terminal=True) as receiver,
            Nmea(options(receiver.url), receiver.clock) as adapter,
        ):
            assert len(await read(adapter, 3)) == 3
            receiver.unplug()
            with pytest.raises(DeviceUnreachable):
                await read(adapter, 100_000)
            with pytest.raises(DeviceUnreachable):
                await Nmea(options(receiver.url), Clock()).open()


async def test_a_port_in_use_cannot_be_opened() -> None:
    async with (
        GnssReceiver(seed=SEED, clock=Clock(5), rate_hz=10, terminal=True) as receiver,
        Nmea(options(receiver.url), receiver.clock) as adapter,
    ):
        with pytest.raises(DeviceUnreachable, match="lock"):
            await Nmea(options(receiver.url), Clock()).open()
        assert await read(adapter, 3)


async def test_sentences_without_a_checksum_are_read_by_an_option_and_malformed_ones_named() -> None:
    clock, gone = Clock(), asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            for second in range(200):
                time = f"09{second // 60:02}{second % 60:02}"
                gga = f"$GPGGA,{time},3552.2840,N,12836.0845,E,1,7,1.2,32.6,M,47.4,M,,\r\n"
                writer.write(f"{gga}$GPVTG,77.5,T,,M,0.05,N,0.1,X,A\r\n".encode())
                await writer.drain()
                await asyncio.sleep(0.01)
        writer.close()
        gone.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        url = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with Nmea(options(url, checksum="optional", time="receipt"), clock) as adapter:
            rows = await read(adapter, 3)
            assert [row.values["latitude"] for row in rows] == [pytest.approx(35.8714)] * 3
            assert {part: each.what for part, each in adapter.unread.items()} == {
                "VTG": "GPVTG is malformed: not the layout of NMEA 0183 2.0 and later"
            }
        await gone.wait()


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n" * 100, ProtocolViolation, "not NMEA 0183"),
        (b"$" * 100_000, DeviceStalled, "no whole line"),
        (b"$" * 5_000_000, ProtocolViolation, "without a line end"),
        (bytes(range(256)) * 1_000, ProtocolViolation, "not NMEA 0183"),
        (b"$GPGGA,half", DeviceStalled, "no whole line"),
        (b"$GPZDA,201530.00,04,07,2002,00,00*60\r\n" * 3, DeviceStalled, "no position"),
        (b"$GPZDA,201530.00,04,07,2002,00,00*60\r\n" * 3, DeviceStalled, "only sentences GPZDA"),
        (
            b"$GPGGA,092725,4717.113,N,00833.915,E,1,08,1.01,499.6,M,48.0,M,,\r\n" * 3,
            DeviceStalled,
            r"not NMEA 0183 sentences with a checksum \(see the option `checksum`\), e.g. \$GPGGA,0927",
        ),
        (b"!AIVDM,1,1,,A,x,0*00\r\n" * 3, DeviceStalled, "not NMEA 0183 sentences, e.g. !AIVDM"),
        (b"", DeviceStalled, "no NMEA sentence"),
    ],
)
async def test_any_wrong_answer_is_one_error_soon(
    answer: bytes, error: type[AdapterError], message: str
) -> None:
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()
        gone.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        url = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(error, match=message):
            async with (
                asyncio.timeout(60),
                Nmea(options(url, timeout_s=0.5, silence_s=0.5), Clock()) as adapter,
            ):
                await read(adapter, 1)
        await gone.wait()
