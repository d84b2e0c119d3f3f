"""A fast decoder of PublishResponse, the OPC UA message that carries the values.

A general decoder builds a tree of objects for each value; at 900 values a second that is most of the work of
the adapter. This one decodes scalar numbers, which sensors send, and returns None for anything else, which
the general decoder then reads. The layouts are those of OPC UA Part 6, 5.2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import lru_cache

_FILETIME_OF_UNIX = 116_444_736_000_000_000  # 1601-01-01 to 1970-01-01 in ticks of 100 ns
_PUBLISH_RESPONSE = 829  # numeric ids of the binary encodings, OPC UA Part 6, annex A
_DATA_CHANGE = 811
_STATUS_CHANGE = 820
_MAX_LIST = 1_000_000  # entries; a longer list is a damaged byte

# (client handle, value, status code, source time, server time); times in Unix ns, None where not sent
Item = tuple[int, float | int | bool | None, int, int | None, int | None]


@dataclass(slots=True)
class Published:
    """The content of a PublishResponse; empty `items` without `ended` is a keep-alive."""

    subscription: int
    sequence: int
    items: list[Item] = field(default_factory=list)
    ended: int = 0  # status code of a StatusChangeNotification: the server ends the subscription


def decode(body: bytes) -> Published | None:
    """Decode the body of a PublishResponse; None where it contains anything but scalar numbers.

    Raises:
        ValueError: it is not a PublishResponse, or it is cut off.
    """
    try:
        return _decode(body)
    except (struct.error, IndexError, OverflowError) as error:
        raise ValueError(f"a PublishResponse of {len(body)} bytes is cut off or broken: {error}") from error


def _decode(body: bytes) -> Published | None:
    kind, at = _numeric_id(body, 0)
    if kind != _PUBLISH_RESPONSE:
        raise ValueError(f"message type {kind} instead of a PublishResponse")
    if (at := _after_header(body, at)) < 0:
        return None
    (subscription,) = _U32.unpack_from(body, at)
    at = _after_list(body, at + 4, 4) + 1  # available sequence numbers, more notifications
    sequence, _, notifications = _MESSAGE.unpack_from(body, at)
    at += _MESSAGE.size
    out = Published(subscription, sequence)
    for _ in range(_counted(notifications)):
        kind, at = _numeric_id(body, at)
        encoding, size = body[at], _I32.unpack_from(body, at + 1)[0]
        at += 5
        end = at + size
        if encoding != 1 or size < 0 or end > len(body):
            raise ValueError("a notification without a body")
        if kind == _DATA_CHANGE:
            if not _data_change(body, at, end, out.items):
                return None
        elif kind == _STATUS_CHANGE:
            (out.ended,) = _U32.unpack_from(body, at)
        else:
            return None
        at = end
    return out


def _data_change(body: bytes, at: int, end: int, items: list[Item]) -> bool:
    """Append the values of a DataChangeNotification; False where one is not a scalar number."""
    (count,) = _I32.unpack_from(body, at)
    at += 4
    for _ in range(_counted(count)):
        mask = body[at + 4]
        layout = _layout(mask, body[at + 5] if mask & 1 else 0)
        if layout is None:
            return False
        read, value, status, source, server = layout
        found = read.unpack_from(body, at)
        at += read.size
        if at > end:
            raise ValueError("a value extends beyond its notification")
        items.append(
            (
                found[0],
                found[value] if value else None,
                found[status] if status else 0,
                (found[source] - _FILETIME_OF_UNIX) * 100 if source else None,
                (found[server] - _FILETIME_OF_UNIX) * 100 if server else None,
            )
        )
    return True


_I32 = struct.Struct("<i")
_U32 = struct.Struct("<I")
_MESSAGE = struct.Struct("<Iqi")
_HEADER = struct.Struct("<qII")
_SCALARS = {1: "?", 2: "b", 3: "B", 4: "h", 5: "H", 6: "i", 7: "I", 8: "q", 9: "Q", 10: "f", 11: "d"}


@lru_cache(maxsize=512)
def _layout(mask: int, kind: int) -> tuple[struct.Struct, int, int, int, int] | None:
    """The layout of a MonitoredItemNotification of this encoding mask and type: positions, 0 where absent."""
    if mask & 0xC0 or (mask & 1 and kind not in _SCALARS):
        return None
    text, at = "<IB", 2
    value = status = source = server = 0
    if mask & 1:
        text, value, at = text + "B" + _SCALARS[kind], at + 1, at + 2
    for bit, code in ((2, "I"), (4, "q"), (16, "H"), (8, "q"), (32, "H")):
        if mask & bit:
            status, source, server = (
                at if bit == 2 else status,
                at if bit == 4 else source,
                at if bit == 8 else server,
            )
            text, at = text + code, at + 1
    return struct.Struct(text), value, status, source, server


def _numeric_id(body: bytes, at: int) -> tuple[int, int]:
    """A numeric NodeId and the position after it."""
    form = body[at]
    if form == 0:
        return body[at + 1], at + 2
    if form == 1:
        return int.from_bytes(body[at + 2 : at + 4], "little"), at + 4
    if form == 2:
        return int.from_bytes(body[at + 3 : at + 7], "little"), at + 7
    raise ValueError(f"node id form {form} instead of a message or notification type")


def _after_header(body: bytes, at: int) -> int:
    """The position after the ResponseHeader; -1 where it carries diagnostics."""
    at += _HEADER.size
    if body[at] != 0 or _I32.unpack_from(body, at + 1)[0] > 0:
        return -1
    kind, at = _numeric_id(body, at + 5)
    return at + 1 if kind == 0 and body[at] == 0 else -1


def _after_list(body: bytes, at: int, size: int) -> int:
    return at + 4 + size * _counted(_I32.unpack_from(body, at)[0])


def _counted(length: int) -> int:
    if length > _MAX_LIST:
        raise ValueError(f"a list of {length} entries")
    return max(0, length)  # -1 is a null list
