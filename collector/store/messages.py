"""Messages: what is stored of one outbox, one message at a time, as its node sent it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import msgspec
import numpy as np
from msgspec import Raw, Struct

from collector.store.chunk import Unpacked, read_chunk
from collector.store.day_schema import WITH_RAW, event_columns, raw_columns, version
from collector.store.event_seal import is_changed
from collector.store.landed import UNDECODABLE, decoded
from wire.codec import plain, seal, unsealed
from wire.messages import Batch

MAX_BYTES = 8_000_000  # of an answer; a message more may follow

_PLACE = "node = ?1 AND ep = ?2"
# in one statement: rows are packed meanwhile, and it sees the file at one moment
_LANDED = (
    f"SELECT device, name, %s FROM raw JOIN stream ON stream.id = raw.stream"  # noqa: S608 - constants
    f" WHERE {_PLACE} AND seq BETWEEN ?3 AND ?4 UNION ALL "
)
_PACKED = (
    "SELECT device, name, ep, NULL, rows, recv_ms, late, 0, 0, body, NULL"  # noqa: S608
    f" FROM chunk JOIN stream ON stream.id = chunk.stream WHERE {_PLACE} AND seq_b >= ?3 AND seq_a <= ?4"
)
_EVENTS = f"SELECT %s FROM event WHERE {_PLACE} AND seq BETWEEN ?3 AND ?4"  # noqa: S608


class StoredMessage(NamedTuple):
    """One stored message; `body` is its JSON, sealed; `skew_ms` and `error_ms` are of its node's clock.

    `name` is the stream of a `data` message, or the type of an `event`.
    """

    cls: str
    device: str
    name: str
    recv_ms: int
    is_late: bool
    skew_ms: int | None
    error_ms: int | None
    body: bytes


class Span(NamedTuple):
    """Numbers `first..last` of one outbox."""

    node: str
    ep: str
    first: int
    last: int


class MessageSource(Protocol):
    """The part of a `Source` that is needed here."""

    def messages(self, span: Span) -> Iterator[StoredMessage]:
        """The messages of a span."""
        ...


def messages_of(
    db: sqlite3.Connection, span: Span, *, damaged: Callable[[Exception], object]
) -> Iterator[StoredMessage]:
    """The messages of a span in a day file, in any order; `damaged` gets why one of its rows gives nothing.

    An event that was changed after it was stored is left out: it is not what its node sent.

    Raises:
        sqlite3.Error: the file is damaged.
    """
    schema = version(db)
    packed = (_LANDED % raw_columns(schema) if schema >= WITH_RAW else "") + _PACKED
    for query, read in ((packed, _data), (_EVENTS % event_columns(schema), _event)):
        for row in db.execute(query, span):
            try:
                found = read(row, span)
            except (*UNDECODABLE, msgspec.MsgspecError, OverflowError) as error:
                damaged(error)
            else:
                yield from found


class Line(Struct, array_like=True):
    """A `StoredMessage` in an answer."""

    cls: Literal["data", "event"]
    device: str
    name: str
    recv_ms: int
    is_late: bool
    skew_ms: int | None
    error_ms: int | None
    body: Raw


class End(Struct):
    """The last line of an answer: how many lines stand before it; `cut`: there are more, ask for fewer."""

    end: int
    cut: bool = False


def message_lines(source: MessageSource, span: Span) -> bytes:
    """The messages of a span as lines of JSON, up to about 8 MB, and an `End`."""
    lines: list[bytes] = []
    size, cut = 0, False
    for one in source.messages(span):
        if size >= MAX_BYTES:
            cut = True
            break
        lines.append(msgspec.json.encode((*one[:-1], Raw(one.body))))
        size += len(lines[-1])
    return b"\n".join([*lines, msgspec.json.encode(End(len(lines), cut)), b""])


def _event(row: Sequence[Any], span: Span) -> list[StoredMessage]:
    if is_changed(row):
        return []
    _, device, kind, sev, ts, recv_ms, _, seq, body, *_ = row
    fields = msgspec.json.decode(body, type=dict[str, Any])
    event = {"v": 1, "ep": span.ep, "seq": seq, "ts": ts, "type": kind, "sev": sev, **fields}
    text = seal(msgspec.json.encode(event))
    return [StoredMessage("event", device, kind, recv_ms, False, None, None, text)]


def _data(row: Sequence[Any], span: Span) -> list[StoredMessage]:
    device, name, ep, seq, rows, recv_ms, late, skew_ms, error_ms, body, sealed = row
    if seq is not None:  # as it came
        decoded((span.node, device, name), ep, seq, rows, recv_ms, late, skew_ms, error_ms, body, sealed)
        texts = [seal(unsealed(plain(body)))]
    else:
        chunk = read_chunk(body, declared=rows)
        skew_ms, error_ms = chunk.head.skew, chunk.head.err
        wanted = (one for one in batches(chunk, ep) if span.first <= one.seq <= span.last)
        texts = [seal(msgspec.json.encode(one)) for one in wanted]
    return [
        StoredMessage("data", device, name, recv_ms, bool(late & 1), skew_ms, error_ms, text)
        for text in texts
    ]


def batches(chunk: Unpacked, ep: str) -> Iterator[Batch]:
    """The messages that a chunk was made of."""
    start = 0
    for seq, rows in chunk.head.messages:
        end = start + rows
        times, quality = chunk.times[start:end], chunk.quality[start:end]
        t0_ms = int(times[0]) // 1000
        clk: Any = msgspec.UNSET if chunk.head.clk < 0 else chunk.head.clk
        yield Batch(
            ep=ep,
            seq=seq,
            t0=t0_ms,
            dt=(times - t0_ms * 1000).tolist(),
            tu="us",
            f={field: _values(column[start:end]) for field, column in chunk.columns.items()},
            clk=clk,
            q=quality if any(quality) else msgspec.UNSET,
        )
        start = end


def _values(column: Any) -> list[Any]:
    found: list[Any] = column.tolist() if isinstance(column, np.ndarray) else list(column)
    return found
