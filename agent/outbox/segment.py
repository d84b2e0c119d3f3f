"""Segments: the files of the outbox, pre-written and recycled, with records that survive damage around them.

    0     header, two copies in two sectors: the number of this generation and the sums before it
    1024  seal: the content of the finished segment, so that opening it needs no scan
    1536  mark: how far the segment is acknowledged, written without a flush
    4096  records, each: marker, CRC-32, `settled`, length, seq, times, boot, rows, flags, topic tail, body

Marker and CRC seed are random for each generation. So bytes of an earlier generation never look like a
record, and a segment is reused without being wiped. A damaged stretch is skipped by searching for the next
marker with a valid record.
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
_COPY_AT, _SEAL_AT, _MARK_AT = 512, 1024, 1536  # each has its own sector
_MAGIC = b"edgebed1"
# magic, kind, ep, generation, base seq, file size, salt, rows taken before, messages and rows dropped before
_HEADER = struct.Struct("<8sI32sQQI8sQQQ")
_SEAL = struct.Struct("<8sIIQQ")  # salt, end, count, last seq, rows
_MARK = struct.Struct("<8sIIIQQQ")  # salt, low, done, end, last seq, messages dropped, rows dropped
_CRC = struct.Struct("<I")
_PREFIX = struct.Struct("<4sIQ")  # marker, CRC of all that follows, settled
_SETTLED = struct.Struct("<Q")
_HEAD = struct.Struct("<IQqqIHBB")  # length of tail and body, seq, at, offset, boot, rows, flags, tail
_RECORD = struct.Struct("<4sIQIQqqIHBB")
OVERHEAD = _RECORD.size
TAIL_AT = _HEAD.size  # of `Blob.data`
MAX_RECORD = OVERHEAD + MAX_BODY + 255
UNSYNCED = 1  # in `flags`
_ZEROS = bytes(65_536)


class Found(NamedTuple):
    """A valid record in a segment; the payload starts at `at + OVERHEAD` with `tail` bytes of topic tail.

    `settled`: every seq up to this one was on disk or declared lost when the record was written.
    """

    at: int
    size: int
    seq: int
    settled: int
    at_ms: int
    offset_ns: int
    boot: int
    rows: int
    flags: int
    tail: int


class SegmentTotals(NamedTuple):
    """Sums over all earlier segments of the same kind."""

    rows: int = 0
    dropped: int = 0
    dropped_rows: int = 0


class Noted(NamedTuple):
    """The rest of a segment's mark: its end, last seq and drop counts when the mark was written."""

    end: int = 0
    last_seq: int = 0
    dropped: int = 0
    dropped_rows: int = 0


_NOTHING = Noted()


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


