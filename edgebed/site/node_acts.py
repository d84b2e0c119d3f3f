"""What `edgebed node` does to a site, on its machine or for an administrator on another one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from edgebed.site.layout import Layout
from edgebed.site.node_wire import AddedNode, NodeState, RemovedNode
from edgebed.site.nodes import check_name, current, issued, removed_names, take_away
from edgebed.site.running import apply, end_connection
from edgebed.site.token_store import give, void, waiting
from wire.errors import EdgebedError
from wire.topics import Address


def check_new(layout: Layout, node: Address, *, renew: bool) -> None:
    """Check that a node can get a certificate.

    Raises:
        ConfigError: its name does not fit.
        EdgebedError: it has one already.
    """
    found = issued(layout, node)
    if found and not renew:
        raise EdgebedError(
            f"{node} has a certificate until {found[0].not_valid_after_utc:%Y-%m-%d}: --renew makes another"
            " one, and `edgebed node remove` takes it away"
        )
    check_name(layout, node)


def add(layout: Layout, node: Address, now: datetime, hours: float, *, renew: bool) -> AddedNode:
    """Make a one-time token. Raises as `check_new`."""
    check_new(layout, node, renew=renew)
    token = give(layout, node, now, hours)
    return AddedNode(node.text, token.text, token.ends)


def states(layout: Layout, now: datetime) -> list[NodeState]:
    """The nodes with a certificate, then those that are removed, then those with an unused token."""
    found = [NodeState(name, "certificate", one.not_valid_after_utc) for name, one in current(layout).items()]
    found += [NodeState(name, "removed") for name in removed_names(layout)]
    return found + [NodeState(name, "token", ends) for name, ends in waiting(layout, now).items()]


def remove(
    layout: Layout, node: Address, now: datetime, is_visible: Callable[[str], bool] = lambda _: True
) -> RemovedNode:
    """Take away every certificate and token of a node; an error names visible nodes alone.

    Raises:
        EdgebedError: it has none.
    """
    if void(layout, node) and not issued(layout, node):
        return RemovedNode(node.text, False, [])
    take_away(layout, node, is_visible)
    left = apply(layout, now)
    # nats-server ends the connections of users that it does not know any more
    if not left and layout.site.broker == "mosquitto" and (why := end_connection(layout, node.text)):
        left = [f"its open connection is not ended, but has no rights: {why}"]
    return RemovedNode(node.text, True, left)
