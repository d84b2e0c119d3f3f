"""One file of the outbox: records with checksums in a pre-written, recycled segment, readable after damage.

    0     header, two copies in two sectors: which generation this is and what came before it
    1024  seal: what the finished segment holds, so that opening it needs no scan
    1536  mark: how far it is acknowledged, written lazily
    4096  records, each: marker, CRC-32, `sure`, length, seq, times, boot, rows, flags, topic tail, body

Marker and CRC seed are random for each generation: what an earlier one left behind never looks like a
record, so a segment is reused without being wiped, and a damaged stretch is skipped by searching for the
next marker whose record checks out.
"""

from __future__ import annotations

import os
import secrets
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple
from zlib import crc32

from wire.messages import MAX_BODY

Kind = Literal["data", "event"]
KINDS: tuple[Kind, Kind] = ("data", "event")

PAGE = 4096  # bytes before the first record
_COPY_AT, _SEAL_AT, _MARK_AT = 512, 1024, 1536  # each in a sector of its own
_MAGIC = b"edgebed1"
# magic, kind, ep, generation, base seq, file size, salt, rows taken before, dropped before, rows dropped
_HEADER = struct.Struct("<8sI32sQQI8sQQQ")
_SEAL = struct.Struct("<8sIIQQ")  # salt, end, count, last seq, rows
_MARK = struct.Struct("<8sIIIQQQ")  # salt, low, done, end, last seq, messages dropped, rows dropped
_CRC = struct.Struct("<I")
_PREFIX = struct.Struct("<4sIQ")  # marker, CRC of all that follows, sure
_SURE = struct.Struct("<Q")
_HEAD = struct.Struct("<IQqqIHBB")  # length of tail and body, seq, at, offset, boot, rows, flags, tail
_RECORD = struct.Struct("<4sIQIQqqIHBB")
OVERHEAD = _RECORD.size
TAIL_AT = _HEAD.size  # of `Blob.data`
MAX_RECORD = OVERHEAD + MAX_BODY + 255
UNSYNCED = 1  # in `flags`
_ZEROS = bytes(65_536)


class Found(NamedTuple):
    """A valid record in a segment; the payload starts at `at + OVERHEAD` with `tail` bytes of topic tail.

    `sure`: when it was written, every seq up to there was on disk or declared lost.
    """

    at: int
    size: int
    seq: int
    sure: int
    at_ms: int
    offset_ns: int
    boot: int
    rows: int
    flags: int
    tail: int


class Totals(NamedTuple):
    """Sums over all earlier segments of the same kind."""

    rows: int = 0
    dropped: int = 0
    dropped_rows: int = 0


class Noted(NamedTuple):
    """What the mark of a segment says besides `low` and `done`: how much there was when it was written."""

    end: int = 0
    last_seq: int = 0
    dropped: int = 0
    dropped_rows: int = 0


_NOTHING = Noted()


class Blob(NamedTuple):
    """A record without what only its segment knows; `size` counts what `Segment.write` puts in front."""

    seq: int
    data: bytes
    rows: int
    size: int


def blob(
    seq: int, tail: bytes, body: bytes, *, at_ms: int, offset_ns: int, boot: int, rows: int, flags: int
) -> Blob:
    """Pack a record; the topic tail has 255 bytes at most."""
    payload = len(tail) + len(body)
    head = _HEAD.pack(payload, seq, at_ms, offset_ns, boot, min(rows, 65_535), flags, len(tail))
    return Blob(seq, head + tail + body, rows, OVERHEAD + payload)


