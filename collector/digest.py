"""Received messages into one group: decoded, deduplicated, gathered by stream, or quarantined."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import Struct

from collector.chunk import Rows, pack, times_of
from collector.group import HEAD_BYTES, TOPIC_CHARS, Chunk, EventRow, Group, Quarantined
from collector.ledger import Draft, Key, Ledger, Refused
from collector.link import Incoming
from wire.codec import decode, encode, plain
from wire.errors import WireError
from wire.messages import MAX_BODY, Ack, Batch, Event
from wire.ranges import Range, Ranges
from wire.topics import Address, Topic

LATE_MS = 10_000  # rows that arrive longer after their time were back-filled
CHUNK_ROWS = 20_000
ACK_RANGES = 1_000  # per message: keeps it within the size any broker takes
_EARLIEST_US, _LATEST_US = 0, 253_402_300_799_999_000
_EVENT_HEAD = ("v", "ep", "seq", "ts", "type", "sev")


@dataclass(frozen=True, slots=True)
class Received:
    """A numbered message with its parsed topic, or one to quarantine because of `fault`."""

    message: Incoming
    topic: Topic | None
    fault: str = ""


class _Number(Struct):
    """All that is asked of a body that could not be taken: is it numbered?"""

    ep: str = ""
    seq: int = 0


@dataclass(slots=True)
class Digest:
    """A group, what has to be acknowledged once it is on disk, and what viewers are told then."""

    group: Group
    acked: dict[Key, Ranges] = field(default_factory=dict)
    stored: int = 0
    duplicates: int = 0
    rows: int = 0
    refused: list[str] = field(default_factory=list)  # why a message was neither stored nor acknowledged


class Digester:
    """Makes digests; keeps no state of its own but what it was given."""

    def __init__(self, ledger: Ledger, skew_ms: Callable[[str], int]) -> None:
        self._ledger = ledger
        self._skew_ms = skew_ms

    def digest(self, received: Iterable[Received], now_ms: int) -> Digest:
        """Take every message, whatever it holds; nothing is raised for a bad one."""
        return _Digesting(self._ledger, self._skew_ms, now_ms).run(received)


class _Digesting:
    """One run over one group."""

    def __init__(self, ledger: Ledger, skew_ms: Callable[[str], int], now_ms: int) -> None:
        self._draft = Draft(ledger)
        self._skew_ms = skew_ms
        self._skews: dict[str, int] = {}
        self._rows: dict[tuple[Any, ...], Rows] = {}
        self._full: list[Rows] = []
        self._digest = Digest(Group(now_ms))

    def run(self, received: Iterable[Received]) -> Digest:
        for one in received:
            try:
                self._take(one)
            except WireError as error:
                self._quarantine(one, str(error))
            except Refused as error:
                self._digest.refused.append(str(error))
        digest, group = self._digest, self._digest.group
        group.chunks = [Chunk(rows, pack(rows)) for rows in (*self._full, *self._rows.values())]
        group.drafts = list(self._draft.accounts.values())
        return digest

    def _take(self, one: Received) -> None:
        message, topic = one.message, one.topic
        if one.fault or topic is None:
            raise WireError(one.fault)
        if len(message.body) > MAX_BODY:
            raise WireError(f"body of {len(message.body)} bytes; {MAX_BODY} are allowed")
        if topic.cls == "data":
            self._data(topic, message)
        else:
            self._event(topic, message)

    def _data(self, topic: Topic, message: Incoming) -> None:
        batch = decode(message.body, Batch)
        _require_number(batch)
        times = times_of(batch)
        newest_us = int(times.max())
        if newest_us > _LATEST_US or times.min() < _EARLIEST_US:
            raise WireError("rows before 1970 or after 9999")
        node = str(topic.address)
        if not self._count(node, batch.ep, batch.seq, len(batch), message.recv_ms):
            return
        late = message.recv_ms - self._skew(node) - newest_us // 1000 > LATE_MS
        clk = -1 if batch.clk is msgspec.UNSET else batch.clk
        key = (node, topic.device, topic.name, batch.ep, clk, late, *batch.f)
        rows = self._rows.get(key)
        if rows is None:
            rows = self._rows[key] = Rows(
                node, topic.device, topic.name, batch.ep, clk, late, message.recv_ms
            )
        rows.add(batch, times, len(message.body))
        self._digest.rows += len(batch)
        if rows.count >= CHUNK_ROWS:
            self._full.append(self._rows.pop(key))

    def _event(self, topic: Topic, message: Incoming) -> None:
        event = decode(message.body, Event)
        _require_number(event)
        node = str(topic.address)
        if event.lost and self._draft.is_new(node, event.ep, event.seq):
            self._draft.lose(node, event.ep, event.lost, event.why or "no reason given")
        if not self._count(node, event.ep, event.seq, 1, message.recv_ms):
            return
        body = msgspec.to_builtins(event)
        for name in _EVENT_HEAD:
            body.pop(name, None)
        self._digest.group.events.append(
            EventRow(
                node, topic.device, topic.name, event.sev, event.ts, message.recv_ms, event.ep, event.seq,
                msgspec.json.encode(body),
            )
        )  # fmt: skip
        self._digest.rows += 1

    def _count(self, node: str, ep: str, seq: int, rows: int, recv_ms: int) -> bool:
        """Whether the message is new; either way its node is told that the store has it."""
        new = self._draft.add(node, ep, seq, rows, recv_ms)
        self._digest.acked.setdefault((node, ep), Ranges()).add(seq)
        self._digest.stored += new
        self._digest.duplicates += not new
        return new

    def _skew(self, node: str) -> int:
        found = self._skews.get(node)
        if found is None:
            found = self._skews[node] = self._skew_ms(node)
        return found

    def _quarantine(self, one: Received, why: str) -> None:
        """Keep a trace of it; a number that can still be read is declared lost and acknowledged.

        Otherwise its node would send it again for ever.
        """
        message, topic = one.message, one.topic
        self._digest.group.quarantine.append(
            Quarantined(
                message.recv_ms,
                message.topic[:TOPIC_CHARS],
                why,
                len(message.body),
                message.body[:HEAD_BYTES],
            )
        )
        number = _number(message.body) if topic is not None else None
        if number is None or topic is None:
            return
        key = (str(topic.address), number.ep)
        try:
            self._draft.lose(*key, [(number.seq, number.seq)], f"quarantined: {why}"[:200])
        except Refused as error:
            self._digest.refused.append(str(error))
            return
        self._digest.acked.setdefault(key, Ranges()).add(number.seq)


def acks(acked: dict[Key, Ranges], by: str, now_ms: int) -> Iterable[tuple[str, bytes]]:
    """Topic and body of each ack, ranges joined per (node, ep)."""
    for (node, ep), ranges in acked.items():
        whole: list[Range] = list(ranges)
        topic = Address.parse(node).topic("ack")
        for at in range(0, len(whole), ACK_RANGES):
            yield topic, encode(Ack(ep=ep, ok=whole[at : at + ACK_RANGES], by=by, ts=now_ms))


def _require_number(body: Batch | Event) -> None:
    if not body.ep or not body.seq:
        raise WireError("not numbered: ep and seq are needed")


def _number(body: bytes) -> _Number | None:
    if len(body) > MAX_BODY:
        return None
    try:
        number = msgspec.json.decode(plain(body), type=_Number)
    except (msgspec.MsgspecError, WireError, UnicodeDecodeError, RecursionError):
        return None
    hexadecimal = 8 <= len(number.ep) <= 32 and not set(number.ep) - set("0123456789abcdef")
    return number if hexadecimal and 1 <= number.seq <= 2**62 else None
