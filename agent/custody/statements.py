"""Signed statements of the messages that the outbox took; they leave through the outbox like any event."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from agent.clock_sync import TimeSync
from agent.custody.node_key import NodeKey
from agent.outbox import Message, Outbox
from wire.clock import Clock
from wire.custody import CUSTODY, Statement, digest, signed_form
from wire.messages import Event
from wire.topics import NODE_ITSELF, Address

EVERY_S = 60.0  # between two statements while messages are taken
_LOOK_S = 1.0


class Custody:
    """States what the outbox took: soon after a start, then each minute and at the end of each UTC day.

    `wire.custody.Statement` describes the content. An idle outbox gets no statement.
    """

    def __init__(
        self,
        outbox: Outbox,
        address: Address,
        boot: str,
        key: NodeKey | None,
        sync: TimeSync,
        sent: Callable[[], int],
    ) -> None:
        self._outbox = outbox
        self._node = str(address)
        self._boot = boot
        self._key = key
        self._sync = sync
        self._clock = sync.clock
        self._sent = sent
        self._lock = threading.Lock()  # one thread states at a time
        self._count = 0
        self._before = ""  # digest of the last statement
        self._due_s = 0.0

    @property
    def due(self) -> bool:
        """Whether `look` has something to state; never waits. Ask about once a second."""
        if self._key is None:
            return False
        late = self._outbox.unstated and self._clock.monotonic() >= self._due_s
        return late or self._outbox.has_closed

    def look(self) -> None:
        """State what is due. Call it in a thread: signing takes milliseconds."""
        now_s = self._clock.monotonic()
        due = self._outbox.unstated and now_s >= self._due_s
        self._state(closed=not due)
        if due:
            self._due_s = now_s + EVERY_S

    def close(self) -> None:
        """State everything that no statement covers yet; blocks as `look` does."""
        self._state(closed=False)

    def _state(self, *, closed: bool) -> None:
        if self._key is None:
            return
        with self._lock:
            for part in self._outbox.parts(closed=closed):
                stats, clk = self._outbox.stats(), self._sync.state()
                statement = Statement(
                    n=self._count + 1,
                    prev=self._before,
                    key=self._key.public,
                    boot=self._boot,
                    run=part.run,
                    day=part.day,
                    first=part.first,
                    upto=part.upto,
                    streams=part.streams,
                    stored=stats.head,
                    acked=stats.acked,
                    sent=self._sent(),
                    dropped=self._outbox.drops(),
                    clk=clk.value,
                )
                event = Event(ts=self._clock.now_ms(), type=CUSTODY, sev=0, clk=clk.value)
                event.detail = self._signed(statement, self._key)
                self._outbox.append(Message("event", NODE_ITSELF, CUSTODY, event))

    def _signed(self, statement: Statement, key: NodeKey) -> dict[str, Any]:
        """The statement as it is sent, with its signature; the next statement is chained to it."""
        detail: dict[str, Any] = msgspec.to_builtins(statement)
        form = signed_form(detail, self._node, self._outbox.ep)
        detail["sig"] = key.sign(form)
        self._count, self._before = statement.n, digest(form)
        return detail


async def keep_stating(custody: Custody, clock: Clock) -> None:
    """Call `custody.look` in a worker thread when it is due; runs until it is cancelled."""
    while True:
        await clock.sleep_roughly(_LOOK_S)
        if custody.due:
            await asyncio.to_thread(custody.look)
