"""The content of one commit: rows, events, quarantined bytes, node states, and the ledger's marks."""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec import Struct

from collector.store.chunk import ChunkRows
from collector.store.marks import Account

HEAD_BYTES = 512  # of a quarantined body that is kept
TOPIC_CHARS = 256


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event for the store; `body` is its JSON without the fields that have columns.

    An event that was stored before brings its seal, also a wrong one.
    """

    node: str
    device: str
    type: str
    sev: int
    ts: int
    recv: int
    ep: str
    seq: int
    body: bytes
    seal: bytes | None = None


class Quarantined(Struct, frozen=True):
    """A message that was not stored, and why; `head` is the first bytes of its body."""

    recv: int
    topic: str
    why: str
    size: int
    head: bytes = b""


@dataclass(slots=True)
class Group:
    """The content of one transaction."""

    at_ms: int
    rows: list[ChunkRows] = field(default_factory=list)  # with the bodies of their messages
    events: list[EventRow] = field(default_factory=list)
    quarantine: list[Quarantined] = field(default_factory=list)
    states: dict[str, bytes] = field(default_factory=dict)  # the newest wins; b"" removes
    marks: list[Account] = field(default_factory=list)
    custody: dict[str, bytes] = field(default_factory=dict)  # states that go with the marks


@dataclass(slots=True)
class Saved:
    """What a store saved: all that a collector needs to continue after a restart."""

    marks: list[Account] = field(default_factory=list)
    states: dict[str, bytes] = field(default_factory=dict)
    quarantined: int = 0
