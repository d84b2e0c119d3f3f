"""Token buckets: a node has its own share, and a fair part of the share of its tenant."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Literal, NamedTuple

BURST_S = 4.0  # a bucket holds what its rate gives in this time
RESUME_S = 1.0  # a refused node may continue when its bucket holds what its rate gives in this time
NODES = 50_000  # nodes with a bucket of their own; further ones share a bucket for each tenant
TENANTS = 2_000  # likewise
_WINDOW_S = 10.0  # a node that sent within the last two windows counts as active
_SWEEP_S = 1.0
_TICK_S = 0.1  # a bucket that is not empty is filled up this often


Scope = Literal["node", "tenant", "collector"]  # collector: it is overloaded


class Wait(NamedTuple):
    """A refusal: whose share is used up, and when it makes sense to send again."""

    scope: Scope
    seconds: float


class _Tenant:
    __slots__ = ("active", "at_s", "before", "level", "window")

    def __init__(self, level: float, now_s: float) -> None:
        self.level = level
        self.at_s = now_s
        self.window = -1
        self.active = self.before = 0  # nodes that sent in this window, and in the one before


class _Node:
    __slots__ = ("at_s", "fair", "level", "tenant", "window")

    def __init__(self, level: float, fair: float, tenant: _Tenant, now_s: float) -> None:
        self.level = level
        self.fair = fair
        self.tenant = tenant
        self.at_s = now_s
        self.window = -1


class FairRate:
    """Limits one quantity, such as messages a second; for one thread. Times are s of any steady clock.

    A node passes while its bucket is above 0, however large the message is. When the bucket of its tenant is
    empty, only the nodes below an equal part of the tenant's rate pass: a busy node waits for a quiet one,
    never the other way round.
    """

    def __init__(self, node_per_s: float, tenant_per_s: float, burst_s: float = BURST_S) -> None:
        self._node_per_s, self._node_depth = node_per_s, node_per_s * burst_s
        self._tenant_per_s, self._tenant_depth = tenant_per_s, tenant_per_s * burst_s
        self._burst_s = burst_s
        self._nodes: dict[Hashable, _Node] = {}
        self._tenants: dict[Hashable, _Tenant] = {}
        self._swept_s = -_SWEEP_S

    def __len__(self) -> int:
        """The number of buckets."""
        return len(self._nodes) + len(self._tenants)

    def take(self, tenant: Hashable, node: Hashable, amount: float, now_s: float) -> Wait | None:
        """Take `amount` from the shares of a node; None when it may pass, else nothing is taken."""
        one = self._nodes.get(node)
        if one is None:
            one = self._open(tenant, node, now_s)
        owner = one.tenant
        if now_s - one.at_s >= _TICK_S or one.level <= 0 or owner.level <= 0:
            self._refill(one, owner, now_s)
            if one.level <= 0:
                return Wait("node", RESUME_S - one.level / self._node_per_s)
            if owner.level <= 0 and one.fair <= 0:
                return Wait("tenant", RESUME_S - owner.level / self._tenant_per_s)
        one.level -= amount
        one.fair -= amount
        owner.level -= amount
        return None

    def _refill(self, one: _Node, owner: _Tenant, now_s: float) -> None:
        window = int(now_s / _WINDOW_S)
        if owner.window != window:
            owner.before = owner.active if owner.window == window - 1 else 0
            owner.window, owner.active = window, 0
        if one.window != window:
            one.window = window
            owner.active += 1
        part = self._tenant_per_s / max(owner.active, owner.before, 1)
        passed_s, one.at_s = now_s - one.at_s, now_s
        one.level = min(self._node_depth, one.level + passed_s * self._node_per_s)
        # no debt beyond what one burst repays: the part may have been large when the node spent it
        least = -part * self._burst_s
        one.fair = min(-least, max(least, one.fair) + passed_s * part)
        passed_s, owner.at_s = now_s - owner.at_s, now_s
        owner.level = min(self._tenant_depth, owner.level + passed_s * self._tenant_per_s)

    def _open(self, tenant: Hashable, node: Hashable, now_s: float) -> _Node:
        if len(self._nodes) >= NODES or len(self._tenants) >= TENANTS:
            self._sweep(now_s)
        if tenant not in self._tenants and len(self._tenants) >= TENANTS:
            tenant = node = None  # one bucket for all that find no room
        elif len(self._nodes) >= NODES:
            node = (tenant, None)
        owner = self._tenants.get(tenant)
        if owner is None:
            owner = self._tenants[tenant] = _Tenant(self._tenant_depth, now_s)
        found = self._nodes.get(node)
        if found is None:
            found = self._nodes[node] = _Node(self._node_depth, math.inf, owner, now_s)
            self._refill(found, owner, now_s)
        return found

    def _sweep(self, now_s: float) -> None:
        """Remove the buckets that are full again: a new one would be the same."""
        if now_s - self._swept_s < _SWEEP_S:
            return
        self._swept_s = now_s
        old_s = now_s - 2 * self._burst_s
        self._nodes = {key: one for key, one in self._nodes.items() if one.at_s > old_s or one.level < 0}
        used = {id(one.tenant) for one in self._nodes.values()}
        self._tenants = {
            key: one for key, one in self._tenants.items() if id(one) in used or one.at_s > old_s
        }
