"""Recognises what a payload is that an adapter cannot read, so that the state of the device can name it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

_SHOWN = 40  # characters or bytes that a text shows
_MAX_FIELD = 536_870_911  # the largest field number of protobuf
_LOOKED_AT = 65_536  # bytes


def kind_of(topic: str, body: bytes) -> str:
    """What a payload is, in words such as "Sparkplug B payload"; only a guess for binary payloads."""
    if not body:
        return "empty payload"
    body = body[:_LOOKED_AT]
    text = _text(body)
    if text is not None:
        return _kind_of_text(text)
    if topic.startswith("spBv1.0/"):
        return "Sparkplug B payload"
    for kind, fits in _BINARY:
        if fits(body):
            return kind
    more = " ..." if len(body) > 8 else ""
    return f"payload of bytes that are not text ({body[:8].hex(' ')}{more})"


def _kind_of_text(text: str) -> str:
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return f"the text {_short(text.strip())!r}"
    if isinstance(found, dict):
        return "JSON object"
    if isinstance(found, list):
        return f"JSON array of {len(found)}"
    return f"the single value {_short(text.strip())}"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _text(body: bytes) -> str | None:
    """The payload as text; None if it is not UTF-8 or contains other control characters than white space."""
    try:
        text = body.decode("utf-8-sig", errors="strict" if len(body) < _LOOKED_AT else "ignore")
    except UnicodeDecodeError:
        return None
    return None if any(sign < " " and sign not in "\t\r\n\f" for sign in text) else text


def _is_utf16(body: bytes) -> bool:
    """Whether every second byte is 0, as in UTF-16 of European text."""
    return len(body) >= 4 and (not any(body[1::2]) or not any(body[::2])) and any(body)


def _is_msgpack(body: bytes) -> bool:
    try:
        return isinstance(msgspec.msgpack.decode(body), dict | list)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False


def _is_protobuf(body: bytes) -> bool:
    """Whether the payload has the form of protobuf fields; the last one may be cut off."""
    at, fields = 0, 0
    while at < len(body):
        tag, at = _varint(body, at)
        wire_type, number = tag & 7, tag >> 3
        if not 1 <= number <= _MAX_FIELD:
            return False
        if wire_type == 0:
            value, at = _varint(body, at)
            if value < 0:
                return fields > 0
        elif wire_type == 2:
            length, at = _varint(body, at)
            if length < 0:
                return fields > 0
            at += length
        elif wire_type in (1, 5):
            at += 8 if wire_type == 1 else 4
        else:
            return False
        fields += 1
    return fields > 0


def _varint(body: bytes, at: int) -> tuple[int, int]:
    """A variable-length number and the place after it; -1 if it is cut off or too long."""
    number = 0
    for nth in range(10):
        if at + nth >= len(body):
            return -1, len(body)
        number |= (body[at + nth] & 0x7F) << (7 * nth)
        if body[at + nth] < 0x80:
            return number, at + nth + 1
    return -1, len(body)


def _is_cbor(body: bytes) -> bool:
    """Whether the payload begins like a map whose first key is a text."""
    return len(body) > 1 and 0xA1 <= body[0] <= 0xB7 and 0x61 <= body[1] <= 0x77


_BINARY: tuple[tuple[str, Callable[[bytes], bool]], ...] = (
    ("gzip payload", lambda body: body[:2] == b"\x1f\x8b"),
    ("zlib payload", lambda body: body[0] == 0x78 and int.from_bytes(body[:2], "big") % 31 == 0),
    ("UTF-16 text without a byte order mark", _is_utf16),
    ("MessagePack payload", _is_msgpack),
    ("CBOR payload", _is_cbor),
    ("protobuf payload", _is_protobuf),
)
