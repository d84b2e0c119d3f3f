"""Fills a store from the collector that is its twin: what the twin has stored and this store lacks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
from msgspec.structs import replace

from collector.backup.pace import Pace
from collector.ledger.holdings import Holding, Record
from collector.ledger.ledger import Draft, DraftRefused, Ledger
from collector.ledger.statements import Ring
from collector.store.chunk import ChunkRows
from collector.store.clock_skew import Offset
from collector.store.group import EventRow, Group
from collector.store.marks import Account, Key, read_account
from collector.store.messages import Line, Span
from collector.store.store import Store
from wire.clock import Clock
from wire.codec import decode_plain
from wire.errors import EdgebedError, WireError
from wire.messages import Batch, Event
from wire.ranges import Range, Ranges
from wire.topics import ID, NODE_ITSELF, Address

WINDOW = 2_000  # numbers of one question
NAMED = 3  # messages of one answer that cannot be stored; the others are counted with what is lacking
GROUP_MESSAGES = 2_000
GROUP_BYTES = 16_000_000
_EVENT_HEAD = ("v", "ep", "seq", "no", "ts", "type", "sev")


class Twin(Protocol):
    """The collector from which a store is filled."""

    def outboxes(self) -> Iterable[Holding]:
        """What it has of every outbox."""
        ...

    def record(self, key: Key) -> Record:
        """One outbox as its ledger keeps it."""
        ...

    def messages(self, span: Span) -> tuple[list[Line], bool]:
        """The messages of a span; True: it gave a part, and must be asked for fewer numbers."""
        ...


@dataclass(slots=True)
class Refetched:
    """What was fetched; `problems` names what was not, a sentence each."""

    outboxes: int = 0
    messages: int = 0
    rows: int = 0
    problems: list[str] = field(default_factory=list)


def refetch(store: Store, twin: Twin, clock: Clock, pace: Pace) -> Refetched:
    """Fetch all messages that the twin has and the store lacks; a run that was ended goes on where it was.

    Raises:
        EdgebedError: the twin does not answer, or its answer is not one of a collector.
        StoreBusy: the disk takes nothing.
        Stopped: `pace` was stopped; what was fetched is stored.
    """
    saved = store.load()
    ledger = Ledger(saved.marks, saved.states)
    found = Refetched()
    for holding in twin.outboxes():
        Address.parse(holding.node)
        one = _Outbox(store, ledger, twin, clock, pace, holding)
        if one.fill():
            found.outboxes += bool(one.messages)
            found.messages += one.messages
            found.rows += one.rows
        found.problems += one.problems
    return found


class _Outbox:
    """The filling of one outbox."""

    def __init__(
        self, store: Store, ledger: Ledger, twin: Twin, clock: Clock, pace: Pace, holding: Holding
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._twin = twin
        self._clock = clock
        self._pace = pace
        self._key = holding.key
        self._holding = holding
        self.messages = self.rows = 0
        self.problems: list[str] = []

    def fill(self) -> bool:
        """Fetch what is lacking, then what the ledger states about it; False when nothing is lacking."""
        if not self._lacking(Ranges(self._holding.stored)) and not self._knows_less():
            return False
        self._pace.begin(f"{self._key[0]} ep {self._key[1]}")
        record = self._twin.record(self._key)
        account = read_account(bytes(record.account))  # later than the holding: it may have more
        if (account.node, account.ep) != self._key:
            raise EdgebedError(f"the twin answers with another outbox than {'/'.join(self._key)}")
        for first, last in _windows(self._lacking(account.stored)):
            self._fetch(Span(*self._key, first, last), account.stored)
        self._take_over(account, record)
        return True

    def _knows_less(self) -> bool:
        """Whether a run was ended before it took over what the twin's ledger states."""
        mine = self._ledger.account(self._key) or Account(*self._key)
        lost = Ranges(self._holding.lost).without(Ranges(sorted(one[:2] for one in mine.lost)))
        return bool(lost) or self._holding.statements > mine.book.stated.statements

    def _lacking(self, stored: Ranges) -> Ranges:
        mine = self._ledger.account(self._key)
        return stored if mine is None else stored.without(mine.stored)

    def _fetch(self, span: Span, wanted: Ranges) -> None:
        """Fetch a span; where its answer is too large, its halves."""
        lines, is_cut = self._twin.messages(span)
        self._store_lines(lines, span, wanted)
        left = self._lacking(wanted).within(span.first, span.last)
        if is_cut and left and span.first < span.last:
            middle = (span.first + span.last) // 2
            self._fetch(span._replace(last=middle), wanted)
            self._fetch(span._replace(first=middle + 1), wanted)

    def _store_lines(self, lines: Iterable[Line], span: Span, wanted: Ranges) -> None:
        group, refused = _Group(self._ledger, self._key, self._clock), 0
        for line in lines:
            try:
                group.add(line, span, wanted)
            except (WireError, DraftRefused, ValueError) as error:
                refused += 1
                if refused <= NAMED:
                    self._problem(f"a message of {line.device}/{line.name} cannot be stored: {error}")
            if group.messages >= GROUP_MESSAGES or group.size >= GROUP_BYTES:
                self._commit(group)
                group = _Group(self._ledger, self._key, self._clock)
        self._commit(group)

    def _commit(self, group: _Group) -> None:
        if group.messages:
            group.group.marks = self._ledger.marks(group.draft.accounts.values())
            self._store.commit(group.group)
            self._ledger.accept(group.draft.accounts.values())
            self.messages += group.messages
            self.rows += group.rows
        self._pace.step(group.size)

    def _take_over(self, theirs: Account, record: Record) -> None:
        """Take over what the twin's ledger states about the numbers, if it is about the same ones."""
        mine = self._ledger.account(self._key) or Account(*self._key)
        if absent := theirs.stored.without(mine.stored):
            self._problem(f"the twin cannot read {absent.count():,} messages that it has stored")
            return
        if more := mine.stored.without(theirs.stored):
            self._problem(
                f"this store has {more.count():,} messages that the twin lacks, so the signed statements are "
                "not taken over: fill the twin from this store first, then do this again"
            )
            return
        if mine.rows != theirs.rows:
            self._problem(f"{mine.rows:,} rows are stored, and the twin has {theirs.rows:,}")
            return
        names = {"first", "last", "lost", "holes", "gone", "book"}
        draft = replace(mine, **{name: getattr(theirs, name) for name in names})
        states = self._states(record)
        group = Group(self._clock.now_ms(), custody=states, marks=self._ledger.marks([draft]))
        self._store.commit(group)
        self._ledger.accept([draft], states)

    def _states(self, record: Record) -> dict[str, bytes]:
        """The states of the record; keys that this store knows keep how it accepted them."""
        node, ep = self._key
        days, ring = f"custody/{node}/{ep}/", f"key/{node}"
        found = {name: bytes(body) for name, body in record.states.items() if name.startswith(days)}
        if ring in record.states:
            theirs = msgspec.json.decode(record.states[ring], type=Ring)
            mine = self._ledger.ring(node)
            keys = [*mine.keys, *(one for one in theirs.keys if mine.of(one.key) is None)]
            found[ring] = msgspec.json.encode(Ring(keys))
        return found

    def _problem(self, text: str) -> None:
        self.problems.append(f"{self._key[0]} ep {self._key[1]}: {text}")


