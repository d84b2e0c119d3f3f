"""Gaps: lost numbers by reason, kept until a `gap` event that declares them is on disk."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

from wire.messages import Event
from wire.ranges import Range, Ranges

GapReason = Literal["quota", "disk", "torn", "damaged", "too-large", "unencodable", "overload"]
GAP_REASONS: tuple[GapReason, ...] = get_args(GapReason)
GAP = "gap"

_PER_EVENT = 1_000  # ranges: 42 kB at most, so that the event fits a message
_MAX_RANGES = 4_000  # kept per reason


class Gaps:
    """Lost numbers that no gap event on disk declares yet. Guarded by the outbox's lock."""

    def __init__(self) -> None:
        self._open: dict[GapReason, Ranges] = {}  # no gap event names them yet
        self._numbered: dict[int, tuple[GapReason, list[Range]]] = {}  # by seq of a gap event not yet on disk

    def __bool__(self) -> bool:
        """Whether some numbers have no gap event yet."""
        return bool(self._open)

    def add(self, why: GapReason, ranges: Iterable[Range]) -> None:
        """Note lost numbers."""
        known = self._open.setdefault(why, Ranges())
        known.update(ranges)
        if not known:
            del self._open[why]
        elif len(known) > _MAX_RANGES:
            self._open[why] = _coarser(known)

    def lowest(self) -> int | None:
        """The lowest number that no gap event on disk declares."""
        firsts = [next(iter(ranges))[0] for ranges in self._open.values()]
        firsts += [ranges[0][0] for _, ranges in self._numbered.values()]
        return min(firsts, default=None)

    def events(self, ts: int) -> list[Event]:
        """Gap events for all open numbers; call `numbered` for each when it has its own number."""
        events = []
        for why, lost in self._open.items():
            ranges = list(lost)
            for at in range(0, len(ranges), _PER_EVENT):
                part = ranges[at : at + _PER_EVENT]
                count = sum(last - first + 1 for first, last in part)
                events.append(Event(ts=ts, type=GAP, sev=3, why=why, n=count, lost=part))
        self._open.clear()
        return events

    def numbered(self, event: Event) -> None:
        """Note that a gap event has a number and waits to be written."""
        self._numbered[event.seq] = (reason_of(event), event.lost)

    def written(self, seqs: Iterable[int]) -> None:
        """Note that these records are on disk: the numbers their gap events declare are settled."""
        if self._numbered:
            for seq in seqs:
                self._numbered.pop(seq, None)

    def dropped(self, seq: int) -> None:
        """Note that this record was dropped before it reached the disk: its numbers are open again."""
        if seq in self._numbered:
            self.add(*self._numbered.pop(seq))


def reason_of(event: Event) -> GapReason:
    """The reason in a gap event; an unknown reason (of another version) reads as `damaged`."""
    for why in GAP_REASONS:
        if event.why == why:
            return why
    return "damaged"


def _coarser(ranges: Ranges) -> Ranges:
    # Half as many ranges: each covers two and the numbers between them. A number between them that was not
    # lost still arrives and counts as stored: a ledger takes stored numbers out of a gap.
    pairs = list(ranges)
    return Ranges((pairs[at][0], pairs[min(at + 1, len(pairs) - 1)][1]) for at in range(0, len(pairs), 2))
