"""The seal of a stored event: a checksum over all its columns, with its place and time as they were stored.

It finds damage and a change by hand. Somebody who makes the seal again as well is not found.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import msgspec

COLUMNS = "node, device, type, sev, ts, recv, ep, seq, body"  # what a seal covers
SEALED = f"{COLUMNS}, seal"
_COUNT = COLUMNS.count(",") + 1
_PLACE = 4  # bytes; 8 of the time and 4 of the checksum follow
_BYTES = 16


def seal(columns: Sequence[Any]) -> bytes:
    """The seal of an event, of its `COLUMNS`; seals of one place are in the order of time."""
    node, device, kind, _, ts, *_ = columns
    head = begins(node, device, kind, ts)
    return head + _sum(head, columns)


def begins(node: str, device: str, kind: str, ts_ms: int) -> bytes:
    """How the seals of the events of a place and time begin."""
    place = zlib.crc32(msgspec.msgpack.encode((node, device, kind)))
    return place.to_bytes(_PLACE, "big") + ts_ms.to_bytes(_BYTES - _PLACE - 4, "big")


def is_changed(row: Sequence[Any]) -> bool:
    """Whether an event is not as it was stored; `row` has `SEALED`, or `COLUMNS` of a file without seals."""
    columns, stored = row[:_COUNT], row[_COUNT:]
    return bool(stored) and not (_is_whole(stored[0]) and stored[0][-4:] == _sum(stored[0][:-4], columns))


def sealed_ms(stored: Any, node: str, device: str, kind: str) -> int | None:
    """When an event of this place happened by its seal; None of another place, or if it cannot be read."""
    if not _is_whole(stored) or stored[:_PLACE] != begins(node, device, kind, 0)[:_PLACE]:
        return None
    return int.from_bytes(stored[_PLACE:-4], "big")


def _is_whole(stored: Any) -> bool:
    return isinstance(stored, bytes) and len(stored) == _BYTES


def _sum(head: bytes, columns: Sequence[Any]) -> bytes:
    return zlib.crc32(msgspec.msgpack.encode(columns), zlib.crc32(head)).to_bytes(4, "big")
