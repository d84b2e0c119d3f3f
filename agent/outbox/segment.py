"""Segments: the files of the outbox, pre-written and recycled, with records that survive damage around them.

    0     header, two copies in two sectors: the number of this generation and the sums before it
    1024  seal: the content of the finished segment, so that opening it needs no scan
    1536  mark: how far the segment is acknowledged, written without a flush
    4096  records, see `record.py`

Marker and CRC seed are random for each generation. So bytes of an earlier generation never look like a
record, and a segment is reused without being wiped. A damaged stretch is skipped by searching for the next
marker with a valid record.
"""

from __future__ import annotations

import errno
import os
import secrets
import struct
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from agent.outbox.record import (
    KINDS,
    MAX_RECORD,
    PAGE,
    PREFIX,
    Blob,
    Kind,
    Record,
    Records,
)

_COPY_AT, _SEAL_AT, _MARK_AT = 512, 1024, 1536  # each has its own sector
_MAGIC = b"edgebed1"
# magic, kind, ep, generation, base seq, file size, salt, rows taken before, messages and rows dropped before
_HEADER = struct.Struct("<8sI32sQQI8sQQQ")
_SEAL = struct.Struct("<8sIIQQ")  # salt, end, count, last seq, rows
_MARK = struct.Struct("<8sIIIQQQ")  # salt, low, done, end, last seq, messages dropped, rows dropped
_CRC = struct.Struct("<I")
_ZEROS = bytes(65_536)
_CHUNK = 262_144  # bytes read at once
_PERMANENT = (errno.EIO, errno.ENOENT, errno.ESTALE, errno.EBADMSG)


class SegmentTotals(NamedTuple):
    """Sums over all earlier segments of the same kind."""

    rows: int = 0
    dropped: int = 0
    dropped_rows: int = 0


class Header(NamedTuple):
    """What the header of a segment states; it never changes within a generation."""

    kind: Kind
    ep: str
    generation: int  # increases over all segments of an outbox
    base: int  # all records here have this seq or a higher one
    size: int
    before: SegmentTotals


class Noted(NamedTuple):
    """The rest of a segment's mark: its end, last seq and drop counts when the mark was written."""

    end: int = 0
    last_seq: int = 0
    dropped: int = 0
    dropped_rows: int = 0


class DamagedStretch(NamedTuple):
    """A stretch of bytes that cannot be read; its records had seqs from `first` to `last`."""

    size: int
    first: int
    last: int


class Run(NamedTuple):
    """Records read in one go, the offset to continue at, and the damage before that offset, if any.

    `ended`: a record with a seq that was not wanted comes next.
    """

    records: list[Record]
    upto: int
    damage: DamagedStretch | None = None
    ended: bool = False


