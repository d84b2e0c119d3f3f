"""From record to message: read from the outbox, its time put right if the clock was set since, compressed."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from agent.flight import Sent
from agent.journal import Record
from agent.outbox import Outbox
from agent.restamp import machine_boot, offset_ns, restamp
from wire.clock import Clock
from wire.codec import compress
from wire.messages import Batch, ClockState, Event
from wire.topics import Address

log = logging.getLogger(__name__)


class Feed:
    """Turns what the outbox gives out into messages, in a worker thread: it reads the disk and compresses."""

    def __init__(
        self, outbox: Outbox, address: Address, clock: Clock, clock_state: Callable[[], ClockState]
    ) -> None:
        self._outbox = outbox
        self._base = address.base
        self._clock = clock
        self._clock_state = clock_state
        self._boot = machine_boot()

    def read(self, messages: int, size: int) -> list[Sent]:
        """The next messages, at most so many and about `size` bytes before compression.

        Raises:
            OSError: the disk cannot be read now; nothing is lost by it.
        """
        return [
            Sent(each.seq, f"{self._base}/{each.cls}/{each.tail}", compress(self._restamped(each)))
            for each in self._outbox.take(messages, size)
        ]

    def _restamped(self, record: Record) -> bytes:
        if not record.unsynced or record.boot != self._boot:
            return record.body
        state = self._clock_state()
        if state is ClockState.UNSYNCED:
            return record.body
        shift_ns = offset_ns(self._clock) - record.offset_ns
        try:
            return restamp(record.body, Batch if record.cls == "data" else Event, shift_ns, state)
        except msgspec.MsgspecError as error:  # written by another version: it goes out as it is
            log.warning("%s %d is not restamped: %s", record.tail, record.seq, error)
            return record.body
