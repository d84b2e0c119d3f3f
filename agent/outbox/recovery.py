"""Opening an outbox: which segments there are, where writing goes on, what a crash or bad disk took away."""

from __future__ import annotations

import errno
import logging
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from agent.outbox import segment as segment_file
from agent.outbox.reader import read
from agent.outbox.segment import KINDS, OVERHEAD, PAGE, Kind, Segment, Totals
from agent.outbox.segment_pool import sync
from wire.ranges import Range, Ranges

log = logging.getLogger(__name__)

_BELIEVABLE = 1_000_000  # how far a torn record's number may lie ahead of the last whole one


@dataclass(slots=True)
class Recovered:
    """What was found. `head` is at least every number that ever left this outbox."""

    ep: str = field(default_factory=lambda: secrets.token_hex(8))
    head: int = 0
    generation: int = 0
    segments: dict[Kind, list[Segment]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    dropped: dict[Kind, Totals] = field(default_factory=lambda: dict.fromkeys(KINDS, Totals()))
    free: list[Path] = field(default_factory=list)
    torn: list[Range] = field(default_factory=list)  # given, not committed
    damaged: list[Range] = field(default_factory=list)  # committed once, unreadable now
    torn_bytes: int = 0


def recover(folder: Path) -> Recovered:
    """Read the headers of all segments in `folder` and scan the newest. Raises OSError."""
    state = Recovered()
    found: list[Segment] = []
    broken = 0  # bytes in files of which no header can be read
    for path in sorted(folder.glob("*.seg")):
        if path.is_symlink() or not path.is_file():
            log.warning("%s is no file and is left alone", path)
            continue
        try:
            segment = segment_file.load(path)
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.EIO:
                raise
            log.warning("%s is unreadable, what it held is declared lost", path)
            broken += path.stat().st_size
            segment = None
        if segment is None:
            state.free.append(path)
        else:
            found.append(segment)
    if found:
        _sort(state, found)
        _flush(folder, [each.path for kind in KINDS for each in state.segments[kind][-1:]])
        _scan(state, [each for kind in KINDS for each in state.segments[kind]], broken)
        _release(state)
    return state


def _sort(state: Recovered, found: list[Segment]) -> None:
    found.sort(key=lambda segment: segment.generation)
    state.ep, state.generation = found[-1].ep, found[-1].generation
    for segment in found:
        if segment.ep == state.ep:
            state.segments[segment.kind].append(segment)
        else:
            log.warning("%s belongs to another outbox and is left alone", segment.path)
    for kind in KINDS:
        if state.segments[kind]:
            state.segments[kind][-1].sealed = False  # the last one is written to, whatever came after it


def _flush(folder: Path, newest: list[Path]) -> None:
    """Make durable what a killed process wrote and did not live to flush: from here on it is sent."""
    for path in (folder, *newest):
        try:
            sync(path)
        except OSError as error:
            log.warning("%s: %s; its last records may not outlive a power cut", path, error.strerror)


def _scan(state: Recovered, known: list[Segment], broken: int) -> None:
    present = Ranges()
    sure = 0
    pending = [segment for segment in known if not segment.sealed]
    scanned: set[int] = set()
    while pending:
        for segment in pending:
            sure = max(sure, _scan_one(state, segment, present))
            scanned.add(segment.generation)
            _compare_with_next(state, segment)
        # The rest lies below `sure`, unless something is damaged: then what is there must be known.
        thorough = broken or state.damaged
        pending = [
            each for each in known if each.generation not in scanned and (thorough or each.last_seq > sure)
        ]
    state.head = max(state.head, *(max(each.base - 1, each.last_seq) for each in known))
    state.torn = present.missing(sure + 1, state.head)
    state.damaged = [hole for first, last in state.damaged for hole in present.missing(first, last)]
    if broken:
        # Numbers in there may have been sent: none is given again, and those below are declared as well.
        first, top = min(each.base for each in known), state.head + broken // OVERHEAD
        state.damaged, state.head, state.torn = present.missing(first, top), top, []
        state.torn_bytes += broken


def _scan_one(state: Recovered, segment: Segment, present: Ranges) -> int:
    data = read(segment, 0, max(segment.size, PAGE))
    sure, rows, count, done, end, last = 0, 0, 0, 0, PAGE, segment.base - 1
    for each in segment.walk(data, PAGE, []):
        sure, last, end = max(sure, each.sure), each.seq, each.at + each.size
        rows, count, done = rows + each.rows, count + 1, done + (each.at < segment.low)
        present.add(each.seq)
    if not segment.sealed:
        segment.end, segment.count, segment.rows, segment.last_seq = end, count, rows, last
        segment.low, segment.done = min(segment.low, end), done
        segment.acked = segment.seen = done
        size, claimed = segment.torn(data, end)
        if segment.noted.end > end:  # it was there once
            state.torn_bytes += segment.noted.end - end
            state.damaged.append((last + 1, max(last + 1, segment.noted.last_seq)))
            state.head = max(state.head, segment.noted.last_seq)
        elif size:
            _cut(state, segment, size, claimed)
    return sure


def _compare_with_next(state: Recovered, segment: Segment) -> None:
    if segment.sealed:  # it says itself what it holds; between it and the next one others may have been
        return
    after = [each for each in state.segments[segment.kind] if each.generation > segment.generation]
    if after and segment.before.rows + segment.rows < after[0].before.rows:
        state.damaged.append((segment.last_seq + 1, max(segment.last_seq + 1, after[0].base - 1)))


def _cut(state: Recovered, segment: Segment, size: int, claimed: int) -> None:
    # Whether this record was never finished or was whole once cannot be told: its number is used up.
    state.torn_bytes += size
    last = max(segment.last_seq, segment.base - 1)
    state.head = max(state.head, claimed if last < claimed <= last + _BELIEVABLE else last + 1)
    try:
        segment.wipe_rest()
    except OSError as error:
        log.warning("%s: %s; writing goes on in another segment", segment.path, error.strerror)
        segment.size = segment.end


def _release(state: Recovered) -> None:
    for kind in KINDS:
        kept: list[Segment] = []
        for segment in state.segments[kind]:
            state.dropped[kind] = Totals(0, segment.noted.dropped, segment.noted.dropped_rows)
            if segment.sealed and segment.low >= segment.end:
                state.free.append(segment.path)
                continue
            segment.size = max(segment.end, min(segment.size, segment.path.stat().st_size))
            kept.append(segment)
        for segment in kept[:-1]:
            segment.sealed = True  # a missing seal is no reason to write there again
        state.segments[kind] = kept
