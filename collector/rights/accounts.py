"""Users, sessions and API tokens in `state.db`. The collector and `edgebed user` both write them."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from collector.rights.user import ROLES, Action, Grant, User
from collector.state.state_file import StateFile
from wire.clock import Clock
from wire.config import did_you_mean
from wire.errors import EdgebedError

NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")
MAX_USERS = 1_000
MAX_TOKENS = 100  # of a user
MAX_SESSIONS = 20  # of a user; the oldest goes first
MAX_DAYS = 3_660
LABEL = 100  # characters
TOKEN = "ebt_"  # noqa: S105 - how an API token begins, so that a scanner of leaked secrets knows it
DAY_MS = 86_400_000
EARLY_MS = 300_000  # how far the clock may be set back before what was made since counts as not valid


@dataclass(frozen=True, slots=True)
class Account:
    """A user as it is kept."""

    name: str
    secret: str  # see `passwords.hashed`
    grant: Grant
    made_ms: int


@dataclass(frozen=True, slots=True)
class Credential:
    """A session or an API token; `id`, `label` and `grant` are those of a token."""

    user: str
    hash: bytes
    made_ms: int
    ends_ms: int
    origin: str = ""
    id: str = ""
    label: str = ""
    grant: Grant | None = None

    def is_valid(self, now_ms: int) -> bool:
        """Whether the time lies in its life. A clock that was set back makes nothing live longer."""
        return self.made_ms - EARLY_MS <= now_ms < self.ends_ms


@dataclass(frozen=True, slots=True)
class Saved:
    """Everything in `state.db` that decides who may do what."""

    store_id: str
    accounts: dict[str, Account]
    sessions: dict[bytes, Credential]
    tokens: dict[bytes, Credential]


def digest(secret: str) -> bytes:
    """What is kept of the secret of a session or a token."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def check_name(name: str) -> None:
    """Check that a user can have this name.

    Raises:
        EdgebedError: it cannot.
    """
    if not NAME.fullmatch(name):
        raise EdgebedError(
            f"{name[:80]!r} is not a user name: 1 to 64 of a-z, 0-9 and . _ @ -, a letter or digit first"
        )


