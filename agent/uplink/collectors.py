"""Collectors: which of the named ones is behind, and when what it lacks is sent again."""

from __future__ import annotations

from collections.abc import Iterable

from agent.uplink.in_flight import RESEND_MAX_S, RESEND_S

AWAY_S = 5.0  # a collector that acknowledges nothing for this time while another does is away
SETTLE_S = 10.0  # a collector that is back gets what its broker kept before anything is sent again
SILENT_S = 300.0  # from here on the state of the node names it


class Collectors:
    """The collectors of `outbox.ack_from`, without the network. Times are seconds of a steady clock."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        self._behind_s: dict[str, float] = {}  # since when it lacks something and acknowledges nothing
        self._refusing_s: dict[str, float] = {}  # until when it refuses everything
        self._back_s = 0.0  # time a collector that was away acknowledged again
        self._next_s: float | None = None  # of the next rewind
        self._pause_s = RESEND_S

    def counts(self, by: str) -> bool:
        """Whether acknowledgements of this collector count."""
        return not self.names or by in self.names

    def acked(self, by: str, lacking: Iterable[str], now_s: float) -> None:
        """Note an acknowledgement by one collector of numbers that the collectors `lacking` do not have."""
        if now_s - self._behind_s.pop(by, now_s) >= AWAY_S:
            self._back_s = now_s
        for name in lacking:
            self._behind_s.setdefault(name, now_s)

    def refused(self, by: str, wait_s: float, now_s: float) -> float:
        """Note that a collector takes nothing for a time; returns for how long none takes anything."""
        if not self.names:
            return wait_s
        self._refusing_s[by] = now_s + wait_s
        return max(0.0, min(self._refusing_s.get(name, 0.0) for name in self.names) - now_s)

    def is_away(self, now_s: float) -> bool:
        """Whether a collector is away: what only it lacks need not wait in memory."""
        return any(now_s - since_s >= AWAY_S for since_s in self._behind_s.values())

    def behind(self, now_s: float) -> tuple[str, float] | None:
        """The collector that has been silent for longest, and its seconds, from five minutes on."""
        since_s, name = min(((at_s, name) for name, at_s in self._behind_s.items()), default=(now_s, ""))
        return (name, now_s - since_s) if now_s - since_s >= SILENT_S else None

    def is_rewind_due(self, now_s: float, *, aside: bool) -> bool:
        """Whether to read again what was set aside; True counts as done. Intervals double up to 10 min."""
        if not aside:
            if self._next_s is not None and now_s > self._next_s:  # nothing was set aside since the last one
                self._next_s, self._pause_s = None, RESEND_S
            return False
        if self._next_s is None:
            self._next_s = now_s + self._pause_s
        if now_s < self._next_s or now_s < self._back_s + SETTLE_S or self.is_away(now_s):
            return False
        self._pause_s = min(2 * self._pause_s, RESEND_MAX_S)
        self._next_s = now_s + self._pause_s
        return True
