"""A serial CAN adapter as LAWICEL's CAN232 and CANUSB manuals describe it: an ASCII line a command.

S6 set 500 kbit/s   O open   L listen only   C close   t1003112233 send   V version   N serial   F status
Z1 timestamps on    M/m acceptance code and mask       X1 auto poll       answers: CR accepted, BEL refused
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

_CR, _BEL = b"\r", b"\a"
_LONGEST = 64  # bytes of a command; a longer one is refused
_MINUTE_MS = 60_000  # timestamps count from 0 to 59,999 ms
_FRAME = re.compile(rb"(?:([tr])([0-7][0-9A-Fa-f]{2})|([TR])([01][0-9A-Fa-f]{7}))([0-8])([0-9A-Fa-f]*)")


class BusFrame(NamedTuple):
    """One frame on the simulated bus."""

    id: int
    data: bytes
    extended: bool = False
    remote: bool = False


class Slcan:
    """One adapter on the bus: `feed` takes the bytes of its user and returns the answers."""

    def __init__(self, send: Callable[[BusFrame], None], serial: str = "EB01") -> None:
        self.open = False
        self.listens_only = False
        self.stamps = False
        self.status = 0  # the bits of the F command; reading clears them
        self._send = send
        self._serial = serial[:4].encode()
        self._typed = bytearray()

    def feed(self, data: bytes) -> bytes:
        """Return the answers to these bytes; an unfinished command waits for its end."""
        answers = bytearray()
        for part in data.replace(b"\n", b"").splitlines(keepends=True):
            self._typed += part
            if self._typed.endswith(_CR):
                answers += self._answer(bytes(self._typed[:-1]))
                self._typed.clear()
            elif len(self._typed) > _LONGEST:
                answers += _BEL
                self._typed.clear()
        return bytes(answers)

    def line(self, frame: BusFrame, at_ms: int) -> bytes:
        """The line of a frame of the bus; `at_ms` is the time of the adapter's clock."""
        letter = b"tTrR"[2 * frame.remote + frame.extended : 2 * frame.remote + frame.extended + 1]
        can_id = b"%08X" % frame.id if frame.extended else b"%03X" % frame.id
        data = b"" if frame.remote else frame.data.hex().upper().encode()
        stamp = b"%04X" % (at_ms % _MINUTE_MS) if self.stamps else b""
        return letter + can_id + b"%X" % len(frame.data) + data + stamp + _CR

    def overrun(self) -> None:
        """Note that frames were lost because the user did not read them."""
        self.status |= 0x08

    def _answer(self, command: bytes) -> bytes:
        letter, rest = command[:1], command[1:]
        if letter in b"tTrR" and letter:
            return self._transmit(command)
        known = _COMMANDS.get(letter)
        if known is None:
            return _CR if not command else _BEL  # an empty line asks whether there is an adapter
        form, when_open, when_closed = known
        if not re.fullmatch(form, rest) or not (when_open if self.open else when_closed):
            return _BEL
        return self._obey(letter, rest)

    def _obey(self, letter: bytes, rest: bytes) -> bytes:
        if letter in b"OL":
            self.open, self.listens_only = True, letter == b"L"
        elif letter == b"C":
            self.open = False
        elif letter == b"Z":
            self.stamps = rest == b"1"
        elif letter == b"V":
            return b"V1011" + _CR
        elif letter == b"N":
            return b"N" + self._serial + _CR
        elif letter == b"F":
            status, self.status = self.status, 0
            return b"F%02X" % status + _CR
        return _CR

    def _transmit(self, command: bytes) -> bytes:
        found = _FRAME.fullmatch(command)
        if not found or not self.open or self.listens_only:
            return _BEL
        short, short_id, long, long_id, length, digits = found.groups()
        letter, remote = short or long, (short or long) in b"rR"
        if len(digits) != (0 if remote else 2 * int(length)):
            return _BEL
        data = bytes(int(length)) if remote else bytes.fromhex(digits.decode())
        self._send(BusFrame(int(short_id or long_id, 16), data, extended=long is not None, remote=remote))
        return letter.replace(b"t", b"z").replace(b"T", b"Z").replace(b"r", b"z").replace(b"R", b"Z") + _CR


# command -> what follows it, whether it is accepted while the bus is open, and while it is closed
_COMMANDS: dict[bytes, tuple[bytes, bool, bool]] = {
    b"S": (rb"[0-8]", False, True),
    b"s": (rb"[0-9A-Fa-f]{4}", False, True),
    b"O": (rb"", False, True),
    b"L": (rb"", False, True),
    b"C": (rb"", True, False),
    b"Z": (rb"[01]", False, True),
    b"M": (rb"[0-9A-Fa-f]{8}", False, True),
    b"m": (rb"[0-9A-Fa-f]{8}", False, True),
    b"X": (rb"[01]", False, True),
    b"V": (rb"", True, True),
    b"N": (rb"", True, True),
    b"F": (rb"", True, False),
}