@dataclass(slots=True, eq=False)
class Segment:
    """One generation of records in one file. Offsets are bytes from the start of the file."""

    path: Path
    kind: Kind
    ep: str
    generation: int  # rises over all segments of an outbox
    base: int  # no seq below it is in here
    size: int
    before: Totals
    salt: bytes = b""  # marker and seed of the CRCs
    end: int = PAGE  # committed up to here
    ahead: list[Blob] = field(default_factory=list)  # written behind `end`, not committed yet
    count: int = 0
    last_seq: int = 0
    rows: int = 0
    seen: int = 0  # how many of `count` were read, or lie before `low`
    acked: int = 0  # how many of `seen`
    low: int = PAGE  # nothing before it waits any more: where reading begins
    done: int = 0  # how many records lie before `low`
    marked: tuple[int, int, int] = (0, 0, 0)  # `low`, `end` and messages dropped as they stand on disk
    noted: Noted = _NOTHING
    sealed: bool = False  # full, and its successor is on disk
    gone: bool = False  # dropped or free: no longer part of the outbox
    fd: int = -1  # the committer's alone: no other thread opens or closes it

    @property
    def room(self) -> int:
        """Bytes that still fit."""
        return self.size - self.end

    def begin(self) -> None:
        """Make the file this generation's, durably. Raises OSError."""
        self.salt = _new_salt()
        self.fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        sector = _with_crc(
            _HEADER.pack(
                _MAGIC, KINDS.index(self.kind), self.ep.encode(), self.generation, self.base, self.size,
                self.salt, *self.before,
            )
        ).ljust(_COPY_AT, b"\0")  # fmt: skip
        _write_all(self.fd, sector * 2, 0)
        os.fdatasync(self.fd)

    def write(self, group: list[Blob], sure: int) -> None:
        """Append without a flush; the group counts after `flush` and `publish`. Raises OSError."""
        marker, seed = self.salt[:4], crc32(_SURE.pack(sure), int.from_bytes(self.salt[4:], "little"))
        if self.fd < 0:
            self.fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        start = at = self.end + sum(record.size for record in self.ahead)
        parts: list[bytes] = []
        for record in group:
            prefix, end = _PREFIX.pack(marker, crc32(record.data, seed), sure), at + record.size
            if at // PAGE == (end - 1) // PAGE:
                parts += prefix, record.data
            else:
                # A kill can end a write between two pages. The marker of a record that crosses into
                # another page is written after the rest of it: a kill leaves whole records only.
                _write_all(self.fd, prefix[len(marker) :] + record.data, at + len(marker))
                _write_all(self.fd, b"".join([*parts, marker]), start)
                start, parts = end, []
            at = end
        _write_all(self.fd, b"".join(parts), start)
        self.ahead += group

    def flush(self) -> None:
        """Make durable what is written. Raises OSError: nothing of it counts."""
        os.fdatasync(self.fd)

    def publish(self) -> None:
        """Count what is flushed as committed. Needs the outbox's lock."""
        self.last_seq = self.ahead[-1].seq
        self.count += len(self.ahead)
        self.rows += sum(record.rows for record in self.ahead)
        self.end += sum(record.size for record in self.ahead)
        self.ahead = []

    def give_up(self) -> None:
        """Forget what is not committed and take no more. Needs the outbox's lock."""
        self.ahead = []
        self.size = self.end
        self.close()

    def wipe_rest(self) -> None:
        """Zero what a torn write left behind the last record. Raises OSError."""
        fd = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            _write_zeros(fd, self.end, self.size)
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def seal(self) -> None:
        """Note durably what the segment holds.

        Without it opening takes a scan, and has to guess what was in a successor that is free again.
        """
        data = _SEAL.pack(self.salt, self.end, self.count, self.last_seq, self.rows)
        _write_all(self.fd, _with_crc(data), _SEAL_AT)
        os.fdatasync(self.fd)

    def note(self, dropped: int, dropped_rows: int) -> bytes:
        """What `mark` writes. Needs the outbox's lock: the fields must belong together."""
        self.marked = (self.low, self.end, dropped)
        return _with_crc(
            _MARK.pack(self.salt, self.low, self.done, self.end, self.last_seq, dropped, dropped_rows)
        )

    def mark(self, data: bytes) -> None:
        """Write a `note` of how far it is acknowledged, without a flush: what is lost is sent once more."""
        if self.fd >= 0:
            _write_all(self.fd, data, _MARK_AT)
            return
        fd = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            _write_all(fd, data, _MARK_AT)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Release the file."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def parse(self, data: bytes, at: int, start: int = 0) -> Found | None:
        """The record at `at` in `data`, which was read from `start` on; None when there is none or half."""
        if len(data) - at < OVERHEAD:
            return None
        marker, crc, sure, length, seq, at_ms, offset_ns, boot, rows, flags, tail = _RECORD.unpack_from(
            data, at
        )
        end = at + OVERHEAD + length
        if marker != self.salt[:4] or end > len(data) or tail > length or length > MAX_RECORD:
            return None
        if crc32(data[at + 8 : end], int.from_bytes(self.salt[4:], "little")) != crc:
            return None
        return Found(start + at, OVERHEAD + length, seq, sure, at_ms, offset_ns, boot, rows, flags, tail)

    def walk(self, data: bytes, at: int, damage: list[tuple[int, int]]) -> Iterator[Found]:
        """Every valid record from `at` on in the bytes of the whole file, skipping to the next valid one.

        Skipped stretches are added to `damage` as `(offset, size)`; what follows the last record is not.
        """
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
        """What a write that did not finish left at `at`: its bytes and the seq it claims, or (0, 0)."""
        if not data.startswith(self.salt[:4], at):
            return 0, 0
        if len(data) - at < OVERHEAD:
            return len(data) - at, 0
        length, seq = _RECORD.unpack_from(data, at)[3:5]
        return min(OVERHEAD + length, len(data) - at), seq

    def _resync(self, data: bytes, at: int) -> Found | None:
        while (at := data.find(self.salt[:4], at)) >= 0:
            found = self.parse(data, at)
            if found is not None:
                return found
            at += 1
        return None


