"""Buffer: numbers messages, holds them until they are written, and counts the ones that are dropped."""

from __future__ import annotations

import logging
from collections import deque

import msgspec

from agent.clock_sync import machine_boot
from agent.outbox.gaps import GAP, GapReason, Gaps
from agent.outbox.message import Message
from agent.outbox.record import KINDS, TAIL_AT, UNSYNCED, Blob, Kind, blob
from agent.outbox.row_counter import RowCounter
from wire.clock import NS_PER_MS, Clock
from wire.custody import CUSTODY
from wire.messages import MAX_BODY
from wire.topics import NODE_ITSELF

log = logging.getLogger(__name__)

MAX_BYTES = 2_097_152  # limit while the disk takes nothing or too little
_MAX_TAIL = 255
_STATEMENT = f"{NODE_ITSELF}/{CUSTODY}{{".encode()


class Buffer:
    """Gives each message its number from one counter over data and events. Guarded by the outbox's lock.

    Beyond `MAX_BYTES` the oldest messages are dropped. Events may take `max_events` bytes, at most half a
    segment: so a gap event needs at most one new segment before the numbers it declares are overwritten.
    """

    def __init__(self, ep: str, head: int, max_events: int, clock: Clock) -> None:
        self.ep = ep
        self.head = head
        self.boot = machine_boot()
        self.gaps = Gaps()
        self.dropped = dict.fromkeys(KINDS, 0)
        self.dropped_rows = dict.fromkeys(KINDS, 0)
        self.drops: dict[str, dict[str, tuple[int, int]]] = {}  # by kind and reason: messages, rows
        self.row_counter = RowCounter(head + 1)
        self._max_events = max_events
        self._clock = clock
        self._waiting: dict[Kind, deque[Blob]] = {kind: deque() for kind in KINDS}
        self._bytes = dict.fromkeys(KINDS, 0)
        self._writing: list[tuple[Kind, list[Blob]]] = []  # in the order of their numbers
        self._encode = msgspec.json.Encoder().encode

    def __len__(self) -> int:
        """The number of waiting messages, not counting those being written."""
        return len(self._waiting["data"]) + len(self._waiting["event"])

    @property
    def settled(self) -> int:
        """The highest seq up to which every message is on disk or declared lost there."""
        lowest = [waiting[0].seq for waiting in self._waiting.values() if waiting]
        lowest += [group[0].seq for _, group in self._writing[:1]]
        lost = self.gaps.lowest()
        return min([*lowest, self.head + 1, *([] if lost is None else [lost])]) - 1

    def add(self, message: Message) -> int:
        """Number, stamp and encode a message. A message that cannot be encoded or sent is counted as lost."""
        body = message.body
        seq = self.head = body.seq = self.head + 1
        body.ep = self.ep
        now_ns = self._clock.now_ns()
        stream = f"{message.cls}/{message.device}/{message.name}"
        body.no = self.row_counter.add(seq, stream, message.rows, now_ns)
        tail = f"{message.device}/{message.name}".encode("ascii", "replace")
        try:
            raw = self._encode(body)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            log.warning("%s cannot be encoded and is declared lost: %s", tail.decode()[:_MAX_TAIL], error)
            self.lose(message.cls, seq, message.rows, "unencodable")
            return seq
        if len(raw) > MAX_BODY or len(tail) > _MAX_TAIL:
            log.warning(
                "%s: %d bytes are too many: the message is declared lost", tail.decode()[:_MAX_TAIL], len(raw)
            )
            self.lose(message.cls, seq, message.rows, "too-large")
            return seq
        packed = blob(
            seq,
            tail,
            raw,
            at_ms=now_ns // NS_PER_MS,
            offset_ns=now_ns - self._clock.monotonic_ns() if message.offset_ns is None else message.offset_ns,
            boot=self.boot,
            rows=message.rows,
            flags=UNSYNCED if message.unsynced else 0,
        )
        self._waiting[message.cls].append(packed)
        self._bytes[message.cls] += packed.size
        return seq

    def shed(self, why: GapReason) -> None:
        """Drop messages beyond the limits: the oldest data first, then events, custody statements last."""
        size = self._bytes
        while (too_many := size["event"] > self._max_events) or size["event"] + size["data"] > MAX_BYTES:
            kind: Kind = "event" if too_many or not self._waiting["data"] else "data"
            waiting = self._waiting[kind]
            at = next(
                (at for at, each in enumerate(waiting) if not each.data.startswith(_STATEMENT, TAIL_AT)), 0
            )
            packed = waiting[at]
            del waiting[at]
            self._bytes[kind] -= packed.size
            self.gaps.dropped(packed.seq)
            self.lose(kind, packed.seq, packed.rows, why)

    def lose(self, kind: Kind, seq: int, rows: int, why: GapReason) -> None:
        """Count a message as dropped; a gap event will declare it."""
        self.gaps.add(why, [(seq, seq)])
        self.count_dropped(kind, why, 1, rows)

    def count_dropped(self, kind: Kind, why: GapReason, messages: int, rows: int) -> None:
        """Count messages that are declared lost."""
        self.dropped[kind] += messages
        self.dropped_rows[kind] += rows
        reasons = self.drops.setdefault(kind, {})
        before = reasons.get(why, (0, 0))
        reasons[why] = (before[0] + messages, before[1] + rows)

    def declare(self) -> None:
        """Make gap events for the lost numbers; they wait like any message."""
        if self.gaps:
            for event in self.gaps.events(self._clock.now_ms()):
                self.add(Message("event", NODE_ITSELF, GAP, event))
                self.gaps.numbered(event)

    def next(self, *, events_first: bool) -> Kind | None:
        """The kind to write next: the kind with the lowest number, or events with `events_first`."""
        if events_first and self._waiting["event"]:
            return "event"
        return min(((first, kind) for kind, first in self._firsts()), default=(0, None))[1]

    def first_waiting(self, kind: Kind) -> tuple[int, int, int]:
        """The lowest waiting number of both kinds, the size of the first message of `kind`, and of all."""
        lowest = min(first for _, first in self._firsts())
        return lowest, self._waiting[kind][0].size, self._bytes[kind]

    def pop(self, rooms: dict[Kind, int], *, events_first: bool) -> list[tuple[Kind, list[Blob]]]:
        """The next runs to write, in the order of their numbers, up to the first that has no room.

        With `events_first` events may pass data that have no room. Call `written` or `put_back` afterwards.
        """
        rooms, runs = dict(rooms), []
        while firsts := sorted((first, kind) for kind, first in self._firsts() if kind in rooms):
            kind, limit = firsts[0][1], firsts[1][0] if len(firsts) > 1 else self.head + 1
            waiting, group, room = self._waiting[kind], [], rooms[kind]
            while waiting and waiting[0].seq < limit and waiting[0].size <= rooms[kind]:
                rooms[kind] -= waiting[0].size
                group.append(waiting.popleft())
            if group:
                self._bytes[kind] -= room - rooms[kind]
                runs.append((kind, group))
            if waiting and waiting[0].seq < limit:  # it does not fit
                if kind == "event" or not events_first:
                    break
                del rooms[kind]
        self._writing = runs
        return runs

    def waiting_bytes(self, kind: Kind) -> int:
        """The size of all waiting messages of a kind."""
        return self._bytes[kind]

    def written(self) -> None:
        """Note that the runs are on disk, and with them their gap events."""
        self.gaps.written(packed.seq for _, group in self._writing for packed in group)
        self._writing = []

    def put_back(self) -> None:
        """Let the runs wait again: they could not be written."""
        for kind, group in reversed(self._writing):
            self._waiting[kind].extendleft(reversed(group))
            self._bytes[kind] += sum(packed.size for packed in group)
        self._writing = []

    def _firsts(self) -> list[tuple[Kind, int]]:
        return [(kind, waiting[0].seq) for kind, waiting in self._waiting.items() if waiting]