class Accounts:
    """What is kept of users. Any thread; each method is one transaction, and raises as `transaction` does."""

    def __init__(self, state: StateFile, clock: Clock) -> None:
        self._state = state
        self._clock = clock
        self._changes = 0

    def mark(self) -> object:
        """A value that changes with the file."""
        return self._state.mark(), self._changes

    @contextmanager
    def _change(self) -> Iterator[Any]:
        with self._state.transaction() as db:
            yield db
        self._changes += 1  # the mark of the file shows what others change

    def read(self) -> Saved:
        """Everything that is kept."""
        with self._state.transaction(writes=False) as db:
            store_id = db.execute("SELECT value FROM fact WHERE key = 'store'").fetchone()[0]
            users = db.execute("SELECT name, secret, role, prefixes, made_ms FROM user").fetchall()
            sessions = db.execute("SELECT user, hash, made_ms, ends_ms, origin FROM session").fetchall()
            tokens = db.execute(
                "SELECT user, hash, made_ms, ends_ms, id, label, role, prefixes FROM token"
            ).fetchall()
        return Saved(
            store_id,
            {row[0]: Account(row[0], row[1], _grant(row[2], row[3]), row[4]) for row in users},
            {row[1]: Credential(*row) for row in sessions},
            {row[1]: _token(row) for row in tokens},
        )

    def add(self, name: str, secret: str, grant: Grant) -> None:
        """Add a user.

        Raises:
            EdgebedError: the name is not one, or is taken.
        """
        check_name(name)
        with self._change() as db:
            known = [each for (each,) in db.execute("SELECT name FROM user")]
            if name in known:
                raise EdgebedError(f"user {name} exists already: use passwd, or remove it first")
            if len(known) >= MAX_USERS:
                raise EdgebedError(f"there are {MAX_USERS} users already: remove some first")
            db.execute(
                "INSERT INTO user VALUES (?,?,?,?,?)",
                (name, secret, grant.role, " ".join(grant.prefixes), self._clock.now_ms()),
            )

    def change_password(self, name: str, secret: str) -> None:
        """Replace the password of a user, and end its sessions.

        Raises:
            EdgebedError: there is no such user.
        """
        with self._change() as db:
            self._require(db.execute("SELECT name FROM user").fetchall(), name)
            db.execute("UPDATE user SET secret = ? WHERE name = ?", (secret, name))
            db.execute("DELETE FROM session WHERE user = ?", (name,))

    def remove(self, name: str, *, keeps_admin: bool = False) -> None:
        """Remove a user with its sessions and tokens; `keeps_admin` refuses the last administrator.

        Raises:
            EdgebedError: there is no such user, or no other administrator has the same nodes.
        """
        with self._change() as db:
            rows = db.execute("SELECT name, role, prefixes FROM user").fetchall()
            self._require([row[:1] for row in rows], name)
            if keeps_admin and _is_last_admin({row[0]: _grant(*row[1:]) for row in rows}, name):
                raise EdgebedError(f"user {name} is the last administrator of its nodes: add another first")
            db.execute("DELETE FROM user WHERE name = ?", (name,))

    def add_token(self, user: str, label: str, grant: Grant, days: int) -> tuple[str, str]:
        """Make an API token; returns its id and the secret, which is not kept.

        Raises:
            EdgebedError: there is no such user, or it has too many tokens.
        """
        identity, now = secrets.token_hex(4), self._clock.now_ms()
        secret = f"{TOKEN}{secrets.token_urlsafe(32)}"
        with self._change() as db:
            self._require(db.execute("SELECT name FROM user").fetchall(), user)
            db.execute("DELETE FROM token WHERE user = ? AND ends_ms <= ?", (user, now))
            if db.execute("SELECT count(*) FROM token WHERE user = ?", (user,)).fetchone()[0] >= MAX_TOKENS:
                raise EdgebedError(f"user {user} has {MAX_TOKENS} tokens already: remove some first")
            db.execute(
                "INSERT INTO token VALUES (?,?,?,?,?,?,?,?)",
                (
                    *(identity, digest(secret), user, label[:LABEL], grant.role),
                    *(" ".join(grant.prefixes), now, now + days * DAY_MS),
                ),
            )
        return identity, secret

    def remove_token(self, user: str, identity: str) -> None:
        """Remove an API token.

        Raises:
            EdgebedError: the user has no such token.
        """
        with self._change() as db:
            gone = db.execute("DELETE FROM token WHERE user = ? AND id = ?", (user, identity)).rowcount
        if not gone:
            raise EdgebedError(f"user {user} has no token {identity[:40]!r}: `edgebed user ls` shows them")

    def open_session(self, user: str, secret: str, origin: str, life_ms: int) -> str:
        """Open a session of a user whose password is still `secret`; returns the secret for its cookie.

        There is no session if the user was removed or its password changed meanwhile.
        """
        now, cookie = self._clock.now_ms(), secrets.token_urlsafe(32)
        with self._change() as db:
            if not db.execute("SELECT 1 FROM user WHERE name = ? AND secret = ?", (user, secret)).fetchone():
                return cookie
            db.execute("DELETE FROM session WHERE ends_ms <= ? OR made_ms > ?", (now, now + EARLY_MS))
            db.execute(
                "DELETE FROM session WHERE hash IN (SELECT hash FROM session WHERE user = ?"
                " ORDER BY made_ms DESC LIMIT -1 OFFSET ?)",
                (user, MAX_SESSIONS - 1),
            )
            db.execute(
                "INSERT INTO session VALUES (?,?,?,?,?)", (digest(cookie), user, now, now + life_ms, origin)
            )
        return cookie

    def end_session(self, hashed: bytes) -> None:
        """End a session; without effect if it has ended."""
        with self._change() as db:
            db.execute("DELETE FROM session WHERE hash = ?", (hashed,))

    def _require(self, rows: list[tuple[str]], name: str) -> None:
        known = [each for (each,) in rows]
        if name not in known:
            raise EdgebedError(f"there is no user {name[:80]!r}{did_you_mean(name, known)}")


def listed(account: Account, saved: Saved) -> dict[str, Any]:
    """A user with its tokens and the number of its sessions, without secrets."""
    tokens = sorted(
        (one for one in saved.tokens.values() if one.user == account.name), key=lambda one: one.id
    )
    return {
        "name": account.name,
        "role": account.grant.role,
        "prefixes": account.grant.prefixes,
        "sessions": sum(one.user == account.name for one in saved.sessions.values()),
        "tokens": [_listed_token(one) for one in tokens],
    }


def _listed_token(one: Credential) -> dict[str, Any]:
    grant = {"role": one.grant.role, "prefixes": one.grant.prefixes} if one.grant else {}
    return {"id": one.id, "label": one.label, **grant, "ends": one.ends_ms}


def user_of(saved: Saved, credential: Credential, kind: str) -> User:
    """The user of a session or token that is kept."""
    grants = [saved.accounts[credential.user].grant]
    if credential.grant is not None:
        grants.append(credential.grant)
    return User(credential.user, tuple(grants), kind, credential.hash, credential.ends_ms)


def _is_last_admin(grants: dict[str, Grant], name: str) -> bool:
    """Whether a user is an administrator, and no other one covers all of its nodes."""
    own = grants[name]
    others = [one for each, one in grants.items() if each != name]
    return own.role == "admin" and not any(
        all(one.allows(Action.USERS, prefix) for prefix in own.prefixes) for one in others
    )


def _token(row: tuple[Any, ...]) -> Credential:
    return Credential(row[0], row[1], row[2], row[3], "", row[4], row[5], _grant(row[6], row[7]))


def _grant(role: str, prefixes: str) -> Grant:
    """A grant of the file; one with an unknown role allows nothing."""
    return Grant(role, tuple(prefixes.split())) if role in ROLES else Grant(ROLES[0], ())
