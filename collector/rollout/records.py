"""The rollouts in a `state.db`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from collector.rollout.engine import Rollout
from collector.rollout.restored import KeptCount
from collector.state.audit import AuditEntry, write
from collector.state.state_file import Db, StateDamaged, StateFile
from wire.errors import EdgebedError

MAX_KEPT = 500  # of a tenant; the oldest that ended go first
MAX_OPEN = 50  # of a tenant


class SlotBusy(EdgebedError):
    """Another rollout has one of the nodes for the slot, or too many are open."""


class RolloutRecords:
    """The rollouts of a collector. Raises as `StateFile.transaction`."""

    def __init__(self, state: StateFile) -> None:
        self._state = state
        self._count = KeptCount(state.path.parent)

    def is_behind(self) -> bool:
        """Whether the `state.db` is older than what the rollouts have done since."""
        with self._state.transaction(writes=False) as db:
            return self._count.is_behind(db)

    def hold(self, held: Sequence[tuple[Rollout, AuditEntry]]) -> None:
        """Keep what is held of an older `state.db`: all of it or nothing, and it is not behind any more."""
        with self._state.transaction() as db:
            for rollout, entry in held:
                _update(db, rollout)
                write(db, entry)
            number = self._count.next(db)
        self._count.note(number)

    def add(self, rollout: Rollout, entry: AuditEntry) -> Rollout:
        """Keep a new rollout with the entry of the audit; returns it with its number.

        Raises:
            SlotBusy: another one that is open offers a version for the slot to one of its nodes.
        """
        with self._state.transaction() as db:
            others = _select(db, "is_open AND tenant = ?", rollout.tenant)
            if len(others) >= MAX_OPEN:
                raise SlotBusy(f"{rollout.tenant} has {MAX_OPEN} rollouts that have not ended: end some")
            _require_free(rollout, others)
            values = (rollout.id, rollout.tenant, True, _text(rollout))
            at = db.execute(
                "INSERT INTO rollout(id, tenant, is_open, doc) VALUES (?,?,?,?)", values
            ).lastrowid
            db.execute(
                "DELETE FROM rollout WHERE NOT is_open AND tenant = ? AND n IN (SELECT n FROM rollout"
                " WHERE tenant = ? ORDER BY n DESC LIMIT -1 OFFSET ?)",
                (rollout.tenant, rollout.tenant, MAX_KEPT),
            )
            write(db, entry)
            number = self._count.next(db)
        self._count.note(number)
        return replace(rollout, n=at or 0)

    def save(self, rollout: Rollout, entry: AuditEntry | None = None) -> None:
        """Keep the new state of a rollout, with an entry of the audit.

        Raises:
            SlotBusy: it opens again, and another one has one of its nodes for the slot.
        """
        with self._state.transaction() as db:
            was_open = db.execute("SELECT is_open FROM rollout WHERE id = ?", (rollout.id,)).fetchone()
            if rollout.is_open and not (was_open and was_open[0]):
                others = _select(db, "is_open AND tenant = ? AND id != ?", rollout.tenant, rollout.id)
                _require_free(rollout, others)
            _update(db, rollout)
            if entry is not None:
                write(db, entry)
            number = self._count.next(db)
        self._count.note(number)

    def get(self, tenant: str, identity: str) -> Rollout | None:
        """One rollout of a tenant."""
        with self._state.transaction(writes=False) as db:
            return next(iter(_select(db, "tenant = ? AND id = ?", tenant, identity)), None)

    def open(self) -> list[Rollout]:
        """The rollouts that have not ended, the oldest first."""
        with self._state.transaction(writes=False) as db:
            return _select(db, "is_open ORDER BY n")

    def newest(self, limit: int = MAX_KEPT) -> list[Rollout]:
        """The newest rollouts of all tenants, the newest first."""
        with self._state.transaction(writes=False) as db:
            return _select(db, "1 ORDER BY n DESC LIMIT ?", limit)


def _require_free(rollout: Rollout, others: list[Rollout]) -> None:
    for other in others:
        if other.slot != rollout.slot:
            continue
        both = sorted(
            node
            for node in rollout.devices.keys() & other.devices.keys()
            if rollout.holds(node, other.digest) and other.holds(node, rollout.digest)
        )
        if both:
            ends = "end it first" if other.state in ("running", "paused") else "wait until it is undone there"
            at = f"slot {rollout.slot} of {both[0]} is in rollout {other.id} of {other.ref}"
            raise SlotBusy(f"{at}: {ends}")


def _update(db: Db, rollout: Rollout) -> None:
    db.execute(
        "UPDATE rollout SET is_open = ?, doc = ? WHERE id = ?", (rollout.is_open, _text(rollout), rollout.id)
    )


def _text(rollout: Rollout) -> str:
    return msgspec.json.encode(rollout).decode()


def _select(db: Db, where: str, *values: object) -> list[Rollout]:
    rows = db.execute(f"SELECT n, doc FROM rollout WHERE {where}", values).fetchall()  # noqa: S608 - the texts are above
    try:
        return [replace(msgspec.json.decode(doc, type=Rollout), n=n) for n, doc in rows]
    except (msgspec.MsgspecError, RecursionError) as error:
        raise StateDamaged(f"state.db: the table rollout is damaged: {error}") from error
