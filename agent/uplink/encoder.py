"""Encoder: reads records from the outbox, corrects their times, packs and compresses them for sending."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec

from agent.clock_sync import machine_boot, offset_ns, restamp
from agent.outbox import Outbox, Record
from agent.uplink.fence import UplinkFence
from agent.uplink.in_flight import InFlightWindow, Sent
from wire.clock import Clock
from wire.codec import compress, decode
from wire.messages import MAX_PACKED, Batch, ClockState, Event, Pack
from wire.topics import Address

log = logging.getLogger(__name__)

BEHIND = 65_536  # bytes: a smaller backlog is sent in its order, in a moment

PLAIN_MIN, PLAIN_MAX = 4_096, 48_000  # bytes of a pack before compression
_LARGE = 8_192  # bytes of a body: packing larger ones gains nothing
_NESTED = 500  # opened brackets: a pack is nested deeper than its content, and readers limit nesting
GUESS = 4.0  # compression ratio of a pack, until one was measured
_HEAD, _TAIL = b'{"v":1,"m":[', b"]}"

Room = tuple[int, int]  # messages, bytes


class Encoder:
    """Turns records of the outbox into messages; a worker thread reads the disk and compresses.

    When more than `BEHIND` bytes wait, they become backlog: it is sent at its own rate, after new records.
    """

    def __init__(
        self,
        outbox: Outbox,
        address: Address,
        clock: Clock,
        clock_state: Callable[[], ClockState],
        fence: UplinkFence,
    ) -> None:
        self._outbox = outbox
        self._base = address.base
        self._clock = clock
        self._clock_state = clock_state
        self._fence = fence
        self._boot = machine_boot()
        self._thread = ThreadPoolExecutor(1, "uplink-read")  # its own: a pool of several wakes two for a job
        self._new = self._old = True  # there may be more to read
        self._again = False  # read everything again that was not released
        self._ratio = GUESS  # compression ratio of the last pack

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False)

    def read_on(self) -> None:
        """Note that something was committed or that a connection was made."""
        self._new = True

    def rewind(self) -> None:
        """Read everything again that was not released; the window must be empty."""
        self._again = self._new = True

    def wait_s(self, in_flight: InFlightWindow) -> float:
        """Seconds until the backlog may continue, if nothing else happens first."""
        messages, size = in_flight.room_overtaken
        if not (self._old and messages > 0 < size):
            return math.inf
        return max(in_flight.pacing.wait_s(), self._fence.wait_s(backlog=True))

    async def fill(self, in_flight: InFlightWindow, now_s: float) -> None:
        """Read as many records as the window has room for."""
        new, (messages, size) = in_flight.room, in_flight.room_overtaken
        allowed = self._fence.backlog()
        if self._old and not allowed:
            self._fence.held()
        size = min(size, in_flight.pacing.budget(now_s), allowed)
        pack = min(max(PLAIN_MIN, 2 * in_flight.pacing.window), PLAIN_MAX) if in_flight.packing else 0
        old = messages, int(size * self._ratio) if pack else size
        wanted = (self._new and min(new) > 0, self._old and min(old) > 0)
        if not any(wanted):
            return
        if wanted[0]:
            self._new = False  # before the read: a commit during it sets it again
        reading = asyncio.get_running_loop().run_in_executor(
            self._thread, self._read, new if wanted[0] else None, old if wanted[1] else None, pack
        )
        try:
            sent = await asyncio.shield(reading)
        except asyncio.CancelledError:
            while not reading.done():  # a slow disk may take longer than several cancellations
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({reading})
            with contextlib.suppress(OSError):
                in_flight.add(reading.result())  # the outbox gives each record out once: keep them
            raise
        except OSError as error:
            log.error("the outbox cannot be read now: %s", error)
            self._new = True
            await asyncio.sleep(1)
            return
        in_flight.add(sent)

    def _read(self, new: Room | None, old: Room | None, pack: int) -> list[Sent]:
        found: list[Sent] = []
        if self._again:
            self._outbox.rewind()
            self._again = False
        if new is not None:
            self._old |= self._outbox.overtake(BEHIND)
            found = [self._sent(each) for each in self._take(*new)]
        if old is not None:
            try:
                records = self._outbox.take_overtaken(*old)
            except OSError:
                if not found:
                    raise
                return found  # the next read raises the error again
            self._old = bool(records)
            if pack:
                found += self._packed(records, pack)
            else:
                found += [self._sent(each, overtaken=True) for each in records]
        return found

    def _take(self, messages: int, size: int) -> list[Record]:
        """New records, as far as there is room: only an empty read is the end."""
        found: list[Record] = []
        while len(found) < messages and (left := size - sum(len(each.body) for each in found)) > 0:
            try:
                records = self._outbox.take(messages - len(found), left)
            except OSError:
                if not found:
                    raise
                break  # the next read raises the error again
            if not records:
                return found
            found += records
        self._new = True
        return found

    def _sent(self, record: Record, *, overtaken: bool = False) -> Sent:
        topic = f"{self._base}/{record.cls}/{record.tail}"
        return Sent(record.seq, topic, compress(self._restamped(record)), overtaken)

    def _packed(self, records: list[Record], size: int) -> list[Sent]:
        plain = [(each.seq, f"{each.cls}/{each.tail}", self._restamped(each)) for each in records]
        found = list(packed(self._base, plain, size))
        if found:
            ratio = sum(len(body) for _, _, body in plain) / sum(len(sent.body) for sent in found)
            self._ratio = min(max(1.0, ratio), 2 * GUESS)
        return found

    def _restamped(self, record: Record) -> bytes:
        if not record.unsynced or record.boot != self._boot:
            return record.body
        state = self._clock_state()
        if state is ClockState.UNSYNCED:
            return record.body
        shift_ns = offset_ns(self._clock) - record.offset_ns
        try:
            return restamp(record.body, Batch if record.cls == "data" else Event, shift_ns, state)
        except msgspec.MsgspecError as error:  # written by another version: it is sent unchanged
            log.warning("%s %d keeps its uncorrected time: %s", record.tail, record.seq, error)
            return record.body


def packed(base: str, messages: Iterable[tuple[int, str, bytes]], size: int) -> Iterator[Sent]:
    """Pack messages (seq, topic after the node, body) into packs of about `size` bytes, in their order."""
    parts: list[bytes] = []
    held: list[tuple[int, str, bytes]] = []
    total = 0
    for message in messages:
        _, tail, body = message
        if len(body) > _LARGE or body.count(b"[") + body.count(b"{") > _NESTED:
            yield from _closed(base, held, parts)
            yield _single(base, *message)
            parts, held, total = [], [], 0
            continue
        part = b"[%b,%b]" % (msgspec.json.encode(tail), body)
        if held and (total + len(part) > size or len(held) >= MAX_PACKED):
            yield from _closed(base, held, parts)
            parts, held, total = [], [], 0
        parts.append(part)
        held.append(message)
        total += len(part)
    yield from _closed(base, held, parts)


def unpacked(sent: Sent) -> list[Sent]:
    """The unacknowledged messages of a pack, one by one."""
    base = sent.topic.rpartition("/")[0]
    found = []
    for tail, raw in decode(sent.body, Pack).m:
        body = bytes(raw)
        seq = msgspec.json.decode(body, type=_Numbered).seq
        if seq in sent.members:
            found.append(_single(base, seq, tail, body))
    return found


class _Numbered(msgspec.Struct):
    seq: int


def _closed(base: str, held: list[tuple[int, str, bytes]], parts: list[bytes]) -> Iterator[Sent]:
    if len(held) > 1:
        body = compress(_HEAD + b",".join(parts) + _TAIL)
        members = {seq for seq, _, _ in held}
        yield Sent(held[0][0], f"{base}/pack", body, overtaken=True, members=members)
    else:
        yield from (_single(base, *message) for message in held)


def _single(base: str, seq: int, tail: str, body: bytes) -> Sent:
    return Sent(seq, f"{base}/{tail}", compress(body), overtaken=True)
