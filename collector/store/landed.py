"""Rows that landed as the bodies of their messages and wait to be packed: those of one day file, in RAM."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from collector.store.chunk import CHUNK_ROWS, ChunkRows
from collector.store.clock_skew import Offset
from wire.codec import decode_plain, plain
from wire.errors import WireError
from wire.messages import Batch

PACK_MESSAGES = 30  # of a stream: then a chunk costs each of them little
PACK_BYTES = 64_000  # of a stream, before compression
PACK_AFTER_MS = 600_000
MOST_MESSAGES = 60_000  # of all streams; above it the oldest are packed
MOST_BYTES = 16_000_000  # likewise; a value takes up to eight times as much in RAM
COLUMN_BYTES = 16  # what a column counts besides its values: where it has one row it takes more than that
AT_ONCE = 300  # streams that are packed in one transaction
_HARD = 1.25  # times the limits above: beyond it nothing lands
BODY_BYTES = 80  # about what a landed message takes besides its body

UNDECODABLE = (WireError, TypeError, ValueError, AttributeError)

RAW = "ep, seq, rows, recv_ms, late, skew, err, body"  # the columns that `decoded` takes, and a seal


def landed_seal(key: tuple[str, str, str], columns: Sequence[object]) -> bytes:
    """A checksum of a message that lands, with its stream."""
    return zlib.crc32(msgspec.msgpack.encode((*key, *columns))).to_bytes(4, "big")


def decoded(
    key: tuple[str, str, str],
    ep: str,
    seq: int,
    count: int,
    recv_ms: int,
    late: int,
    skew: int | None,
    error: int | None,
    body: bytes,
    seal: bytes | None = None,
) -> ChunkRows:
    """The rows of one message that landed; one of an earlier schema has no seal.

    Raises:
        UNDECODABLE: damage.
    """
    text = plain(body)
    batch = decode_plain(text, Batch)
    if (batch.ep, batch.seq, len(batch)) != (ep, seq, count) or not isinstance(recv_ms, int):
        raise WireError("it is another message than stated")
    if seal is not None and seal != landed_seal(key, (ep, seq, count, recv_ms, late, skew, error, body)):
        raise WireError("it was changed after being stored")
    clk = -1 if batch.clk is msgspec.UNSET else batch.clk
    rows = ChunkRows(*key, ep, clk, bool(late & 1), recv_ms, offset=Offset(skew, error))
    rows.add(batch, body, len(text))
    return rows


def joined(several: Iterable[ChunkRows]) -> list[ChunkRows]:
    """New rows for as few chunks as these need; they may be of several streams."""
    parts: dict[tuple[object, ...], ChunkRows] = {}
    full: list[ChunkRows] = []
    for rows in several:
        part = (*rows.key, *rows.part())
        known = parts.get(part)
        if known is not None and known.count + rows.count <= CHUNK_ROWS:
            known.join(rows)
            continue
        if known is not None:
            full.append(known)
        parts[part] = rows.without_bodies()
    return [*full, *parts.values()]


class _Stream:
    """The rows of one stream that wait."""

    __slots__ = ("columns", "messages", "parts", "plain", "since_ms", "size")

    def __init__(self, since_ms: int) -> None:
        self.parts: dict[tuple[object, ...], ChunkRows] = {}
        self.messages = self.plain = self.size = self.columns = 0
        self.since_ms = since_ms


class Landed:
    """What waits, by the id of its stream, the oldest first. It is changed after a commit, never before."""

    def __init__(self) -> None:
        self._streams: dict[int, _Stream] = {}
        self._messages = self._plain = 0
        self.stuck: set[int] = set()  # streams with messages that cannot be packed: they stay as they came

    def __bool__(self) -> bool:
        return bool(self._streams)

    def is_enough(self, stream: int, some: Sequence[ChunkRows]) -> bool:
        """Whether a chunk of these rows and of those of the stream that wait is worth its cost."""
        waiting = self._streams.get(stream)
        messages = waiting.messages if waiting else 0
        size = waiting.plain if waiting else 0
        for rows in some:
            if not rows.bodies:
                return True
            messages += len(rows.messages)
            size += rows.plain
        return messages >= PACK_MESSAGES or size >= PACK_BYTES or stream in self.stuck

    def is_full(self) -> bool:
        """Whether no more may wait."""
        return self._messages > _HARD * MOST_MESSAGES or self._plain > _HARD * MOST_BYTES

    def add(self, stream: int, some: Iterable[ChunkRows], now_ms: int) -> None:
        """Note rows that landed."""
        waiting = self._streams.get(stream)
        if waiting is None:
            waiting = self._streams[stream] = _Stream(now_ms)
        for rows in some:
            part = rows.part()
            known = waiting.parts.get(part)
            if known is None:
                waiting.parts[part] = rows.without_bodies()
                waiting.columns += len(rows.columns)
                self._plain += COLUMN_BYTES * len(rows.columns)
            else:
                known.join(rows)
            count = len(rows.messages)
            waiting.messages += count
            waiting.plain += rows.plain
            waiting.size += rows.size + BODY_BYTES * count
            self._messages += count
            self._plain += rows.plain

    def of(self, stream: int) -> list[ChunkRows]:
        """The rows of a stream that wait."""
        waiting = self._streams.get(stream)
        return list(waiting.parts.values()) if waiting else []

    def size(self, stream: int) -> int:
        """About how many bytes of the file they take."""
        waiting = self._streams.get(stream)
        return waiting.size if waiting else 0

    def forget(self, stream: int) -> None:
        """The rows of a stream do not wait any more."""
        waiting = self._streams.pop(stream, None)
        if waiting is not None:
            self._messages -= waiting.messages
            self._plain -= waiting.plain + COLUMN_BYTES * waiting.columns

    def give_up(self, more: Iterable[int]) -> None:
        """Leave these streams, and all that wait, as they came: which of their rows wait is not known."""
        self.stuck.update(self._streams, more)
        self._streams.clear()
        self._messages = self._plain = 0

    def due(self, now_ms: int, *, everything: bool) -> Iterator[int]:
        """The streams to pack now, the oldest first; those of one transaction."""
        over = self._messages - MOST_MESSAGES, self._plain - MOST_BYTES
        for _, (stream, waiting) in zip(range(AT_ONCE), self._streams.items(), strict=False):
            is_old = abs(now_ms - waiting.since_ms) >= PACK_AFTER_MS  # also of a clock that was set back
            if not (everything or is_old or max(over) > 0):
                return
            yield stream
