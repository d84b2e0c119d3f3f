"""The desired documents of the nodes: the last configuration and plan that an operator requested."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

from collector.state.pilot_plans import keep
from collector.state.state_file import StateFile
from wire.messages import Desired
from wire.pilot.frozen import SignedPlan

What = Literal["config", "pilot"]  # the last part of the topic

_COLUMNS = "node, ver, at_ms, who, doc, what"


class DesiredDocument(Struct, frozen=True):
    """A document for one node; an empty `doc` withdraws the one before."""

    node: str
    ver: int
    at_ms: int
    by: str
    doc: dict[str, Any]
    what: What = "config"

    def message(self) -> Desired:
        """The body for the node."""
        return Desired(ver=self.ver, ts=self.at_ms, by=self.by[:128], doc=self.doc)


class DesiredDocuments:
    """The documents in a `state.db`. Raises as `StateFile.transaction`."""

    def __init__(self, state: StateFile) -> None:
        self._state = state

    def put(
        self, node: str, doc: dict[str, Any], *, by: str, at_ms: int, after: int = 0, what: What = "config"
    ) -> DesiredDocument:
        """Replace a document of a node. Its version is above those of `after` and of the one before.

        A plan is kept as `PilotPlans` in the same transaction.

        Raises:
            WireError: a plan cannot be read.
            TooManyPlans: the tenant of the node has too many.
        """
        with self._state.transaction() as db:
            known = db.execute("SELECT ver FROM desired WHERE node = ? AND what = ?", (node, what)).fetchone()
            made = DesiredDocument(node, max(after, known[0] if known else 0) + 1, at_ms, by, doc, what)
            if what == "pilot" and doc:
                keep(db, node, msgspec.convert(doc, SignedPlan), by=by, at_ms=at_ms)
            db.execute(
                "INSERT OR REPLACE INTO desired VALUES (?,?,?,?,?,?)",
                (node, what, made.ver, at_ms, by, msgspec.json.encode(doc).decode()),
            )
        return made

    def get(self, node: str, what: What = "config") -> DesiredDocument | None:
        """The newest document of a node."""
        return next(iter(self._select("WHERE node = ? AND what = ?", node, what)), None)

    def all(self) -> list[DesiredDocument]:
        """The newest documents of every node."""
        return self._select("ORDER BY node, what")

    def _select(self, where: str, *values: str) -> list[DesiredDocument]:
        with self._state.transaction(writes=False) as db:
            rows = db.execute(f"SELECT {_COLUMNS} FROM desired {where}", values).fetchall()  # noqa: S608 - the text is above
        return [
            DesiredDocument(node, ver, at_ms, by, msgspec.json.decode(doc), what)
            for node, ver, at_ms, by, doc, what in rows
        ]
