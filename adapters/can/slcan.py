"""SLCAN, the ASCII protocol of serial CAN adapters (LAWICEL), as a python-can bus for unreliable lines.

python-can's own interface stores a line without an end without limit, reads bytes one by one, raises
ValueError, and leaks its port or socket when the peer closes first.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import time
from collections import deque
from typing import NoReturn
from urllib.parse import urlsplit

import can
import serial
from can.util import CAN_FD_DLC, len2dlc

BITRATES = {
    10_000: "S0", 20_000: "S1", 50_000: "S2", 100_000: "S3", 125_000: "S4", 250_000: "S5", 500_000: "S6",
    750_000: "S7", 800_000: "S7", 1_000_000: "S8", 83_300: "S9",
}  # fmt: skip
DATA_BITRATES = {2_000_000: "Y2", 5_000_000: "Y5"}  # CANable 2.0, for CAN FD

_BLOCK = 65_536  # bytes read from the port at once
_LONGEST = 256  # bytes of a line; an FD frame has 142
_ANSWER_S = 0.3  # adapters that answer commands do so sooner
_CONNECT_S = 5.0
_WRITE_S = 1.0
# t, T, r, R: LAWICEL; d, D, b, B: CANable's CAN FD, b and B with the faster data rate
_FRAME = re.compile(
    rb"(?:([trdb])([0-9A-Fa-f]{3})|([TRDB])([0-9A-Fa-f]{8}))([0-9A-Fa-f])((?:[0-9A-Fa-f]{2})*)\r"
)


class NotSlcan(can.CanOperationError):
    """The bytes are not SLCAN: wrong bit rate of the port, a bad line, or another device."""


class SerialCan(can.BusABC):
    """One adapter on a serial port, a pseudo terminal or `socket://host:port`."""

    def __init__(
        self,
        channel: str,
        *,
        bitrate: int = 0,
        data_bitrate: int = 0,
        listen_only: bool = True,
        tty_baudrate: int = 115_200,
        rtscts: bool = False,
        sleep_after_open: float = 0.0,
        can_filters: can.typechecking.CanFilters | None = None,
    ) -> None:
        self._lines: deque[bytes] = deque()
        self._kept = bytearray()
        self._port = _opened(channel, tty_baudrate, rtscts=rtscts)
        try:
            time.sleep(sleep_after_open)  # some boards restart when their port is opened
            self._begin(bitrate, data_bitrate, "L" if listen_only else "O")
            super().__init__(channel, can_filters=can_filters)
        except BaseException:
            self._port.close()
            raise

    def _begin(self, bitrate: int, data_bitrate: int, opening: str) -> None:
        self._write(b"\r\rC\r")  # ends a command that was begun
        self._port_was_quiet()
        for command in (BITRATES.get(bitrate), DATA_BITRATES.get(data_bitrate), opening):
            if command:
                self._write(command.encode() + b"\r")
                if self._answer() == b"\a":
                    hint = "; try `bus: {listen_only: false}`" if command == "L" else ""
                    raise can.CanInitializationError(f"the adapter refuses command {command}{hint}")

    def _port_was_quiet(self) -> None:
        deadline = time.monotonic() + _ANSWER_S
        while self._fill(0.05) and time.monotonic() < deadline:
            self._lines.clear()
        self._lines.clear()

    def _answer(self) -> bytes:
        """CR, BEL, or nothing where no answer comes in time: some adapters never answer."""
        deadline = time.monotonic() + _ANSWER_S
        while (left_s := deadline - time.monotonic()) > 0:
            self._fill(left_s)
            while self._lines:
                if (line := self._lines.popleft()) in (b"\r", b"\a"):
                    return line
                _message(line)  # a frame that was in flight, or noise
        return b""

    def _recv_internal(self, timeout: float | None) -> tuple[can.Message | None, bool]:
        if not self._lines:
            self._fill(timeout)
        return (_message(self._lines.popleft()) if self._lines else None), False

    def send(self, msg: can.Message, timeout: float | None = None) -> None:  # noqa: ARG002 - the port has its own timeout
        """Send a frame to the adapter; whether the bus accepted it is not known.

        Raises:
            can.CanOperationError: the port does not accept it.
        """
        if msg.is_fd:
            letter = "bB" if msg.bitrate_switch else "dD"
        else:
            letter = "rR" if msg.is_remote_frame else "tT"
        long, can_id = msg.is_extended_id, msg.arbitration_id
        head = f"{letter[1]}{can_id:08X}" if long else f"{letter[0]}{can_id:03X}"
        data = "" if msg.is_remote_frame else msg.data.hex().upper()
        self._write(f"{head}{len2dlc(msg.dlc):X}{data}\r".encode())

    def shutdown(self) -> None:
        """Send the close command where possible, and release the port in any case."""
        try:
            super().shutdown()
            with contextlib.suppress(can.CanOperationError):
                self._write(b"C\r")
        finally:
            self._port.close()

    def fileno(self) -> int:
        """The file descriptor of the port, for `select`."""
        return self._port.fileno()

    # --- bytes

    def _fill(self, timeout: float | None) -> bool:
        """Whether bytes came in time; complete lines are then in `_lines`."""
        try:
            if not select.select([self._port], [], [], timeout)[0]:
                return False
            block = self._port.read()
        except (OSError, ValueError) as error:  # ValueError: the port was closed meanwhile
            _fail("the serial line failed", error)
        if not block:
            raise can.CanOperationError("the serial line ended")
        *whole, rest = (bytes(self._kept) + block).replace(b"\a", b"\a\r").split(b"\r")
        self._kept[:] = rest
        if len(rest) > _LONGEST:
            raise NotSlcan(f"{len(rest)} bytes without a line end")
        self._lines += [b"\a" if line.endswith(b"\a") else line + b"\r" for line in whole]
        return True

    def _write(self, data: bytes) -> None:
        try:
            self._port.write(data)
        except OSError as error:  # pyserial's errors are OSErrors too
            _fail("the serial line failed", error)


def _fail(what: str, error: Exception) -> NoReturn:
    raise can.CanOperationError(f"{what}: {getattr(error, 'strerror', None) or error}") from error


def _message(line: bytes) -> can.Message | None:
    """The frame in a line; None for the answer to a command."""
    found = _FRAME.fullmatch(line)
    if not found:
        if line[:1] in b"\r\azZFVNvE":
            return None
        raise NotSlcan(f"{line[:40]!r} is not a frame")
    letter, number = (found[1], found[2]) if found[1] else (found[3], found[4])
    is_fd, remote = letter in b"dDbB", letter in b"rR"
    dlc = int(found[5], 16)
    length = CAN_FD_DLC[dlc]
    carried = 0 if remote else 2 * length
    # after the data comes a timestamp of four digits, or nothing
    if (length > 8 and not is_fd) or len(found[6]) not in (carried, carried + 4):
        raise NotSlcan(f"{line[:40]!r} has another length than it announces")
    can_id = int(number, 16)
    if can_id > 0x1FFFFFFF:
        raise NotSlcan(f"{line[:40]!r} has an id of more than 29 bits")
    return can.Message(
        arbitration_id=can_id,
        is_extended_id=found[3] is not None,
        is_remote_frame=remote,
        is_fd=is_fd,
        bitrate_switch=letter in b"bB",
        dlc=length,
        data=None if remote else bytes.fromhex(found[6][:carried].decode()),
    )


# --- the two kinds of line


def _opened(channel: str, baudrate: int, *, rtscts: bool) -> _Socket | _Port:
    try:
        if channel.startswith("socket://"):
            parts = urlsplit(channel)
            return _Socket(socket.create_connection((parts.hostname, parts.port), timeout=_CONNECT_S))
        port = serial.Serial(
            channel, baudrate, timeout=0, write_timeout=_WRITE_S, rtscts=rtscts, exclusive=True
        )
        return _Port(port)
    except OSError as error:
        raise can.CanInitializationError(error.strerror or str(error)) from error


class _Socket:
    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(_WRITE_S)
        sock.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )  # an OBD-II request must not wait for more bytes
        self._sock = sock
        self.fileno, self.write, self.close = sock.fileno, sock.sendall, sock.close

    def read(self) -> bytes:
        return self._sock.recv(_BLOCK)


class _Port:
    def __init__(self, port: serial.Serial) -> None:
        self._port = port
        self.fileno, self.write = port.fileno, port.write

    def read(self) -> bytes:
        return os.read(self._port.fileno(), _BLOCK)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # pyserial restores settings of a port that may not exist any more
            self._port.close()
