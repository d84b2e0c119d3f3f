"""The packets that a client sends most, as bytes: MQTT 5 and 3.1.1, sections 3.3, 3.4 and 3.8."""

from __future__ import annotations

from collections.abc import Iterable

PUBACK_CODES = frozenset({0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99})
_LONGEST = 65_535  # bytes of a string


def publish(
    topic: str, body: bytes, mid: int, *, qos: int, retain: bool, v5: bool, expiry_s: int = 0
) -> bytes:
    """A PUBLISH packet; `mid` counts with QoS 1 only, `expiry_s` with MQTT 5 only (0: none).

    Raises:
        ValueError: nothing can be published on this topic.
    """
    if not topic or "+" in topic or "#" in topic:
        raise ValueError(f"{topic!r} is not a topic to publish on")
    rest = _string(topic)
    if qos:
        rest += mid.to_bytes(2)
    if v5:
        rest += b"\x05\x02" + expiry_s.to_bytes(4) if expiry_s else b"\0"
    return _framed(0x30 | qos << 1 | retain, rest, body)


def subscribe(filters: Iterable[tuple[str, int]], mid: int, *, v5: bool) -> bytes:
    """A SUBSCRIBE packet for topic filters with their QoS."""
    wanted = b"".join(_string(topic) + bytes([qos]) for topic, qos in filters)
    return _framed(0x82, mid.to_bytes(2) + (b"\0" if v5 else b""), wanted)


def _string(text: str) -> bytes:
    raw = text.encode()
    if len(raw) > _LONGEST:
        raise ValueError(f"a topic of {len(raw)} bytes; MQTT allows {_LONGEST}")
    return len(raw).to_bytes(2) + raw


def _framed(first: int, head: bytes, rest: bytes) -> bytes:
    length, left = bytearray([first]), len(head) + len(rest)
    while left > 0x7F:
        length.append(left & 0x7F | 0x80)
        left >>= 7
    length.append(left)
    return bytes(length) + head + rest
