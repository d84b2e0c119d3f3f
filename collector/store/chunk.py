"""Column chunks: rows of one stream as typed columns, packed with zstd."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import numpy as np
import zstandard
from msgspec import Meta, Struct
from numpy.typing import NDArray

from collector.store.clock_skew import Offset
from wire.codec import MAX_PLAIN
from wire.errors import WireError
from wire.messages import Batch, Scalar

MAX_UNPACKED = 64 * 1024 * 1024  # bytes of one chunk: far more than a commit gathers
CHUNK_ROWS = 20_000
MINUTE_US = 60_000_000
HOUR_MS = 3_600_000
SKEW_STEP_MS = 20  # rows of a chunk share the offset of the clock: at most this is added to its error
_MAX_HEAD = 1_000_000  # bytes of the head of a chunk that has few rows
_MAX_ROW = 4 * MAX_PLAIN  # bytes of one row: a value of two characters in JSON takes eight here
_UNREADABLE = (zstandard.ZstdError, msgspec.MsgspecError, ValueError, OverflowError, RecursionError)
_FEW_ROLLUPS = 256  # of one chunk: always written
_ROWS_A_MINUTE = 16  # with fewer on average, many rollups are as much work as the rows
_EXACT = 2**53  # larger integers are not exact as f64

_Number = Annotated[int, Meta(ge=0, le=2**62)]

# One of each per thread: zstd contexts are not thread-safe, and to create one costs more than a small chunk.
_local = threading.local()


class ChunkHead(Struct, array_like=True):
    """The head of a chunk, before its columns."""

    messages: list[tuple[_Number, _Number]]  # (seq, rows) in order of arrival
    columns: list[tuple[str, str, int]]  # (field, kind, bytes); kind d f64, q i64, b bool, j JSON
    clk: int = -1
    quality: int = 0  # bytes of the quality column; 0 when all rows are good
    skew: int | None = None  # how far the node's clock was behind when the rows arrived, ms
    err: int | None = None  # the largest error of `skew`, ms


@dataclass(slots=True)
class ChunkRows:
    """Rows of one stream gathered for one commit; `late` when they arrived long after their time.

    `bodies` are the messages as they came; without them the rows can only be packed.
    """

    node: str
    device: str
    stream: str
    ep: str
    clk: int
    late: bool
    recv_ms: int
    count: int = 0
    times: list[NDArray[np.int64]] = field(default_factory=list)  # us, one array per batch
    columns: dict[str, list[Scalar]] = field(default_factory=dict)
    quality: list[int] = field(default_factory=list)
    messages: list[tuple[int, int]] = field(default_factory=list)
    size: int = 0  # bytes of the messages
    plain: int = 0  # the same before compression
    offset: Offset = field(default_factory=Offset)
    bodies: list[bytes] = field(default_factory=list)

    def add(self, batch: Batch, body: bytes, plain: int) -> None:
        """Append a batch with the same fields, of a message of `plain` bytes before compression."""
        self._append(batch.f, batch.q if isinstance(batch.q, list) else ())
        self.times.append(times_of(batch))
        self.count += len(batch)
        self.messages.append((batch.seq, len(batch)))
        self.bodies.append(body)
        self.size += len(body)
        self.plain += plain

    def join(self, more: ChunkRows) -> None:
        """Append rows of the same `part`, without their bodies."""
        self._append(more.columns, more.quality)
        self.times += more.times
        self.count += more.count
        self.messages += more.messages
        self.offset = more.offset if self.offset == more.offset else self.offset.united(more.offset)
        self.size += more.size
        self.plain += more.plain

    def _append(self, columns: Mapping[str, Sequence[Scalar]], quality: Sequence[int]) -> None:
        if self.columns:
            for name, column in columns.items():
                self.columns[name].extend(column)
        else:
            self.columns = {name: list(column) for name, column in columns.items()}
        if quality:
            self.quality.extend([0] * (self.count - len(self.quality)))
            self.quality.extend(quality)

    def part(self) -> tuple[object, ...]:
        """What rows of a stream have in common that share a chunk."""
        skew, error = self.offset.skew_ms, self.offset.uncertainty_ms
        near = None if skew is None else (skew // SKEW_STEP_MS, error is None)
        return (self.ep, self.clk, self.late, self.recv_ms // HOUR_MS, near, *self.columns)

    def without_bodies(self) -> ChunkRows:
        """A copy to which rows can be joined."""
        copy = ChunkRows(self.node, self.device, self.stream, self.ep, self.clk, self.late, self.recv_ms)
        copy.offset = self.offset
        copy.join(self)
        return copy

    @property
    def key(self) -> tuple[str, str, str]:
        """Node, device and stream."""
        return self.node, self.device, self.stream

    def times_us(self) -> NDArray[np.int64]:
        """The time of each row."""
        if len(self.times) > 1:
            self.times = [np.concatenate(self.times)]
        return self.times[0]


@dataclass(frozen=True, slots=True)
class Rollup:
    """One field of one stream over one minute; `late` counts its late rows."""

    field: str
    minute: int
    n: int
    low: float | None
    high: float | None
    total: float
    late: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows of one stream, packed for the store."""

    rows: ChunkRows
    first_us: int
    last_us: int
    body: bytes
    rollups: list[Rollup]
    is_sparse: bool = False  # without rollups: it has nearly as many minutes as rows


