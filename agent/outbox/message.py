"""The one type that crosses from pipeline to outbox: a body on its way to a topic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wire.messages import Batch, Event


@dataclass(frozen=True, slots=True)
class Message:
    """A batch of readings or an event of one device, before it has a number.

    `device` is `_` for the node itself; `name` is the stream of a batch or the type of an event. The body
    belongs to the outbox from `Outbox.append` on, which writes `ep` and `seq` into it. `offset_ns` is wall
    minus monotonic clock when its times were taken; None: they are as new as the message.
    """

    cls: Literal["data", "event"]
    device: str
    name: str
    body: Batch | Event
    offset_ns: int | None = None

    @property
    def rows(self) -> int:
        """Rows of a batch; an event counts as one."""
        return len(self.body) if isinstance(self.body, Batch) else 1

    @property
    def unsynced(self) -> bool:
        """Whether the times in the body came from a clock that nobody had set yet."""
        return self.body.clk == 0
