"""Checks messages against the shares of their node and tenant: at the door by their size, then by content."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from collector.ingest.fair_rate import FairRate, Scope, Wait
from collector.ingest.refusal import Refusal
from collector.ingest.share_limits import Shares
from collector.store.day_file import MAX_FIELDS, MAX_STREAMS
from wire.codec import plain_size
from wire.topics import Address

MAX_NODES = 50_000  # of all tenants
MAX_HELD = 5_000_000  # names of streams in memory
DAY_MS = 86_400_000
QUOTA_MS = 60_000  # after which a node of a tenant over its quota tries again
MESSAGE_BURST_S = 1.0
LEAST_VALUES = 20  # a message takes the time of this many, and a pack has up to 1,000 messages
EVENT_BYTES = 120  # about what a row of the day file takes besides its body
_TOPICS = 50_000  # with a cached node


class Door:
    """Checks each publication before it is read; it needs only the topic and the first and last bytes.

    For one thread.
    """

    def __init__(self, shares: Shares) -> None:
        node, tenant = shares.node, shares.tenant
        self._messages = FairRate(node.messages_per_s, tenant.messages_per_s, MESSAGE_BURST_S)
        self._bytes = FairRate(1000 * node.plain_kb_per_s, 1000 * tenant.plain_kb_per_s)
        self._known: dict[bytes, tuple[bytes, bytes]] = {}

    def check(self, topic: bytes, body: bytes, now_s: float) -> tuple[Wait, str] | None:
        """Charge a publication to its node and tenant; a refused one is not charged.

        `now_s`: any steady clock. Returns how long to wait, and the key of the share that is exceeded.
        """
        tenant, node = self._known.get(topic) or self._of(topic)
        wait = self._messages.take(tenant, node, 1, now_s)
        if wait is not None:
            return wait, "messages_per_s"
        size = len(body) if body[:1] == b"{" else plain_size(body)
        wait = self._bytes.take(tenant, node, size, now_s)
        return None if wait is None else (wait, "plain_kb_per_s")

    def _of(self, topic: bytes) -> tuple[bytes, bytes]:
        if len(self._known) >= _TOPICS:
            self._known.clear()
        parts = topic.split(b"/", 5)
        found = self._known[topic] = (b"/".join(parts[:2]), base_of(topic))
        return found


class NodeNames:
    """The names of all nodes. A new name needs room in its tenant, and leaves room for other tenants."""

    def __init__(self, per_tenant: int, known: Iterable[str] = ()) -> None:
        self._per_tenant, self._most = per_tenant, max(MAX_NODES, 3 * per_tenant)
        self._known = set(known)
        self._tenants = Counter(name.partition("/")[0] for name in self._known)

    def __contains__(self, name: object) -> bool:
        """Whether a node with this name is known."""
        return name in self._known

    def check(self, address: Address, now_ms: int) -> Refusal | None:
        """Note the node; a refusal when there is no room for a new name."""
        name = address.text
        if name in self._known:
            return None
        if not _has_room(self._tenants[address.tenant], len(self._known), self._per_tenant, self._most):
            return Refusal("tenant", "nodes", now_ms + 600_000)
        self._known.add(name)
        self._tenants[address.tenant] += 1
        return None


class _Stream:
    __slots__ = ("columns", "names")

    def __init__(self) -> None:
        self.columns: tuple[str, ...] = ()  # of the newest message: most have the same
        self.names: frozenset[str] | set[str] = frozenset()  # frozen while other streams share it


class _Node:
    __slots__ = ("bytes", "names", "streams", "tenant")

    def __init__(self, tenant: _Tenant) -> None:
        self.tenant = tenant
        self.streams: dict[tuple[str, str], _Stream] = {}
        self.names = 0
        self.bytes = 0


class _Tenant:
    __slots__ = ("bytes", "held", "name", "names", "streams")

    def __init__(self, name: str) -> None:
        self.name = name
        self.streams = 0
        self.held = 0  # names in memory: those that streams share count once
        self.names: set[str] = set()
        self.bytes = 0


class ContentShares:
    """Checks what a message contains: values a second; streams, names and bytes on disk in a UTC day.

    For one thread. The counts of a day start again when the collector does.
    """

    def __init__(self, shares: Shares) -> None:
        self._node, self._tenant = shares.node, shares.tenant
        self._values = FairRate(self._node.values_per_s, self._tenant.values_per_s)
        self._day = -1
        self._now_ms, self._now_s = 0, 0.0
        self._nodes: dict[str, _Node] = {}
        self._tenants: dict[str, _Tenant] = {}
        self._streams = self._names = self._held = 0  # of all tenants
        self._schemas: dict[frozenset[str], frozenset[str]] = {}  # streams with the same names share a set
        self.full: frozenset[str] = frozenset()  # tenants that are over their quota

    def turn(self, now_ms: int, now_s: float) -> None:
        """Set the time, also in s of a steady clock; the counts of the last day end."""
        self._now_ms, self._now_s = now_ms, now_s
        if now_ms // DAY_MS != self._day:
            self._day = now_ms // DAY_MS
            self._nodes, self._tenants, self._schemas = {}, {}, {}
            self._streams = self._names = self._held = 0

    def check_values(self, tenant: str, node: str, count: int) -> Refusal | None:
        """Charge the values of a message before they are decoded; refused ones are not charged."""
        wait = self._values.take(tenant, node, max(count, LEAST_VALUES), self._now_s)
        return None if wait is None else Refusal.after(wait, "values_per_s", self._now_ms)

    def check_rows(self, node_name: str, device: str, name: str, columns: Iterable[str]) -> Refusal | None:
        """Check the disk, and note stream and names of a data message; a refused one is not noted."""
        node, tenant = self._of(node_name)
        key, names = (device, name), tuple(columns)
        found = node.streams.get(key)
        refused = self._check_disk(node)
        if found is not None and found.columns == names:
            return refused
        if found is None:
            refused = refused or self._check_stream(node)
        refused = refused or self._check_names(node, () if found is None else found.names, names)
        if refused is not None:
            return refused
        if found is None:
            found = node.streams[key] = _Stream()
            tenant.streams += 1
            self._streams += 1
        self._note_names(node, tenant, found, names)
        return None

    def _note_names(self, node: _Node, tenant: _Tenant, stream: _Stream, names: tuple[str, ...]) -> None:
        before, distinct = len(stream.names), len(tenant.names)
        if stream.columns:
            if isinstance(stream.names, frozenset):
                stream.names = set(stream.names)
                self._hold(tenant, before)
            stream.names.update(names)
            self._hold(tenant, len(stream.names) - before)
        else:
            first = frozenset(names)
            self._hold(tenant, len(first) if first not in self._schemas else 0)
            stream.names = self._schemas.setdefault(first, first)
        stream.columns = names
        node.names += len(stream.names) - before
        tenant.names.update(names)
        self._names += len(tenant.names) - distinct

    def _hold(self, tenant: _Tenant, more: int) -> None:
        tenant.held += more
        self._held += more

    def _check_stream(self, node: _Node) -> Refusal | None:
        if len(node.streams) >= self._node.streams:
            return self._until_midnight("node", "streams")
        if not _has_room(node.tenant.streams, self._streams, self._tenant.streams, MAX_STREAMS):
            return self._until_midnight("tenant", "streams")
        return None

    def _check_names(self, node: _Node, known: Collection[str], names: Collection[str]) -> Refusal | None:
        new = [name for name in names if name not in known]
        if len(known) + len(new) > self._node.names_per_stream:
            return self._until_midnight("node", "names_per_stream")
        if node.names + len(new) > self._node.names:
            return self._until_midnight("node", "names")
        tenant = node.tenant
        fresh = sum(name not in tenant.names for name in new)
        used, total = len(tenant.names) + fresh, self._names + fresh
        no_room = fresh and not _has_room(used - 1, total - 1, self._tenant.names, MAX_FIELDS)
        if no_room or (new and not _has_room(tenant.held, self._held, MAX_HELD, MAX_HELD)):
            return self._until_midnight("tenant", "names")
        return None

    def check_disk(self, node_name: str) -> Refusal | None:
        """Whether the node and its tenant may store more today."""
        return self._check_disk(self._of(node_name)[0])

    def _check_disk(self, node: _Node) -> Refusal | None:
        if node.bytes >= 1_000_000 * self._node.disk_mb_per_day:
            return self._until_midnight("node", "disk_mb_per_day")
        if node.tenant.bytes >= 1_000_000 * self._tenant.disk_mb_per_day:
            return self._until_midnight("tenant", "disk_mb_per_day")
        if node.tenant.name in self.full:
            return Refusal("tenant", "quota", self._now_ms + QUOTA_MS)
        return None

    def written(self) -> dict[str, int]:
        """Bytes that were written for each tenant today, since the start; any thread."""
        return {name: tenant.bytes for name, tenant in list(self._tenants.items())}

    def stored(self, node_name: str, size: int) -> None:
        """Note bytes that are written; below 0 where packing made them fewer."""
        node, tenant = self._of(node_name)
        more = max(size, -node.bytes)  # what was written before midnight counts for the day before
        node.bytes += more
        tenant.bytes += more

    def _of(self, name: str) -> tuple[_Node, _Tenant]:
        node = self._nodes.get(name)
        if node is None:
            tenant_name = name.partition("/")[0]
            tenant = self._tenants.setdefault(tenant_name, _Tenant(tenant_name))
            node = self._nodes[name] = _Node(tenant)
        return node, node.tenant

    def _until_midnight(self, scope: Scope, key: str) -> Refusal:
        return Refusal(scope, key, (self._day + 1) * DAY_MS)


def base_of(topic: bytes) -> bytes:
    """The node part of a topic, which may be invalid."""
    return b"/".join(topic.split(b"/", 5)[:5])


def _has_room(used: int, total: int, share: int, total_share: int) -> bool:
    """Whether a tenant may take one more: it keeps its share, and leaves as much free as it uses.

    So however many tenants use all that they may, the next one finds room.
    """
    return used < share and used < total_share - total
