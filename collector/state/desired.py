"""The desired documents of the nodes: what an operator requested last, kept until the next request."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from collector.state.state_file import StateFile
from wire.messages import Desired


class DesiredDocument(Struct, frozen=True):
    """A document for one node; an empty `doc` withdraws the one before."""

    node: str
    ver: int
    at_ms: int
    by: str
    doc: dict[str, Any]

    def message(self) -> Desired:
        """The body for the node."""
        return Desired(ver=self.ver, ts=self.at_ms, by=self.by[:128], doc=self.doc)


class DesiredDocuments:
    """The documents in a `state.db`. Raises as `StateFile.transaction`."""

    def __init__(self, state: StateFile) -> None:
        self._state = state

    def put(self, node: str, doc: dict[str, Any], *, by: str, at_ms: int, after: int = 0) -> DesiredDocument:
        """Replace the document of a node. Its version is above those of `after` and of the one before."""
        with self._state.transaction() as db:
            known = db.execute("SELECT ver FROM desired WHERE node = ?", (node,)).fetchone()
            made = DesiredDocument(node, max(after, known[0] if known else 0) + 1, at_ms, by, doc)
            db.execute(
                "INSERT OR REPLACE INTO desired VALUES (?,?,?,?,?)",
                (node, made.ver, at_ms, by, msgspec.json.encode(doc).decode()),
            )
        return made

    def get(self, node: str) -> DesiredDocument | None:
        """The newest document of a node."""
        return next(iter(self._select("WHERE node = ?", node)), None)

    def all(self) -> list[DesiredDocument]:
        """The newest document of every node that has one."""
        return self._select("ORDER BY node")

    def _select(self, where: str, *values: str) -> list[DesiredDocument]:
        with self._state.transaction(writes=False) as db:
            rows = db.execute(f"SELECT node, ver, at_ms, who, doc FROM desired {where}", values).fetchall()  # noqa: S608 - the text is above
        return [
            DesiredDocument(node, ver, at_ms, by, msgspec.json.decode(doc))
            for node, ver, at_ms, by, doc in rows
        ]
