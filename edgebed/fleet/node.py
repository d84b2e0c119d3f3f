"""One simulated node: numbers its messages and sends them until they are acknowledged, as an agent does."""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Literal

from agent.uplink.in_flight import InFlightWindow, Sent
from agent.uplink.refusal import Refusal
from edgebed.fleet.connection import Connection
from edgebed.fleet.figures import Figures
from edgebed.fleet.plan import DEVICE, FIELDS, STREAM, NodePlan
from edgebed.fleet.statements import NodeStatements
from wire.clock import Clock
from wire.codec import compress, decode, encode, seal
from wire.custody import CUSTODY
from wire.errors import WireError
from wire.messages import (
    Ack,
    AgentInfo,
    Batch,
    Birth,
    Device,
    DeviceState,
    Event,
    Field,
    Live,
    Refused,
    Status,
    Stream,
)
from wire.ranges import Ranges
from wire.topics import NODE_ITSELF, Address

VERSION = "fleet"  # of the agent, in status and birth
_DATA = f"data/{DEVICE}/{STREAM}"
_STATEMENT = f"event/{NODE_ITSELF}/{CUSTODY}"
_RECEIVE_MAXIMUM = 65_535


class FleetNode:
    """The window and the refusals are those of the agent; the outbox is memory.

    `now_s` is the time of the event loop.
    """

    def __init__(
        self, plan: NodePlan, site: str, run: str, figures: Figures, clock: Clock, *, signs: bool
    ) -> None:
        self.plan = plan
        self.address = Address.parse(f"{site}/{plan.name}")
        self.ep = hashlib.sha256(f"{run} ep {plan.number}".encode()).hexdigest()[:16]
        self._boot = hashlib.sha256(f"{run} boot {plan.number}".encode()).hexdigest()[:16]
        self._sess = clock.now_ms() // 1000  # newer than that of an earlier run
        self._figures = figures
        self._clock = clock
        self._began_s = clock.monotonic()
        self.head = 0
        self.connection: Connection | None = None
        self._waiting: deque[Sent] = deque()  # not in the window yet
        self._window = InFlightWindow()
        self._refusal = Refusal(clock)
        self._open: dict[int, float] = {}  # number -> time of its first publication, 0 before it
        self._again: dict[int, int] = {}  # number -> acknowledgements that may still come for copies of it
        self._messages = self._rows = self._sent = self._stated = 0
        self._statements = NodeStatements(str(self.address), self.ep, self._boot) if signs else None

    @property
    def topics(self) -> list[str]:
        """What the node subscribes to."""
        return [self.address.topic(*tail) for tail in (("ack",), ("status",), ("cmd", "+", "+"))]

    @property
    def depth(self) -> int:
        """The number of messages that are not acknowledged."""
        return len(self._open)

    @property
    def acked(self) -> int:
        """Every number up to here is acknowledged."""
        return next(iter(self._open), self.head + 1) - 1

    def acknowledged_numbers(self) -> Iterator[int]:
        """The numbers of all acknowledged messages."""
        return (number for number in range(1, self.head + 1) if number not in self._open)

    # What the node takes

    def take(self) -> None:
        """Take the next message of the plan."""
        plan, samples = self.plan, self.plan.fleet.samples
        now_ms = self._clock.now_ms()
        self._turn_day(now_ms)
        per_us = max(1, round(1e6 * plan.period_s / samples))
        batch = Batch(
            ep=self.ep,
            seq=self.head + 1,
            no=(1, self._rows + 1),
            t0=now_ms - (samples - 1) * per_us // 1000,
            per=per_us if per_us < 1000 else per_us // 1000,
            n=samples,
            f=plan.fleet.columns(plan.number, self._messages),  # type: ignore[arg-type]  # floats are scalars
            clk=1,
        )
        if per_us < 1000:
            batch.tu = "us"
        self._messages += 1
        self._append(_DATA, self._rows + 1, samples, compress(encode(batch)))
        self._rows += samples

    def state(self) -> None:
        """Take a statement, if messages were taken since the last one."""
        if self._statements is not None and self._statements.pending:
            self._append_statement(self._statements)

    def _turn_day(self, now_ms: int) -> None:
        if (made := self._statements) is None:
            return
        day = datetime.fromtimestamp(now_ms / 1000, UTC).date().isoformat()
        if made.day == day:
            return
        if made.pending:
            self._append_statement(made, then=day)
        else:
            made.begin(day, self.head + 1)

    def _append_statement(self, made: NodeStatements, then: str = "") -> None:
        detail = made.state(self.head, self.acked, self._sent)
        if then:
            made.begin(then, self.head + 1)
        self._stated += 1
        event = Event(
            ep=self.ep,
            seq=self.head + 1,
            no=(1, self._stated),
            ts=self._clock.now_ms(),
            type=CUSTODY,
            clk=1,
            detail=detail,
        )
        self._append(_STATEMENT, self._stated, 1, compress(encode(event)))
        made.pending = False

    def _append(self, tail: str, first_row: int, rows: int, body: bytes) -> None:
        self.head += 1
        self._figures.offered += 1
        self._open[self.head] = 0.0
        self._waiting.append(Sent(self.head, f"{self.address.base}/{tail}", body))
        if self._statements is not None:
            self._statements.take(tail, first_row, rows)

    # What the node sends

    def next_session(self) -> tuple[str, bytes]:
        """Begin a session; returns the topic and the body of its Will."""
        self._sess += 1
        return self.address.topic("status"), self._status("lost")

    def went_up(self, connection: Connection, now_s: float) -> None:
        """Send status and birth on a new connection, then everything that waits."""
        self.connection = connection
        self._window.connected(now_s)
        self.publish_status("online")
        connection.publish(self.address.topic("birth"), self._birth(), retain=True)
        self.send(now_s)

    def publish_status(self, state: Literal["online", "offline"]) -> None:
        """Publish the retained status."""
        if self.connection is not None:
            self.connection.publish(self.address.topic("status"), self._status(state), retain=True)

    def beat(self, now_s: float) -> None:
        """Publish a heartbeat."""
        if self.connection is None:
            return
        oldest_s = next(iter(self._open.values()), 0.0)
        refused = self._refusal.current
        body: Live = {
            "ts": self._clock.now_ms(),
            "ep": self.ep,
            "head": self.head,
            "acked": self.acked,
            "depth": self.depth,
            "oldest_s": round(now_s - oldest_s, 1) if oldest_s else 0.0,
            "taken_rows": self._rows,
            "dropped_rows": 0,
            "clk": 1,
            "uptime_s": round(self._clock.monotonic() - self._began_s, 1),
            "boot": self._boot,
            "refused": "" if refused is None else refused.why,
            "refused_code": "" if refused is None else refused.code,
            "refused_until": 0 if refused is None else refused.until,
        }
        topic = self.address.topic("live", NODE_ITSELF, "agent")
        self.connection.publish(topic, seal(encode(body)), qos=0, retain=True)

    def send(self, now_s: float) -> None:
        """Send what is due: new messages, and those whose acknowledgement did not come."""
        connection, window = self.connection, self._window
        if connection is None or not connection.up:
            return
        while self._waiting and min(window.room) > 0:
            window.add([self._waiting.popleft()])
        while (sent := window.next(now_s, _RECEIVE_MAXIMUM)) is not None:
            mid = connection.publish(sent.topic, sent.body, self._on_puback)
            window.sent(sent, mid, now_s)
            self._sent += 1
            if self._open.get(sent.seq):
                self._figures.sent_again += 1
                self._again[sent.seq] = self._again.get(sent.seq, 0) + 1
            else:
                self._open[sent.seq] = now_s

    # What the node receives

    def _on_puback(self, mid: int, now_s: float) -> None:
        self._window.puback(mid, 0, now_s)

    def on_ack(self, body: bytes, now_s: float) -> None:
        """Read an acknowledgement; one that must not be is counted as wrong."""
        try:
            ack = decode(body, Ack)
        except WireError as error:
            self._figures.note_wrong(f"{self.address}: an ack cannot be read: {error}")
            return
        if ack.ep != self.ep:
            return  # of an earlier run
        for first, last in ack.ok:
            for seq in range(first, min(last, self.head) + 1):
                self._acknowledge(seq, now_s)
            if last > self.head:
                self._figures.note_wrong(f"{self.address}: {last} is acknowledged, the newest is {self.head}")
        self._window.acked(Ranges(ack.ok), now_s)
        if isinstance(ack.refused, Refused):
            self._figures.refusals += 1
            if wait_s := self._refusal.note(ack.refused, ack.ts):
                self._window.hold(wait_s * random.uniform(1.0, 1.25), now_s)  # as an agent does
        self.send(now_s)

    def _acknowledge(self, seq: int, now_s: float) -> None:
        published_s = self._open.get(seq)
        if published_s:
            del self._open[seq]
            self._figures.acknowledge(now_s - published_s, healthy=self.plan.fault is None)
        elif published_s is not None:
            self._figures.note_wrong(f"{self.address}: {seq} is acknowledged, and it was never sent")
        elif copies := self._again.pop(seq, 0):
            if copies > 1:
                self._again[seq] = copies - 1
        else:
            self._figures.repeated_acks += 1

    # Bodies

    def _status(self, state: Literal["online", "offline", "lost"]) -> bytes:
        status = Status(state=state, ts=self._clock.now_ms(), boot=self._boot, sess=self._sess, agent=VERSION)
        if state == "online":
            counters = {"readings": self._rows} if self._rows else {}
            status.devices = {DEVICE: DeviceState(state="ok", counters=counters)}
        return seal(encode(status))

    def _birth(self) -> bytes:
        plan = self.plan
        stream = Stream(
            rate_hz=round(plan.fleet.samples / plan.period_s, 3),
            fields={name: Field(dec=3) for name in FIELDS},
        )
        birth = Birth(
            ts=self._clock.now_ms(),
            boot=self._boot,
            sess=self._sess,
            ep=self.ep,
            agent=AgentInfo(ver=VERSION),
            devices={DEVICE: Device(type="simulated", streams={STREAM: stream})},
            key="" if self._statements is None else self._statements.key,
        )
        return seal(encode(birth))