class _Group:
    """Messages for one commit."""

    def __init__(self, ledger: Ledger, key: Key, clock: Clock) -> None:
        self.draft = Draft(ledger)
        self.group = Group(clock.now_ms())
        self.messages = self.rows = self.size = 0
        self._key = key
        self._rows: dict[tuple[object, ...], ChunkRows] = {}

    def add(self, line: Line, span: Span, wanted: Ranges) -> None:
        """Add a message if it is wanted and not stored.

        Raises:
            WireError: it is not a message of this outbox.
            DraftRefused: its number finds no room.
        """
        is_id = ID.fullmatch(line.name) and (ID.fullmatch(line.device) or line.device == NODE_ITSELF)
        if not is_id:
            raise WireError("its names are not ids")
        body = bytes(line.body)
        is_data = line.cls == "data"
        message: Batch | Event = decode_plain(body, Batch) if is_data else decode_plain(body, Event)
        if message.ep != span.ep or not span.first <= message.seq <= span.last:
            raise WireError("it was not asked for")
        if message.seq not in wanted:
            return  # the other collector stored it after it stated what it has
        count = len(message) if isinstance(message, Batch) else 1
        if not self.draft.is_new(*self._key, message.seq):
            return
        if isinstance(message, Event) and message.lost:
            self.draft.lose(*self._key, message.lost, message.why or "no reason given")
        self.draft.add(*self._key, message.seq, count, line.recv_ms)
        if isinstance(message, Batch):
            self._add_rows(line, message, body)
        else:
            self._add_event(line, message)
        self.messages += 1
        self.rows += count
        self.size += len(body)

    def _add_rows(self, line: Line, batch: Batch, body: bytes) -> None:
        clk = -1 if batch.clk is msgspec.UNSET else batch.clk
        offset = Offset(line.skew_ms, line.error_ms)
        one = ChunkRows(
            self._key[0], line.device, line.name, batch.ep, clk, line.is_late, line.recv_ms, offset=offset
        )
        one.add(batch, body, len(body))
        part = (line.device, line.name, *one.part()[:-1], *batch.f)
        known = self._rows.get(part)
        if known is None:
            known = self._rows[part] = one.without_bodies()  # they are packed at once
            self.group.rows.append(known)
        else:
            known.join(one)

    def _add_event(self, line: Line, event: Event) -> None:
        body = {name: value for name, value in msgspec.to_builtins(event).items() if name not in _EVENT_HEAD}
        self.group.events.append(
            EventRow(
                self._key[0], line.device, line.name, event.sev, event.ts, line.recv_ms, event.ep, event.seq,
                msgspec.json.encode(body),
            )
        )  # fmt: skip


def _windows(numbers: Ranges) -> Iterator[Range]:
    """Spans that cover the numbers, each of `WINDOW` numbers at most."""
    upto = 0
    for first, last in numbers:
        start = max(first, upto + 1)
        while start <= last:
            upto = start + WINDOW - 1
            yield start, upto
            start = upto + 1
