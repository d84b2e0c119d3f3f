"""The proof per pilot, node, stream and UTC day: what nodes signed as taken beside what is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import msgspec
from msgspec import Struct

from collector.ledger.balance import SHOWN, Balance, Known, totals
from collector.ledger.ledger import Ledger
from collector.ledger.statements import Day, StatedPart, stored_rows
from collector.store.marks import Account
from wire.custody import key_id
from wire.ranges import Range

UNDATED = ""  # the day of messages without a statement
_FORKED = (
    "statements that cannot both be true were signed: there is a copy of this node, or its state folder was "
    "set back"
)
_SET_BACK = "statements are missing but messages are not: was its state folder set back to an older one?"
_MANY_RESTARTS = "the agent restarted so often that its rows were not compared"


class StreamShare(Struct):
    """Rows of a stream; `messages` is how many messages the node stated."""

    messages: int = 0
    rows_taken: int = 0
    rows_stored: int = 0


class Sums(Struct, kw_only=True):
    """Counts of messages, of rows where the name has `rows`, and of verified statements."""

    taken: int = 0
    stored: int = 0
    gap_count: int = 0
    missing_count: int = 0
    waiting: int = 0
    rows_taken: int = 0
    rows_stored: int = 0
    statements: int = 0

    def add(self, other: Sums) -> None:
        """Add the other's counts."""
        for name in Sums.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class DayLine(Sums):
    """One UTC day of one outbox; counts are messages unless the name has `rows`.

    `taken = stored + gap_count + waiting + missing_count`. `signed` of them are in verified `statements`; the
    newest was made at `made_at` (ms, the node's clock), and `clk` is the worst clock state in them.
    `verified`: there are statements, and their counts are what is stored plus what is declared lost, waiting
    or missing. If not, `doubt` has the reason.
    """

    node: str
    ep: str
    day: str
    signed: int = 0
    made_at: int = msgspec.field(name="told", default=0)
    clk: int = 0
    verified: bool = False
    doubt: str = ""
    gaps: list[tuple[int, int, str]] = []
    absent: list[tuple[int, int, int, str]] = []
    streams: dict[str, StreamShare] = {}


class UnacceptedKey(Struct):
    """A key that signed statements of a node but is not accepted."""

    node: str
    key: str
    since: int
    last: int
    statements: int


class PilotLine(Sums):
    """One UTC day of one pilot: sums over its nodes; `verified` of them are without doubt."""

    pilot: str
    day: str
    nodes: int = 0
    verified: int = 0


@dataclass(frozen=True, slots=True)
class ReportFilter:
    """Selects `tenant/pilot`, a node, a day, `device/stream`, and days from `since` on; "" is all."""

    pilot: str = ""
    node: str = ""
    day: str = ""
    stream: str = ""
    since: str = ""
    sees: Callable[[str], bool] = lambda _node: True  # nodes that are not visible count nowhere

    def node_is(self, node: str) -> bool:
        """Whether a node is selected."""
        chosen = (not self.node or node == self.node) and (not self.pilot or pilot_of(node) == self.pilot)
        return chosen and self.sees(node)

    def day_is(self, day: str) -> bool:
        """Whether a day is selected; messages without a day are, unless a day is named."""
        return day == self.day if self.day else not day or day >= self.since

    def stream_is(self, stream: str) -> bool:
        """Whether `data/device/stream` is selected."""
        return not self.stream or self.stream in (stream, stream.partition("/")[2])


def pilot_of(node: str) -> str:
    """`tenant/pilot` of a node."""
    return "/".join(node.split("/")[:2])


def account(ledger: Ledger, wanted: ReportFilter, *, detailed: bool) -> dict[str, Any]:
    """The whole answer: entries, totals, sums per pilot and day, keys, and `days` if `detailed`."""
    entries = [one for one in ledger.entries() if wanted.node_is(one.node)]
    lines = day_lines(ledger, wanted)
    unaccepted = [
        UnacceptedKey(node, key_id(one.key), one.since, one.last, one.statements)
        for node, ring in sorted(ledger.rings().items())
        if wanted.node_is(node)
        for one in ring.keys
        if not one.how
    ]
    found = {
        "entries": entries,
        "totals": totals(entries),
        "pilots": pilot_lines(lines),
        "strangers": unaccepted,
    }
    return {**found, "days": lines} if detailed else found


def day_lines(ledger: Ledger, wanted: ReportFilter) -> list[DayLine]:
    """The proof, ordered by day, then by node."""
    found = [
        line
        for known, days in ledger.with_days(wanted.node_is)
        for line in _OfOutbox(known, days).lines(wanted)
        if not wanted.stream or line.streams
    ]
    return sorted(found, key=lambda line: (line.day, line.node, line.ep))


def pilot_lines(lines: Iterable[DayLine]) -> list[PilotLine]:
    """Sums per pilot and day, the newest day first."""
    found: dict[tuple[str, str], PilotLine] = {}
    nodes: dict[tuple[str, str], dict[str, bool]] = {}
    for line in lines:
        key = (pilot_of(line.node), line.day)
        total = found.setdefault(key, PilotLine(*key))
        total.add(line)
        sound = nodes.setdefault(key, {})
        sound[line.node] = sound.get(line.node, True) and line.verified
    for key, sound in nodes.items():
        found[key].nodes, found[key].verified = len(sound), sum(sound.values())
    return sorted(sorted(found.values(), key=lambda one: one.pilot), key=lambda one: one.day, reverse=True)


@dataclass(slots=True)
class _Piece:
    """Numbers `first..last` of one part, and the stored rows of its streams."""

    part: StatedPart
    first: int
    last: int
    within: dict[str, int] = field(default_factory=dict)
    beyond: dict[str, int] = field(default_factory=dict)


