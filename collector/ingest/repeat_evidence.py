"""Decides whether a bad message is bad at its node or was damaged on the way."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from collector.mqtt.received import Received

AGAIN_MS = 10_000  # a node sends again after 30 s; a repetition by the broker or another client comes sooner
PER_NODE = 600  # more than a node has in flight
NODES = 200


class RepeatEvidence:
    """Remembers when a bad body arrived first; bounded to the newest nodes and the newest bodies of each.

    Damage on the way does not strike twice at the same place, so a body that arrives a second time unchanged
    is what its node holds. A repetition by the broker proves nothing: `dup` does not count, and neither does
    a copy that follows at once, because a broker that was killed has forgotten that it sent the first.
    """

    def __init__(self) -> None:
        self._nodes: OrderedDict[str, OrderedDict[bytes, int]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._nodes.values()))

    def is_proven(self, node: str, message: Received) -> bool:
        """Whether these bytes arrived on this topic before, long enough ago to have been sent twice."""
        if message.dup:
            return False
        known = self._nodes.setdefault(node, OrderedDict())
        self._nodes.move_to_end(node)
        if len(self._nodes) > NODES:
            self._nodes.popitem(last=False)
        name = hashlib.blake2b(message.topic.encode() + b"\0" + message.body, digest_size=16).digest()
        first_ms = known.setdefault(name, message.recv_ms)
        if message.recv_ms < first_ms:  # the collector's clock was set back
            known[name] = message.recv_ms
        if len(known) > PER_NODE:
            known.popitem(last=False)
        return message.recv_ms - first_ms >= AGAIN_MS
