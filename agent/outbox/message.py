"""The message that the pipeline gives to the outbox: a body and the topic it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wire.messages import Batch, Event


@dataclass(frozen=True, slots=True)
class Message:
    """A batch of readings or an event of one device, before it has a number.

    `device` is `_` for the node itself; `name` is the stream of a batch or the type of an event. After
    `Outbox.append` the body belongs to the outbox, which writes `ep` and `seq` into it. `offset_ns` is wall
    clock minus monotonic clock at the time of the readings; None means: the same as now.
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
        """Whether the times in the body came from a clock that had not been set yet."""
        return self.body.clk == 0
