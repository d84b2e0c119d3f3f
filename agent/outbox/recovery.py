"""Recovery: opens an outbox, finds its segments, and determines what a crash or a bad disk has taken."""

from __future__ import annotations

import contextlib
import errno
import logging
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from agent.outbox import segment as segment_file
from agent.outbox.record import KINDS, OVERHEAD, PAGE, Kind
from agent.outbox.segment import Segment, SegmentTotals
from agent.outbox.segment_pool import sync
from wire.ranges import Range, Ranges

log = logging.getLogger(__name__)

_BELIEVABLE = 1_000_000  # a torn record may claim a number this far above the last whole one


@dataclass(slots=True)
class Recovered:
    """The state of an outbox on disk. `head` is at least every number that ever left this outbox."""

    ep: str = field(default_factory=lambda: secrets.token_hex(8))
    head: int = 0
    generation: int = 0
    segments: dict[Kind, list[Segment]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    dropped: dict[Kind, SegmentTotals] = field(default_factory=lambda: dict.fromkeys(KINDS, SegmentTotals()))
    free: list[Path] = field(default_factory=list)
    torn: list[Range] = field(default_factory=list)  # numbers given, not committed
    damaged: list[Range] = field(default_factory=list)  # numbers committed once, unreadable now
    torn_bytes: int = 0


def recover(folder: Path) -> Recovered:
    """Read the headers of all segments in `folder` and scan the newest. Raises OSError."""
    state = Recovered()
    found: list[Segment] = []
    broken = 0  # bytes in files without a readable header
    for path in sorted(folder.glob("*.seg")):
        if path.is_symlink() or not path.is_file():
            log.warning("%s is not a regular file: it is left alone", path)
            continue
        try:
            segment = segment_file.load(path)
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.EIO:
                raise
            log.warning("%s is unreadable: its records are declared lost", path)
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
            log.warning("%s belongs to another outbox: it is left alone", segment.path)
    for kind in KINDS:
        if state.segments[kind]:
            state.segments[kind][-1].set_sealed(
                False
            )  # writing continues in the last one, whatever followed it


def _flush(folder: Path, newest: list[Path]) -> None:
    """Flush what a killed process wrote without a flush: from now on these records are sent."""
    for path in (folder, *newest):
        try:
            sync(path)
        except OSError as error:
            log.warning("%s: %s; its last records may not survive a power cut", path, error.strerror)


def _scan(state: Recovered, known: list[Segment], broken: int) -> None:
    present = Ranges()
    settled = 0
    pending = [segment for segment in known if not segment.sealed]
    scanned: set[int] = set()
    while pending:
        for segment in pending:
            settled = max(settled, _scan_one(state, segment, present))
            scanned.add(segment.generation)
            _compare_with_next(state, segment)
        # The other segments are below `settled`. Only with damage the records in them must be known too.
        thorough = broken or state.damaged
        pending = [
            each for each in known if each.generation not in scanned and (thorough or each.last_seq > settled)
        ]
    state.head = max(state.head, *(max(each.base - 1, each.last_seq) for each in known))
    damaged = Ranges(hole for first, last in state.damaged for hole in present.missing(first, last))
    state.damaged = list(damaged)
    # each number has one reason: what the mark saw was committed once
    state.torn = list(Ranges(present.missing(settled + 1, state.head)).without(damaged))
    if broken:
        # Numbers in the broken files may have been sent: they are not given again, and are declared lost.
        first, top = min(each.base for each in known), state.head + broken // OVERHEAD
        state.damaged, state.head, state.torn = present.missing(first, top), top, []
        state.torn_bytes += broken


def _scan_one(state: Recovered, segment: Segment, present: Ranges) -> int:
    data = segment.read(0, max(segment.size, PAGE))
    seqs, settled = segment.scan(data)
    present.update((seq, seq) for seq in seqs)
    if not segment.sealed:
        size, claimed = segment.records.torn(data, segment.end)
        if segment.noted.end > segment.end:  # the mark saw records up to there
            state.torn_bytes += segment.noted.end - segment.end
            state.damaged.append((segment.last_seq + 1, max(segment.last_seq + 1, segment.noted.last_seq)))
            state.head = max(state.head, segment.noted.last_seq)
        elif size:
            _cut(state, segment, size, claimed)
    return settled


def _compare_with_next(state: Recovered, segment: Segment) -> None:
    if segment.sealed:  # its seal states its content; segments between it and the next may be free again
        return
    after = [each for each in state.segments[segment.kind] if each.generation > segment.generation]
    if not after:
        return
    if segment.before.rows + segment.rows == after[0].before.rows:
        # The process was killed before it wrote the seal. Write it now: as soon as the next segment is free
        # again, only the seal shows that all records are here.
        with contextlib.suppress(OSError):
            segment.seal()
        segment.close()
    elif segment.before.rows + segment.rows < after[0].before.rows:
        state.damaged.append((segment.last_seq + 1, max(segment.last_seq + 1, after[0].base - 1)))


def _cut(state: Recovered, segment: Segment, size: int, claimed: int) -> None:
    # The record was never finished, or was whole once: both look the same, so its number is used up.
    state.torn_bytes += size
    last = max(segment.last_seq, segment.base - 1)
    state.head = max(state.head, claimed if last < claimed <= last + _BELIEVABLE else last + 1)
    try:
        segment.wipe_rest()
    except OSError as error:
        log.warning("%s: %s; writing continues in another segment", segment.path, error.strerror)
        segment.give_up()


def _release(state: Recovered) -> None:
    for kind in KINDS:
        kept: list[Segment] = []
        for segment in state.segments[kind]:
            state.dropped[kind] = SegmentTotals(0, segment.noted.dropped, segment.noted.dropped_rows)
            if segment.sealed and segment.low >= segment.end:
                state.free.append(segment.path)
                continue
            segment.limit(segment.path.stat().st_size)
            kept.append(segment)
        for segment in kept[:-1]:
            segment.set_sealed()  # a full segment without a seal is not written to again
        state.segments[kind] = kept
