"""The schema of `state.db`: each step leads from one version to the next."""

from __future__ import annotations

import base64
import hashlib
import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress

Step = Callable[[sqlite3.Connection], object]


def _first(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE fact(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID")
    db.execute("INSERT INTO fact VALUES ('store', lower(hex(randomblob(8))))")
    db.execute(
        "CREATE TABLE audit(id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, who TEXT NOT NULL,"
        " what TEXT NOT NULL, subject TEXT NOT NULL, origin TEXT NOT NULL, result TEXT NOT NULL) STRICT"
    )


def _users(db: sqlite3.Connection) -> None:
    db.execute(
        "CREATE TABLE user(name TEXT PRIMARY KEY, secret TEXT NOT NULL, role TEXT NOT NULL,"
        " prefixes TEXT NOT NULL, made_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID"
    )
    # of a session and a token the SHA-256 is kept: they are random, so a slow hash adds nothing
    db.execute(
        "CREATE TABLE session(hash BLOB PRIMARY KEY, user TEXT NOT NULL REFERENCES user ON DELETE CASCADE,"
        " made_ms INTEGER NOT NULL, ends_ms INTEGER NOT NULL, origin TEXT NOT NULL) STRICT, WITHOUT ROWID"
    )
    db.execute(
        "CREATE TABLE token(id TEXT PRIMARY KEY, hash BLOB NOT NULL UNIQUE,"
        " user TEXT NOT NULL REFERENCES user ON DELETE CASCADE, label TEXT NOT NULL, role TEXT NOT NULL,"
        " prefixes TEXT NOT NULL, made_ms INTEGER NOT NULL, ends_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID"
    )
    # the node or prefix that an act concerns: who sees no more than this prefix sees the act
    db.execute("ALTER TABLE audit ADD COLUMN scope TEXT NOT NULL DEFAULT '*'")
    db.execute("CREATE INDEX audit_by_what ON audit(what, id)")


def _desired(db: sqlite3.Connection) -> None:
    db.execute(
        "CREATE TABLE desired(node TEXT PRIMARY KEY, ver INTEGER NOT NULL, at_ms INTEGER NOT NULL,"
        " who TEXT NOT NULL, doc TEXT NOT NULL) STRICT, WITHOUT ROWID"
    )


def _commands(db: sqlite3.Connection) -> None:
    # `changes` has each state with its time, `sent_ms` is 0 until it was sent, `by_node` is 1 once the node
    # gave the last answer
    db.execute(
        "CREATE TABLE command(n INTEGER PRIMARY KEY AUTOINCREMENT, node TEXT NOT NULL, id TEXT NOT NULL,"
        " device TEXT NOT NULL, name TEXT NOT NULL, args TEXT NOT NULL, who TEXT NOT NULL,"
        " ts INTEGER NOT NULL, ttl_ms INTEGER NOT NULL, state TEXT NOT NULL, changes TEXT NOT NULL,"
        " sent_ms INTEGER NOT NULL, by_node INTEGER NOT NULL, answer TEXT, UNIQUE(node, id)) STRICT"
    )
    db.execute("CREATE INDEX command_by_state ON command(state, n)")


def _rollouts(db: sqlite3.Connection) -> None:
    db.execute(
        "CREATE TABLE rollout(n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,"
        " tenant TEXT NOT NULL, is_open INTEGER NOT NULL, doc TEXT NOT NULL) STRICT"
    )
    db.execute("CREATE INDEX rollout_by_open ON rollout(is_open, n)")


def _desired_pilot(db: sqlite3.Connection) -> None:
    # a node has one document of each name: its configuration, and the frozen plan of its pilot
    db.execute(
        "CREATE TABLE desired_now(node TEXT NOT NULL, what TEXT NOT NULL, ver INTEGER NOT NULL,"
        " at_ms INTEGER NOT NULL, who TEXT NOT NULL, doc TEXT NOT NULL, PRIMARY KEY(node, what))"
        " STRICT, WITHOUT ROWID"
    )
    db.execute("INSERT INTO desired_now SELECT node, 'config', ver, at_ms, who, doc FROM desired")
    db.execute("DROP TABLE desired")
    db.execute("ALTER TABLE desired_now RENAME TO desired")


def _pilot_plans(db: sqlite3.Connection) -> None:
    # every version that was sent, also after a withdrawal: reports are made of it
    db.execute(
        "CREATE TABLE pilot_plan(tenant TEXT NOT NULL, hash TEXT NOT NULL, pilot TEXT NOT NULL,"
        " version INTEGER NOT NULL, previous TEXT NOT NULL, at_ms INTEGER NOT NULL, who TEXT NOT NULL,"
        " doc TEXT NOT NULL, PRIMARY KEY(tenant, hash)) STRICT, WITHOUT ROWID"
    )
    for node, at_ms, who, doc in db.execute("SELECT node, at_ms, who, doc FROM desired WHERE what = 'pilot'"):
        with suppress(KeyError, TypeError, ValueError):  # a withdrawn plan is {}
            payload = base64.b64decode(json.loads(doc)["payload"], validate=True)
            frozen = json.loads(payload)
            values = (
                node.split("/")[0], hashlib.sha256(payload).hexdigest(), frozen["plan"]["pilot"],
                frozen["version"], frozen["previous"], at_ms, who, doc,
            )  # fmt: skip
            db.execute("INSERT OR IGNORE INTO pilot_plan VALUES (?,?,?,?,?,?,?,?)", values)


# Step n makes version n of version n - 1. A step that was released never changes: add one at the end, and a
# fixture of the version before it to tests/fixtures/state-db.
STEPS: Sequence[Step] = (_first, _users, _desired, _commands, _rollouts, _desired_pilot, _pilot_plans)


def migrate(db: sqlite3.Connection, steps: Sequence[Step]) -> None:
    """Run the steps that a file lacks, each in a transaction of its own.

    Raises:
        sqlite3.Error: a step failed; the file is as it was before this step.
    """
    db.execute("PRAGMA foreign_keys = OFF")  # a step may build a table again
    while (at := version(db)) < len(steps):
        db.execute("BEGIN IMMEDIATE")
        try:
            steps[at](db)
            broken = db.execute("PRAGMA foreign_key_check").fetchone()
            if broken is not None:
                raise sqlite3.IntegrityError(f"a row of {broken[0]} refers to a row that is not there")
            db.execute(f"PRAGMA user_version = {at + 1}")
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
    db.execute("PRAGMA foreign_keys = ON")


def version(db: sqlite3.Connection) -> int:
    """The schema version of an open file."""
    found: int = db.execute("PRAGMA user_version").fetchone()[0]
    return found
