"""The commands for nodes: what was requested by whom, each change of its state, and the node's answer."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Struct

from collector.state.audit import AuditEntry, write
from collector.state.state_file import Db, StateDamaged, StateFile
from wire.errors import EdgebedError
from wire.messages import Cmd, Res

OPEN = ("queued", "delivered", "running")
ENDED = ("done", "failed", "rejected", "expired", "withdrawn")

MAX_OPEN = 20  # commands of one node that have not ended
MAX_OPEN_TENANT = 1_000
MAX_OF_NODE = 100  # commands of one node; the oldest that ended go first
MAX_ALL = 20_000  # the oldest that ended go first, those of the tenant that has most
MAX_RESULT = 8_000  # bytes of a result that is kept
_TENANT = "substr(node, 1, instr(node, '/'))"


class OtherCommand(EdgebedError):
    """The id is that of another command of the node."""


class TooManyCommands(EdgebedError):
    """A node or tenant has too many commands that have not ended."""


class CommandRecord(Struct, frozen=True):
    """A command, and what became of it."""

    node: str
    id: str
    device: str
    name: str
    args: dict[str, Any]
    by: str
    ts: int
    ttl_ms: int
    state: str = "queued"
    changes: list[tuple[str, int]] = []  # each state, and since when
    sent_ms: int = 0  # when it was sent first; 0: it never was
    by_node: bool = False  # whether the node gave the last answer
    answer: dict[str, Any] | None = None
    n: int = 0  # a later one has a greater number

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return self.state in OPEN

    @property
    def ends_ms(self) -> int:
        """Until when the node may start it."""
        return self.ts + self.ttl_ms

    def message(self) -> Cmd:
        """The body for the node."""
        return Cmd(id=self.id, ts=self.ts, ttl_ms=self.ttl_ms, by=self.by[:128], args=self.args, steps=True)

    def is_like(self, other: CommandRecord) -> bool:
        """Whether both request the same."""
        return all(
            getattr(self, name) == getattr(other, name) for name in ("device", "name", "args", "ttl_ms")
        )

    def audited(self, now_ms: int, what: str, origin: str, result: str) -> AuditEntry:
        """The entry of the audit about it."""
        subject = f"{self.node} {self.device}/{self.name} {self.id}"
        return AuditEntry(now_ms, self.by, what, subject, origin, result, self.node)

    def shown(self) -> dict[str, Any]:
        """It as the API and the page show it."""
        return {
            "node": self.node, "id": self.id, "device": self.device, "name": self.name, "args": self.args,
            "by": self.by, "ts": self.ts, "ttl_ms": self.ttl_ms, "state": self.state,
            "changes": [{"state": state, "ts": ts} for state, ts in self.changes],
            "is_sent": self.sent_ms > 0, "answer": self.answer,
        }  # fmt: skip


def kept_answer(answer: Res) -> dict[str, Any]:
    """What is kept of a node's answer."""
    found: dict[str, Any] = {
        "code": answer.code, "err": answer.err, "err_code": answer.err_code,
        "args": answer.args if len(msgspec.json.encode(answer.args)) <= MAX_RESULT else {},
    }  # fmt: skip
    if answer.result is not UNSET:
        size = len(msgspec.json.encode(answer.result))
        found |= {"result": answer.result} if size <= MAX_RESULT else {"result_bytes": size}
    return found


class CommandRecords:
    """The commands in a `state.db`. Raises as `StateFile.transaction`."""

    def __init__(self, state: StateFile) -> None:
        self._state = state

    def add(self, wanted: CommandRecord, entry: AuditEntry) -> tuple[CommandRecord, bool]:
        """Keep a command, with the entry of the audit; returns it and whether it is new.

        Raises:
            OtherCommand: the id is that of another command of the node.
            TooManyCommands: the node, or its tenant, has too many that have not ended.
        """
        with self._state.transaction() as db:
            known = _one(db, wanted.node, wanted.id)
            if known is not None:
                if not known.is_like(wanted):
                    raise OtherCommand(
                        f"{wanted.id} is the id of another command of {wanted.node}: {known.device}/"
                        f"{known.name} of {known.by}; give the new one an id of its own"
                    )
                return known, False
            _require_room(db, wanted.node)
            values = (*_columns(wanted), wanted.sent_ms, wanted.by_node, None)
            found = db.execute(f"INSERT INTO command({_NAMES}) VALUES ({_MARKS})", values)  # noqa: S608
            _prune(db, wanted.node)
            write(db, entry)
            return msgspec.structs.replace(wanted, n=found.lastrowid or 0), True

    def save(self, record: CommandRecord, entry: AuditEntry | None = None) -> None:
        """Keep a new state of a command, with the entry of the audit; nothing where the command is gone."""
        answer = None if record.answer is None else msgspec.json.encode(record.answer).decode()
        values = (record.state, _json(record.changes), record.sent_ms, record.by_node, answer)
        with self._state.transaction() as db:
            db.execute(
                "UPDATE command SET state = ?, changes = ?, sent_ms = ?, by_node = ?, answer = ?"
                " WHERE node = ? AND id = ?",
                (*values, record.node, record.id),
            )
            if entry is not None:
                write(db, entry)

    def get(self, node: str, identity: str) -> CommandRecord | None:
        """One command of a node."""
        with self._state.transaction(writes=False) as db:
            return _one(db, node, identity)

    def newest(self, node: str, limit: int, *, before: int = 2**62) -> list[CommandRecord]:
        """The newest commands of a node, the newest first."""
        with self._state.transaction(writes=False) as db:
            return _select(db, "node = ? AND n < ? ORDER BY n DESC LIMIT ?", node, before, limit)

    def open(self) -> list[CommandRecord]:
        """The commands that have not ended, the oldest first."""
        with self._state.transaction(writes=False) as db:
            return _select(db, f"state IN ({','.join('?' * len(OPEN))}) ORDER BY n", *OPEN)


