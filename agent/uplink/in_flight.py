"""Messages on their way: read from the outbox, not acknowledged yet, each resent until it is."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from agent.uplink.pacing import Pace
from wire.ranges import Ranges

WINDOW = 512  # messages between outbox and acknowledgement
WINDOW_BYTES = 2_097_152
PACKED_WINDOW = 4_096  # messages of a backlog that travels in packs
WIRE_BYTES = 524_288  # of them sent without a PUBACK: more only delays what is newer
SHARE = 8  # each eighth message may be of the backlog, however much that is new there is
RESEND_S = 30.0  # after the broker took it and nobody acknowledged; doubles up to RESEND_MAX_S
RESEND_MAX_S = 600.0
SOON_S = 5.0  # how soon a collector that acknowledges again gets what it left out
QUIET_S = 30.0  # a collector that acknowledged nothing for so long was away
NO_MATCHING_SUBSCRIBERS = 16
_FUTILE = (
    3  # such connections, and packs are left alone: perhaps somebody on the way ends those that carry any
)
_FUTILE_S = 600.0  # then it is tried once more
_REFUSED = 128  # reason codes from here on are failures


@dataclass(slots=True)
class Sent:
    """One publication in the window. `body` is what goes out: restamped and compressed.

    `members` are the messages of a pack that nobody acknowledged yet; `seq` is then the first it had.
    """

    seq: int
    topic: str
    body: bytes
    overtaken: bool = False  # of the backlog: what is newer goes first
    members: set[int] = field(default_factory=set)
    tries: int = 0
    mid: int = 0  # packet id while it waits for a PUBACK
    sent_s: float = 0.0  # when it was, last
    due_s: float = 0.0  # when it is again

    @property
    def count(self) -> int:
        """Messages in it that wait."""
        return len(self.members) or 1


class Flight:
    """The window and its timers; no network in here. Times are seconds of any steady clock.

    `puback_is_enough`: the documented lossy mode, in which the broker's word lets a message go. A pack is
    sent once: `unpacked` takes apart what has to be sent again.
    """

    def __init__(
        self,
        *,
        puback_is_enough: bool = False,
        drain_per_s: int = 0,
        unpacked: Callable[[Sent], list[Sent]] | None = None,
    ) -> None:
        self.resent = 0
        self.refused = 0
        self.pace = Pace(drain_per_s)
        self._puback_is_enough = puback_is_enough
        self._unpacked = unpacked
        self._packing = False
        self._futile = 0  # connections in turn that ended without any pack of theirs acknowledged
        self._futile_s = 0.0  # when the last of them did
        self._window: dict[int, Sent] = {}
        self._count = Counter[bool]()  # messages in it, by whether they were overtaken
        self._bytes = Counter[bool]()
        self._queues: dict[bool, deque[int]] = {False: deque(), True: deque()}  # to be sent now
        self._turn = 0
        self._wire: dict[int, tuple[int, int]] = {}  # packet id -> seq, size
        self._wire_bytes = 0
        self._moved_s = 0.0  # when a PUBACK came last, or the wire was empty
        self._due: list[tuple[float, int]] = []
        self._acked_s: float | None = None  # when a collector acknowledged last, or the first connection

    def __len__(self) -> int:
        """How many messages are in the window."""
        return self._count.total()

    @property
    def room(self) -> tuple[int, int]:
        """How many messages and bytes more the window takes of what is new."""
        return WINDOW - self._count[False], WINDOW_BYTES - self._bytes[False]

    @property
    def room_overtaken(self) -> tuple[int, int]:
        """The same for a backlog, besides; nothing until a quarter of what may be on its way is free."""
        window = self.pace.window
        size = window - self._bytes[True]
        messages = PACKED_WINDOW if self.packing else WINDOW // 4
        return messages - self._count[True], size if size >= window // 4 else 0

    @property
    def packing(self) -> bool:
        """Whether a backlog goes out in packs: a collector on this connection takes them, and they arrive."""
        return self._packing and self._futile < _FUTILE

    def takes_packs(self) -> None:
        """A collector says that it reads packs."""
        if self._unpacked is not None and not self._puback_is_enough:
            self._packing = True

    @property
    def on_wire(self) -> int:
        """How many wait for a PUBACK."""
        return len(self._wire)

    def add(self, messages: Iterable[Sent]) -> None:
        """Take messages into the window, to be sent in this order, the overtaken ones after all others."""
        for sent in messages:
            self._window[sent.seq] = sent
            self._count[sent.overtaken] += sent.count
            self._bytes[sent.overtaken] += len(sent.body)
            self._queues[sent.overtaken].append(sent.seq)
            if sent.overtaken:
                self.pace.spend(len(sent.topic) + len(sent.body))

    def connected(self, now_s: float) -> None:
        """A new connection: everything in the window is sent again, in its first order."""
        packs = [sent for sent in self._window.values() if sent.members]
        if packs:
            self._futile, self._futile_s = self._futile + 1, now_s
        elif self._futile >= _FUTILE and now_s - self._futile_s > _FUTILE_S:
            self._futile = _FUTILE - 1  # one more try
        self._packing = False
        for sent in packs:
            self._burst(sent)
        self.resent += sum(1 for sent in self._window.values() if sent.tries)
        for overtaken, queue in self._queues.items():
            queue.clear()
            queue.extend(seq for seq, sent in self._window.items() if sent.overtaken == overtaken)
        self._wire.clear()
        self._wire_bytes = 0
        self._due.clear()
        self._moved_s = now_s
        self._acked_s = self._acked_s or now_s
        self.pace.connected()
        for sent in self._window.values():
            sent.tries = sent.mid = 0

    def next(self, now_s: float, receive_maximum: int) -> Sent | None:
        """What to send now; None while there is nothing or the wire is full. Follow with `sent`."""
        if len(self._wire) >= receive_maximum or self._wire_bytes >= WIRE_BYTES:
            return None
        while self._due and self._due[0][0] <= now_s:
            due_s, seq = heapq.heappop(self._due)
            sent = self._window.get(seq)
            if sent is not None and not sent.mid and sent.due_s == due_s:
                self.resent += sent.count
                if sent.members:
                    self._packing = False  # until the next connection
                    self._burst(sent)
                else:
                    self._queues[sent.overtaken].append(seq)
        self._turn = (self._turn + 1) % SHARE
        first = self._turn == 0  # of SHARE the backlog's
        return self._first(overtaken=first) or self._first(overtaken=not first)

    def _first(self, *, overtaken: bool) -> Sent | None:
        queue = self._queues[overtaken]
        while queue:
            sent = self._window.get(queue.popleft())
            if sent is not None and not sent.mid:
                return sent
        return None

    def sent(self, sent: Sent, mid: int, now_s: float) -> None:
        """`sent` went out as packet `mid`."""
        if not self._wire:
            self._moved_s = now_s
        sent.mid, sent.sent_s = mid, now_s
        sent.tries += 1
        self._wire[mid] = (sent.seq, len(sent.body))
        self._wire_bytes += len(sent.body)

    def puback(self, mid: int, reason: int, now_s: float) -> int:
        """The broker answered packet `mid`; returns the seq that may be deleted now, or 0."""
        sent = self._off_wire(mid)
        self._moved_s = now_s
        if sent is None:
            return 0
        if reason >= _REFUSED:
            self.refused += 1
        elif self._puback_is_enough and reason != NO_MATCHING_SUBSCRIBERS:
            self._forget(sent, now_s)
            return sent.seq
        self._wait(sent, now_s + min(RESEND_S * 2 ** (sent.tries - 1), RESEND_MAX_S))
        return 0

    def acked(self, ranges: Ranges, now_s: float) -> list[int]:
        """A collector has these; returns those that were in the window."""
        done: list[int] = []
        for sent in list(self._window.values()):
            if sent.members:
                done += self._taken_from(sent, ranges, now_s)
            elif sent.seq in ranges:
                done.append(sent.seq)
                self._forget(sent, now_s)
        if self._acked_s is None or now_s - self._acked_s > QUIET_S:
            # It is back, perhaps from a broker that lost its queue: no need to wait out long delays.
            for sent in self._window.values():
                if sent.tries and not sent.mid:
                    sent.tries = 1
                    self._wait(sent, min(sent.due_s, now_s + SOON_S))
        self._acked_s = now_s
        return done

    def silent_s(self, now_s: float) -> float:
        """For how long the broker owes a PUBACK without sending any."""
        return now_s - self._moved_s if self._wire else 0.0

    def idle_s(self, now_s: float) -> float | None:
        """Seconds until the next message is due to be sent again."""
        return max(0.0, self._due[0][0] - now_s) if self._due else None

    def _wait(self, sent: Sent, due_s: float) -> None:
        sent.due_s = due_s
        heapq.heappush(self._due, (due_s, sent.seq))
        if len(self._due) > 4 * WINDOW:  # most of them were acknowledged long ago
            waiting = [each for each in self._window.values() if each.tries and not each.mid]
            self._due = [(each.due_s, each.seq) for each in waiting]
            heapq.heapify(self._due)

    def _taken_from(self, pack: Sent, ranges: Ranges, now_s: float) -> list[int]:
        known = [seq for seq in pack.members if seq in ranges]
        if len(known) == len(pack.members):
            self._futile = 0
            self._forget(pack, now_s)
        else:
            self._count[pack.overtaken] -= len(known)
            pack.members.difference_update(known)
        return known

    def _burst(self, pack: Sent) -> None:
        """Replace a pack by the messages in it that wait."""
        self._remove(pack)
        if self._unpacked is not None:
            singles = self._unpacked(pack)
            for sent in singles:
                sent.tries = pack.tries
            self.add(singles)

    def _forget(self, sent: Sent, now_s: float) -> None:
        if sent.tries == 1:  # of another it cannot be told which try was the one
            self.pace.took(sent.sent_s, now_s, len(sent.body))
        self._remove(sent)

    def _remove(self, sent: Sent) -> None:
        del self._window[sent.seq]
        self._count[sent.overtaken] -= sent.count
        self._bytes[sent.overtaken] -= len(sent.body)

    def _off_wire(self, mid: int) -> Sent | None:
        seq, size = self._wire.pop(mid, (0, 0))
        self._wire_bytes -= size
        sent = self._window.get(seq)
        if sent is not None:
            sent.mid = 0
        return sent