def pack(rows: ChunkRows) -> Chunk:
    """Pack rows into bytes, with the minute rollups of every field."""
    times = rows.times_us()
    steps = np.diff(times, prepend=np.int64(0))
    parts: list[bytes] = [steps.tobytes()]
    columns: list[tuple[str, str, int]] = []
    numbers: dict[str, NDArray[np.float64] | None] = {}
    for name, column in rows.columns.items():
        kind, body, floats = _column(column)
        parts.append(body)
        columns.append((name, kind, len(body)))
        numbers[name] = floats
    quality = b""
    if any(rows.quality):
        quality = bytes(rows.quality).ljust(len(times), b"\0")
        parts.append(quality)
    known = rows.offset
    head = msgspec.msgpack.encode(
        ChunkHead(rows.messages, columns, rows.clk, len(quality), known.skew_ms, known.uncertainty_ms)
    )
    body = _packer().compress(b"".join((len(head).to_bytes(4, "little"), head, *parts)))
    sparse = _is_sparse(times, len(numbers))
    return Chunk(
        rows,
        int(times.min()),
        int(times.max()),
        body,
        [] if sparse else roll_up(times, numbers, rows.late),
        sparse,
    )


def _is_sparse(times: NDArray[np.int64], fields: int) -> bool:
    """Whether rollups would be more work than rows: a reader of such a chunk takes its rows instead."""
    low, high = int(times.min()) // MINUTE_US, int(times.max()) // MINUTE_US
    if high - low < 2 or (high - low + 1) * fields <= _FEW_ROLLUPS:
        return False
    minutes = len(np.unique(times // MINUTE_US))
    return minutes > 2 and minutes * fields > _FEW_ROLLUPS and minutes * _ROWS_A_MINUTE > len(times)


def roll_up(
    times: NDArray[np.int64], numbers: dict[str, NDArray[np.float64] | None], late: bool
) -> list[Rollup]:
    """The minute rollups of the rows of a chunk."""
    minutes = times // MINUTE_US
    order: NDArray[np.intp] | None = None
    if minutes[0] == minutes[-1] and (len(minutes) < 3 or bool((minutes == minutes[0]).all())):
        edges = [0, len(minutes)]
    else:
        order = np.argsort(minutes, kind="stable")
        minutes = minutes[order]
        edges = [0, *(np.flatnonzero(np.diff(minutes)) + 1).tolist(), len(minutes)]
    names = [name for name, column in numbers.items() if column is not None]
    texts = [name for name, column in numbers.items() if column is None]
    table = np.array([numbers[name] for name in names]) if names else np.empty((0, len(times)))
    if order is not None:
        table = table[:, order]
    found: list[Rollup] = []
    with np.errstate(all="ignore"):  # the sum of huge values may overflow to inf; inf is stored
        for start, end in itertools.pairwise(edges):
            minute, n = int(minutes[start]), end - start
            found += _minute(names, table[:, start:end], minute, late)
            found += [Rollup(name, minute, n, None, None, 0.0, n * late) for name in texts]
    return found


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A chunk read back; `columns` has an array, or a list for a JSON column, per field."""

    head: ChunkHead
    times: NDArray[np.int64]  # us
    columns: dict[str, Any]
    quality: list[int]  # of each row


def read_chunk(body: bytes, names: Iterable[str] | None = None, declared: int | None = None) -> Unpacked:
    """Read a chunk with the columns in `names` (all when None); it must have `declared` rows where given.

    Raises:
        WireError: the bytes are not a chunk, or not this one.
    """
    wanted = None if names is None else set(names)
    try:
        plain = _unpacker().decompress(body, max_output_size=_room(body, declared))
        size = int.from_bytes(plain[:4], "little")
        at = 4 + size
        head, rows = _head(plain[4:at], declared)
        times = np.frombuffer(plain, np.int64, rows, at).cumsum()
        at += 8 * rows
        columns: dict[str, Any] = {}
        for name, kind, width in head.columns:
            if wanted is None or name in wanted:
                columns[name] = _read(kind, plain, at, width, rows)
            at += width
        quality = list(plain[at : at + head.quality]) if head.quality else [0] * rows
        if len(quality) != rows:
            raise ValueError(f"{len(quality)} qualities of {rows} rows")
    except _UNREADABLE as error:
        raise WireError(f"not a column chunk: {error}") from error
    return Unpacked(head, times, columns, quality)


def read_head(body: bytes, declared: int | None = None) -> ChunkHead:
    """Read the head of a chunk alone: nothing after the block in which it ends is unpacked or checked.

    Raises:
        WireError: the bytes do not begin like a chunk, or not like this one.
    """
    try:
        room = _room(body, declared)
        with _unpacker().stream_reader(body) as plain:
            size = int.from_bytes(plain.read(4), "little")
            if size > room:
                raise ValueError(f"its head states to have more than {room} bytes")
            return _head(plain.read(size), declared)[0]
    except _UNREADABLE as error:
        raise WireError(f"not a column chunk: {error}") from error


def _room(body: bytes, declared: int | None) -> int:
    """How many bytes a chunk may unpack to."""
    room = MAX_UNPACKED
    if declared is not None:
        room = min(room, _MAX_HEAD + declared * _MAX_ROW)
    # the decompressor allocates what a frame states, whatever `max_output_size` is
    if zstandard.frame_content_size(body) > room:
        raise ValueError(f"it states to unpack to more than {room} bytes")
    return room


def _head(packed: bytes, declared: int | None) -> tuple[ChunkHead, int]:
    """The head and its number of rows."""
    head = msgspec.msgpack.decode(packed, type=ChunkHead)
    rows = sum(count for _, count in head.messages)
    if declared is not None and rows != declared:
        raise WireError(f"not a column chunk: {rows} rows instead of {declared}")
    return head, rows


def times_of(batch: Batch) -> NDArray[np.int64]:
    """The time of each row in Unix microseconds."""
    scale = 1 if batch.tu == "us" else 1000
    if isinstance(batch.dt, list):
        return np.array(batch.dt, np.int64) * scale + batch.t0 * 1000
    step = (batch.per or 1) * scale  # a batch without dt has per and n
    return np.arange(len(batch), dtype=np.int64) * step + batch.t0 * 1000


def as_floats(column: NDArray[Any] | Sequence[Any]) -> NDArray[np.float64]:
    """A column as f64, with NaN for null and for text."""
    if isinstance(column, np.ndarray):
        return column.astype(np.float64, copy=False)
    return np.array(
        [float(value) if isinstance(value, (int, float)) else np.nan for value in column], np.float64
    )


def _column(column: list[Scalar]) -> tuple[str, bytes, NDArray[np.float64] | None]:
    """Kind, bytes, and the column as numbers for rollups (None for text)."""
    kinds = set(map(type, column))
    if kinds <= {float, type(None)} or (kinds <= {float, int} and int in kinds and float in kinds):
        floats = np.array(column, dtype=np.float64)
        if int not in kinds or np.abs(floats).max() < _EXACT:
            return "d", floats.tobytes(), floats
    elif kinds == {int}:
        whole = np.array(column, dtype=np.int64)
        return "q", whole.tobytes(), whole.astype(np.float64)
    elif kinds == {bool}:
        flags = np.array(column, dtype=np.bool_)
        return "b", flags.tobytes(), flags.astype(np.float64)
    floats_or_none = None if str in kinds else as_floats(column)
    return "j", msgspec.json.encode(column), floats_or_none


def _read(kind: str, plain: bytes, at: int, width: int, rows: int) -> Any:
    if kind == "d":
        return np.frombuffer(plain, np.float64, rows, at)
    if kind == "q":
        return np.frombuffer(plain, np.int64, rows, at)
    if kind == "b":
        return np.frombuffer(plain, np.bool_, rows, at)
    found = msgspec.json.decode(plain[at : at + width], type=list[Any])
    if len(found) != rows:
        raise ValueError(f"{len(found)} values of {rows} rows")
    return found


def _minute(names: list[str], part: NDArray[np.float64], minute: int, late: bool) -> Iterable[Rollup]:
    if not names:
        return
    if part.shape[1] == 1:
        for name, value in zip(names, part[:, 0].tolist(), strict=True):
            if not math.isnan(value):
                yield Rollup(name, minute, 1, value, value, value, int(late))
        return
    lows, highs = np.fmin.reduce(part, axis=1).tolist(), np.fmax.reduce(part, axis=1).tolist()
    sums = part.sum(axis=1)
    counts = [part.shape[1]] * len(names)
    if np.isnan(sums).any():
        counts = np.count_nonzero(~np.isnan(part), axis=1).tolist()
        sums = np.nansum(part, axis=1)
    for name, n, low, high, total in zip(names, counts, lows, highs, sums.tolist(), strict=True):
        if n:
            yield Rollup(name, minute, n, low, high, total, n * late)


def _packer() -> zstandard.ZstdCompressor:
    found: zstandard.ZstdCompressor | None = getattr(_local, "packer", None)
    if found is None:
        found = _local.packer = zstandard.ZstdCompressor(level=1, write_checksum=True)
    return found


def _unpacker() -> zstandard.ZstdDecompressor:
    found: zstandard.ZstdDecompressor | None = getattr(_local, "unpacker", None)
    if found is None:
        found = _local.unpacker = zstandard.ZstdDecompressor()
    return found
