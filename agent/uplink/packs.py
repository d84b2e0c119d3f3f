"""Small messages of a backlog in one publication, and out of it again where nobody took it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from agent.uplink.in_flight import Sent
from wire.codec import compress, decode
from wire.messages import MAX_PACKED, Pack

PLAIN_MIN, PLAIN_MAX = 4_096, 48_000  # bytes of a pack before compression
_LARGE = 8_192  # bytes of a body: larger ones gain nothing
_NESTED = 500  # brackets opened: a reader's recursion ends somewhere, and a pack is deeper than what is in it
GUESS = 4.0  # so many times smaller a pack is compressed, until one was
_HEAD, _TAIL = b'{"v":1,"m":[', b"]}"


def packed(base: str, messages: Iterable[tuple[int, str, bytes]], size: int) -> Iterator[Sent]:
    """Seq, topic after the node and body of each message into packs of about `size` bytes, in their order."""
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
    """The messages of a pack that nobody acknowledged, one by one."""
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