def load(path: Path) -> Segment | None:
    """The generation in a file, with seal and mark where they are valid; None for one never used.

    Raises:
        OSError: it cannot be read.
        ValueError: it was used, and both copies of its header are damaged.
    """
    with path.open("rb") as file:
        page = file.read(PAGE).ljust(PAGE, b"\0")
    headers = [values for at in (0, _COPY_AT) if (values := _checked(_HEADER, page, at)) is not None]
    headers = [values for values in headers if values[0] == _MAGIC and values[1] < len(KINDS)]
    if not headers:
        if not path.read_bytes()[_COPY_AT:].strip(b"\0"):  # a first header that was cut off, or none yet
            return None
        raise ValueError(f"{path}: both copies of the header are damaged")
    _, kind, ep, generation, base, size, salt, *before = max(headers, key=lambda values: values[3])
    name = ep.rstrip(b"\0").decode("ascii", "replace")
    segment = Segment(path, KINDS[kind], name, generation, base, size, Totals(*before), salt)
    segment.last_seq = base - 1
    segment.noted = Noted(0, 0, *segment.before[1:])
    seal = _checked(_SEAL, page, _SEAL_AT)
    if seal is not None and seal[0] == salt:
        _, segment.end, segment.count, segment.last_seq, segment.rows = seal
        segment.sealed = True
    mark = _checked(_MARK, page, _MARK_AT)
    if mark is not None and mark[0] == salt:
        _, segment.low, segment.done, *noted = mark
        segment.noted = Noted(*noted)
        segment.acked = segment.seen = segment.done
    return segment


def create(path: Path, size: int) -> None:
    """A new file of zeros, on disk: later writes change no metadata and cannot run out of space.

    Raises OSError and leaves nothing behind.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _write_zeros(fd, 0, size)
        os.fsync(fd)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


def _new_salt() -> bytes:
    salt = secrets.token_bytes(8)
    return salt if any(salt[:4]) else _new_salt()  # a marker of zeros is what an unwritten file holds


def _with_crc(data: bytes) -> bytes:
    return data + _CRC.pack(crc32(data))


def _checked(layout: struct.Struct, page: bytes, at: int) -> tuple | None:  # type: ignore[type-arg]
    data = page[at : at + layout.size]
    (crc,) = _CRC.unpack_from(page, at + layout.size)
    return layout.unpack(data) if crc32(data) == crc else None


def _write_all(fd: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, at)
        view, at = view[written:], at + written


def _write_zeros(fd: int, at: int, end: int) -> None:
    for start in range(at, end, len(_ZEROS)):
        _write_all(fd, _ZEROS[: end - start], start)
