"""Received messages into one group: decoded, deduplicated, gathered by stream, or quarantined."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import Struct

from collector.ingest.repeat_evidence import Suspects
from collector.ledger.ledger import Draft, Key, Ledger, Refused
from collector.mqtt.link import Incoming
from collector.store.chunk import Rows, pack, times_of
from collector.store.clock_skew import Offset
from collector.store.group import HEAD_BYTES, TOPIC_CHARS, Chunk, EventRow, Group, Quarantined
from wire.codec import decode, encode, plain, seal, unsealed
from wire.custody import CUSTODY
from wire.errors import WireError
from wire.messages import MAX_BODY, Ack, Batch, Event
from wire.ranges import Range, Ranges
from wire.topics import NODE_ITSELF, Address, Topic

LATE_MS = 10_000  # rows that arrive longer after their time were back-filled
CHUNK_ROWS = 20_000
ACK_RANGES = 1_000  # per message: keeps it within the size any broker takes
_EARLIEST_US, _LATEST_US = 0, 253_402_300_799_999_000
_EVENT_HEAD = ("v", "ep", "seq", "no", "ts", "type", "sev")


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
    """Makes digests; of its own it knows only which bodies were bad."""

    def __init__(
        self,
        ledger: Ledger,
        offset: Callable[[str], Offset],
        accepted: Callable[[str], Iterable[str]] = lambda _node: (),
    ) -> None:
        self._ledger = ledger
        self._offset = offset
        self._accepted = accepted  # keys of a node, by their ids, besides the first that was seen
        self._suspects = Suspects()

    def digest(self, received: Iterable[Received], now_ms: int) -> Digest:
        """Take every message, whatever it holds; nothing is raised for a bad one."""
        made = _Digesting(self._ledger, self._offset, self._accepted, self._suspects, now_ms)
        return made.run(received)


class _Digesting:
    """One run over one group."""

    def __init__(
        self,
        ledger: Ledger,
        offset: Callable[[str], Offset],
        accepted: Callable[[str], Iterable[str]],
        suspects: Suspects,
        now_ms: int,
    ) -> None:
        self._ledger = ledger
        self._draft = Draft(ledger)
        self._suspects = suspects
        self._accepted = accepted
        self._offset = offset
        self._offsets: dict[str, Offset] = {}
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
        group.custody = self._draft.statements.saved()
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
        if batch.no is not msgspec.UNSET:
            stream = f"data/{topic.device}/{topic.name}"
            self._draft.number(node, batch.ep, batch.no, stream, len(batch))
        offset = self._offset_of(node)
        late = message.recv_ms - (offset.skew_ms or 0) - newest_us // 1000 > LATE_MS
        clk = -1 if batch.clk is msgspec.UNSET else batch.clk
        key = (node, topic.device, topic.name, batch.ep, clk, late, *batch.f)
        rows = self._rows.get(key)
        if rows is None:
            rows = self._rows[key] = Rows(
                node, topic.device, topic.name, batch.ep, clk, late, message.recv_ms, offset=offset
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
        if event.no is not msgspec.UNSET:
            self._draft.number(node, event.ep, event.no, f"event/{topic.device}/{topic.name}", 1)
        if topic.device == NODE_ITSELF and event.type == CUSTODY:
            self._draft.state(node, event, message.recv_ms, self._accepted(node))
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

    def _offset_of(self, node: str) -> Offset:
        found = self._offsets.get(node)
        if found is None:
            found = self._offsets[node] = self._offset(node)
        return found

    def _quarantine(self, one: Received, why: str) -> None:
        """Keep a trace of it; acknowledge it as lost when its node has it so, or it would come for ever.

        A second arrival proves that: of what was damaged on the way, a good one follows.
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
        account = self._draft.accounts.get(key) or self._ledger.account(key)
        if account is not None and number.seq in account.stored:
            self._digest.acked.setdefault(key, Ranges()).add(number.seq)  # a good copy was here before
            return
        if not self._suspects.is_proven(key[0], message):
            return
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
            yield (
                topic,
                seal(encode(Ack(ep=ep, ok=whole[at : at + ACK_RANGES], packs=True, by=by, ts=now_ms))),
            )


def _require_number(body: Batch | Event) -> None:
    if not body.ep or not body.seq:
        raise WireError("not numbered: ep and seq are needed")


def _number(body: bytes) -> _Number | None:
    if len(body) > MAX_BODY:
        return None
    try:
        number = msgspec.json.decode(unsealed(plain(body)), type=_Number)
    except (msgspec.MsgspecError, WireError, UnicodeDecodeError, RecursionError):
        return None
    hexadecimal = 8 <= len(number.ep) <= 32 and not set(number.ep) - set("0123456789abcdef")
    return number if hexadecimal and 1 <= number.seq <= 2**62 else None
