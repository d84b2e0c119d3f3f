"""How long messages wait here and at the broker; where it is too long, nodes are refused, each in turn."""

from __future__ import annotations

import random
import threading
from collections import deque
from itertools import pairwise
from typing import Literal, NamedTuple

from msgspec import Struct

from collector.health import CollectorProblems
from collector.ingest.fair_parts import FairParts
from wire.clock import Clock
from wire.printable import counted
from wire.reasons import because

SLOW_S = 5.0  # messages that wait longer are a problem
REFUSE_S = 8.0  # from here on nodes are refused: an agent sends a message again after 30 s
PROMPT_S = 2.0  # messages that wait for less are in time
CALM_S = 5.0  # all messages in time for so long: it is over
CALM_REFUSED_S = 25.0  # likewise, after nodes were refused: they come back later
RECOVERY_S = 60.0  # after an overload, until all nodes are heard of
FIRST_S = 600.0  # after a connection, for the first probe to come back
MARGIN_S = 2.0  # from the commit of a message to its ack at the node
RATES_S = 10.0  # rates are averages over this time
SAMPLES = 120  # one for each `watch`
FLOWS = 4  # samples, one a second; a broker that delivers nothing for so long is slow itself
ROOM_S = 2.0  # work that may wait here before busy nodes are refused
ROOM = (0.125, 0.5)  # of the messages that waited here at most: a slow disk needs large groups
HOLD_S = 20.0  # a node waits for this time at most
HURRY = 0.6  # of the parts of nodes, while messages wait for long
CLEAR_FACTOR = 0.9  # from here on down it is catching up; from 1 on up it is overloaded again
DECAY = 0.98  # a second: what could be stored counts less and less

State = Literal["none", "slow", "refusing"]


class Overload(Struct, frozen=True):
    """What is known; rates in messages a second, `since` in ms, `nodes` refused lately."""

    state: State = "none"
    since: int = 0
    oldest_s: float = 0.0
    arriving: float = 0.0
    stored: float = 0.0
    factor: float = 0.0
    nodes: int = 0


class _Sample(NamedTuple):
    at_s: float
    arrived: int
    queued: int
    handled: int


