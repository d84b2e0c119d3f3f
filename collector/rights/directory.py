"""Finds the user of a session or an API token, from memory; follows what other processes change."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from collector.rights.accounts import Account, Accounts, Credential, Saved, digest, user_of
from collector.rights.user import LOCAL, TOKEN_FILE, Action, User
from wire.clock import Clock
from wire.errors import EdgebedError, TryAgain


class Directory:
    """The users of a collector, as `state.db` had them at the last `refresh`. Any thread."""

    def __init__(self, accounts: Accounts, clock: Clock) -> None:
        self.accounts = accounts
        self._clock = clock
        self._lock = threading.Lock()
        self._saved: Saved | None = None
        self._origins: set[tuple[str, str]] = set()  # users, and the addresses of their sessions
        self._mark: object = None
        self._why = "they have not been read yet"

    def refresh(self) -> None:
        """Read `state.db` if it changed; if it cannot be read, what was read last stays."""
        with self._lock:
            try:
                mark = self.accounts.mark()
                if mark != self._mark:
                    self._saved = saved = self.accounts.read()
                    self._origins = {(one.user, one.origin) for one in saved.sessions.values()}
                    self._mark = mark
            except EdgebedError as error:
                self._why = str(error)

    @property
    def has_users(self) -> bool:
        """Whether a user exists.

        Raises:
            TryAgain: the users could not be read since the start.
        """
        return bool(self._known().accounts)

    @property
    def store_id(self) -> str:
        """The random name of the store: part of the name of the cookie."""
        return self._known().store_id

    def account(self, name: str) -> Account | None:
        """What is kept of a user."""
        return self._known().accounts.get(name)

    def still_may(self, action: Action, name: str, node: str) -> bool:
        """Whether what a user has begun may go on at a node; what needed no user may.

        Raises:
            TryAgain: the users could not be read since the start.
        """
        account = self.account(name)
        if account is None:
            return name in (LOCAL.name, TOKEN_FILE.name)
        return account.grant.allows(action, node)

    def session(self, secret: str) -> User | None:
        """The user of a session that is valid now."""
        saved = self._known()
        return self._user(saved, saved.sessions, secret, "session")

    def token(self, secret: str) -> User | None:
        """The user of an API token that is valid now."""
        saved = self._known()
        return self._user(saved, saved.tokens, secret, "token")

    def is_current(self, user: User) -> bool:
        """Whether a user would still get the same rights; without a login only while no user exists."""
        saved = self._known()
        if user == LOCAL:
            return not saved.accounts
        if user.kind == "node":
            return self._clock.now_ms() < user.ends_ms
        kept = {"session": saved.sessions, "token": saved.tokens}.get(user.kind)
        if kept is None:
            return True
        found = kept.get(user.credential)
        if found is None or not found.is_valid(self._clock.now_ms()):
            return False
        return user_of(saved, found, user.kind) == user

    def is_known(self, name: str, origin: str) -> bool:
        """Whether a user has a session from an address."""
        return (name, origin) in self._origins

    def _user(self, saved: Saved, kept: Mapping[bytes, Credential], secret: str, kind: str) -> User | None:
        found = kept.get(digest(secret))
        if found is None or not found.is_valid(self._clock.now_ms()):
            return None
        return user_of(saved, found, kind)

    def _known(self) -> Saved:
        saved = self._saved
        if saved is None:
            raise TryAgain(f"the users of this collector cannot be read: {self._why}")
        return saved
