"""Bad input for each adapter: the quality of each row behind the adapter and the agent's validator.

Each row of a device arrives with its quality, or it is counted; nothing is repaired silently. The input is
written by hand: no simulator can send all of it. The simulators of CAN, Modbus, Bluetooth and OBD can, so
their bad input is in the tests of their adapters.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import xor
from pathlib import Path
from typing import Any

from asyncua import Server, ua

from adapters.hl7.adapter import Hl7
from adapters.hl7.options import Hl7Options
from adapters.nmea.adapter import Nmea
from adapters.nmea.options import NmeaOptions
from adapters.opcua.adapter import OpcUa
from adapters.opcua.options import NodeOption, OpcUaOptions
from adapters.replay.adapter import Replay
from adapters.replay.options import Column, ReplayOptions
from adapters.serial import SerialLines, SerialOptions, TextField
from edgebed.broker import free_port
from wire.clock import NS_PER_S, Clock
from wire.messages import Quality

START_S = 1_772_000_000
FUTURE_S = 400 * 86_400
GOOD, RANGE, NAN, DOUBT = Quality.GOOD, Quality.OUT_OF_RANGE, Quality.NOT_FINITE, Quality.UNCERTAIN
BAD, SAME, BACK, TYPE = Quality.BAD, Quality.TIME_REPEATED, Quality.TIME_BACKWARD, Quality.WRONG_TYPE
MEGABYTES = 2_000_000


def slow_clock() -> Clock:
    """The agent's clock: so slow that everything is received at the start."""
    return Clock(0.001, START_S * NS_PER_S)


def at(second: float) -> datetime:
    return datetime.fromtimestamp(START_S + second, UTC)


@contextlib.asynccontextmanager
async def serving(*pieces: bytes) -> AsyncIterator[int]:
    """The port of a device that sends these pieces to each client, and then nothing."""
    done = asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
        with contextlib.suppress(OSError):
            await writer.drain()
        await done.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        done.set()


# --- lines of text

AIR = {"t": TextField(at=2, max=50), "where": TextField(at=3, t="str")}


async def lines(judge: Any, *pieces: bytes, **more: Any) -> Any:
    async with serving(*pieces) as port:
        settings: dict[str, Any] = {"format": "csv", "fields": AIR, "time_at": 1, "time_unit": "s"} | more
        options = SerialOptions(
            url=f"tcp://127.0.0.1:{port}", first_line=True, silence_s=0.4, timeout_s=5, **settings
        )
        return await judge().read(SerialLines(options, slow_clock()))


def line(second: float, value: str = "20", where: str = "hall") -> bytes:
    return f"{START_S + second:.3f},{value},{where}\n".encode()


async def test_lines(judge: Any) -> None:
    seconds = (0, 1, 1, 0.5, FUTURE_S, 2)
    found = await lines(
        judge, *map(line, seconds), b"yesterday,1,x\n", line(3, "nan"), line(4, "99"), line(5, "x")
    )
    assert found.qualities == [GOOD, GOOD, SAME, BACK, BACK, GOOD, BACK, NAN, RANGE, TYPE]
    assert {"clock_not_believed": 1, "no_time": 1, "uncertain": 2}.items() <= found.counters.items()
    long = line(1, where="x" * MEGABYTES)
    found = await lines(
        judge, line(0), long, line(1, where="대구 중구"), line(2, where="x" * 3_000), line(3)[:-4]
    )
    assert found.qualities == [GOOD, GOOD, TYPE]
    assert found.rows[1].values["where"] == "대구 중구"
    assert {"too_long": 1, "half_lines": 1}.items() <= found.counters.items()
    assert "no whole line" in found.error
    found = await lines(judge, line(0), f"{START_S + 1},3,대구\n".encode("cp949"), line(2))
    assert found.qualities == [GOOD, GOOD]
    assert found.counters["bad_encoding"] == 1


async def test_json_lines(judge: Any) -> None:
    fields = {"t": TextField(max=50), "where": TextField(t="str")}
    bodies = ("20", "NaN", "-Infinity", "1e999", "99", '"x"', "null")
    text = [f'{{"t": {body}, "where": "홀"}}\n'.encode() for body in bodies]
    text += [b'{"t": NaN, "where": "\\ud800"}\n', b'{"t": 1, "where"\n']  # half a surrogate pair, half a line
    found = await lines(judge, *text, format="json", fields=fields, time_at="")
    assert found.qualities == [GOOD, NAN, NAN, NAN, RANGE, TYPE, DOUBT, TYPE]
    assert found.rows[-1].values == {"t": None, "where": None}
    assert found.counters["no_match"] == 1


# --- NMEA


def sentence(body: str) -> bytes:
    return f"${body}*{reduce(xor, body.encode()):02X}\r\n".encode()


