"""Builds one group from received messages: decodes, removes duplicates, gathers by stream, quarantines."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct

from collector.ingest.in_hand import SET_ASIDE
from collector.ingest.refusal import Refusal, ShareExceeded
from collector.ingest.repeat_evidence import RepeatEvidence
from collector.ingest.share_limits import Shares
from collector.ingest.shares import EVENT_BYTES, ContentShares
from collector.ingest.unpack import NUMBERED
from collector.ledger.accepted_keys import NodeKeys
from collector.ledger.ledger import Draft, DraftRefused, Ledger
from collector.mqtt.received import Received
from collector.store.chunk import CHUNK_ROWS, ChunkRows
from collector.store.clock_skew import Offset
from collector.store.group import HEAD_BYTES, TOPIC_CHARS, EventRow, Group, Quarantined
from collector.store.marks import Account, Key
from wire.codec import decode_plain, encode, first_bytes, plain, seal, unsealed
from wire.custody import CUSTODY
from wire.errors import WireError
from wire.messages import MAX_BODY, MAX_DEPTH, Ack, Batch, Event
from wire.ranges import Range, Ranges
from wire.topics import NODE_ITSELF, ROOT, Topic

LATE_MS = 10_000  # rows that arrive longer after their time count as back-filled
GROUP_BYTES = 16_000_000  # before compression; a group ends with the message that passes a limit
GROUP_VALUES = 1_000_000
ACK_RANGES = 1_000  # per message: keeps an ack within the size that any broker takes
_EARLIEST_US, _LATEST_US = 0, 253_402_300_799_999_000
_EP, _SEQ = re.compile(rb'"ep":"([0-9a-f]{8,32})"'), re.compile(rb'"seq":(\d{1,18})\b')
_NOT_NUMBERED = "not numbered: ep and seq are needed"
_EVENT_HEAD = ("v", "ep", "seq", "no", "ts", "type", "sev")


class _Number(Struct):
    """The number of a body that cannot be decoded as a whole."""

    ep: str = ""
    seq: int = 0


@dataclass(slots=True)
class BuiltGroup:
    """A group, the drafts of its accounts, and what to acknowledge once the group is on disk."""

    group: Group
    drafts: list[Account] = field(default_factory=list)
    acked: defaultdict[Key, Ranges] = field(default_factory=partial(defaultdict, Ranges))
    stored: int = 0
    duplicates: int = 0
    rows: int = 0
    taken: int = 0  # messages that were handled; the others did not fit into this group
    refused: list[str] = field(default_factory=list)  # why a message was neither stored nor acknowledged
    exceeded: list[tuple[Received, Refusal]] = field(default_factory=list)  # likewise, beyond a share


class GroupBuilder:
    """Builds one group. `evidence` outlives it: it holds which bad bodies arrived before."""

    def __init__(
        self,
        ledger: Ledger,
        offset: Callable[[str], Offset],
        now_ms: int,
        *,
        keys: NodeKeys | None = None,
        evidence: RepeatEvidence | None = None,
        shares: ContentShares | None = None,
    ) -> None:
        self._ledger = ledger
        self._draft = Draft(ledger)
        self._evidence = RepeatEvidence() if evidence is None else evidence
        self._keys = NodeKeys() if keys is None else keys
        self._offset = offset
        self._offsets: dict[str, Offset] = {}
        self._rows: dict[tuple[Any, ...], ChunkRows] = {}
        self._full: list[ChunkRows] = []
        self._built = BuiltGroup(Group(now_ms))
        self._shares = ContentShares(Shares()) if shares is None else shares
        self._bytes = self._values = 0

    def build(self, received: Iterable[Received]) -> BuiltGroup:
        """Take every message until the group is full, whatever it contains; a bad message raises nothing."""
        for one in received:
            if self._bytes >= GROUP_BYTES or self._values >= GROUP_VALUES:
                break
            self._built.taken += 1
            try:
                self._take(one)
            except ShareExceeded as error:
                self._built.exceeded.append((one, error.refusal))
            except WireError as error:
                self._quarantine(one, str(error))
            except DraftRefused as error:
                self._built.refused.append(str(error))
        built, group = self._built, self._built.group
        group.rows = [*self._full, *self._rows.values()]
        group.custody = self._draft.statements.saved()
        built.drafts = list(self._draft.accounts.values())
        return built

    def _take(self, message: Received) -> None:
        topic = message.parsed
        if message.fault or topic is None:
            raise WireError(message.fault)
        if len(message.body) > MAX_BODY:
            raise WireError(f"body of {len(message.body)} bytes; {MAX_BODY} are allowed")
        text, node = plain(message.body), topic.address.text
        values = 1 + text.count(b",")
        self._bytes += len(text)
        refusal = self._shares.check_values(topic.address.tenant, node, values)
        if refusal is not None:
            raise ShareExceeded(refusal)
        self._values += values
        if topic.cls == "data":
            self._data(topic, node, message, text)
        else:
            self._event(topic, node, message, text)

    def _data(self, topic: Topic, node: str, message: Received, text: bytes) -> None:
        batch = decode_plain(text, Batch)
        if not batch.ep or not batch.seq:
            raise WireError(_NOT_NUMBERED)
        oldest_us, newest_us = batch.span_us()
        if newest_us > _LATEST_US or oldest_us < _EARLIEST_US:
            raise WireError("rows before 1970 or after 9999")
        refusal = self._shares.check_rows(node, topic.device, topic.name, batch.f)
        if refusal is not None and not self._is_stored((node, batch.ep), batch.seq):
            raise ShareExceeded(refusal)
        if not self._count(node, batch.ep, batch.seq, len(batch), message.recv_ms):
            return
        if batch.no is not msgspec.UNSET:
            stream = f"data/{topic.device}/{topic.name}"
            self._draft.number(node, batch.ep, batch.no, stream, len(batch))
        offset = self._offsets.get(node)
        if offset is None:
            offset = self._offsets[node] = self._offset(node)
        late = message.recv_ms - (offset.skew_ms or 0) - newest_us // 1000 > LATE_MS
        clk = -1 if batch.clk is msgspec.UNSET else batch.clk
        key = (node, topic.device, topic.name, batch.ep, clk, late, *batch.f)
        rows = self._rows.get(key)
        if rows is None:
            rows = self._rows[key] = ChunkRows(
                node, topic.device, topic.name, batch.ep, clk, late, message.recv_ms, offset=offset
            )
        rows.add(batch, _lasting(batch, message.body, text), len(text))
        self._built.rows += len(batch)
        if rows.count >= CHUNK_ROWS:
            self._full.append(self._rows.pop(key))

    def _event(self, topic: Topic, node: str, message: Received, text: bytes) -> None:
        event = decode_plain(text, Event)
        if not event.ep or not event.seq:
            raise WireError(_NOT_NUMBERED)
        refusal = self._shares.check_disk(node)
        if refusal is not None and not self._is_stored((node, event.ep), event.seq):
            raise ShareExceeded(refusal)
        if event.lost and self._draft.is_new(node, event.ep, event.seq):
            self._draft.lose(node, event.ep, event.lost, event.why or "no reason given")
        if not self._count(node, event.ep, event.seq, 1, message.recv_ms):
            return
        if event.no is not msgspec.UNSET:
            self._draft.number(node, event.ep, event.no, f"event/{topic.device}/{topic.name}", 1)
        if topic.device == NODE_ITSELF and event.type == CUSTODY:
            self._draft.state(
                node, event, message.recv_ms, self._keys.of(node), is_closed=self._keys.is_closed(node)
            )
        body = msgspec.to_builtins(event)
        for name in _EVENT_HEAD:
            body.pop(name, None)
        self._built.group.events.append(
            EventRow(
                node, topic.device, topic.name, event.sev, event.ts, message.recv_ms, event.ep, event.seq,
                msgspec.json.encode(body),
            )
        )  # fmt: skip
        self._shares.stored(node, EVENT_BYTES + len(text))
        self._built.rows += 1

    def _is_stored(self, key: Key, seq: int) -> bool:
        """Whether a message is stored; a copy of it is acknowledged, whatever share it exceeds."""
        account = self._draft.accounts.get(key) or self._ledger.account(key)
        return account is not None and seq in account.stored

    def _count(self, node: str, ep: str, seq: int, rows: int, recv_ms: int) -> bool:
        """Whether the message is new; it is acknowledged either way."""
        new = self._draft.add(node, ep, seq, rows, recv_ms)
        self._built.acked[node, ep].add(seq)
        self._built.stored += new
        self._built.duplicates += not new
        return new

    def _quarantine(self, message: Received, why: str) -> None:
        """Keep the beginning of a bad message; declare its number lost if the node itself holds these bytes.

        Without that the node would send it without end. A second arrival of the same bytes proves it: after
        damage on the way, the next copy is good.
        """
        topic = message.parsed
        self._built.group.quarantine.append(
            Quarantined(
                message.recv_ms,
                message.topic[:TOPIC_CHARS],
                why,
                len(message.body),
                message.body[:HEAD_BYTES],
            )
        )
        number = None
        if topic is not None and topic.cls in NUMBERED:
            number = _head_number(message.body) if why.startswith(SET_ASIDE) else _number(message.body)
        if number is None or topic is None:
            return
        key = (topic.address.text, number.ep)
        if self._is_stored(key, number.seq):
            self._built.acked[key].add(number.seq)  # a good copy is stored already
            return
        if not self._evidence.is_proven(key[0], message):
            return
        try:
            self._draft.lose(*key, [(number.seq, number.seq)], f"quarantined: {why}"[:200])
        except DraftRefused as error:
            self._built.refused.append(str(error))
            return
        self._built.acked[key].add(number.seq)


def _lasting(batch: Batch, body: bytes, text: bytes) -> bytes:
    """The body of a message for the store, where it is decoded again; without fields that nest deep.

    The decoder skips unknown fields by recursion: what it takes here would fail where more calls are open.
    """
    brackets = text.count(b"[") + text.count(b"{")
    return body if brackets <= len(batch.f) + MAX_DEPTH else encode(batch)


def acks(
    acked: Mapping[Key, Ranges], by: str, now_ms: int, highest: Callable[[Key], int]
) -> Iterable[tuple[str, bytes]]:
    """Topic and body of each ack, ranges joined per (node, ep); `highest` gives the highest stored number."""
    for (node, ep), ranges in acked.items():
        whole: list[Range] = list(ranges)
        top = highest((node, ep))
        ahead = top if top > ranges.highest() else msgspec.UNSET
        for at in range(0, len(whole), ACK_RANGES):
            ok = whole[at : at + ACK_RANGES]
            ack = Ack(ep=ep, ok=ok, packs=True, by=by, ts=now_ms, ahead=ahead)
            yield f"{ROOT}/{node}/ack", seal(encode(ack))


def _head_number(body: bytes) -> _Number | None:
    """The number in the first bytes of a body that must not be decoded."""
    head = first_bytes(body, HEAD_BYTES)
    ep, seq = _EP.search(head), _SEQ.search(head)
    return _Number(ep[1].decode(), int(seq[1])) if ep and seq else None


def _number(body: bytes) -> _Number | None:
    if len(body) > MAX_BODY:
        return None
    try:
        number = msgspec.json.decode(unsealed(plain(body)), type=_Number)
    except (msgspec.MsgspecError, WireError, UnicodeDecodeError, RecursionError):
        return None
    hexadecimal = 8 <= len(number.ep) <= 32 and not set(number.ep) - set("0123456789abcdef")
    return number if hexadecimal and 1 <= number.seq <= 2**62 else None
