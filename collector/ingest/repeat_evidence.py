"""Messages that could not be taken, until it is known whether they were sent so or damaged on the way."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from collector.mqtt.link import Incoming

AGAIN_MS = 10_000  # a node sends again after 30 s; what a broker or a stranger repeats comes sooner
PER_NODE = 600  # more than a node has on its way
NODES = 200


class Suspects:
    """Remembers when a bad body came first. Bounded: the nodes that were heard of last, the newest of each.

    Damage on the way does not strike twice at the same place: what arrives a second time with the very same
    bytes is what its node has. Repetition by the broker says nothing, so `dup` does not count, nor does what
    follows at once: a broker that was killed has forgotten that it had sent it.
    """

    def __init__(self) -> None:
        self._nodes: OrderedDict[str, OrderedDict[bytes, int]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._nodes.values()))

    def is_proven(self, node: str, message: Incoming) -> bool:
        """Whether these bytes came before on this topic, long enough ago to have been sent twice."""
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
