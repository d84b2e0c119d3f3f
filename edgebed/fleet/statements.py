"""The signed statements of one simulated node, as `wire.custody` describes them."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from wire.custody import Statement, digest, signed_form


class NodeStatements:
    """States what one node took. The key follows from the node's address: every run signs with the same."""

    def __init__(self, node: str, ep: str, boot: str) -> None:
        self._node, self._ep, self._boot = node, ep, boot
        self._key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"fleet {node}".encode()).digest())
        self.key = self._key.public_key().public_bytes_raw().hex()
        self.day = ""
        self.pending = False  # messages were taken since the last statement
        self._first = 1
        self._streams: dict[str, tuple[int, int, int]] = {}
        self._count = 0
        self._before = ""

    def begin(self, day: str, first: int) -> None:
        """Begin the part of a UTC day with the number of its first message."""
        self.day, self._first, self._streams = day, first, {}

    def take(self, tail: str, first_row: int, rows: int) -> None:
        """Count a message of the stream `tail`."""
        count, first, _ = self._streams.get(tail, (0, first_row, 0))
        self._streams[tail] = (count + 1, first, first_row + rows - 1)
        self.pending = True

    def state(self, upto: int, acked: int, sent: int) -> dict[str, Any]:
        """The signed statement of the part so far."""
        statement = Statement(
            n=self._count + 1,
            prev=self._before,
            key=self.key,
            boot=self._boot,
            run=1,
            day=self.day,
            first=self._first,
            upto=upto,
            streams=self._streams,
            stored=upto,
            acked=acked,
            sent=sent,
            clk=1,
        )
        detail: dict[str, Any] = msgspec.to_builtins(statement)
        form = signed_form(detail, self._node, self._ep)
        detail["sig"] = self._key.sign(form).hex()
        self._count, self._before = statement.n, digest(form)
        self.pending = False
        return detail
