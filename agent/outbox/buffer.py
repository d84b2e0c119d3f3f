"""Numbered messages in memory on their way to disk, and the account of those that never get there."""

from __future__ import annotations

import logging
from collections import deque

import msgspec

from agent.clock_sync import machine_boot
from agent.outbox.gaps import GAP, Losses, Why
from agent.outbox.message import Message
from agent.outbox.row_counter import Tally
from agent.outbox.segment import KINDS, TAIL_AT, UNSYNCED, Blob, Kind, blob
from wire.clock import NS_PER_MS, Clock
from wire.custody import CUSTODY
from wire.messages import MAX_BODY
from wire.topics import NODE_ITSELF

log = logging.getLogger(__name__)

MAX_BYTES = 2_097_152  # while the disk takes nothing, or too little
_MAX_TAIL = 255
_STATEMENT = f"{NODE_ITSELF}/{CUSTODY}{{".encode()


class Buffer:
    """Gives the numbers: one counter over data and events. Not thread-safe: the outbox's lock guards it.

    Beyond `MAX_BYTES` the oldest go. Of events it holds `max_events` bytes, at most half a segment: so a gap
    event is never more than one new segment behind what it has to be ahead of.
    """

    def __init__(self, ep: str, head: int, max_events: int, clock: Clock) -> None:
        self.ep = ep
        self.head = head
        self.boot = machine_boot()
        self.losses = Losses()
        self.dropped = dict.fromkeys(KINDS, 0)
        self.dropped_rows = dict.fromkeys(KINDS, 0)
        self.drops: dict[str, dict[str, tuple[int, int]]] = {}  # since the start: kind, why, messages, rows
        self.tally = Tally(head + 1)
        self._max_events = max_events
        self._clock = clock
        self._waiting: dict[Kind, deque[Blob]] = {kind: deque() for kind in KINDS}
        self._bytes = dict.fromkeys(KINDS, 0)
        self._writing: list[tuple[Kind, list[Blob]]] = []  # in the order of their numbers
        self._encode = msgspec.json.Encoder().encode

    def __len__(self) -> int:
        """How many messages wait, those being written left out."""
        return len(self._waiting["data"]) + len(self._waiting["event"])

    @property
    def floor(self) -> int:
        """The highest seq up to which everything is on disk or declared lost there."""
        lowest = [waiting[0].seq for waiting in self._waiting.values() if waiting]
        lowest += [group[0].seq for _, group in self._writing[:1]]
        lost = self.losses.lowest()
        return min([*lowest, self.head + 1, *([] if lost is None else [lost])]) - 1

    def add(self, message: Message) -> int:
        """Number, stamp and encode a message; what cannot be encoded or sent is lost and counted."""
        body = message.body
        seq = self.head = body.seq = self.head + 1
        body.ep = self.ep
        now_ns = self._clock.now_ns()
        stream = f"{message.cls}/{message.device}/{message.name}"
        body.no = self.tally.add(seq, stream, message.rows, now_ns)
        tail = f"{message.device}/{message.name}".encode("ascii", "replace")
        try:
            raw = self._encode(body)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            log.warning("%s cannot be encoded and is declared lost: %s", tail.decode()[:_MAX_TAIL], error)
            self.lose(message.cls, seq, message.rows, "unencodable")
            return seq
        if len(raw) > MAX_BODY or len(tail) > _MAX_TAIL:
            log.warning("%s: %d bytes are too much, declared lost", tail.decode()[:_MAX_TAIL], len(raw))
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

    def shed(self, why: Why) -> None:
        """Keep to the limits: the oldest data go first, then events, statements of custody last of them."""
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
            self.losses.unsaid(packed.seq)
            self.lose(kind, packed.seq, packed.rows, why)

    def lose(self, kind: Kind, seq: int, rows: int, why: Why) -> None:
        """Count a message as dropped; a gap event will say so."""
        self.losses.add(why, [(seq, seq)])
        self.count_dropped(kind, why, 1, rows)

    def count_dropped(self, kind: Kind, why: Why, messages: int, rows: int) -> None:
        """Count messages that are declared lost."""
        self.dropped[kind] += messages
        self.dropped_rows[kind] += rows
        reasons = self.drops.setdefault(kind, {})
        before = reasons.get(why, (0, 0))
        reasons[why] = (before[0] + messages, before[1] + rows)

    def declare(self) -> None:
        """Turn what is lost into gap events; they wait like any message."""
        if self.losses:
            for event in self.losses.events(self._clock.now_ms()):
                self.add(Message("event", NODE_ITSELF, GAP, event))
                self.losses.said(event)

    def next(self, *, events_first: bool) -> Kind | None:
        """The kind that is written next: that of the lowest number, or events where they come first."""
        if events_first and self._waiting["event"]:
            return "event"
        return min(((first, kind) for kind, first in self._firsts()), default=(0, None))[1]

    def wants(self, kind: Kind) -> tuple[int, int, int]:
        """The lowest number that waits in either kind, the size of the first of this kind, and of all."""
        lowest = min(first for _, first in self._firsts())
        return lowest, self._waiting[kind][0].size, self._bytes[kind]

    def pop(self, rooms: dict[Kind, int], *, events_first: bool) -> list[tuple[Kind, list[Blob]]]:
        """The next runs to write, in the order of their numbers, up to the first that finds no room.

        Only with `events_first` events go on past data without room. End it with `written` or `put_back`.
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

    def written(self) -> None:
        """The runs are on disk, and with them what their gap events declare."""
        self.losses.written(packed.seq for _, group in self._writing for packed in group)
        self._writing = []

    def put_back(self) -> None:
        """The runs could not be written and wait again."""
        for kind, group in reversed(self._writing):
            self._waiting[kind].extendleft(reversed(group))
            self._bytes[kind] += sum(packed.size for packed in group)
        self._writing = []

    def _firsts(self) -> list[tuple[Kind, int]]:
        return [(kind, waiting[0].seq) for kind, waiting in self._waiting.items() if waiting]
