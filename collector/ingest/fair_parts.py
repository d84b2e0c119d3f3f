"""Equal parts of what can be stored, one for each node: an overloaded collector refuses what exceeds them."""

from __future__ import annotations

from collections.abc import Hashable

PART = 0.9  # of what can be stored; what is left goes to the first that send
BURST_S = 8.0  # a node may save up its part for this time, and owe it for DEBT_S
DEBT_S = 16.0
PACK_DEBT_S = 120.0  # the same for the messages of packs: one pack may be 1,000 times the part of a second
COMEBACK = 2.0  # messages that a node may send when it comes back
NODES = 50_000  # further ones share a part
_WINDOW_S = 30.0  # a node that sent within the last two windows counts as active


class _Node:
    __slots__ = ("at_s", "level", "window")

    def __init__(self, now_s: float) -> None:
        self.level = 1.0
        self.at_s = now_s
        self.window = -1


class FairParts:
    """A bucket of messages for each node, filled with its part; for one thread. Times are of a steady clock.

    A bucket holds one message at least: in a wide fleet a node sends less often than one burst lasts.
    """

    def __init__(self) -> None:
        self.per_s = 0.0  # what can be stored, messages a second
        self._nodes: dict[Hashable, _Node] = {}
        self._window = -1
        self._active = self._before = 0

    def take(self, node: Hashable, now_s: float, *, has_room: bool) -> float:
        """Charge a message to a node. Returns 0 when it may pass, else how many seconds the node should wait.

        A node below its part always passes, the others while there is room.
        """
        one = self._nodes.get(node)
        if one is None:
            node = node if len(self._nodes) < NODES else None
            one = self._nodes.setdefault(node, _Node(now_s))
        part = self._refill(one, now_s)
        if one.level > 0 or has_room:
            self._charge(one, 1, part * DEBT_S)
            return 0.0
        return (COMEBACK - one.level) / part

    def charge(self, node: Hashable, messages: int) -> None:
        """Charge further messages of a publication that passed, as those of a pack."""
        one = self._nodes.get(node) or self._nodes.get(None)
        if one is not None:
            self._charge(one, messages, self._part * PACK_DEBT_S)

    @property
    def _part(self) -> float:
        return max(PART * self.per_s / max(self._active, self._before, 1), 1e-6)

    def _refill(self, one: _Node, now_s: float) -> float:
        window = int(now_s / _WINDOW_S)
        if self._window != window:
            self._before = self._active if self._window == window - 1 else 0
            self._window, self._active = window, 0
        if one.window != window:
            one.window = window
            self._active += 1
        part = self._part
        passed_s, one.at_s = now_s - one.at_s, now_s
        one.level = min(max(1.0, part * BURST_S), one.level + passed_s * part)
        return part

    def _charge(self, one: _Node, messages: int, most_owed: float) -> None:
        one.level = max(one.level - messages, min(one.level, -max(1.0, most_owed)))