class Segment:
    """One generation of records in one file. Offsets are in bytes from the start of the file.

    Only the methods of this class assign its fields, and only they open and close its descriptor. The
    methods of the first group change what other threads see: they need the outbox's lock and never touch the
    disk. The methods of the second group work on the disk; only the committing thread calls those that write.
    """

    def __init__(self, path: Path, header: Header, salt: bytes = b"") -> None:
        self.path = path
        self.kind, self.ep, self.generation, self.base, self.size, self.before = header
        self.end = PAGE  # committed up to here
        self.count = 0  # committed records
        self.last_seq = self.base - 1
        self.rows = 0
        self.acked = 0  # how many of `seen` are acknowledged
        self.low = PAGE  # reading starts here: every record before it is acknowledged
        self.done = 0  # number of records before `low`
        self.noted = Noted(0, 0, *self.before[1:])
        self.sealed = False  # full, and its successor is on disk
        self.gone = False  # dropped or free: no longer part of the outbox
        self.records = Records(self.kind, salt)
        self._seen = 0  # how many of `count` were read or are before `low`
        self._marked = (0, 0, 0)  # `low`, `end` and messages dropped, as written on disk
        self._ahead: list[Blob] = []  # written after `end`, not committed yet
        self._fd = -1

    # --- state that other threads see

    @property
    def room(self) -> int:
        """Free bytes at the end."""
        return self.size - self.end

    @property
    def is_finished(self) -> bool:
        """Whether it is full and every record that was read is acknowledged."""
        return self.sealed and self.acked >= self._seen

    def publish(self) -> None:
        """Count the flushed records as committed."""
        self.last_seq = self._ahead[-1].seq
        self.count += len(self._ahead)
        self.rows += sum(record.rows for record in self._ahead)
        self.end += sum(record.size for record in self._ahead)
        self._ahead = []

    def give_up(self) -> None:
        """Forget the records that are not committed and accept no more."""
        self._ahead = []
        self.size = self.end

    def set_sealed(self, sealed: bool = True) -> None:
        """Note that it is full and that its successor is on disk, or that writing continues here."""
        self.sealed = sealed

    def took(self, records: int) -> None:
        """Count records as read."""
        self._seen += records

    def acknowledge(self, records: int = 1) -> None:
        """Count records that were read as acknowledged."""
        self.acked += records

    def rewind(self) -> None:
        """Note that reading starts again at `low`."""
        self.acked = self._seen = self.done

    def settle(self, low: int, done: int) -> None:
        """Note that every record before `low` is acknowledged; `done` is their number."""
        self.low, self.done = low, done

    def retire(self) -> None:
        """Note that it is no longer part of the outbox. Its file stays open until `close`."""
        self.gone = True

    def note(self, dropped: int, dropped_rows: int) -> bytes | None:
        """The bytes for `mark`; None if the mark on disk has the same content."""
        if self._marked == (self.low, self.end, dropped):
            return None
        self._marked = (self.low, self.end, dropped)
        return _with_crc(
            _MARK.pack(self.records.salt, self.low, self.done, self.end, self.last_seq, dropped, dropped_rows)
        )

    def note_empty(self) -> bytes | None:
        """Note that nothing here is needed any more; the bytes for `mark`."""
        self.settle(self.end, self.count)
        return self.note(self.before.dropped, self.before.dropped_rows)

    # --- work on the disk

    def begin(self) -> None:
        """Start this generation in the file, durably. Raises OSError."""
        self.records = Records(self.kind, _new_salt())
        self._open()
        sector = _with_crc(
            _HEADER.pack(
                _MAGIC, KINDS.index(self.kind), self.ep.encode(), self.generation, self.base, self.size,
                self.records.salt, *self.before,
            )
        ).ljust(_COPY_AT, b"\0")  # fmt: skip
        _write_all(self._fd, sector * 2, 0)
        os.fdatasync(self._fd)

    def write(self, group: list[Blob], settled: int) -> None:
        """Append records without a flush; they count after `flush` and `publish`. Raises OSError."""
        marker = self.records.marker
        seed = self.records.seed_for(settled)
        self._open()
        start = at = self.end + (sum(record.size for record in self._ahead) if self._ahead else 0)
        parts: list[bytes] = []
        for record in group:
            prefix, end = PREFIX.pack(marker, crc32(record.data, seed), settled), at + record.size
            if at // PAGE == (end - 1) // PAGE:
                parts += prefix, record.data
            else:
                # A kill can cut a write between two pages. So the marker of a record that crosses into
                # another page is written after the rest of the record: a kill leaves whole records only.
                _write_all(self._fd, prefix[len(marker) :] + record.data, at + len(marker))
                _write_all(self._fd, b"".join([*parts, marker]), start)
                start, parts = end, []
            at = end
        if parts:
            _write_all(self._fd, b"".join(parts), start)
        self._ahead += group

    def flush(self) -> None:
        """Make the written records durable. After an OSError none of them counts."""
        os.fdatasync(self._fd)

    def seal(self) -> None:
        """Write the content of the finished segment into its seal, durably. Raises OSError.

        Without a seal the next open must scan the segment, and cannot know which numbers a later segment held
        that is free again.
        """
        data = _SEAL.pack(self.records.salt, self.end, self.count, self.last_seq, self.rows)
        self._open()
        _write_all(self._fd, _with_crc(data), _SEAL_AT)
        os.fdatasync(self._fd)

    def mark(self, note: bytes) -> None:
        """Write a note without a flush; if it is lost, records are sent again. Raises OSError."""
        if self._fd >= 0:
            _write_all(self._fd, note, _MARK_AT)
            return
        self._open()
        try:
            _write_all(self._fd, note, _MARK_AT)
        finally:
            self.close()

    def wipe_rest(self) -> None:
        """Write zeros after the last record, where a torn write left bytes. Raises OSError."""
        self._open()
        try:
            _write_zeros(self._fd, self.end, self.size)
            os.fdatasync(self._fd)
        finally:
            self.close()

    def close(self) -> None:
        """Release the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def read(self, start: int, end: int) -> bytes:
        """The bytes `start..end` of the file, with zeros where the disk cannot read them.

        Raises OSError only for temporary errors, such as too many open files.
        """
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)  # another thread may close the segment's own
        except OSError as error:
            if error.errno not in _PERMANENT:
                raise
            return bytes(end - start)
        try:
            return os.pread(fd, end - start, start).ljust(end - start, b"\0")
        except OSError as error:
            if error.errno not in _PERMANENT:
                raise
            return b"".join(_page(fd, at, min(PAGE, end - at)) for at in range(start, end, PAGE))
        finally:
            os.close(fd)

    def peek(self, at: int, end: int) -> Record | None:
        """The record at `at`; None if there is only damage. Raises OSError."""
        return self.records.parse(self.read(at, min(end, at + MAX_RECORD)), 0, at)

    def read_run(self, at: int, end: int, messages: int, size: int, below: int | None) -> Run:
        """Read the records from `at` on, up to `end`, a count, a size, a seq, or damage. Raises OSError."""
        data = self.read(at, min(end, at + _CHUNK))
        records: list[Record] = []
        upto, stop = at, at + len(data)
        while upto < stop and len(records) < messages and size > 0:
            record = self.records.parse(data, upto - at, at)
            if record is None:
                if upto + MAX_RECORD > stop and stop < end:
                    break  # cut off by the chunk, not by damage
                after, damage = self._skip(upto, end)
                return Run(records, after, damage)
            if below is not None and record.seq >= below:
                return Run(records, upto, ended=True)
            records.append(record)
            upto += record.size
            size -= record.size
        return Run(records, upto)

    def _skip(self, at: int, end: int) -> tuple[int, DamagedStretch]:
        """The offset of the next valid record after damage at `at` (`end` at most), and what lies between."""
        first, last, upto = self.base, self.last_seq, end
        for each in self.records.walk(self.read(0, self.end), []):
            if each.at > at:
                last, upto = each.seq - 1, min(each.at, end)
                break
            first = each.seq + 1
        return upto, DamagedStretch(upto - at, first, last)

    def _open(self) -> None:
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)

    # --- at the opening, before other threads see it

    def scan(self, data: bytes) -> tuple[list[int], int]:
        """The seqs in the bytes of the whole file and the highest `settled`; without a seal, count them."""
        seqs: list[int] = []
        settled, rows, done, end = 0, 0, 0, PAGE
        for each in self.records.walk(data, []):
            settled, end = max(settled, each.settled), each.at + each.size
            rows, done = rows + each.rows, done + (each.at < self.low)
            seqs.append(each.seq)
        if not self.sealed:
            self.end, self.count, self.rows = end, len(seqs), rows
            self.last_seq = seqs[-1] if seqs else self.base - 1
            self.low, self.done = min(self.low, end), done
            self.acked = self._seen = done
        return seqs, settled

    def limit(self, size: int) -> None:
        """Note how long the file really is."""
        self.size = max(self.end, min(self.size, size))


def load(path: Path) -> Segment | None:
    """The generation in a file, with its seal and mark if they are valid; None if it was never used.

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
    segment = Segment(path, Header(KINDS[kind], name, generation, base, size, SegmentTotals(*before)), salt)
    seal = _checked(_SEAL, page, _SEAL_AT)
    if seal is not None and seal[0] == salt:
        _, segment.end, segment.count, segment.last_seq, segment.rows = seal
        segment.sealed = True
    mark = _checked(_MARK, page, _MARK_AT)
    if mark is not None and mark[0] == salt:
        _, segment.low, segment.done, *noted = mark
        segment.noted = Noted(*noted)
        segment.acked = segment._seen = segment.done
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


def _page(fd: int, at: int, size: int) -> bytes:
    try:
        return os.pread(fd, size, at).ljust(size, b"\0")
    except OSError:
        return bytes(size)  # a bad sector costs its own records, not those after it


def _write_all(fd: int, data: bytes, at: int) -> None:
    while (written := os.pwrite(fd, data, at)) < len(data):
        data, at = data[written:], at + written


def _write_zeros(fd: int, at: int, end: int) -> None:
    for start in range(at, end, len(_ZEROS)):
        _write_all(fd, _ZEROS[: end - start], start)
