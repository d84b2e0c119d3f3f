"""Reads lines of bytes from a serial port or a TCP server, with limits and without a thread."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import termios
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from adapters import device_url
from adapters.base import DeviceStalled, DeviceUnreachable, OptionsError, ProtocolViolation, why_no_connection
from wire.clock import Clock
from wire.printable import printable

_CHUNK = 4_096  # bytes of one read
_GRACE_S = 0.01  # enough to read bytes that have arrived already
_ENDLESS = 4 * 2**20  # bytes beyond the longest line without a line end: not a line protocol
_SHOWN = 80  # characters of a line that an error shows
_QUIET_S = 0.5  # longer than any pause within a line
_LOG_S = 10.0  # seconds between two logged bad lines
_SETTINGS = {
    "baud": range(50, 4_000_001),
    "bits": (5, 6, 7, 8),
    "parity": ("N", "E", "O", "M", "S"),
    "stop": (1, 2),
}


@dataclass(frozen=True, slots=True)
class LineSource:
    """The source of the lines: `host` and `port`, or `path` with the settings of its UART."""

    url: str
    host: str = ""
    port: int = 0
    path: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, url: str) -> LineSource:
        """Parse `serial:///dev/ttyUSB0?baud=9600&bits=8&parity=N&stop=1` or `tcp://host:port`.

        Raises:
            OptionsError: the url has another form.
        """
        parts = device_url.split(url, "remove it, a line source has no login")
        port = parts.port
        if parts.scheme == "serial" and not parts.netloc and len(parts.path) > 1:
            return cls(url, path=Path(parts.path), settings=_settings(parts.query))
        if parts.scheme == "tcp" and parts.hostname and port and not (parts.query or parts.path.strip("/")):
            return cls(url, host=parts.hostname, port=port)
        raise OptionsError(f"url {url!r} is not tcp://host:port or serial:///dev/ttyUSB0?baud=9600")


class Lines:
    """One connection. Use `await lines.open()`, then `await lines.next(by)`, finally `lines.close()`.

    A line ends with CR, LF or both. Empty lines are skipped. Lines longer than `max_line` bytes are skipped
    and counted in `counters["too_long"]`.
    """

    def __init__(self, source: LineSource, clock: Clock, counters: Counter[str], *, max_line: int) -> None:
        self._source = source
        self._clock = clock
        self._counters = counters
        self._max = max_line
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None  # of TCP
        self._port: asyncio.BaseTransport | None = None
        self._ready: deque[bytes] = deque()  # at most the lines of one chunk
        self._part = b""  # the line whose end has not arrived
        self._unended = 0  # bytes since the last line end
        self._skipping = False
        self.too_long = False  # whether the last line was too long
        self.first_is_whole = False  # the first line has its beginning, because the source was quiet before
        self._opened_s: float | None = None  # None after the first bytes

    async def open(self, within_s: float) -> None:
        """Connect.

        Raises:
            DeviceUnreachable: no answer, the port is in use, or the path is not a serial port.
        """
        source = self._source
        try:
            async with asyncio.timeout(within_s):
                if source.path is None:
                    self._reader, self._writer = await asyncio.open_connection(source.host, source.port)
                else:
                    self._reader, self._port = await _open_port(source.path, source.settings)
        except TimeoutError as error:
            raise DeviceUnreachable(f"{source.url} does not answer within {within_s:g} s").at(
                source.url, error
            ) from error
        except (OSError, termios.error) as error:  # pyserial's own error is an OSError
            raise DeviceUnreachable(f"{source.url} cannot be opened: {why_no_connection(error)}").at(
                source.url, error
            ) from error
        self._opened_s = self._clock.flowing_s()

    async def next(self, by_s: float) -> bytes | None:
        """The next line without its end; None if no line is complete by `by_s` of the clock's `flowing_s`.

        Raises:
            DeviceUnreachable: the connection ended, or the port was unplugged.
            ProtocolViolation: too many bytes without a line end.
        """
        if self._ready:  # for a line that has arrived already, a timer costs more than reading it
            return self._ready.popleft()
        # bytes that arrived while the whole process was paused are in time: they are read even after `by_s`
        clock = self._clock
        for grace in (False, True):
            with contextlib.suppress(TimeoutError):
                async with clock.timeout_at(clock.flowing_s() + _GRACE_S if grace else by_s):
                    while not self._ready:
                        self._take(await self._read())
                return self._ready.popleft()
        return None

    def stalled(self, what: str, silence_s: float, arrived: str = "") -> DeviceStalled:
        """The error to raise when no usable line came for `silence_s` seconds, only what `arrived`."""
        url = self._source.url
        if self.too_long and not arrived:
            arrived = f"lines of more than {self._max} bytes"
        if self._unended and not arrived:
            begun = _shown(self._part)
            self._drop_part()
            why = f"bytes but no whole line: is the baud rate right? They begin with {begun}"
            return DeviceStalled(f"{url} sent {why} ({silence_s:g} s)").coded(
                "device-not-read", seconds=silence_s, what=why
            )
        if arrived:
            return DeviceStalled(f"{url} sent no {what} for {silence_s:g} s, only {arrived}").coded(
                "device-not-read", seconds=silence_s, what=arrived
            )
        return DeviceStalled(
            f"{url} is open but sent no {what} for {silence_s:g} s: if it sends less often, raise `silence_s`"
            " and `timeout_s`"
        ).coded("device-silent", seconds=silence_s)

    def close(self) -> None:
        """Close the connection at once; safe to call twice."""
        writer, self._writer = self._writer, None
        port, self._port = self._port, None
        self._reader = None
        if writer is not None:
            writer.transport.abort()
        if port is not None:
            port.close()

    async def _read(self) -> bytes:
        url = self._source.url
        if self._reader is None:
            raise DeviceUnreachable(f"{url} is not open")
        try:
            chunk = await self._reader.read(_CHUNK)
        except TimeoutError:
            raise
        except OSError as error:
            self._drop_part()
            raise DeviceUnreachable(f"{url} cannot be read any more: {error}") from error
        if not chunk:
            self._drop_part()
            raise DeviceUnreachable(f"{url} ended the connection or was unplugged")
        return chunk

    def _drop_part(self) -> None:
        """Drop and count a line whose end will not come."""
        if self._part or self._skipping:
            self._counters["half_lines"] += 1
            self._part, self._skipping = b"", False

    def _take(self, chunk: bytes) -> None:
        if self._opened_s is not None:
            self.first_is_whole = self._clock.flowing_s() - self._opened_s >= _QUIET_S
            self._opened_s = None
        *ended, rest = chunk.replace(b"\r", b"\n").split(b"\n")
        for piece in ended:
            line, self._part = self._part + piece, b""
            skipping, self._skipping, self._unended = self._skipping, False, 0
            if skipping or len(line) > self._max:
                self._counters["too_long"] += 1
                self.too_long = True
            elif line:
                self._ready.append(line)
                self.too_long = False
        self._unended += len(rest)
        self._part += rest
        if len(self._part) > self._max:
            self._part, self._skipping = b"", True
        if self._unended > self._max + _ENDLESS:
            raise ProtocolViolation(
                f"{self._source.url} sent {self._unended} bytes without a line end: is the baud rate right?"
            )


class BadLines:
    """Counts bad lines; too many in a row mean another device, or another baud rate."""

    def __init__(self, source: LineSource, counters: Counter[str], log: logging.Logger, limit: int) -> None:
        self.last = ""  # the last bad line, unless a good one came after it
        self._url = source.url
        self._counters = counters
        self._log = log
        self._limit = limit
        self._in_row = 0
        self._logged_s = -math.inf

    def reset(self) -> None:
        """A good line came: count from 0 again."""
        self._in_row = 0
        self.last = ""

    def count(self, counter: str, line: bytes, expected: str) -> None:
        """Count a bad line.

        Raises:
            ProtocolViolation: too many bad lines in a row.
        """
        self._counters[counter] += 1
        self._in_row += 1
        self.last = f"lines that are not {expected}, e.g. {_shown(line)}"
        now = asyncio.get_running_loop().time()
        if now - self._logged_s >= _LOG_S:
            self._logged_s = now
            self._log.debug("%s: %s: %r", self._url, counter, line[:80])
        if self._in_row >= self._limit:
            raise ProtocolViolation(
                f"{self._url}: {self._in_row} lines in a row are not {expected}, the last one {line[:40]!r}:"
                " is it another device, or another baud rate?"
            )


def _shown(line: bytes) -> str:
    return printable(line.decode("utf-8", "backslashreplace"), _SHOWN)


async def _open_port(
    path: Path, settings: dict[str, Any]
) -> tuple[asyncio.StreamReader, asyncio.BaseTransport]:
    import serial

    port = serial.Serial(
        str(path),
        baudrate=settings["baud"],
        bytesize=settings["bits"],
        parity=settings["parity"],
        stopbits=settings["stop"],
        timeout=0,
        exclusive=True,  # with two readers of one port, each would get only part of the bytes
    )
    try:
        # without VMIN a read that finds no bytes returns 0 bytes, which asyncio takes for the end
        mode = termios.tcgetattr(port.fd)
        mode[6][termios.VMIN] = 1
        termios.tcsetattr(port.fd, termios.TCSANOW, mode)
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), port
        )
    except BaseException:
        with suppress(OSError):
            port.close()
        raise
    return reader, transport


def _settings(query: str) -> dict[str, Any]:
    settings: dict[str, Any] = {"baud": 9_600, "bits": 8, "parity": "N", "stop": 1}
    for name, values in parse_qs(query, keep_blank_values=True).items():
        if name not in _SETTINGS:
            raise OptionsError(f"url: unknown setting {name!r}; a serial port has {', '.join(_SETTINGS)}")
        value: Any = int(values[-1]) if values[-1].isdecimal() else values[-1].upper()
        if value not in _SETTINGS[name]:
            raise OptionsError(f"url: {name}={values[-1]} is not possible; use {_choices(name)}")
        settings[name] = value
    return settings


def _choices(name: str) -> str:
    known: Iterable[Any] = _SETTINGS[name] if name != "baud" else ("e.g. 4800", "9600", "115200")
    return ", ".join(map(str, known))
