"""Where a pipeline puts its output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.outbox import Message
from wire.messages import Live, Snapshot


def _drop(*_: object) -> None:
    """Ignore an output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sinks:
    """Where a pipeline puts its output; each default drops it.

    `send` takes durable messages and must return at once; `live` and `snap` may drop a message.
    `changed` is called when a model's state changes, `declared` when there are new streams. `state` is the
    folder below which samples are kept.
    """

    send: Callable[[Message], object] = _drop
    live: Callable[[str, str, Live], None] = _drop
    snap: Callable[[str, str, Snapshot], None] = _drop
    changed: Callable[[], None] = _drop
    declared: Callable[[], None] = _drop
    state: Path | None = None
