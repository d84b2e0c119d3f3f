"""A message as the link received it."""

from __future__ import annotations

from msgspec import Struct

from wire.topics import Topic


class Received(Struct):
    """A message as it arrived; `token` settles it: (connection, mid), or None for QoS 0.

    `dup`: by its flag the broker may have delivered it before. The ingest adds the parsed topic, and a
    `fault` where the message cannot be stored but is kept in the quarantine.
    """

    topic: str
    body: bytes
    recv_ms: int
    retained: bool
    token: tuple[int, int] | None
    dup: bool = False
    parsed: Topic | None = None
    fault: str = ""
