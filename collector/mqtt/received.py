"""A message as the link received it, and who takes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

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


def _all(_topic: bytes, _body: bytes, _now_s: float) -> bool:
    return True


class Probes(Protocol):
    """Learns how long the own probe waits at the broker; the link's thread calls it."""

    def asked(self, number: int) -> None:
        """Probe `number` was sent; numbers rise."""
        ...

    def answered(self, number: int) -> None:
        """Probe `number` came back."""
        ...

    def disconnected(self) -> None:
        """The probes that did not come back never will."""
        ...


@dataclass(frozen=True, slots=True)
class Receiver:
    """Takes the messages of a link, in its thread; nothing here may block.

    While `is_full` nothing is read, so messages wait at the broker. `admits` decides by topic, body and the
    time of a steady clock (s) whether `on_message` gets a message. `probes` measures the wait at the broker.
    """

    on_message: Callable[[Received], None]
    is_full: Callable[[], bool]
    admits: Callable[[bytes, bytes, float], bool] = _all
    probes: Probes | None = None