def position(second: float, latitude: str = "3552.000", hdop: str = "0.9") -> bytes:
    when = at(second)
    place = f"{latitude},N,12836.000,E"
    return sentence(f"GPRMC,{when:%H%M%S}.00,A,{place},10.0,90.0,{when:%d%m%y},,,A") + sentence(
        f"GPGGA,{when:%H%M%S}.00,{place},1,08,{hdop},50.0,M,20.0,M,,"
    )


async def positions(judge: Any, *pieces: bytes) -> Any:
    async with serving(*pieces) as port:
        options = NmeaOptions(url=f"tcp://127.0.0.1:{port}", silence_s=0.6, timeout_s=5)
        return await judge().read(Nmea(options, slow_clock()))


async def test_positions(judge: Any) -> None:
    found = await positions(judge, *map(position, (0, 1, 2, 2, 1, 3, FUTURE_S, 4)))
    assert found.qualities == [GOOD, GOOD, GOOD, SAME, BACK, GOOD, BACK, GOOD]
    assert found.counters["clock_not_believed"] == 1
    found = await positions(judge, position(0), position(1, "9952.000"), position(2, hdop="999"), position(3))
    assert found.qualities == [GOOD, RANGE, RANGE, GOOD]
    korean = sentence("GPTXT,01,01,02,ok").replace(b"ok", "대구".encode("cp949"))
    long = b"$GPTXT," + b"x" * MEGABYTES + b"\r\n"
    found = await positions(judge, position(0), long, position(1), korean, position(2), position(3)[:30])
    assert found.qualities == [GOOD, GOOD, GOOD]
    assert {"too_long": 1, "bad_checksum": 1, "half_lines": 1}.items() <= found.counters.items()


# --- HL7


def report(
    number: int, second: float = 0, rate: str = "71", *, own: str = "", obr: str = "", **more: str
) -> bytes:
    when = f"{at(second):%Y%m%d%H%M%S}+0000"
    lines = [
        rf"MSH|^~\&|{more.get('sender', 'M')}||||{when}||ORU^R01^ORU_R01|{number}|P|2.6||||||UNICODE UTF-8",
        f"PID|1||123^^^H^MR||{more.get('name', 'Kim')}",
        f"OBR|1|||x|||{obr or when}",
        f"OBX|1|NM|147842^MDC_ECG_HEART_RATE^MDC|1.1.1.1|{rate}|264864^MDC_DIM_BEAT_PER_MIN^MDC|||||R|||{own}",
        f"OBX|2|ED|1^R^LN||^a^pdf^Base64^{more.get('document', '')}||||||F",
    ]
    return b"\x0b" + ("\r".join(lines) + "\r").encode(more.get("encoding", "utf-8")) + b"\x1c\r"


async def reports(judge: Any, *pieces: bytes, **more: Any) -> Any:
    async with serving(*pieces) as port:
        options = Hl7Options(url=f"mllp://127.0.0.1:{port}", silence_s=0.8, half_message_s=0.3, **more)
        return await judge().read(Hl7(options, slow_clock()))


