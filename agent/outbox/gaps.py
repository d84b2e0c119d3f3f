"""Numbers that will never come, kept by reason until a `gap` event that declares them is on disk."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

from wire.messages import Event
from wire.ranges import Range, Ranges

Why = Literal["quota", "disk", "torn", "damaged", "too-large", "unencodable", "overload"]
WHYS: tuple[Why, ...] = get_args(Why)
GAP = "gap"

_PER_EVENT = 1_000  # ranges: 42 kB at most, so that the event fits a message
_MAX_RANGES = 4_000  # kept per reason


class Losses:
    """Not thread-safe: the outbox's lock guards it."""

    def __init__(self) -> None:
        self._open: dict[Why, Ranges] = {}
        self._said: dict[int, tuple[Why, list[Range]]] = {}  # by the seq of a gap event that is not on disk

    def __bool__(self) -> bool:
        """Whether something is to be declared."""
        return bool(self._open)

    def add(self, why: Why, ranges: Iterable[Range]) -> None:
        """Note what is lost."""
        known = self._open.setdefault(why, Ranges())
        known.update(ranges)
        if not known:
            del self._open[why]
        elif len(known) > _MAX_RANGES:
            self._open[why] = _coarser(known)

    def lowest(self) -> int | None:
        """The lowest number that no gap event on disk declares."""
        firsts = [next(iter(ranges))[0] for ranges in self._open.values()]
        firsts += [ranges[0][0] for _, ranges in self._said.values()]
        return min(firsts, default=None)

    def events(self, ts: int) -> list[Event]:
        """Gap events for all that is open; give each to `said` under its number."""
        events = []
        for why, lost in self._open.items():
            ranges = list(lost)
            for at in range(0, len(ranges), _PER_EVENT):
                part = ranges[at : at + _PER_EVENT]
                count = sum(last - first + 1 for first, last in part)
                events.append(Event(ts=ts, type=GAP, sev=3, why=why, n=count, lost=part))
        self._open.clear()
        return events

    def said(self, event: Event) -> None:
        """A gap event was numbered and waits to be written."""
        self._said[event.seq] = (why_of(event), event.lost)

    def written(self, seqs: Iterable[int]) -> None:
        """These records are on disk: what their gap events declare is settled."""
        if self._said:
            for seq in seqs:
                self._said.pop(seq, None)

    def unsaid(self, seq: int) -> None:
        """This record was dropped before it reached the disk: what it declared is open again."""
        if seq in self._said:
            self.add(*self._said.pop(seq))


def why_of(event: Event) -> Why:
    """The reason in a gap event; one of another version reads as `damaged`."""
    for why in WHYS:
        if event.why == why:
            return why
    return "damaged"


def _coarser(ranges: Ranges) -> Ranges:
    # Half as many, each over two and what is between. What between them was not lost arrives all the
    # same and counts as stored: a ledger takes stored numbers out of a gap.
    pairs = list(ranges)
    return Ranges((pairs[at][0], pairs[min(at + 1, len(pairs) - 1)][1]) for at in range(0, len(pairs), 2))
