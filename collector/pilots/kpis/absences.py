"""When rows of a stream are absent by the ledger: declared lost, missing, waiting at the node, or pruned."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
import numpy as np

from collector.ledger.balance import Balance, Known
from collector.pilots.kpis.row_blocks import Flags, Ints, Seen
from collector.store.chunk import times_of
from collector.store.messages import Span as Numbers
from collector.store.source import ALL, Source
from wire.codec import unsealed
from wire.errors import WireError
from wire.messages import Batch, Event
from wire.ranges import Ranges

MAX_LOCATED = 50  # gaps between events, of an outbox; more are joined

DAY_US = 86_400_000_000
DATA_LOST = "data-lost"
DATA_MISSING = "data-missing"
DATA_WAITING = "data-waiting"
DATA_PRUNED = "data-pruned"
DATA_DAMAGED = "data-damaged"
DATA_CHANGED = "data-changed"


class Absence(NamedTuple):
    """A span of time in us in which rows are known to be absent, or may be."""

    start_us: int
    end_us: int
    code: str
    why: str


class Outbox:
    """What the ledger knows of the numbers of one outbox."""

    def __init__(self, known: Known) -> None:
        balance, account = Balance(known), known.account
        self.ep = account.ep
        self.taken = balance.taken
        self._rows = account.book.rows
        self._runs = sorted(self._rows)
        self._pruned = known.pruned
        self._absent = Ranges(account.stored.missing(1, balance.taken) if balance.taken else ())
        self._missing = balance.missing
        pruned = [(each.first, each.last) for each in self._pruned if each.cls == "data"]
        gone = Ranges(sorted([*self._absent, *(each for each in pruned if each[0] <= each[1])]))
        self._gone = np.array(list(gone), np.int64).reshape(-1, 2)  # also what retention removed of rows
        self._stored = next(((first, account.stored.highest()) for first, _ in account.stored), (0, 0))
        self._lost = account.lost
        claimed_ms = account.claim.at_ms if account.claim else 0
        self.first_us = (account.first or claimed_ms) * 1000  # when messages were received
        self.last_us = (account.last or claimed_ms) * 1000

    def may_be_absent(self, lows: Ints, highs: Ints) -> Flags:
        """In which of these ranges `absent` may find a number of rows; ranges that are empty may be true."""
        at = np.searchsorted(self._gone[:, 1], lows)
        starts = np.append(self._gone[:, 0], np.iinfo(np.int64).max)
        found: Flags = starts[at] <= highs
        return found

    def absent(self, first: int, last: int, cls: str, stream: str = "") -> tuple[str, str] | None:
        """A code and a reason if some of these numbers are not stored, and may be of a class and stream."""
        for one in self._pruned:
            if one.cls == cls and one.first <= last and first <= one.last:
                return DATA_PRUNED, _pruned(cls, one.first_day, one.last_day)
        holes = self._absent.within(first, last)
        if not holes or (stream and self._is_whole(first, last, f"{cls}/{stream}")):
            return None
        for low, high in holes:
            for begin, end, why in self._lost:
                if begin <= high and low <= end:
                    return (
                        DATA_LOST,
                        f"messages {max(begin, low)}..{min(end, high)} of outbox {self.ep}: {why}",
                    )
        shown = f"messages {holes[0][0]}..{holes[0][1]} of outbox {self.ep}"
        if any(self._missing.count_in(*hole) for hole in holes):
            return DATA_MISSING, f"{shown} are missing"
        return DATA_WAITING, f"{shown} wait at the node"

    def _is_whole(self, first: int, last: int, stream: str) -> bool:
        """Whether the numbers of the rows show that none of a stream is absent before a stored message.

        `last + 1` is that message, and `first - 1` the one of the stream before it, if there is one.
        """
        at = bisect_right(self._runs, last + 1) - 1
        if at < 0 or self._runs[at] > max(1, first - 1):
            return False  # rows of an earlier run may be absent at its end
        ranges = self._rows[self._runs[at]].get(stream)
        return ranges is not None and len(ranges) == 1 and 1 in ranges

    def was_stored(self, start_us: int, end_us: int) -> bool:
        """Whether messages were received within a span; if none was at all, whether it was in use."""
        return self.first_us < end_us and start_us <= self.last_us

    @property
    def stored(self) -> tuple[int, int]:
        """The lowest and the highest stored number; 0 if there is none."""
        return self._stored

    def holes(self) -> Iterator[tuple[int, int]]:
        """The ranges of numbers that are not stored; pruned ones are not among them."""
        found = list(self._absent)
        if len(found) > MAX_LOCATED:
            found = [*found[: MAX_LOCATED - 1], (found[MAX_LOCATED - 1][0], found[-1][1])]
        yield from found

    def pruned_days(self, cls: str) -> Iterator[tuple[str, str]]:
        """The first and last day of receipt of what retention removed of a class."""
        yield from ((one.first_day, one.last_day) for one in self._pruned if one.cls == cls)


def of_stream(
    outboxes: Iterable[Outbox], stream: str, messages: Mapping[str, Seen], within: tuple[int, int]
) -> list[Absence]:
    """Where rows of `device/stream` are absent: between its messages, where numbers between are absent.

    `messages` are by outbox. An outbox that has none of them counts if its messages were received within a
    span.
    """
    found: list[Absence] = []
    none = np.empty(0, np.int64)
    firsts, lasts = (
        np.sort(np.concatenate([none, *(one[place] for one in messages.values())])) for place in (1, 2)
    )
    for outbox in outboxes:
        mine = messages.get(outbox.ep)
        if mine is None and not outbox.was_stored(*within):
            continue
        for low, high, start, end, is_bounded in _gaps(outbox, mine, (firsts, lasts)):
            # what is absent at the end is not bounded by the number of a row
            of = stream if is_bounded else ""
            if low <= high and start < end and (why := outbox.absent(low, high, "data", of)) is not None:
                found.append(Absence(start, end, *why))
    return found


def _gaps(
    outbox: Outbox, mine: Seen | None, edges: tuple[Ints, Ints]
) -> Iterator[tuple[int, int, int, int, bool]]:
    """The numbers before, between and after messages where some may be absent, with the times beside them.

    The last of each is whether a message follows.
    """
    firsts, lasts = edges
    # rows of other outboxes end what one of them lost: a node has one at a time
    if mine is None:
        yield 1, outbox.taken, _before(lasts, outbox.first_us), _after(firsts, outbox.last_us), False
        return
    first, last = int(mine.firsts[0]), int(mine.lasts[-1])
    yield 1, int(mine.seqs[0]) - 1, _before(lasts, first), first, True
    low, high = mine.seqs[:-1] + 1, mine.seqs[1:] - 1
    for at in np.flatnonzero((low <= high) & outbox.may_be_absent(low, high)).tolist():
        yield int(low[at]), int(high[at]), int(mine.lasts[at]), int(mine.firsts[at + 1]), True
    yield int(mine.seqs[-1]) + 1, outbox.taken, last, _after(firsts, last), False


def _before(lasts: Ints, at_us: int) -> int:
    at = int(np.searchsorted(lasts, at_us))
    return int(lasts[at - 1]) if at else -ALL


def _after(firsts: Ints, at_us: int) -> int:
    at = int(np.searchsorted(firsts, at_us, side="right"))
    return int(firsts[at]) if at < len(firsts) else ALL


def of_events(outboxes: Sequence[Outbox], node: str, source: Source) -> list[Absence]:
    """Where events of a node may be absent: between the stored messages beside each hole of the numbers."""
    found: list[Absence] = []
    reach: dict[str, tuple[int, int]] = {}  # of each outbox with messages: its first and last time
    holes = [(outbox, hole) for outbox in outboxes for hole in outbox.holes()]
    for outbox in outboxes if holes else ():
        first, last = (_time_us(source, node, outbox.ep, number) for number in outbox.stored)
        if first is not None and last is not None:
            reach[outbox.ep] = first, last
    for outbox, (first_absent, last_absent) in holes:
        why = outbox.absent(first_absent, last_absent, "event")
        start = _time_us(source, node, outbox.ep, first_absent - 1)
        end = _time_us(source, node, outbox.ep, last_absent + 1)
        others = [each for ep, each in reach.items() if ep != outbox.ep]
        if start is None:  # a node has one outbox at a time
            start = max((last for _, last in others if end is not None and last <= end), default=-ALL)
        if end is None:
            end = min((first for first, _ in others if first >= start), default=ALL)
        if why is not None and start < end:
            found.append(Absence(start, end, *why))
    for outbox in outboxes:
        for first_day, last_day in outbox.pruned_days("event"):
            found.append(
                Absence(
                    midnight_us(first_day),
                    midnight_us(last_day) + DAY_US,
                    DATA_PRUNED,
                    _pruned("event", first_day, last_day),
                )
            )
    return found


def _time_us(source: Source, node: str, ep: str, number: int) -> int | None:
    """The last time in a stored message; None if it is not stored, or cannot be read."""
    for each in source.messages(Numbers(node, ep, number, number)) if number > 0 else ():
        with suppress(msgspec.MsgspecError, WireError):
            if each.cls == "event":
                return msgspec.json.decode(unsealed(each.body), type=Event).ts * 1000
            return int(times_of(msgspec.json.decode(unsealed(each.body), type=Batch)).max())
    return None


def _pruned(cls: str, first_day: str, last_day: str) -> str:
    return f"retention removed {cls} of {first_day} to {last_day}"


def midnight_us(day: str) -> int:
    """The first moment of a UTC day."""
    return round(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) * 1_000_000