@dataclass(slots=True, eq=False)
class Segment:
    """One generation of records in one file. Offsets are in bytes from the start of the file."""

    path: Path
    kind: Kind
    ep: str
    generation: int  # increases over all segments of an outbox
    base: int  # all records here have this seq or a higher one
    size: int
    before: SegmentTotals
    salt: bytes = b""  # marker and seed of the CRCs
    end: int = PAGE  # committed up to here
    ahead: list[Blob] = field(default_factory=list)  # written after `end`, not committed yet
    count: int = 0
    last_seq: int = 0
    rows: int = 0
    seen: int = 0  # how many of `count` were read or are before `low`
    acked: int = 0  # how many of `seen` are acknowledged
    low: int = PAGE  # reading starts here: every record before it is acknowledged
    done: int = 0  # number of records before `low`
    marked: tuple[int, int, int] = (0, 0, 0)  # `low`, `end` and messages dropped, as written on disk
    noted: Noted = _NOTHING
    sealed: bool = False  # full, and its successor is on disk
    gone: bool = False  # dropped or free: no longer part of the outbox
    fd: int = -1  # only the committing thread opens and closes it

    @property
    def room(self) -> int:
        """Free bytes at the end."""
        return self.size - self.end

    def begin(self) -> None:
        """Start this generation in the file, durably. Raises OSError."""
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

    def write(self, group: list[Blob], settled: int) -> None:
        """Append records without a flush; they count after `flush` and `publish`. Raises OSError."""
        marker, seed = self.salt[:4], crc32(_SETTLED.pack(settled), int.from_bytes(self.salt[4:], "little"))
        if self.fd < 0:
            self.fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        start = at = self.end + sum(record.size for record in self.ahead)
        parts: list[bytes] = []
        for record in group:
            prefix, end = _PREFIX.pack(marker, crc32(record.data, seed), settled), at + record.size
            if at // PAGE == (end - 1) // PAGE:
                parts += prefix, record.data
            else:
                # A kill can cut a write between two pages. So the marker of a record that crosses into
                # another page is written after the rest of the record: a kill leaves whole records only.
                _write_all(self.fd, prefix[len(marker) :] + record.data, at + len(marker))
                _write_all(self.fd, b"".join([*parts, marker]), start)
                start, parts = end, []
            at = end
        _write_all(self.fd, b"".join(parts), start)
        self.ahead += group

    def flush(self) -> None:
        """Make the written records durable. After an OSError none of them counts."""
        os.fdatasync(self.fd)

    def publish(self) -> None:
        """Count the flushed records as committed. Needs the outbox's lock."""
        self.last_seq = self.ahead[-1].seq
        self.count += len(self.ahead)
        self.rows += sum(record.rows for record in self.ahead)
        self.end += sum(record.size for record in self.ahead)
        self.ahead = []

    def give_up(self) -> None:
        """Forget the records that are not committed and accept no more. Needs the outbox's lock."""
        self.ahead = []
        self.size = self.end
        self.close()

    def wipe_rest(self) -> None:
        """Write zeros after the last record, where a torn write left bytes. Raises OSError."""
        fd = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            _write_zeros(fd, self.end, self.size)
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def seal(self) -> None:
        """Write the content of the finished segment into its seal, durably. Raises OSError.

        Without a seal the next open must scan the segment, and cannot know which numbers a later segment held
        that is free again.
        """
        data = _SEAL.pack(self.salt, self.end, self.count, self.last_seq, self.rows)
        if self.fd < 0:  # found at the start, and nothing was written to it since
            self.fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        _write_all(self.fd, _with_crc(data), _SEAL_AT)
        os.fdatasync(self.fd)

    def note(self, dropped: int, dropped_rows: int) -> bytes:
        """The bytes that `mark` writes. Needs the outbox's lock: the fields must belong together."""
        self.marked = (self.low, self.end, dropped)
        return _with_crc(
            _MARK.pack(self.salt, self.low, self.done, self.end, self.last_seq, dropped, dropped_rows)
        )

    def mark(self, data: bytes) -> None:
        """Write a `note` without a flush. If it is lost, acknowledged records are sent again."""
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
        """The record at `at` in `data`, read from `start` on; None if there is none or only half."""
        if len(data) - at < OVERHEAD:
            return None
        marker, crc, settled, length, seq, at_ms, offset_ns, boot, rows, flags, tail = _RECORD.unpack_from(
            data, at
        )
        end = at + OVERHEAD + length
        if marker != self.salt[:4] or end > len(data) or tail > length or length > MAX_RECORD:
            return None
        if crc32(data[at + 8 : end], int.from_bytes(self.salt[4:], "little")) != crc:
            return None
        return Found(start + at, OVERHEAD + length, seq, settled, at_ms, offset_ns, boot, rows, flags, tail)

    def walk(self, data: bytes, at: int, damage: list[tuple[int, int]]) -> Iterator[Found]:
        """Yield every valid record from `at` on in the bytes of the whole file, skipping damage.

        Skipped stretches are added to `damage` as `(offset, size)`, except the one after the last record.
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
        """The size and the claimed seq of an unfinished write at `at`, or (0, 0)."""
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
    """The generation in a file, with its seal and mark if they are valid; None if the file was never used.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file was used, and both copies of its header are damaged.
    """
    with path.open("rb") as file:
        page = file.read(PAGE).ljust(PAGE, b"\0")
    headers = [values for at in (0, _COPY_AT) if (values := _checked(_HEADER, page, at)) is not None]
    headers = [values for values in headers if values[0] == _MAGIC and values[1] < len(KINDS)]
    if not headers:
        if not path.read_bytes()[_COPY_AT:].strip(b"\0"):  # no header yet, or the first one was cut off
            return None
        raise ValueError(f"{path}: both copies of the header are damaged")
    _, kind, ep, generation, base, size, salt, *before = max(headers, key=lambda values: values[3])
    name = ep.rstrip(b"\0").decode("ascii", "replace")
    segment = Segment(path, KINDS[kind], name, generation, base, size, SegmentTotals(*before), salt)
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
    """Make a file of zeros, durably. Later writes then change no metadata and cannot run out of space.

    Raises OSError and leaves no file.
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
    return (
        salt if any(salt[:4]) else _new_salt()
    )  # an unwritten file is full of zeros: a marker of zeros would match


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
