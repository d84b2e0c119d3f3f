"""What a collector refuses of this node: which share is exceeded, and how long to send nothing."""

from __future__ import annotations

from wire.clock import Clock
from wire.messages import Refused

MAX_WAIT_S = 600.0  # whatever the collector asks: the share may have been raised meanwhile
_SHOWN_S = 5.0  # after its end a refusal is a problem for so long: it may come again
# With another code the collector takes a part of the messages: the agent sends the rest again at the usual
# intervals, and holds nothing back.
HOLDING = (
    "share-messages", "share-bytes", "share-values", "share-disk", "share-nodes", "share-overload",
)  # fmt: skip


class Refusal:
    """The newest refusal; the clock of the collector may differ from this node's."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._newest: Refused | None = None
        self._end_s = 0.0

    def note(self, refused: Refused, ts: int) -> float:
        """Note a refusal that was sent at `ts`; returns for how many seconds nothing should be sent."""
        wait_s = max(0.0, (refused.until - ts) / 1000)
        self._newest = refused
        self._end_s = self._clock.monotonic() + wait_s + _SHOWN_S
        return min(wait_s, MAX_WAIT_S) if refused.code in HOLDING else 0.0

    @property
    def current(self) -> Refused | None:
        """The refusal that applies now."""
        if self._newest is not None and self._clock.monotonic() > self._end_s:
            self._newest = None
        return self._newest
