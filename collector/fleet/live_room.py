"""The room of nodes and tenants for newest values, status and birth, which are kept in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Literal

ENTRY_BYTES = 200  # about what a topic takes besides its body
NODE_KB, TENANT_KB = 1_000, 200_000
ALL_KB = 1_000_000


class LiveRoom:
    """Counts bytes by node and tenant. A tenant leaves as much free as it uses, so others find room too."""

    def __init__(self, node_kb: int = NODE_KB, tenant_kb: int = TENANT_KB) -> None:
        self._node, self._tenant = 1000 * node_kb, 1000 * tenant_kb
        self._most = max(1000 * ALL_KB, 3 * self._tenant)
        self._sizes: dict[str, dict[Hashable, int]] = {}  # node -> topic -> bytes
        self._nodes: Counter[str] = Counter()
        self._tenants: Counter[str] = Counter()
        self._total = 0

    def take(self, tenant: str, node: str, topic: Hashable, size: int) -> Literal["", "node", "tenant"]:
        """Reserve bytes, instead of those that the topic had; returns whose share is exceeded, or ""."""
        known = self._sizes.get(node, {})
        more = size + ENTRY_BYTES - known.get(topic, 0)
        if more > 0:
            if self._nodes[node] + more > self._node:
                return "node"
            used, free = self._tenants[tenant] + more, self._most - self._total - more
            if used > self._tenant or self._tenants[tenant] > free:
                return "tenant"
        self._sizes.setdefault(node, known)[topic] = size + ENTRY_BYTES
        self._count(tenant, node, more)
        return ""

    def free(self, node: str, topic: Hashable) -> None:
        """Give back what a topic had."""
        size = self._sizes.get(node, {}).pop(topic, 0)
        self._count(node.partition("/")[0], node, -size)

    def _count(self, tenant: str, node: str, more: int) -> None:
        self._nodes[node] += more
        self._tenants[tenant] += more
        self._total += more
