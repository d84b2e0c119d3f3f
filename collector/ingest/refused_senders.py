"""Counts refused messages by sender, so that each sender can be named, the worst first."""

from __future__ import annotations

from dataclasses import dataclass

from wire.reasons import NO_REASON, Reason

MOST = 2_000  # senders: an unknown client may invent names
KEPT_S = 60.0  # since the last refused message of a sender


@dataclass(slots=True)
class RefusedSender:
    """How many messages of a sender were refused, and why the last one was."""

    name: str
    count: int = 0
    why: Reason = NO_REASON
    last_s: float = 0.0
    is_new: bool = False


class RefusedSenders:
    """Senders with refused messages; those with the fewest are dropped first. For one thread."""

    def __init__(self) -> None:
        self._all: dict[str, RefusedSender] = {}

    def add(self, name: str, why: Reason, now_s: float) -> bool:
        """Count a refused message of a sender; whether it is its first since the last `take_new`."""
        one = self._all.get(name)
        if one is None:
            if len(self._all) >= MOST:
                self._all = {each.name: each for each in self._worst_first()[: MOST // 2]}
            one = self._all[name] = RefusedSender(name)
        one.count += 1
        was_new, one.is_new = one.is_new, True
        one.why, one.last_s = why, now_s
        return not was_new

    def take_new(self, now_s: float) -> list[RefusedSender]:
        """The senders with messages that were refused since the last call, the worst first."""
        self._all = {name: one for name, one in self._all.items() if now_s - one.last_s < KEPT_S}
        found = [one for one in self._worst_first() if one.is_new]
        for one in found:
            one.is_new = False
        return found

    def _worst_first(self) -> list[RefusedSender]:
        return sorted(self._all.values(), key=lambda one: -one.count)