_args = msgspec.json.Decoder(dict[str, Any])
_changes = msgspec.json.Decoder(list[tuple[str, int]])
_answer = msgspec.json.Decoder(dict[str, Any] | None)
_NAMES = "node, id, device, name, args, who, ts, ttl_ms, state, changes, sent_ms, by_node, answer"
_MARKS = ",".join("?" * 13)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _columns(one: CommandRecord) -> tuple[Any, ...]:
    head = (one.node, one.id, one.device, one.name, _json(one.args), one.by, one.ts, one.ttl_ms)
    return (*head, one.state, _json(one.changes))


def _select(db: Db, where: str, *values: object) -> list[CommandRecord]:
    """The commands that fit.

    Raises:
        StateDamaged: one cannot be read.
    """
    rows = db.execute(f"SELECT {_NAMES}, n FROM command WHERE {where}", values).fetchall()  # noqa: S608 - the text is above
    try:
        return [
            CommandRecord(
                node, identity, device, name, _args.decode(args), who, ts, ttl_ms, state,
                _changes.decode(changes), sent_ms, bool(by_node), _answer.decode(answer or "null"), n,
            )
            for node, identity, device, name, args, who, ts, ttl_ms, state, changes, sent_ms, by_node,
            answer, n in rows
        ]  # fmt: skip
    except (msgspec.MsgspecError, RecursionError) as error:
        raise StateDamaged(f"state.db: the table command is damaged: {error}") from error


def _one(db: Db, node: str, identity: str) -> CommandRecord | None:
    return next(iter(_select(db, "node = ? AND id = ?", node, identity)), None)


def _require_room(db: Db, node: str) -> None:
    waiting = f"state IN ({','.join('?' * len(OPEN))})"
    tenant = node.partition("/")[0]
    for whose, most, where in (
        (node, MAX_OPEN, "node = ?"),
        (f"{tenant}/", MAX_OPEN_TENANT, f"{_TENANT} = ?"),
    ):
        found = db.execute(
            f"SELECT count(*) FROM command WHERE {waiting} AND {where}",  # noqa: S608 - the texts are above
            (*OPEN, whose),
        ).fetchone()[0]
        if found >= most:
            raise TooManyCommands(
                f"{whose.rstrip('/')} has {found} commands that have not ended: wait, or withdraw some"
            )


def _prune(db: Db, node: str) -> None:
    """Drop what is too much: the oldest of the node that ended, then the oldest of the largest tenant."""
    ended = f"state NOT IN ({','.join('?' * len(OPEN))})"
    excess = "SELECT n FROM command WHERE {} ORDER BY n DESC LIMIT -1 OFFSET ?"
    db.execute(
        f"DELETE FROM command WHERE {ended} AND n IN ({excess.format('node = ?')})",  # noqa: S608
        (*OPEN, node, MAX_OF_NODE),
    )
    if db.execute("SELECT count(*) FROM command").fetchone()[0] <= MAX_ALL:
        return
    tenant = db.execute(
        f"SELECT {_TENANT} FROM command WHERE {ended} GROUP BY 1 ORDER BY count(*) DESC LIMIT 1",  # noqa: S608
        OPEN,
    ).fetchone()
    if tenant is not None:
        db.execute(
            f"DELETE FROM command WHERE n = (SELECT min(n) FROM command WHERE {ended} AND {_TENANT} = ?)",  # noqa: S608
            (*OPEN, *tenant),
        )
