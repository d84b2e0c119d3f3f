"""The nodes of a site on another machine, managed over its enrolment service."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from edgebed.secret_file import read_secret
from edgebed.site.enrolment import Service
from edgebed.site.node_wire import (
    ADD_PATH,
    LIST_PATH,
    MAX_LIST,
    REMOVE_PATH,
    AddedNode,
    AddNode,
    ListNodes,
    NodeState,
    NodeStates,
    RemovedNode,
    RemoveNode,
)
from edgebed.site.token import parse_admin
from wire.errors import EdgebedError

T = TypeVar("T")


class RemoteNodes:
    """The nodes that the administrator of a token may manage; the token names the root of its site.

    Raises:
        ConfigError: the file cannot be used, or other users can read it.
        EdgebedError: its token is damaged or has ended.
    """

    def __init__(self, url: str, token_file: Path, now: datetime) -> None:
        self._token = parse_admin(read_secret(token_file, "--token-file", "token"))
        if self._token.ends <= now:
            raise EdgebedError(
                f"the token in {token_file} ended on {self._token.ends:%Y-%m-%d %H:%M} UTC, and the clock of"
                f" this machine shows {now:%Y-%m-%d %H:%M}: ask for a new token, or set the clock"
            )
        self._service = Service(url, now)

    def add(self, node: str, hours: float, *, renew: bool) -> AddedNode:
        """Make a one-time token for a node."""
        return self._ask(ADD_PATH, AddNode(node, hours, renew), AddedNode)

    def all(self) -> list[NodeState]:
        """The nodes and their states."""
        return self._ask(LIST_PATH, ListNodes(), NodeStates).nodes

    def remove(self, node: str) -> RemovedNode:
        """Take every certificate and token of a node away."""
        return self._ask(REMOVE_PATH, RemoveNode(node), RemovedNode)

    def _ask(self, path: str, asked: Struct, kind: type[T]) -> T:
        root = self._service.root(self._token.root_sha256)
        return self._service.ask(path, asked, kind, root, secret=self._token.secret.hex(), most=MAX_LIST)
