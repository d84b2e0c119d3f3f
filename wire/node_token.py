"""The token with which an enrolled node reads from a collector's HTTP: for one request and a few minutes."""

from __future__ import annotations

import hmac
import re
from typing import NamedTuple

PREFIX = "edgebed-node:"
LIFE_S = 300
_TOKEN = re.compile(r"edgebed-node:([a-z0-9/-]{7,131}):([0-9]{1,11}):([0-9a-f]{64})")


class NodeToken(NamedTuple):
    """A token, taken apart: its node, its end in seconds since 1970, and the mac of the request."""

    node: str
    ends_s: int
    mac: str

    def fits(self, key: bytes, method: str, target: str) -> bool:
        """Whether the node with this key made it for a request; `target` is the path with its query."""
        return hmac.compare_digest(self.mac, _mac(key, self.node, self.ends_s, method, target))


def make_token(key: bytes, node: str, method: str, target: str, now_ms: int) -> str:
    """The token for one request, as a bearer token."""
    ends_s = now_ms // 1000 + LIFE_S
    return f"{PREFIX}{node}:{ends_s}:{_mac(key, node, ends_s, method, target)}"


def read_token(text: str) -> NodeToken | None:
    """The parts of a token; None if it is not one."""
    found = _TOKEN.fullmatch(text)
    return None if found is None else NodeToken(found[1], int(found[2]), found[3])


def _mac(key: bytes, node: str, ends_s: int, method: str, target: str) -> str:
    # no topic begins like this, so no message of a collector is such a token
    text = f"edgebed http {node} {ends_s} {method} {target}"
    return hmac.digest(key, text.encode(), "sha256").hex()
