"""The serial adapter against the simulated hygrometer: TCP with line faults, and a pseudo terminal."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any, ClassVar

import pytest

from adapters.base import AdapterError, DeviceStalled, DeviceUnreachable, ProtocolViolation, Reading
from adapters.serial import SerialLines, SerialOptions, TextField
from adapters.testing import AdapterContract, Rig, read
from simulators.devices.serial import Hygrometer
from simulators.faults import FaultProxy
from wire.clock import NS_PER_S, Clock
from wire.messages import Quality

SEED = 5
TEMPERATURE = TextField(at=2, unit="Cel", dec=2, min=-40, max=85)
FORMS: dict[str, dict[str, Any]] = {
    "csv": {"fields": {"temperature": TEMPERATURE, "humidity": TextField(at=3, unit="%")}, "time_at": 1},
    "json": {
        "fields": {"temperature": TextField(at="air.T", unit="Cel"), "humidity": TextField(at="air.H")},
        "time_at": "at",
        "time_unit": "s",
    },
    "key-value": {"fields": {"temperature": TextField(at="T"), "humidity": TextField(at="H")}},
    "regex": {
        "fields": {"temperature": TextField(at="t"), "humidity": TextField(at="h")},
        "pattern": r"(?P<at>[^,]+),(?P<t>[^,]*),(?P<h>[^,]*)",
        "time_at": "at",
    },
}


def options(url: str, form: str = "csv", **more: Any) -> SerialOptions:
    return SerialOptions(
        **{"url": url, "format": form, "silence_s": 2.0, "timeout_s": 5.0} | FORMS[form] | more
    )


class TestSerial(AdapterContract):
    adapter = SerialLines
    good_options: ClassVar = {"url": "serial:///dev/ttyUSB0", "format": "csv", "fields": {"a": {}}}
    bad_options: ClassVar = [
        ({"url": "tcp://x:1", "format": "csv", "fields": {}}, "length"),
        ({"url": "tcp://x:1", "format": "xml", "fields": {"a": {}}}, "xml"),
        ({"url": "udp://x:1", "format": "csv", "fields": {"a": {}}}, "tcp://"),
        ({"url": "tcp://x:1", "format": "csv", "fields": {"a": {"at": "T"}}}, "column number"),
        (
            {"url": "tcp://x:1", "format": "csv", "fields": {"a": {"at": 1}}, "separator": "::"},
            "one character",
        ),
        ({"url": "tcp://x:1", "format": "csv", "fields": {"a": {"at": 0}}}, "column number"),
        ({"url": "tcp://x:1", "format": "csv", "fields": {"A b": {}}}, "field name"),
        ({"url": "tcp://x:1", "format": "regex", "fields": {"a": {}}}, "pattern"),
        ({"url": "tcp://x:1", "format": "regex", "fields": {"a": {}}, "pattern": "("}, "regular expression"),
        ({"url": "tcp://x:1", "format": "regex", "fields": {"a": {}}, "pattern": "(?P<b>.)"}, "group"),
        ({"url": "tcp://x:1", "format": "json", "fields": {"a": {}}, "encoding": "klingon"}, "utf-8"),
        ({"url": "tcp://x:1", "format": "json", "fields": {"a": {}}, "encoding": "hex"}, "utf-8"),
    ]

    @pytest.fixture
    async def rig(self) -> AsyncIterator[Rig]:
        async with Hygrometer(seed=SEED, rate_hz=50) as device, FaultProxy(device.port) as link:
            url = f"tcp://127.0.0.1:{link.port}"
            yield Rig(lambda: SerialLines(options(url), device.clock), link)


@pytest.mark.parametrize("terminal", [False, True], ids=["tcp", "pty"])
@pytest.mark.parametrize("form", FORMS)
async def test_every_line_is_a_row_as_the_air_was(form: str, terminal: bool) -> None:
    printed: Any = "csv" if form == "regex" else form
    async with (
        Hygrometer(seed=SEED, rate_hz=100, form=printed, terminal=terminal) as device,
        SerialLines(options(device.url, form), device.clock) as adapter,
    ):
        rows = await read(adapter, 30)
        assert adapter.counters == {}
        for row in rows:
            assert row.quality is Quality.GOOD
            if form != "key-value":  # those lines carry no time
                assert row.values == pytest.approx(device.truth(row.at_ns), abs=0.051)
    if form != "key-value":
        assert {b.at_ns - a.at_ns for a, b in pairwise(rows)} == {NS_PER_S // 100}


async def test_lines_of_another_device_are_counted_then_an_error() -> None:
    async with (
        Hygrometer(seed=SEED, rate_hz=100) as device,
        SerialLines(options(device.url, bad_lines=40), device.clock) as adapter,
    ):
        device.inject("error")
        rows = await read(adapter, 60)
        assert rows[-1].quality is Quality.WRONG_TYPE
        assert rows[-1].values["temperature"] is None
        assert rows[-1].values["humidity"] is not None
        device.repair()
        device.inject("garbled")
        with pytest.raises(ProtocolViolation, match="40 lines in a row"):
            await read(adapter, 100_000)
        assert adapter.counters.get("no_match", 0) + adapter.counters.get("bad_encoding", 0) == 40


@pytest.mark.parametrize(
    ("fault", "message"), [("silent", "no line that can be read"), ("no-newline", "no whole")]
)
async def test_silence_is_an_error(fault: str, message: str) -> None:
    async with (
        Hygrometer(seed=SEED, rate_hz=100) as device,
        SerialLines(options(device.url), device.clock) as adapter,
    ):
        await read(adapter, 3)
        device.inject(fault)
        with pytest.raises(DeviceStalled, match=message):
            await read(adapter, 100_000)


async def test_a_pulled_cable_is_an_error() -> None:
    async with (
        Hygrometer(seed=SEED, rate_hz=100, terminal=True) as device,
        SerialLines(options(device.url), device.clock) as adapter,
    ):
        await read(adapter, 3)
        device.unplug()
        with pytest.raises(DeviceUnreachable):
            await read(adapter, 100_000)


@pytest.mark.parametrize("path", ["/dev/null", "/nowhere/ttyUSB0", "/etc/hostname"])
async def test_a_path_that_is_not_a_serial_port_is_an_error(path: str) -> None:
    with pytest.raises(DeviceUnreachable, match=path):
        await SerialLines(options(f"serial://{path}"), Clock()).open()


async def served(data: bytes, **more: Any) -> list[Reading]:
    """The rows read from a server that sends these bytes and hangs up."""

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    rows: list[Reading] = []
    async with server:
        url = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with SerialLines(options(url, first_line=True, **more), Clock()) as adapter:
            with contextlib.suppress(DeviceUnreachable):
                async for reading in adapter:
                    rows.append(reading)  # noqa: PERF401 - keeps the rows before an error
    return rows


async def test_korean_text_in_both_encodings() -> None:
    fields = {"where": TextField(at=1, t="str"), "pm": TextField(at=2)}
    for encoding in ("utf-8", "euc-kr"):
        data = "대구 중구,23.5\r\n".encode(encoding) * 2
        (row, _) = await served(data, fields=fields, time_at="", encoding=encoding)
        assert row.values == {"where": "대구 중구", "pm": 23.5}


async def test_a_line_of_two_megabytes_is_one_row_where_it_may_be_and_counted_where_not() -> None:
    long = b'{"air":{"T":1.0,"H":2.0},"more":"' + b"x" * 2_000_000 + b'"}\n'
    short = b'{"air":{"T":3.0,"H":4.0}}\n'
    rows = await served(long + short, form="json", time_at="", max_line=4_194_304)
    assert [row.values["temperature"] for row in rows] == [1.0, 3.0]
    rows = await served(long[:100_000] + b"\n" + short, form="json", time_at="")
    assert [row.values["temperature"] for row in rows] == [3.0]


@pytest.mark.parametrize(
    ("line", "more", "value"),
    [
        ("23,5;48,2", {"separator": ";", "fields": {"v": TextField(at=1, unit="Cel")}}, 23.5),
        (
            "US,GS,-    0.02kg",
            {
                "form": "regex",
                "pattern": "(ST|US),GS,(?P<v>[+-] *[0-9.]+)kg",
                "fields": {"v": TextField(unit="kg")},
            },
            -0.02,
        ),
        ("ST,NT,+  12.5 kg", {"fields": {"v": TextField(at=3, unit="kg")}}, 12.5),
        ("1.234,5;x", {"separator": ";", "decimal": ",", "fields": {"v": TextField(at=1)}}, 1234.5),
        ("v=- 1,5 w=2", {"form": "key-value", "fields": {"v": TextField()}}, -1.5),
        ('{"v": "23,5"}', {"form": "json", "fields": {"v": TextField()}}, 23.5),
        ("\x02ST,+0012.30\x03", {"fields": {"v": TextField(at=2)}}, 12.3),
        ("\0\x001.5", {"fields": {"v": TextField()}}, 1.5),
        ("\t\t1.5", {"separator": "\t", "fields": {"v": TextField(at=3)}}, 1.5),
        ("7.0", {"fields": {"v": TextField(t="i64")}}, 7),
        ('{"v": 7.0}', {"form": "json", "fields": {"v": TextField(t="i64")}}, 7),
    ],
)
async def test_numbers_as_meters_print_them(line: str, more: dict[str, Any], value: float) -> None:
    plain: dict[str, Any] = {"time_at": "", "time_unit": "iso", "pattern": ""}
    (row,) = await served(f"{line}\r\n".encode(), **plain | more)
    assert (row.values["v"], type(row.values["v"]), row.quality) == (value, type(value), Quality.GOOD)


async def test_a_value_that_is_not_a_number_is_null_flagged_and_named() -> None:
    lines = b"OL,1\r\n7,1\r\n8mV,1\r\n"
    fields = {"v": TextField(at=1, unit="V"), "w": TextField(at=2)}
    async with held_open(lines) as url:
        adapter = SerialLines(options(url, time_at="", fields=fields, first_line=True), Clock())
        async with adapter:
            rows = await read(adapter, 3)
            assert [(row.values["v"], row.quality) for row in rows] == [
                (None, Quality.BAD),
                (7.0, Quality.GOOD),
                (None, Quality.WRONG_TYPE),
            ]
            assert adapter.counters == {"no_value": 1}
            assert {part: each.what for part, each in adapter.unread.items()} == {
                "v": "`v`: '8mV': it has the unit mV, but the unit is V"
            }


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        ("대구 중구\r\n".encode(), "only lines that are not csv lines that have `fields`, e.g. 대구 중구"),
        (
            "대구".encode("euc-kr") + b"\r\n",
            r"only lines that are not utf-8 text (see the option `encoding`), e.g. \xb4",
        ),
        (b"1,2,3" * 200 + b"\r\n", "only lines of more than 100 bytes"),
        (b"1,2,3;1,2,3;", r"bytes but no whole line: is the baud rate right? They begin with 1,2,3;1"),
    ],
)
async def test_a_device_that_sends_something_else_is_not_only_silent(sent: bytes, why: str) -> None:
    async with held_open(sent) as url:
        adapter = SerialLines(options(url, timeout_s=2.0, max_line=100, first_line=True), Clock())
        with pytest.raises(DeviceStalled) as caught:
            await adapter.open()
    assert why in str(caught.value)
    assert caught.value.reason.code == "device-not-read"


@contextlib.asynccontextmanager
async def held_open(sent: bytes, pause_s: float = 0.0) -> AsyncIterator[str]:
    """The URL of a server that sends these bytes after a pause, and keeps the connection."""
    talks: list[asyncio.Task[Any] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.append(asyncio.current_task())
        await asyncio.sleep(pause_s)
        writer.write(sent)
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.wait([talk for talk in talks if talk], timeout=30)


async def test_bytes_without_any_line_end_are_an_error() -> None:
    with pytest.raises(AdapterError, match="without a line end"):
        await served(b"x" * 5_000_000, timeout_s=60)


async def test_the_word_for_no_value_is_named_until_a_value_comes() -> None:
    async with held_open(b"OL\r\n1\r\n") as url:
        fields = {"v": TextField(at=1)}
        async with SerialLines(options(url, time_at="", fields=fields, first_line=True), Clock()) as adapter:
            assert (await read(adapter, 1))[0].values == {"v": None}
            assert adapter.unread["v"].what == "`v`: 'OL': the device has no value"
            assert (await read(adapter, 1))[0].values == {"v": 1.0}
            assert not adapter.unread


async def test_a_line_after_a_pause_is_whole() -> None:
    """A scale that sends one line for each weighing: its first line is not the rest of a line."""
    async with held_open(b"12.5\r\n", pause_s=1.0) as url:
        asked = options(url, time_at="", fields={"w": TextField()}, timeout_s=30.0, silence_s=0.1)
        async with SerialLines(asked, Clock()) as adapter:
            rows = adapter.readings()
            assert (await anext(rows)).values == {"w": 12.5}
            with pytest.raises(DeviceStalled, match="raise `silence_s` and `timeout_s`"):
                await anext(rows)


@pytest.mark.parametrize(
    ("sent", "more", "quality", "why"),
    [
        ("2026-11-30T09:00:00", {}, Quality.UNCERTAIN, "its times are 9.0 h ahead of this machine"),
        ("2026-11-30T09:00:00", {"timezone": "Asia/Seoul"}, Quality.GOOD, ""),
        ("30.11.2026 00:00:00", {}, Quality.UNCERTAIN, "its times cannot be read"),
        ("1796000000", {}, Quality.UNCERTAIN, "its times cannot be read"),
        ("2026-11-27T00:00:00", {}, Quality.UNCERTAIN, "its times are 72.0 h behind this machine, more than"),
    ],
)
async def test_times_that_cannot_be_used_are_named(
    sent: str, more: dict[str, str], quality: Quality, why: str
) -> None:
    now_ns = 1_795_996_800 * NS_PER_S  # 2026-11-30T00:00:00Z
    async with held_open(f"{sent},1\r\n".encode()) as url:
        asked = options(url, time_at=1, fields={"w": TextField(at=2)}, first_line=True, **more)
        async with SerialLines(asked, Clock(start_ns=now_ns)) as adapter:
            (row,) = await read(adapter, 1)
            assert (row.values, row.quality) == ({"w": 1.0}, quality)
            assert [each.what[: len(why)] for each in adapter.unread.values()] == [why] * bool(why)


async def test_good_times_do_not_hide_a_field_named_time_at_that_is_not_read() -> None:
    async with held_open(b"2026-11-30T00:00:00,x\r\n") as url:
        asked = options(url, time_at=1, fields={"time_at": TextField(at=2)}, first_line=True)
        async with SerialLines(asked, Clock(start_ns=1_795_996_800 * NS_PER_S)) as adapter:
            await read(adapter, 1)
            assert [each.what for each in adapter.unread.values()] == ["`time_at`: 'x': it is not a number"]
