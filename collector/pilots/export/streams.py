"""Reads the rows of a stream in the order of time, a few at a time, as columns of one type each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from collector.pilots.export.findings import NAME_NOT_VALID, NOT_COMPARED, Findings
from collector.pilots.export.parquet import Batch, Column, Kind, objects
from collector.pilots.kpis import sums
from collector.pilots.kpis.row_blocks import numbered
from collector.pilots.kpis.steps import Span
from collector.store.chunk import MINUTE_US, as_floats
from collector.store.series import Points
from collector.store.source import Hole, Key, Source, StoredChunk
from wire.errors import EdgebedError, TryAgain
from wire.messages import Field
from wire.topics import FIELD

MAX_BYTES = 64 * 1024 * 1024  # of the rows that are sorted at once
ROWS = 50_000  # that are asked for at once
_EXACT = 2**53
_KINDS: Mapping[str, Kind] = {"i64": "int", "bool": "bool", "str": "text", "json": "text"}

# A field of a stream begins with a letter, so that it cannot have one of these names.
FLAGS = (
    Column("_time", "time", "when the row was measured, by the clock of the node", is_always=True),
    Column(
        "_quality",
        "small",
        "0 good, 1 out of range, 2 not finite, 3 uncertain, 4 bad, 5 time repeated, 6 time backward, "
        "7 wrong type",
        is_always=True,
    ),
    Column("_clock", "small", "the clock of the node: 0 not synchronised, 1 NTP, 2 PTP; null: not known"),
    Column("_clock_behind_ms", "int", "how far the clock was behind that of the collector", "ms"),
    Column("_clock_error_ms", "int", "the largest error of _clock_behind_ms", "ms"),
    Column("_late", "bool", "the row arrived long after its time, from a backlog", is_always=True),
)


@dataclass(slots=True)
class _Seen:
    """The values of one field: their types, and whether an integer is too large for a float."""

    types: set[type] = field(default_factory=set)
    is_large: bool = False
    is_huge: bool = False  # beyond 64 bits

    def add(self, column: Any, inside: NDArray[np.bool_]) -> None:
        if isinstance(column, np.ndarray):
            mine = column[inside]
            if mine.dtype != np.float64 or not np.isnan(mine).all():
                self.types.add({"f": float, "i": int, "b": bool}[mine.dtype.kind])
            if mine.dtype.kind == "i":
                self.is_large |= bool(((mine >= _EXACT) | (mine <= -_EXACT)).any())
            return
        chosen = [column[at] for at in np.flatnonzero(inside).tolist()]
        self.types.update(map(type, chosen))
        whole = [each for each in chosen if type(each) is int] or [0]
        self.is_large |= max(whole) >= _EXACT or min(whole) <= -_EXACT
        self.is_huge |= max(whole) >= 2**63 or min(whole) < -(2**63)

    def kind(self, declared: str) -> tuple[Kind, bool]:
        """The type of the column, and whether its values are JSON texts because they differ in type."""
        types = self.types - {type(None)}
        if not types:
            return _KINDS.get(declared, "float"), False
        if types == {float} or (types == {int, float} and not self.is_large):
            return "float", False
        single: dict[type, Kind] = {int: "int", bool: "bool", str: "text"}
        if len(types) == 1 and not self.is_huge and (found := single.get(next(iter(types)))):
            return found, False
        return "text", True


@dataclass(slots=True)
class _Part:
    """The rows of one chunk that are within a window."""

    ep: str
    times: NDArray[np.int64]
    seqs: NDArray[np.int64]
    places: NDArray[np.int64]
    is_new: NDArray[np.bool_]
    columns: dict[str, Any]
    flags: dict[str, Any]


class StreamRows:
    """The rows of a stream within a span, in us, and what is wrong with them."""

    def __init__(
        self,
        source: Source,
        key: Key,
        span: Span,
        findings: Findings,
        declared: Mapping[str, Field] | None = None,
    ) -> None:
        self.outboxes: set[str] = set()
        self._source = source
        self._key = key
        self._span = span
        self._findings = findings
        self._declared = declared or {}
        self._json: set[str] = set()
        self._columns: list[Column] = []
        self.where = "/".join(key)

    def columns(self) -> list[Column]:
        """The columns of the rows, from all of them; none if there are no rows."""
        seen: dict[str, _Seen] = {}
        for chunk in self._chunks(self._span):
            inside = self._inside(chunk, self._span)
            if not inside.any():
                continue
            self.outboxes.add(chunk.ep)
            for name, column in chunk.content.columns.items():
                seen.setdefault(name, _Seen()).add(column, inside)
        if not self.outboxes:
            return []
        self._columns = []
        for name in sorted(seen):
            if not FIELD.fullmatch(name):
                why = f"a field is named {name[:60]!r}, which no node sends: it is left out"
                self._findings.add(NAME_NOT_VALID, self.where, why)
                continue
            stated = self._declared.get(name, Field())
            kind, is_json = seen[name].kind(stated.t)
            if is_json:
                self._json.add(name)
            more = {"encoding": "json"} if is_json or stated.t == "json" else {}
            self._columns.append(Column(name, kind, stated.desc, stated.unit, more=more))
        return [FLAGS[0], *self._columns, *FLAGS[1:]]

    def batches(self) -> Iterator[Batch]:
        """The rows in the order of time, outbox and message; call `columns` before.

        Raises:
            TryAgain: rows of another type came since.
            EdgebedError: too many rows have the same time.
        """
        waiting = [self._span]
        while waiting:
            span = waiting.pop()
            length = span[1] - span[0]
            is_much = length > 2 * MINUTE_US and self._source.rows_between(self._key, *span) > ROWS
            parts = None if is_much else self._gathered(span)
            if parts is not None:
                if parts:
                    yield self._ordered(parts, span)
                continue
            if length <= 1:
                raise EdgebedError(f"{self.where} has too many rows at one moment: they cannot be sorted")
            middle = span[0] + length // 2
            marks = (middle - middle % MINUTE_US, span[0] - span[0] % MINUTE_US + MINUTE_US)
            middle = next((each for each in marks if span[0] < each < span[1]), middle)
            waiting += [(middle, span[1]), (span[0], middle)]

    def _chunks(self, span: Span) -> Iterator[StoredChunk]:
        for chunk in self._source.chunks_between(self._key, *span):
            if isinstance(chunk, Hole):
                self._findings.add_hole(self.where, chunk, self._span)
            elif len(chunk.content.times):
                yield chunk

    @staticmethod
    def _inside(chunk: StoredChunk, span: Span) -> NDArray[np.bool_]:
        times = chunk.content.times
        found: NDArray[np.bool_] = (times >= span[0]) & (times < span[1])
        return found

    def _gathered(self, span: Span) -> list[_Part] | None:
        """The rows of the whole minutes around a window; None if there are too many of them."""
        is_whole = all(edge % MINUTE_US == 0 or edge in self._span for edge in span)
        around = sums.minutes(span) if is_whole else span
        stored = {
            each.name: sums.rollups(self._source, self._key, each.name, span)
            for each in self._columns
            if is_whole
        }
        parts, known, size = list[_Part](), dict[str, set[int]](), 0
        for chunk in self._chunks(around):
            inside = self._inside(chunk, around)
            if inside.any():
                parts.append(self._part(chunk, inside, known))
                size += sum(map(_size, (parts[-1].times, *parts[-1].columns.values()))) + 32 * len(
                    parts[-1].times
                )
            if size > MAX_BYTES:
                return None
        if is_whole:
            self._compare(parts, stored, span)
        else:
            why = "too many rows within a minute: they were not compared with their sums"
            self._findings.add(NOT_COMPARED, self.where, why, span)
        return parts

    def _part(self, chunk: StoredChunk, inside: NDArray[np.bool_], known: dict[str, set[int]]) -> _Part:
        times, head = chunk.content.times, chunk.content.head
        numbers, counts, new = numbered(head.messages, known.setdefault(chunk.ep, set()))
        seqs, is_new = np.repeat(numbers, counts), np.repeat(new, counts)
        places = np.arange(len(times)) - np.repeat(np.cumsum(counts) - counts, counts)
        chosen = np.flatnonzero(inside)
        names = {each.name for each in self._columns}
        columns = {
            name: column[chosen] if isinstance(column, np.ndarray) else [column[at] for at in chosen.tolist()]
            for name, column in chunk.content.columns.items()
            if name in names
        }
        flags = {
            "_quality": np.array(chunk.content.quality, np.int32)[chosen],
            "_clock": head.clk if head.clk in (0, 1, 2) else None,
            "_clock_behind_ms": _small(head.skew),
            "_clock_error_ms": _small(head.err),
            "_late": chunk.is_late,
        }
        return _Part(chunk.ep, times[chosen], seqs[chosen], places[chosen], is_new[chosen], columns, flags)

    def _compare(self, parts: Sequence[_Part], stored: Mapping[str, Points], span: Span) -> None:
        for name, points in stored.items():
            mine = [each for each in parts if name in each.columns]
            times = np.concatenate([each.times for each in mine]) if mine else np.empty(0, np.int64)
            values = np.concatenate([as_floats(each.columns[name]) for each in mine]) if mine else np.empty(0)
            again = partial(sums.rollups, self._source, self._key, name, span)
            if (found := sums.changed(points, times, values, span, again)) is not None:
                self._findings.add_changed(f"{self.where}/{name}", found.why, span)

    def _ordered(self, parts: Sequence[_Part], span: Span) -> Batch:
        times = np.concatenate([each.times for each in parts])
        kept = np.concatenate([each.is_new for each in parts]) & (times >= span[0]) & (times < span[1])
        ranks = {ep: rank for rank, ep in enumerate(sorted({each.ep for each in parts}))}
        outboxes = np.concatenate([np.full(len(each.times), ranks[each.ep]) for each in parts])
        seqs = np.concatenate([each.seqs for each in parts])
        places = np.concatenate([each.places for each in parts])
        order = np.flatnonzero(kept)
        order = order[np.lexsort((places[order], seqs[order], outboxes[order], times[order]))]
        found: dict[str, NDArray[Any]] = {"_time": times[order]}
        for each in self._columns:
            mine = [self._typed(each, part) for part in parts]
            found[each.name] = np.concatenate(mine)[order]
        for flag in FLAGS[1:]:
            mine = [_repeated(part.flags[flag.name], len(part.times)) for part in parts]
            found[flag.name] = np.concatenate(mine)[order]
        return found

    def _typed(self, column: Column, part: _Part) -> NDArray[Any]:
        """The values of a part in the type of their column."""
        values = part.columns.get(column.name)
        if values is None:
            return (
                objects([None] * len(part.times))
                if column.kind != "float"
                else np.full(len(part.times), np.nan)
            )
        if column.name in self._json:
            return objects([None if _is_absent(each) else _json(each) for each in _listed(values)])
        if column.kind == "float":
            seen = set() if isinstance(values, np.ndarray) else {*map(type, values)}
            if not seen <= {int, float, type(None)} or (
                isinstance(values, np.ndarray) and values.dtype == np.bool_
            ):
                raise self._other(column)
            return as_floats(values)
        if isinstance(values, np.ndarray):
            if values.dtype == np.float64 and np.isnan(values).all():
                return objects([None] * len(values))
            if values.dtype.kind != {"int": "i", "bool": "b"}.get(column.kind):
                raise self._other(column)
            return values
        python = {"int": int, "bool": bool, "text": str}[column.kind]
        if not {*map(type, values)} <= {python, type(None)}:
            raise self._other(column)
        return objects(values)

    def _other(self, column: Column) -> TryAgain:
        return TryAgain(f"{self.where}/{column.name} got values of another type meanwhile: export it again")


def _size(values: Any) -> int:
    if isinstance(values, np.ndarray):
        return values.nbytes
    return sum(64 + (len(each) if isinstance(each, str | list | dict) else 0) for each in values)


def _small(value: Any) -> int | None:
    return value if isinstance(value, int) and abs(value) < _EXACT else None


def _repeated(value: Any, rows: int) -> NDArray[Any]:
    if isinstance(value, np.ndarray):
        return value
    if value is None:
        return objects([None] * rows)
    return np.full(rows, value)


def _listed(values: Any) -> list[Any]:
    found: list[Any] = values.tolist() if isinstance(values, np.ndarray) else values
    return found


def _is_absent(value: Any) -> bool:
    return value is None or value != value  # noqa: PLR0124 - NaN


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