class Backlog:
    """The link's thread counts what arrives, the writer what it handled, the app calls `watch` each second.

    The wait at the broker is that of the collector's own probe, which waits in the same queue: `asked` and
    `answered` note it. So no clock of a node matters. `arrived` counts everything, `queued` what was not
    refused.
    """

    def __init__(self, clock: Clock, problems: CollectorProblems) -> None:
        self.arrived = self.queued = self.handled = 0
        self.is_refusing = False
        self.now = Overload()
        self.ended_s = -float("inf")  # when the last overload ended
        self._clock = clock
        self._problems = problems
        self._lock = threading.Lock()
        self._samples: deque[_Sample] = deque(maxlen=SAMPLES)
        self._asked: deque[tuple[int, float]] = deque(maxlen=SAMPLES)  # probes that did not come back yet
        self._answers: deque[tuple[float, int]] = deque(maxlen=6)  # when it was sent, what arrived before it
        self._connected_s = clock.monotonic()
        self._came_back = False  # once; access rules of a broker may forbid probes
        self._parts = FairParts()
        self._held: dict[bytes, float] = {}  # refused nodes -> when last, the oldest first
        self._room = 0.0  # messages that may wait here
        self._window = 0  # how many waited here at most, before nodes were refused
        self._can_store = 0.0  # messages a second
        self._code = ""  # of the problem that is reported
        self._late_s = 0.0  # when messages were late, or refused, last

    # The link's thread

    def asked(self, number: int) -> None:
        """Note that probe `number` was sent to the broker."""
        with self._lock:
            self._asked.append((number, self._clock.monotonic()))

    def answered(self, number: int) -> None:
        """Note that a probe came back: everything before it arrived."""
        with self._lock:
            while self._asked and self._asked[0][0] <= number:
                asked, sent_s = self._asked.popleft()
                if asked == number:
                    self._came_back = True
                    self._answers.append((sent_s, self.arrived))

    def disconnected(self) -> None:
        """Forget the probes of a connection that ended."""
        with self._lock:
            self._asked.clear()
            self._answers.clear()
            self._connected_s = self._clock.monotonic()

    def wait_s(self, node: bytes) -> float:
        """How long a node should wait that sends a message while the collector refuses; 0 when it passes."""
        now_s = self._clock.monotonic()
        with self._lock:
            wait_s = self._parts.take(node, now_s, has_room=self.queued - self.handled < self._room)
            if wait_s:
                # one that comes back sooner would send again what waits here; not all come back together
                wait_s = max(wait_s, self.now.oldest_s + MARGIN_S)
                wait_s = min(wait_s * random.uniform(1.0, 2.0), HOLD_S)
                self._held.pop(node, None)
                self._held[node] = self._late_s = now_s
        return wait_s

    def charge(self, node: bytes, messages: int) -> None:
        """Charge the further messages of a pack that passed."""
        with self._lock:
            self._parts.charge(node, messages)

    # The app

    @property
    def explains_silence(self) -> bool:
        """Whether data of nodes may be late because messages wait, or waited a minute ago."""
        now_s = self._clock.monotonic()
        with self._lock:
            # after a start the first probe may stand behind all that arrived meanwhile
            first = not self._came_back and self._asked and now_s - self._asked[0][1] > SLOW_S
            is_behind = first and self._delivers and now_s - self._connected_s < FIRST_S
        return is_behind or self.now.state != "none" or now_s - self.ended_s < RECOVERY_S

    def watch(self, *, is_blocked: bool) -> None:
        """Judge how long messages wait, and report it; a blocked store is a problem of its own."""
        now_s = self._clock.monotonic()
        with self._lock:
            self._samples.append(_Sample(now_s, self.arrived, self.queued, self.handled))
            oldest_s = self._here_s(now_s) + self._at_broker_s(now_s)
            arriving, stored = self._rates()
            if is_blocked:  # nothing is stored: no rate means anything
                self._end(now_s)
            else:
                self._turn(now_s, oldest_s, stored)
            while self._held and next(iter(self._held.values())) < now_s - CALM_REFUSED_S:
                del self._held[next(iter(self._held))]
            self.now = Overload(
                self.now.state,
                self.now.since,
                round(oldest_s, 1),
                round(arriving, 1),
                round(stored, 1),
                round(arriving / max(stored, 1.0), 2),
                len(self._held),
            )
        self._report(self.now)

    def _here_s(self, now_s: float) -> float:
        """The age of the oldest message here, at least: from the first sample that has it."""
        return next((now_s - one.at_s for one in self._samples if one.queued > self.handled), 0.0)

    def _at_broker_s(self, now_s: float) -> float:
        """How long the oldest probe waits, unless the broker itself delivers nothing."""
        return now_s - self._asked[0][1] if self._asked and self._came_back and self._delivers else 0.0

    @property
    def _delivers(self) -> bool:
        """Whether the broker delivered something lately."""
        recent = list(self._samples)[-FLOWS:]
        return bool(recent) and recent[-1].arrived > recent[0].arrived

    def _rates(self) -> tuple[float, float]:
        """How many messages a second arrive at the broker, and how many are stored.

        What arrived here between two probes came to the broker between their sending.
        """
        last = self._samples[-1]
        first = next(one for one in self._samples if one.at_s >= last.at_s - RATES_S)
        arriving = (last.arrived - first.arrived) / max(last.at_s - first.at_s, 1.0)
        if len(self._answers) > 1:
            (began_s, before), (ended_s, after) = self._answers[0], self._answers[-1]
            if ended_s - began_s >= 1.0:
                arriving = (after - before) / (ended_s - began_s)
        return arriving, self._stored_per_s(last.at_s)

    def _set_room(self) -> None:
        least, most = (share * self._window for share in ROOM)
        self._room = min(max(ROOM_S * self._can_store, least), most)

    def _stored_per_s(self, now_s: float) -> float:
        """The rate from one commit to another: a group may take seconds."""
        ends = [one for before, one in pairwise(self._samples) if one.handled > before.handled]
        ends = [one for one in ends if one.at_s >= now_s - RATES_S] if len(ends) > 2 else ends
        if len(ends) < 2 or ends[-1].at_s < now_s - RATES_S:
            return 0.0
        return (ends[-1].handled - ends[0].handled) / (ends[-1].at_s - ends[0].at_s)

    def _turn(self, now_s: float, oldest_s: float, stored: float) -> None:
        state = self.now.state
        if oldest_s >= PROMPT_S:
            self._late_s = now_s
        self._can_store = max(stored, DECAY * self._can_store)
        if state == "none" and oldest_s >= SLOW_S:
            self.now = Overload("slow", self._clock.now_ms())
        elif state == "slow" and max(oldest_s, self._expected_s) >= REFUSE_S:
            self._begin_to_refuse()
        elif state != "none" and now_s - self._late_s > (CALM_REFUSED_S if self.is_refusing else CALM_S):
            self._end(now_s)
        elif state == "refusing":
            self._set_room()
        self._parts.per_s = self._can_store * (HURRY if oldest_s >= SLOW_S else 1.0)

    @property
    def _expected_s(self) -> float:
        """How long a message will wait that arrives now."""
        return (self.queued - self.handled) / max(self._can_store, 1.0)

    def _end(self, now_s: float) -> None:
        self.is_refusing, self.ended_s = False, now_s
        self.now = Overload()

    def _begin_to_refuse(self) -> None:
        self.now = Overload("refusing", self.now.since)
        self._window = max(one.queued - one.handled for one in self._samples)
        self._set_room()
        self._parts = FairParts()
        self.is_refusing = True

    def _report(self, now: Overload) -> None:
        before = self._code
        limit = CLEAR_FACTOR if before == "overloaded" else 1.0
        is_late = self._clock.monotonic() - self._late_s < FLOWS
        is_slower = is_late and (now.factor > limit or not now.stored)
        self._code = "" if now.state == "none" else "overloaded" if is_slower else "catching-up"
        if before not in ("", self._code):
            self._problems.clear(before)
        if not self._code:
            return
        figures = {
            "arriving": round(now.arriving),
            "stored": round(now.stored),
            "factor": round(now.factor, 1),
            "oldest_s": round(now.oldest_s),
            "nodes": now.nodes,
        }
        text = (
            f"{now.arriving:.0f} messages/s arrive, {now.stored:.0f}/s are stored (factor {now.factor:.1f}), "
            f"the oldest waits for {now.oldest_s:.0f} s; "
            f"{counted(now.nodes, 'node')} sent more than a fair part and must wait"
        )
        if self._code == "overloaded":
            why = because(f"slower than what arrives: {text}", "overloaded", **figures)
        else:
            why = because(f"catching up with what waits: {text}", "catching-up", **figures)
        self._problems.report(why)
