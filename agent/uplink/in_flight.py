"""In-flight window: messages read from the outbox and not acknowledged yet; each is resent until it is."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from agent.uplink.pacing import Pacing
from wire.ranges import Ranges

WINDOW = 512  # messages between outbox and acknowledgement
WINDOW_BYTES = 2_097_152
PACKED_WINDOW = 4_096  # messages of a backlog that is sent in packs
WIRE_BYTES = 524_288  # bytes sent without a PUBACK: more would only delay newer messages
SHARE = 8  # each eighth message may be of the backlog, however many new ones wait
RESEND_S = 30.0  # after a PUBACK without an acknowledgement; doubles up to RESEND_MAX_S
RESEND_MAX_S = 600.0
SOON_S = 5.0  # a collector that acknowledges again gets unacknowledged messages within this time
QUIET_S = 30.0  # a collector that acknowledged nothing for this time was away
CREDIT = 4  # publications after a refusal: all of a wide fleet come back at about the same time
NO_MATCHING_SUBSCRIBERS = 16
_FUTILE = 3  # after this number of connections without an acknowledged pack, packs are not sent
_FUTILE_S = 600.0  # then packs are tried again
_REFUSED = 128  # reason codes from this one on are failures


@dataclass(slots=True)
class Sent:
    """One publication in the window. `body` is sent as it is: restamped and compressed.

    `members` are the unacknowledged messages of a pack; `seq` is then the first number it had.
    """

    seq: int
    topic: str
    body: bytes
    overtaken: bool = False  # of the backlog: newer messages go first
    members: set[int] = field(default_factory=set)
    tries: int = 0
    mid: int = 0  # packet id while it waits for a PUBACK
    sent_s: float = 0.0  # time of the last sending
    due_s: float = 0.0  # time of the next sending

    @property
    def count(self) -> int:
        """The number of messages in it that wait."""
        return len(self.members) or 1

    @property
    def numbers(self) -> set[int]:
        """The numbers of these messages."""
        return self.members or {self.seq}


class InFlightWindow:
    """The window and its timers, without the network. Times are seconds of any steady clock.

    `puback_is_enough` is the documented lossy mode: a PUBACK of the broker releases a message. A pack is sent
    once: `unpacked` gives its messages for sending again.
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
        self.pacing = Pacing(drain_per_s)
        self._puback_is_enough = puback_is_enough
        self._unpacked = unpacked
        self._packing = False
        self._futile = 0  # connections in a row that ended with packs sent and none acknowledged
        self._futile_s = 0.0  # time the last of them ended
        self._window: dict[int, Sent] = {}
        self._count = Counter[bool]()  # messages in the window, by `overtaken`
        self._bytes = Counter[bool]()
        self._queues: dict[bool, deque[int]] = {False: deque(), True: deque()}  # numbers to send now
        self._turn = 0
        self._wire: dict[int, tuple[int, int]] = {}  # packet id -> seq, size
        self._wire_bytes = 0
        self._moved_s = 0.0  # time of the last PUBACK, or of an empty wire
        self._due: list[tuple[float, int]] = []
        self._acked_s: float | None = None  # time of the last acknowledgement, or of the first connection
        self._held_s = 0.0  # nothing is sent before this time; 0 when nothing is held
        self._freed_s = 0.0  # time the last hold ended
        self._credit: int | None = None  # publications that may be sent; None: any number
        self._taken = 0  # messages acknowledged since the last hold
        self._held: set[int] = set()  # numbers that some collectors have and others lack

    def __len__(self) -> int:
        """The number of messages in the window."""
        return self._count.total()

    @property
    def room(self) -> tuple[int, int]:
        """How many more new messages and bytes fit into the window."""
        return WINDOW - self._count[False], WINDOW_BYTES - self._bytes[False]

    @property
    def room_overtaken(self) -> tuple[int, int]:
        """How many more messages and bytes of a backlog fit; 0 until a quarter of the window is free."""
        window = self.pacing.window
        size = window - self._bytes[True]
        messages = PACKED_WINDOW if self.packing else WINDOW // 4
        return messages - self._count[True], size if size >= window // 4 else 0

    @property
    def packing(self) -> bool:
        """Whether a backlog is sent in packs: the collector reads packs, and packs arrive."""
        return self._packing and self._futile < _FUTILE

    def takes_packs(self) -> None:
        """Note that a collector reads packs."""
        if self._unpacked is not None and not self._puback_is_enough:
            self._packing = True

    @property
    def waits(self) -> bool:
        """Whether a publication may wait to be sent."""
        return any(self._queues.values())

    @property
    def on_wire(self) -> int:
        """The number of publications that wait for a PUBACK."""
        return len(self._wire)

    def add(self, messages: Iterable[Sent]) -> None:
        """Add messages to be sent in this order, the overtaken ones after all others."""
        for sent in messages:
            self._window[sent.seq] = sent
            self._count[sent.overtaken] += sent.count
            self._bytes[sent.overtaken] += len(sent.body)
            self._queues[sent.overtaken].append(sent.seq)
            if sent.overtaken:
                self.pacing.spend(len(sent.topic) + len(sent.body))

    def connected(self, now_s: float) -> None:
        """Start on a new connection: everything in the window is sent again, in its first order."""
        packs = [sent for sent in self._window.values() if sent.members]
        if packs:
            self._futile, self._futile_s = self._futile + 1, now_s
        elif self._futile >= _FUTILE and now_s - self._futile_s > _FUTILE_S:
            self._futile = _FUTILE - 1  # one more try
        self._packing = False
        for sent in packs:
            self._unpack(sent)
        for sent in self._window.values():
            sent.mid = 0
        self._wire.clear()
        self._wire_bytes = 0
        self._moved_s = now_s
        self._acked_s = self._acked_s or now_s
        self.pacing.connected()
        self._send_again()

    def hold(self, seconds: float, now_s: float) -> None:
        """Send nothing for this time: a collector refuses the messages of this node.

        Then everything that waits is sent again, in its first order: packs as packs, because the collector
        can read them. As many publications are sent as were acknowledged after the last hold, and two more
        for each that is acknowledged: the whole window would be sent in vain while the share is used up.
        """
        self._held_s = max(self._held_s, now_s + seconds)

    def _send_again(self) -> None:
        """Queue everything that is not on the wire."""
        again = [sent for sent in self._window.values() if not sent.mid]
        self.resent += sum(1 for sent in again if sent.tries)
        for overtaken, queue in self._queues.items():
            queue.clear()
            queue.extend(sent.seq for sent in again if sent.overtaken == overtaken)
        self._due.clear()
        for sent in again:
            sent.tries = 0

    def next(self, now_s: float, receive_maximum: int) -> Sent | None:
        """The publication to send now; None if there is none or the wire is full. Call `sent` next."""
        if len(self._wire) >= receive_maximum or self._wire_bytes >= WIRE_BYTES or now_s < self._held_s:
            return None
        if self._held_s:
            self._held_s, self._freed_s = 0.0, now_s
            self._credit, self._taken = max(CREDIT, self._taken), 0
            self._send_again()
        if self._credit == 0:
            if now_s - self._freed_s < RESEND_S:
                return None
            self._credit = None
        while self._due and self._due[0][0] <= now_s:
            due_s, seq = heapq.heappop(self._due)
            sent = self._window.get(seq)
            if sent is not None and not sent.mid and sent.due_s == due_s:
                self.resent += sent.count
                if sent.members:
                    self._packing = False  # until the next connection
                    self._unpack(sent)
                else:
                    self._queues[sent.overtaken].append(seq)
        self._turn = (self._turn + 1) % SHARE
        first = self._turn == 0  # one of SHARE turns is the backlog's
        return self._first(overtaken=first) or self._first(overtaken=not first)

    def _first(self, *, overtaken: bool) -> Sent | None:
        queue = self._queues[overtaken]
        while queue:
            sent = self._window.get(queue.popleft())
            if sent is not None and not sent.mid:
                return sent
        return None

    def sent(self, sent: Sent, mid: int, now_s: float) -> None:
        """Note that `sent` was sent as packet `mid`."""
        if not self._wire:
            self._moved_s = now_s
        if self._credit is not None:
            self._credit -= 1
        sent.mid, sent.sent_s = mid, now_s
        sent.tries += 1
        self._wire[mid] = (sent.seq, len(sent.body))
        self._wire_bytes += len(sent.body)

    def too_large(self, sent: Sent, now_s: float) -> None:
        """Note that the broker takes no packets of this size: messages of a pack are sent one by one."""
        if sent.members:
            self._unpack(sent)
            return
        self.refused += 1
        sent.tries += 1
        self._wait_longer(sent, now_s)

    def puback(self, mid: int, reason: int, now_s: float) -> int:
        """Note the PUBACK of packet `mid`; returns the seq that may be deleted now, or 0."""
        seq, size = self._wire.pop(mid, (0, 0))
        self._wire_bytes -= size
        self._moved_s = now_s
        sent = self._window.get(seq)
        if sent is None:
            return 0
        sent.mid = 0
        if reason >= _REFUSED:
            self.refused += 1
        elif self._puback_is_enough and reason != NO_MATCHING_SUBSCRIBERS:
            self._forget(sent, now_s)
            return sent.seq
        self._wait_longer(sent, now_s)
        return 0

    def acked(self, ranges: Ranges, now_s: float) -> list[int]:
        """Note that a collector stored these; returns the numbers that were in the window."""
        done: list[int] = []
        for sent in list(self._window.values()):
            if sent.members:
                done += self._taken_from(sent, ranges, now_s)
            elif sent.seq in ranges:
                done.append(sent.seq)
                self._forget(sent, now_s)
        self._taken += len(done)
        if self._credit is not None:
            self._credit += 2 * len(done)
            if self._credit > WINDOW:
                self._credit = None
        if self._acked_s is None or now_s - self._acked_s > QUIET_S:
            # It is back, perhaps from a broker that lost its queue: no need to wait out long delay.
            for sent in self._window.values():
                if sent.tries and not sent.mid:
                    sent.tries = 1
                    self._wait(sent, min(sent.due_s, now_s + SOON_S))
        self._acked_s = now_s
        return done

    def held(self, ranges: Ranges, now_s: float) -> None:
        """Note that some collectors have these numbers and others lack them."""
        for sent in self._window.values():
            new = {seq for seq in sent.numbers if seq in ranges} - self._held
            if new:
                self._held |= new
                if sent.tries == 1 and self._is_held(sent):
                    self.pacing.took(sent.sent_s, now_s, len(sent.body))

    def set_aside(self, now_s: float, *, away: bool) -> list[int]:
        """Remove what only a collector lacks that is `away`, or would be sent again; returns the numbers.

        One message stays: it is sent again at growing intervals, and its acknowledgement shows that the
        collector is back.
        """
        is_due = self._due and self._due[0][0] <= now_s
        if not self._held or not (away or is_due):
            return []
        is_half = self._count[False] > WINDOW // 2 or self._bytes[False] > WINDOW_BYTES // 2
        held = [sent for sent in self._window.values() if not sent.mid and self._is_held(sent)]
        stays = min(held, key=lambda sent: bool(sent.members), default=None)  # rather not a pack
        found: list[int] = []
        for sent in held:
            if sent is not stays and (sent.due_s <= now_s or (away and (is_half or sent.overtaken))):
                found += sent.numbers
                self._remove(sent)
        return found

    def clear(self) -> None:
        """Forget all messages: they are read from the outbox again."""
        for sent in list(self._window.values()):
            self._remove(sent)
        self._wire = {mid: (0, size) for mid, (_, size) in self._wire.items()}
        self._due.clear()
        for queue in self._queues.values():
            queue.clear()

    def _is_held(self, sent: Sent) -> bool:
        return bool(self._held) and self._held.issuperset(sent.numbers)

    def silent_s(self, now_s: float) -> float:
        """Seconds since the last PUBACK while the broker owes one."""
        return now_s - self._moved_s if self._wire else 0.0

    def idle_s(self, now_s: float) -> float | None:
        """Seconds until the next message must be sent again; None if none waits."""
        if self._held_s:
            return max(0.01, self._held_s - now_s)
        return max(0.0, self._due[0][0] - now_s) if self._due else None

    def _wait_longer(self, sent: Sent, now_s: float) -> None:
        self._wait(sent, now_s + min(RESEND_S * 2 ** (sent.tries - 1), RESEND_MAX_S))

    def _wait(self, sent: Sent, due_s: float) -> None:
        sent.due_s = due_s
        heapq.heappush(self._due, (due_s, sent.seq))
        if len(self._due) > 4 * WINDOW:  # most entries were acknowledged long ago
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
            self._held.difference_update(known)
        return known

    def _unpack(self, pack: Sent) -> None:
        """Replace a pack by its waiting messages."""
        self._remove(pack)
        if self._unpacked is not None:
            singles = self._unpacked(pack)
            for sent in singles:
                sent.tries = pack.tries
            self.add(singles)

    def _forget(self, sent: Sent, now_s: float) -> None:
        # after several tries it is unknown which one was acknowledged
        if sent.tries == 1 and not self._is_held(sent):
            self.pacing.took(sent.sent_s, now_s, len(sent.body))
        self._remove(sent)

    def _remove(self, sent: Sent) -> None:
        del self._window[sent.seq]
        self._held.difference_update(sent.numbers)
        self._count[sent.overtaken] -= sent.count
        self._bytes[sent.overtaken] -= len(sent.body)
