"""Messages on their way: read from the outbox, not acknowledged yet, each resent until it is."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from wire.ranges import Ranges

WINDOW = 512  # messages between outbox and acknowledgement
WINDOW_BYTES = 2_097_152
WIRE_BYTES = 524_288  # of them sent without a PUBACK: more only delays what is newer
RESEND_S = 30.0  # after the broker took it and nobody acknowledged; doubles up to RESEND_MAX_S
RESEND_MAX_S = 600.0
SOON_S = 5.0  # how soon a collector that acknowledges again gets what it left out
QUIET_S = 30.0  # a collector that acknowledged nothing for so long was away
NO_MATCHING_SUBSCRIBERS = 16
_REFUSED = 128  # reason codes from here on are failures


@dataclass(slots=True)
class Sent:
    """One message in the window. `body` is what goes out: restamped and compressed."""

    seq: int
    topic: str
    body: bytes
    tries: int = 0
    mid: int = 0  # packet id while it waits for a PUBACK
    due_s: float = 0.0  # when it is sent again


class Flight:
    """The window and its timers; no network in here. Times are seconds of any steady clock.

    `puback_is_enough`: the documented lossy mode, in which the broker's word lets a message go.
    """

    def __init__(self, *, puback_is_enough: bool = False) -> None:
        self.resent = 0
        self.refused = 0
        self._puback_is_enough = puback_is_enough
        self._window: dict[int, Sent] = {}
        self._bytes = 0
        self._queue: deque[int] = deque()  # to be sent now
        self._wire: dict[int, tuple[int, int]] = {}  # packet id -> seq, size
        self._wire_bytes = 0
        self._moved_s = 0.0  # when a PUBACK came last, or the wire was empty
        self._due: list[tuple[float, int]] = []
        self._acked_s: float | None = None  # when a collector acknowledged last, or the first connection

    def __len__(self) -> int:
        """How many are in the window."""
        return len(self._window)

    @property
    def room(self) -> tuple[int, int]:
        """How many messages and bytes more the window takes."""
        return WINDOW - len(self._window), WINDOW_BYTES - self._bytes

    @property
    def on_wire(self) -> int:
        """How many wait for a PUBACK."""
        return len(self._wire)

    def add(self, messages: Iterable[Sent]) -> None:
        """Take messages into the window, to be sent in this order."""
        for sent in messages:
            self._window[sent.seq] = sent
            self._bytes += len(sent.body)
            self._queue.append(sent.seq)

    def connected(self, now_s: float) -> None:
        """A new connection: everything in the window is sent again, in its first order."""
        self.resent += sum(1 for sent in self._window.values() if sent.tries)
        self._queue = deque(self._window)
        self._wire.clear()
        self._wire_bytes = 0
        self._due.clear()
        self._moved_s = now_s
        self._acked_s = self._acked_s or now_s
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
                self._queue.append(seq)
                self.resent += 1
        while self._queue:
            sent = self._window.get(self._queue.popleft())
            if sent is not None and not sent.mid:
                return sent
        return None

    def sent(self, sent: Sent, mid: int, now_s: float) -> None:
        """`sent` went out as packet `mid`."""
        if not self._wire:
            self._moved_s = now_s
        sent.mid = mid
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
            self._forget(sent)
            return sent.seq
        self._wait(sent, now_s + min(RESEND_S * 2 ** (sent.tries - 1), RESEND_MAX_S))
        return 0

    def acked(self, ranges: Ranges, now_s: float) -> list[int]:
        """A collector has these; returns those that were in the window."""
        done = [seq for seq in self._window if seq in ranges]
        for seq in done:
            self._forget(self._window[seq])
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

    def _forget(self, sent: Sent) -> None:
        del self._window[sent.seq]
        self._bytes -= len(sent.body)

    def _off_wire(self, mid: int) -> Sent | None:
        seq, size = self._wire.pop(mid, (0, 0))
        self._wire_bytes -= size
        sent = self._window.get(seq)
        if sent is not None:
            sent.mid = 0
        return sent