async def test_reports(judge: Any) -> None:
    rates = ("71", "900", "NaN", "1e400", "칠십", "7" * MEGABYTES)
    found = await reports(judge, *(report(n, n, rate) for n, rate in enumerate(rates)))
    assert found.qualities == [GOOD, RANGE, TYPE, NAN, TYPE, TYPE]
    assert found.counters["mismatched"] == 3
    times = (0, 1, 1, 0, FUTURE_S, 2)
    found = await reports(judge, *(report(n, second) for n, second in enumerate(times)))
    assert found.qualities == [GOOD, GOOD, SAME, BACK, BACK, GOOD]
    assert found.counters["clock_not_believed"] == 1
    future = f"{at(FUTURE_S):%Y%m%d%H%M%S}"
    odd = (report(1, 1, own=future), report(2, 2, own="soon"), report(3, 3, obr=future))
    found = await reports(judge, report(0), *odd, report(4, 4))
    assert found.qualities == [GOOD, DOUBT, DOUBT, DOUBT, GOOD], "a wrong time affects only its own row"
    assert [row.at_ns // NS_PER_S - START_S for row in found.rows] == [0, 1, 2, 3, 4]
    assert found.counters["bad_time"] == 3
    large = report(1, 1, document="A" * MEGABYTES)
    korean = report(2, 2, name="김^철수", encoding="cp949")
    found = await reports(judge, report(0), large, korean, report(3, 3)[:60])
    assert found.qualities == [GOOD, GOOD, GOOD]
    assert {"half_messages": 1, "charset_errors": 1}.items() <= found.counters.items()
    assert found.counters["identifiers_seen"] == found.counters["deidentified"]
    found = await reports(judge, report(0), report(1, 1, sender="PUMP"), application="M")
    assert found.qualities == [GOOD]
    assert "another device answers" in found.error


# --- recordings


async def recorded(judge: Any, folder: Path, content: bytes, **more: Any) -> Any:
    file = folder / "recording.csv"
    file.write_bytes(content)
    fields = {"v": Column(column="v", max=50), "where": Column(column="where", t="str")}
    options: dict[str, Any] = {"fields": fields, "time": "time", "rate": "asap", "times": "recorded"}
    return await judge().read(Replay(ReplayOptions(file=file, **(options | more)), Clock()))


async def test_recordings(judge: Any, tmp_path: Path) -> None:
    rows = "1,1,a\n2,nan,a\n3,99,a\n4,x,a\n4,1,a\n3,1,a\nnever,1,a\n5,1,a,b\n6,1,대구\n7,1"
    found = await recorded(judge, tmp_path, ("time,v,where\n" + rows).encode())
    assert found.qualities == [GOOD, NAN, RANGE, TYPE, SAME, BACK, GOOD]
    assert found.rows[-1].values["where"] == "대구"
    assert {"bad_times": 1, "bad_lines": 1, "torn_lines": 1, "bad_cells": 2}.items() <= found.counters.items()
    assert found.counters["time_repeated"] == 1, "a row is counted once, by the adapter or by the agent"
    found = await recorded(judge, tmp_path, "time,v,where\n1,1,대구\n2,1,x\n".encode("cp949"))
    assert found.qualities == [TYPE, GOOD], "bytes of another encoding are not text"
    assert found.rows[0].values == {"v": 1.0, "where": None}
    found = await recorded(judge, tmp_path, "time,v,where\n1,1,대구\n".encode("cp949"), encoding="cp949")
    assert found.rows[0].values["where"] == "대구"
    found = await recorded(
        judge, tmp_path, "time,v,where,온도\n1,1,x,2\n".encode("cp949"), fields={"v": "온도"}
    )
    assert "no column '온도'" in found.error
    assert "is `encoding` right?" in found.error
    found = await recorded(judge, tmp_path, b"time,v,where\n1,1,a\n2,1," + b"x" * MEGABYTES + b"\n3,1,a\n")
    assert "more than 1048576 characters" in found.error


# --- OPC UA


async def test_nodes(judge: Any) -> None:
    """The server sends its own times: one from the future must not make all later rows late."""
    server, port = Server(), free_port()
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{port}/")
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    space = await server.register_namespace("urn:hall")
    hot = await server.nodes.objects.add_variable(ua.NodeId("온도", space), ua.QualifiedName("t", space), 1.0)
    word = await server.nodes.objects.add_variable(ua.NodeId("w", space), ua.QualifiedName("w", space), "")
    now = datetime.now(UTC).replace(tzinfo=None)  # asyncua expects UTC without a zone

    async def write(node: Any, second: float, value: float | str) -> None:
        kind = ua.VariantType.String if isinstance(value, str) else ua.VariantType.Double
        when = now + timedelta(seconds=second)
        await node.write_value(ua.DataValue(ua.Variant(value, kind), SourceTimestamp=when))

    options = OpcUaOptions(
        url=f"opc.tcp://127.0.0.1:{port}/",
        nodes={
            "t": NodeOption(node=f"ns={space};s=온도", max=50),
            "where": NodeOption(node=f"ns={space};s=w", t="str"),
        },
        hold=True,
        sampling_ms=0,
        publishing_ms=20,
        row_wait_s=0.1,
        value_age_s=1.0,
    )
    async with server:
        await write(hot, 0, 20.0)
        await write(word, 0, "홀")
        found = judge()
        reading = asyncio.create_task(found.read(OpcUa(options, Clock())), name="reading")
        await found.came.wait()
        seconds = (1, 2, 2, 1, FUTURE_S, 3)
        sent = [*((hot, second, 20.0 + n) for n, second in enumerate(seconds)), (hot, 4, float("nan"))]
        sent += [(hot, 5, 99.0), (word, 6, "대구"), (word, 7, "x" * MEGABYTES), (word, 8, "끝")]
        for each in sent:
            found.came.clear()
            await write(*each)
            await found.came.wait()  # each in a row of its own
        await reading
    assert found.qualities[0] is GOOD
    assert found.qualities[1:7] == [GOOD, GOOD, SAME, BACK, BACK, GOOD]
    assert found.qualities[7:] == [NAN, RANGE, RANGE, TYPE, RANGE]  # the held value is still too high
    assert found.rows[9].values["where"] == "대구"
    assert found.counters["clock_not_believed"] == 1
