"""The frozen plans that were sent: every version by its hash, also after a withdrawal."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from collector.state.state_file import Db, StateFile
from wire.errors import EdgebedError
from wire.pilot.frozen import SignedPlan, read_signed

MAX_OF_TENANT = 2_000  # versions: a plan that was sent is evidence, so none makes room for another

_COLUMNS = "tenant, hash, pilot, version, previous, at_ms, who, doc"


class TooManyPlans(EdgebedError):
    """A tenant has as many plans as are kept."""


class SentPlan(Struct, frozen=True):
    """A version of a plan as it was sent to a node of the tenant; `doc` has the newest signatures."""

    tenant: str
    hash: str
    pilot: str
    version: int
    previous: str
    at_ms: int  # when it was sent first
    by: str
    doc: bytes


class PilotPlans:
    """The plans in a `state.db`. Raises as `StateFile.transaction`."""

    def __init__(self, state: StateFile) -> None:
        self._state = state

    def all(self) -> list[SentPlan]:
        """Every version of every pilot, the newest first."""
        return self._select("ORDER BY at_ms DESC, version DESC, tenant, hash")

    def of(self, tenant: str, pilot: str) -> list[SentPlan]:
        """Every version that nodes of a tenant were sent of a pilot, the newest first."""
        return self._select(
            "WHERE tenant = ? AND pilot = ? ORDER BY at_ms DESC, version DESC, hash", tenant, pilot
        )

    def _select(self, where: str, *values: str) -> list[SentPlan]:
        with self._state.transaction(writes=False) as db:
            rows = db.execute(f"SELECT {_COLUMNS} FROM pilot_plan {where}", values).fetchall()  # noqa: S608 - the text is above
        return [
            SentPlan(tenant, digest, pilot, version, previous, at_ms, by, doc.encode())
            for tenant, digest, pilot, version, previous, at_ms, by, doc in rows
        ]


def keep(db: Db, node: str, signed: SignedPlan, *, by: str, at_ms: int) -> None:
    """Keep a plan that is sent to a node, in the transaction that sends it.

    Raises:
        WireError: it is not a plan.
        TooManyPlans: the tenant of the node has too many.
    """
    body = msgspec.json.encode(signed)
    opened, tenant = read_signed(body), node.split("/", maxsplit=1)[0]
    frozen = opened.plan
    named = (tenant, opened.hash, frozen.plan.pilot, frozen.version, frozen.previous)
    db.execute(
        f"INSERT INTO pilot_plan({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?)"  # noqa: S608 - the text is above
        " ON CONFLICT(tenant, hash) DO UPDATE SET pilot = excluded.pilot, version = excluded.version,"
        " previous = excluded.previous, doc = excluded.doc",  # repairs a row that was changed
        (*named, at_ms, by, body.decode()),
    )
    count = db.execute("SELECT count(*) FROM pilot_plan WHERE tenant = ?", (tenant,)).fetchone()[0]
    if count > MAX_OF_TENANT:
        raise TooManyPlans(f"{tenant} has {MAX_OF_TENANT:,} plans, and as many are kept: use another tenant")
