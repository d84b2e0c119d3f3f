"""Which enrolled node asks: it may read what concerns itself, and nothing else."""

from __future__ import annotations

from collector.ledger.enrolled import EnrolledNodes, NodeKeys
from collector.rights.user import Grant, User
from wire.clock import Clock
from wire.node_token import LIFE_S, read_token

_SKEW_S = 300  # between the clocks of node and collector


class NodeAccess:
    """Checks tokens of nodes; `keys` is None where the collector has no secret of the site."""

    def __init__(self, keys: NodeKeys | None, enrolled: EnrolledNodes, clock: Clock) -> None:
        self._keys = keys
        self._enrolled = enrolled
        self._clock = clock

    def who(self, text: str, method: str, target: str) -> User | str:
        """The node as a user, or why the token is refused."""
        if self._keys is None:
            return "this collector cannot check the token of a node: set mac_file in its config"
        token = read_token(text)
        noted = None if token is None else self._enrolled.of(token.node)
        if token is None or (noted is not None and noted.is_removed):
            return "this is not the token of a node of this site"
        if not token.fits(self._keys.of(token.node), method, target):
            return "this token is not of this node, or not for this request"
        now_s = self._clock.now_ms() // 1000
        if token.ends_s <= now_s:
            return f"this token ended {now_s - token.ends_s:,} s ago: make a new one, or set the clock"
        if token.ends_s > now_s + LIFE_S + _SKEW_S:
            return f"this token ends in {token.ends_s - now_s:,} s, which is too late: set the clock"
        grant = Grant("viewer", (token.node,))
        return User(token.node, (grant,), "node", ends_ms=token.ends_s * 1000)