class _OfOutbox:
    """All days of one outbox."""

    def __init__(self, known: Known, days: dict[str, Day]) -> None:
        self._known = known
        self._balance = Balance(known)
        self._days = days

    def lines(self, wanted: ReportFilter) -> Iterator[DayLine]:
        account, balance = self._known.account, self._balance
        begin = account.book.stated.begin or balance.taken + 1
        if begin > 1 and wanted.day_is(UNDATED):
            line = self._line(UNDATED, [(1, min(begin - 1, balance.taken))])
            line.doubt = "no signed statement covers it"
            if not account.book.stated.begin:
                _count_unsigned(line, account, wanted)
            yield line
        pieces = self._pieces()
        for day in sorted(pieces):
            if wanted.day_is(day):
                yield self._signed(day, pieces[day], wanted)

    def _pieces(self) -> dict[str, list[_Piece]]:
        """The pieces of all days, because the rows of a run are counted over all its parts."""
        found: dict[str, list[_Piece]] = {}
        runs: dict[int, list[_Piece]] = {}
        for day, one in self._days.items():
            for part in one.parts:
                piece = _Piece(part, part.first, part.end or self._balance.taken)
                found.setdefault(day, []).append(piece)
                runs.setdefault(part.run, []).append(piece)
        for run, streams in self._known.account.book.rows.items():
            pieces = sorted(runs.get(run, ()), key=lambda piece: piece.first)
            shares = stored_rows([piece.part for piece in pieces], streams)
            for piece, (within, beyond) in zip(pieces, shares, strict=True):
                piece.within, piece.beyond = within, beyond
        return found

    def _signed(self, day: str, pieces: Sequence[_Piece], wanted: ReportFilter) -> DayLine:
        line = self._line(day, [(piece.first, piece.last) for piece in pieces])
        parts = [piece.part for piece in pieces]
        line.statements = sum(part.statements for part in parts)
        # a part that the next one ended is signed to its end: the next statement names its start
        line.signed = sum((piece.part.end or piece.part.upto) - piece.first + 1 for piece in pieces)
        line.made_at, line.clk = max(part.ts for part in parts), min(part.clk for part in parts)
        streams: dict[str, StreamShare] = {}
        for piece in pieces:
            _count_rows(streams, piece)
        line.doubt = self._forked({part.run for part in parts})
        line.doubt = line.doubt or (_MANY_RESTARTS if self._days[day].coarse else _doubt(line, streams))
        line.verified = not line.doubt
        line.streams = {name: share for name, share in sorted(streams.items()) if wanted.stream_is(name)}
        line.rows_taken = sum(share.rows_taken for share in line.streams.values())
        line.rows_stored = sum(share.rows_stored for share in line.streams.values())
        return line

    def _forked(self, runs: set[int]) -> str:
        """The evidence of two histories with the same numbers: the second counted as duplicates."""
        chains = self._known.account.book.stated.chains
        begins = sorted({part.run for one in self._days.values() for part in one.parts})
        for run in sorted(runs & chains.keys()):
            if chains[run].forked:
                return _FORKED
            end = next((begin - 1 for begin in begins if begin > run), self._balance.taken)
            if len(chains[run].seen) > 1 and self._balance.stored.count_in(run, end) == end - run + 1:
                return _SET_BACK
        return ""

    def _line(self, day: str, spans: Sequence[Range]) -> DayLine:
        balance, account = self._balance, self._known.account
        line = DayLine(account.node, account.ep, day)
        for first, last in spans:
            stored, accounted = balance.stored.count_in(first, last), balance.accounted.count_in(first, last)
            missing = balance.missing.count_in(first, last)
            line.taken += last - first + 1
            line.stored += stored
            line.gap_count += accounted - stored
            line.missing_count += missing
            line.waiting += last - first + 1 - accounted - missing
        line.gaps = list(islice(_clipped_gaps(account, spans), SHOWN))
        absent = [hole for first, last in spans for hole in balance.missing.within(first, last)]
        line.absent = list(self._known.whys(absent[:SHOWN]))
        return line


def _doubt(line: DayLine, streams: dict[str, StreamShare]) -> str:
    if line.stored < line.taken:
        return ""  # the missing rows belong to messages that are counted as not stored
    for name, share in streams.items():
        if share.rows_stored != share.rows_taken:
            return f"{name}: {share.rows_taken} rows are signed and {share.rows_stored} stored"
    return ""


def _count_rows(streams: dict[str, StreamShare], piece: _Piece) -> None:
    part = piece.part
    for name in {*part.streams, *part.extra, *piece.beyond}:
        messages, first, last = part.streams.get(name, (0, 1, 0))
        extra = part.extra.get(name, 0) + piece.beyond.get(name, 0)
        share = streams.setdefault(name, StreamShare())
        share.messages += messages
        share.rows_taken += last - first + 1 + extra
        share.rows_stored += part.settled.get(name, 0) + piece.within.get(name, 0) + extra


def _count_unsigned(line: DayLine, account: Account, wanted: ReportFilter) -> None:
    """Count the rows of a node without statements; they are numbered too, up to the last that arrived."""
    for streams in account.book.rows.values():
        for name, ranges in streams.items():
            if wanted.stream_is(name):
                share = line.streams.setdefault(name, StreamShare())
                share.rows_taken += ranges.highest()
                share.rows_stored += ranges.count()
    line.rows_taken = sum(share.rows_taken for share in line.streams.values())
    line.rows_stored = account.rows if not line.streams else sum(s.rows_stored for s in line.streams.values())


def _clipped_gaps(account: Account, spans: Sequence[Range]) -> Iterator[tuple[int, int, str]]:
    for low, high, why in account.lost:
        for first, last in spans:
            if low <= last and first <= high:
                yield max(low, first), min(high, last), why
