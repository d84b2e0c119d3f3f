"""What a report was computed from: a SHA-256 over the rows and events of each input, in canonical order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from collector.pilots.kpis.row_blocks import RowBlocks, Rows
from collector.pilots.report.stored_events import PilotEvents
from collector.store.source import Hole, Key, Source, StoredChunk, newest_first
from wire.pilot.plan import Plan
from wire.pilot.schedule import Period, Phase

_AT_ONCE = 2_000_000  # rows of a stream; a period with more is read hour by hour
_HOUR_US = 3_600_000_000
_RIGHT = np.dtype("<i8")


@dataclass(slots=True)
class InputsRead:
    """`digests` by node and input; the numbers of the messages that were read, by node and outbox."""

    digests: dict[str, str] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)  # how many are before each of the moments asked for
    reach: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    firsts: dict[tuple[str, str], int] = field(
        default_factory=dict
    )  # the lowest number with rows of the trial
    clocks: dict[str, int] = field(default_factory=dict)  # node -> largest error of its clock in ms
    holes: dict[str, set[str]] = field(default_factory=dict)  # node -> what could not be read

    def saw(self, node: str, ep: str, first: int, last: int, phase: Phase) -> None:
        """Note the lowest and the highest number of messages with rows of a period."""
        low, high = self.reach.get((node, ep), (first, last))
        self.reach[(node, ep)] = min(low, first), max(high, last)
        if phase == "trial":
            self.firsts[(node, ep)] = min(first, self.firsts.get((node, ep), first))


def read_inputs(
    source: Source, plan: Plan, periods: Sequence[Period], events: PilotEvents, trial_until: Sequence[int]
) -> InputsRead:
    """Read every input of a plan in these periods, which are over.

    `trial_until` are moments in ms: `rows` has how many rows and events of the trial are before each.
    """
    found = InputsRead(rows=[0] * len(trial_until))
    fields, kinds = paths(plan)
    for node in plan.nodes:
        stored = source.streams(node)
        for (device, stream), names in sorted(fields.items()):
            if stream in stored.get(device, ()):
                _read_stream(found, source, (node, device, stream), (periods, sorted(names), trial_until))
        for device, kind in sorted(kinds):
            _read_events(found, source, (node, device, kind), (periods, trial_until))
    for name, several in sorted(events.read.items()):
        if several:
            digest = _EventDigest()
            for event in several:
                digest.add(event)
            found.digests[name] = digest.hex
    return found


def paths(plan: Plan) -> tuple[dict[tuple[str, str], set[str]], set[tuple[str, str]]]:
    """The fields by device and stream, and the events; of each machine that is a device, too."""
    groups = plan.design.groups
    devices = {
        machine.split("/")[4] for machine in (groups.machines if groups else ()) if machine.count("/") == 4
    }
    fields: dict[tuple[str, str], set[str]] = {}
    kinds: set[tuple[str, str]] = set()
    for _, each in plan.inputs():
        device, *rest = (each.field or each.event or "").split("/")
        for name in {device} | (devices if each.node is None else set()):
            if each.field is not None:
                fields.setdefault((name, rest[0]), set()).add(rest[1])
            else:
                kinds.add((name, rest[0]))
    return fields, kinds


_Asked = tuple[Sequence[Period], Sequence[str], Sequence[int]]


def _read_stream(found: InputsRead, source: Source, key: Key, asked: _Asked) -> None:
    periods, names, trial_until = asked
    digest, any_rows = hashlib.sha256(msgspec.json.encode(names)), False
    for period in periods:
        for start, end in _parts(source, key, (period.start_ms * 1000, period.end_ms * 1000)):
            rows = _Rows(names, (start, end))
            for chunk in source.chunks_between(key, start, end, names=names):
                if isinstance(chunk, Hole):
                    found.holes.setdefault(key[0], set()).add(chunk.why)
                elif len(chunk.content.times):
                    rows.add(found, key[0], chunk)
            times = rows.into(digest, found, key[0], period.phase)
            any_rows = any_rows or len(times) > 0
            if period.phase == "trial":
                for at, until_ms in enumerate(trial_until):
                    found.rows[at] += int((times < until_ms * 1000).sum())
    if any_rows:
        found.digests["/".join((key[0], "data", *key[1:]))] = digest.hexdigest()


def _parts(source: Source, key: Key, span: tuple[int, int]) -> Iterator[tuple[int, int]]:
    step = span[1] - span[0] if source.rows_between(key, *span) <= _AT_ONCE else _HOUR_US
    for start in range(span[0], span[1], step):
        yield start, min(start + step, span[1])


class _Rows:
    """Rows of some fields within a span, in any order of the chunks."""

    def __init__(self, names: Sequence[str], span: tuple[int, int]) -> None:
        self._blocks = RowBlocks(list(names))
        self._span = span
        self._parts: list[Rows] = []

    def add(self, found: InputsRead, node: str, chunk: StoredChunk) -> None:
        times, head = chunk.content.times, chunk.content.head
        inside = (times >= self._span[0]) & (times < self._span[1])
        is_new = self._blocks.add(chunk)
        if head.skew is not None and head.err is not None and (inside & is_new).any():
            found.clocks[node] = max(found.clocks.get(node, 0), abs(head.skew) + head.err)
        if self._blocks.is_full:
            self._take()

    def _take(self) -> None:
        rows = self._blocks.take()
        if rows is not None:
            inside = (rows.times >= self._span[0]) & (rows.times < self._span[1])
            self._parts.append(rows.where(inside & rows.is_new))

    def into(self, digest: Any, found: InputsRead, node: str, phase: Phase) -> NDArray[np.int64]:
        """Add the rows in the order of time, outbox, number and place; returns their times."""
        self._take()
        rows = Rows.joined(self._parts, self._blocks.names).in_order(self._blocks.outboxes)
        for at, ep in enumerate(self._blocks.outboxes):
            seqs = rows.seqs[rows.outboxes == at]
            if len(seqs):
                found.saw(node, ep, int(seqs.min()), int(seqs.max()), phase)
        digest.update(rows.times.astype(_RIGHT).tobytes())
        digest.update(rows.grades.astype(_RIGHT).tobytes())
        for values in rows.values.values():
            ordered = np.array(values, "<f8")
            ordered[np.isnan(ordered)] = np.nan  # one NaN of many
            digest.update(ordered.tobytes())
        return rows.times


def _read_events(
    found: InputsRead, source: Source, asked_for: Key, asked: tuple[Sequence[Period], Sequence[int]]
) -> None:
    node, device, kind = asked_for
    periods, trial_until = asked
    if not periods:
        return
    start_ms, end_ms = periods[0].start_ms, periods[-1].end_ms
    trial_ms = next((each.start_ms for each in periods if each.phase == "trial"), end_ms)
    digest = _EventDigest()
    for event in newest_first(source, node, device, end_ms, kind, start_ms):
        digest.add(event)
        for at, until_ms in enumerate(trial_until):
            found.rows[at] += trial_ms <= event["ts"] < until_ms
    if digest.count:
        found.digests[f"{node}/event/{device}/{kind}"] = digest.hex


class _EventDigest:
    """A SHA-256 over events that come in the order of time; those of one ms may come in any order.

    Of a flood it keeps the hashes of one ms alone.
    """

    def __init__(self) -> None:
        self.count = 0
        self._digest = hashlib.sha256()
        self._ts = -1
        self._equal: list[bytes] = []

    def add(self, event: Mapping[str, Any]) -> None:
        if event["ts"] != self._ts:
            self._flush()
            self._ts = event["ts"]
        self.count += 1
        self._equal.append(hashlib.sha256(_bytes_of(event)).digest())

    def _flush(self) -> None:
        self._digest.update(b"".join(sorted(self._equal)))
        self._equal = []

    @property
    def hex(self) -> str:
        self._flush()
        return self._digest.hexdigest()


def _bytes_of(event: Mapping[str, Any]) -> bytes:
    """An event without the time of its receipt, which differs in each store."""
    return msgspec.json.encode(
        {name: value for name, value in event.items() if name != "recv"}, order="sorted"
    )
