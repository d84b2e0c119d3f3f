"""Record: a message in a segment, with the layout of its bytes.

marker, CRC-32 of all that follows, `settled`, length, seq, times, boot, rows, flags, topic tail, body
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Literal, NamedTuple
from zlib import crc32

from msgspec import Struct

from wire.messages import MAX_BODY

Kind = Literal["data", "event"]
KINDS: tuple[Kind, Kind] = ("data", "event")

PAGE = 4096  # bytes of a segment before the first record
PREFIX = struct.Struct("<4sIQ")  # marker, CRC of all that follows, settled
_SETTLED = struct.Struct("<Q")
_HEAD = struct.Struct("<IQqqIHBB")  # length of tail and body, seq, at, offset, boot, rows, flags, tail
_LAYOUT = struct.Struct("<4sIQIQqqIHBB")
OVERHEAD = _LAYOUT.size
TAIL_AT = _HEAD.size  # of `Blob.data`
MAX_RECORD = OVERHEAD + MAX_BODY + 255
UNSYNCED = 1  # in `flags`


class Record(Struct, frozen=True, gc=False):
    """One committed message, ready to be sent; `tail` is `device/name`, `at_ms` the time of its append.

    `offset_ns` is wall clock minus monotonic clock at that time, `boot` names the run of the machine. Both
    are needed to correct the times in an `unsynced` body when the clock is set. `at` and `size`: its place in
    its segment. `settled`: every seq up to this one was on disk or declared lost when it was written.
    """

    seq: int
    cls: Kind
    tail: str
    body: bytes
    at_ms: int
    offset_ns: int
    boot: int
    rows: int
    unsynced: bool
    at: int = 0
    size: int = 0
    settled: int = 0


class Blob(NamedTuple):
    """A record without its prefix, which only its segment knows; `size` includes the prefix."""

    seq: int
    data: bytes
    rows: int
    size: int


def blob(
    seq: int, tail: bytes, body: bytes, *, at_ms: int, offset_ns: int, boot: int, rows: int, flags: int
) -> Blob:
    """Pack a record. The topic tail has 255 bytes at most."""
    payload = len(tail) + len(body)
    head = _HEAD.pack(payload, seq, at_ms, offset_ns, boot, min(rows, 65_535), flags, len(tail))
    return Blob(seq, head + tail + body, rows, OVERHEAD + payload)


class Records:
    """Finds the records of one generation in bytes: its marker and its seed of the CRCs are its own."""

    def __init__(self, kind: Kind, salt: bytes) -> None:
        self.salt = salt
        self.marker = salt[:4]
        self._seed = int.from_bytes(salt[4:], "little")
        self._kind = kind

    def seed_for(self, settled: int) -> int:
        """The seed of the CRC of each record that is written with this `settled`."""
        return crc32(_SETTLED.pack(settled), self._seed)

    def parse(self, data: bytes, at: int, start: int = 0) -> Record | None:
        """The record at `at` in `data`, read from `start` on; None if there is none or only half."""
        if len(data) - at < OVERHEAD:
            return None
        marker, crc, settled, length, seq, at_ms, offset_ns, boot, rows, flags, tail = _LAYOUT.unpack_from(
            data, at
        )
        begin = at + OVERHEAD
        body, end = begin + tail, begin + length
        if marker != self.marker or end > len(data) or tail > length or length > MAX_RECORD:
            return None
        if crc32(data[at + 8 : end], self._seed) != crc:
            return None
        return Record(
            seq,
            self._kind,
            data[begin:body].decode("ascii", "replace"),
            data[body:end],
            at_ms,
            offset_ns,
            boot,
            rows,
            bool(flags & UNSYNCED),
            start + at,
            OVERHEAD + length,
            settled,
        )

    def walk(self, data: bytes, damage: list[tuple[int, int]]) -> Iterator[Record]:
        """Yield every valid record in the bytes of the whole file, skipping damage.

        Skipped stretches are added to `damage` as `(offset, size)`, except the one after the last record.
        """
        at = PAGE
        while True:
            found = self.parse(data, at)
            if found is None:
                found = self._resync(data, at + 1)
                if found is None:
                    return
                damage.append((at, found.at - at))
            yield found
            at = found.at + found.size

    def torn(self, data: bytes, at: int) -> tuple[int, int]:
        """The size and the claimed seq of an unfinished write at `at`, or (0, 0)."""
        if not data.startswith(self.marker, at):
            return 0, 0
        if len(data) - at < OVERHEAD:
            return len(data) - at, 0
        length, seq = _LAYOUT.unpack_from(data, at)[3:5]
        return min(OVERHEAD + length, len(data) - at), seq

    def _resync(self, data: bytes, at: int) -> Record | None:
        while (at := data.find(self.marker, at)) >= 0:
            found = self.parse(data, at)
            if found is not None:
                return found
            at += 1
        return None
