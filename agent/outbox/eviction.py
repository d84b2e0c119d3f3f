"""Eviction: what is lost with a segment that is dropped, and what of it is carried on."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from agent.outbox.gaps import GAP
from agent.outbox.reader import Left
from agent.outbox.record import Record
from agent.outbox.segment import DamagedStretch, Segment
from wire.custody import CUSTODY
from wire.messages import Event
from wire.ranges import Ranges
from wire.topics import NODE_ITSELF

_GAP_TAIL = f"{NODE_ITSELF}/{GAP}"
_STATEMENT_TAIL = f"{NODE_ITSELF}/{CUSTODY}"


class Evicted(NamedTuple):
    """The unacknowledged numbers of an evicted segment, the gap events among them, and its damage.

    `statements` are its newest unread custody statements, up to a quarter of the segment.
    """

    lost: Ranges
    messages: int
    rows: int
    gaps: list[Event]
    statements: list[Event]
    damage: DamagedStretch | None


def lost_with(segment: Segment, data: bytes, left: Left, released: Ranges) -> Evicted:
    """What is lost with a segment; `data` are its bytes up to its end, `left` what waited there.

    What was `released` before a rewind is not lost.
    """
    damage: list[tuple[int, int]] = []
    every = segment.records.walk(data, damage)
    lost = [
        each
        for each in every
        if each.seq in left.seqs
        or (each.seq not in released and (each.at >= left.aside or _is_within(left.unread, each.at)))
    ]
    statements: list[Event] = []
    room = segment.size // 4
    for each in reversed(lost):
        is_unread = each.seq not in left.seqs and _is_within(left.unread, each.at)
        if is_unread and (event := _event_in(each, _STATEMENT_TAIL)):
            room -= each.size
            if room < 0:
                break
            statements.insert(0, event)
    return Evicted(
        Ranges((each.seq, each.seq) for each in lost),
        len(lost),
        sum(each.rows for each in lost),
        [event for each in lost if (event := _event_in(each, _GAP_TAIL))],
        statements,
        DamagedStretch(sum(size for _, size in damage), segment.base, segment.last_seq) if damage else None,
    )


def _is_within(stretches: list[tuple[int, int]], at: int) -> bool:
    return any(start <= at < end for start, end in stretches)


def _event_in(record: Record, tail: str) -> Event | None:
    if record.tail != tail:
        return None
    try:
        return msgspec.json.decode(record.body, type=Event)
    except msgspec.MsgspecError:  # written by another version: it counts as any other lost record
        return None
