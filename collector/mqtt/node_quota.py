"""Limits how much each node may publish in a second; it needs only the topic, so a flood is not decoded."""

from __future__ import annotations

PER_S = 2_000  # publications; a node sends one a second for each of its streams, and its backlog in packs
_TOPICS = 50_000  # with a cached node


class NodeQuota:
    """For one thread: call `turn` with the time of a steady clock (s), then `admits` for each publication."""

    def __init__(self, per_s: int = PER_S) -> None:
        self._per_s = per_s
        self._second = 0
        self._used: dict[bytes, int] = {}
        self._nodes: dict[bytes, bytes] = {}

    def turn(self, now_s: float) -> None:
        """Set the time; every node gets a new share each second."""
        second = int(now_s)
        if second != self._second:
            self._second = second
            self._used.clear()

    def admits(self, topic: bytes) -> bool:
        """Count a publication; False when its node's share of this second is used up."""
        node = self._nodes.get(topic) or self._node_of(topic)
        used = self._used[node] = self._used.get(node, 0) + 1
        return used <= self._per_s

    def _node_of(self, topic: bytes) -> bytes:
        if len(self._nodes) >= _TOPICS:
            self._nodes.clear()
        node = self._nodes[topic] = b"/".join(topic.split(b"/", 5)[:5])
        return node
