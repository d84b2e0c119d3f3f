"""Login, logout, and who is logged in."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import OrderedDict
from typing import Annotated

from msgspec import Meta, Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from collector.rights import passwords
from collector.rights.accounts import Account
from collector.rights.attempts import Attempts
from collector.rights.directory import Directory
from collector.rights.user import ALL, User
from collector.state.audit import LOGIN_FAILED, Audit, AuditEntry
from collector.web.access import NO_TLS, cookie_name, is_private
from collector.web.bodies import json_answer, read_body
from collector.web.connections import network_of
from collector.web.rules import FILTERED, PUBLIC, Ruled, user_of
from wire.clock import Clock
from wire.errors import EdgebedError, TryAgain
from wire.printable import printable

log = logging.getLogger(__name__)

QUIET_S = 60.0  # failures of one address and user in this time are one line of the audit
_KEPT = 1_000
_MAX_BODY = 4_096
_NOBODY = passwords.hashed("no password has this hash")  # so that an unknown user takes as long


class Credentials(Struct, forbid_unknown_fields=True):
    """The body of a login."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    password: Annotated[str, Meta(min_length=1, max_length=passwords.MOST)]


class SignIn:
    """The routes of logins; `session_ms` is how long a session lives."""

    def __init__(self, directory: Directory, audit: Audit, clock: Clock, session_ms: int) -> None:
        self._directory = directory
        self._audit = audit
        self._clock = clock
        self._session_ms = session_ms
        self._attempts = Attempts(clock)
        self.worker = passwords.PasswordWorker()
        self._failed: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()

    def routes(self) -> list[BaseRoute]:
        """Its routes."""
        return [
            Ruled("/api/v1/login", self.log_in, PUBLIC, methods=["POST"]),
            Ruled("/api/v1/logout", self.log_out, FILTERED, methods=["POST"]),
            Ruled("/api/v1/me", self.me, FILTERED),
        ]

    def close(self) -> None:
        """End its thread."""
        self.worker.close()

    async def log_in(self, request: Request) -> Response:
        """Check a password and open a session, in a cookie that scripts cannot read."""
        if not is_private(request.scope):
            raise HTTPException(403, NO_TLS)
        given = await read_body(request, Credentials, _MAX_BODY)
        address = network_of(request.client.host if request.client else "")
        self.limit(address, given.name)
        account = self._directory.account(given.name)
        fits = await self.worker.fits(given.password, account.secret if account else _NOBODY)
        if account is None or not fits:
            await self._note_failure(address, account)
            raise HTTPException(401, "user or password is wrong")
        self._attempts.succeeded(address, given.name)
        accounts = self._directory.accounts
        secret = await asyncio.to_thread(
            accounts.open_session, account.name, account.secret, address, self._session_ms
        )
        await asyncio.to_thread(self._directory.refresh)
        user = self._directory.session(secret)  # None if the user was changed or removed meanwhile
        if user is None:
            raise HTTPException(401, "user or password is wrong")
        await self._note(account.name, "login", account.name, address, "done", _scope(account.grant.prefixes))
        answer = json_answer(_shown(user))
        answer.set_cookie(
            cookie_name(request.scope, self._directory.store_id),
            secret,
            max_age=self._session_ms // 1000,
            secure=request.scope["scheme"] == "https",
            httponly=True,
            samesite="strict",
        )
        return answer

    async def log_out(self, request: Request) -> Response:
        """End the session of the cookie."""
        user = user_of(request)
        if user.kind == "session":
            await asyncio.to_thread(self._directory.accounts.end_session, user.credential)
            await asyncio.to_thread(self._directory.refresh)
            address = network_of(request.client.host if request.client else "")
            await self._note(user.name, "logout", user.name, address, "done", scope_of(user))
        answer = json_answer({})
        name = cookie_name(request.scope, self._directory.store_id)
        answer.delete_cookie(
            name, secure=request.scope["scheme"] == "https", httponly=True, samesite="strict"
        )
        return answer

    async def me(self, request: Request) -> Response:
        """Who asks, and with which rights."""
        return json_answer(_shown(user_of(request)))

    async def hashed(self, request: Request, password: str) -> str:
        """The hash of a new password, in the worker and within the limits of logins.

        Raises:
            HTTPException: 429, too many in a short time; 400, it is too short or too long.
            TryAgain: too many wait already.
        """
        address, name = network_of(request.client.host if request.client else ""), user_of(request).name
        self.limit(address, name)
        try:
            secret = await self.worker.hashed(password)
        except TryAgain:
            raise
        except EdgebedError as error:
            raise HTTPException(400, str(error)) from error
        self._attempts.succeeded(address, name)
        return secret

    def limit(self, address: str, name: str) -> None:
        """Take one attempt.

        Raises:
            HTTPException: 429, there is none.
        """
        known = self._directory.is_known(name, address)
        wait_s = self._attempts.wait_s(address, name, is_known=known)
        if wait_s > 0:
            raise HTTPException(
                429, "too many login attempts: wait, then try again", {"retry-after": str(math.ceil(wait_s))}
            )

    async def _note_failure(self, address: str, account: Account | None) -> None:
        """Note the first failure of an address and user at once, and those that follow once a minute."""
        # a name that no user has may be a password in the wrong field
        name, scope = (account.name, _scope(account.grant.prefixes)) if account else ("unknown user", ALL)
        now_s, key = self._clock.monotonic(), (address, name)
        since_s, count = self._failed.pop(key, (-math.inf, 0))
        if now_s - since_s < QUIET_S:
            self._failed[key] = (since_s, count + 1)
            return
        self._failed[key] = (now_s, 0)
        while len(self._failed) > _KEPT:
            self._failed.popitem(last=False)
        result = "wrong user or password" + (f", and {count} times before" if count else "")
        log.warning("login of %s from %s: %s", printable(name), address, result)
        await self._note(name, LOGIN_FAILED, name, address, result, scope)

    async def _note(self, who: str, what: str, subject: str, address: str, result: str, scope: str) -> None:
        entry = AuditEntry(self._clock.now_ms(), who, what, subject, address, result, scope)
        try:
            await asyncio.to_thread(self._audit.add, entry)
        except EdgebedError as error:
            log.warning("this is not in the audit: %s: %s", what, error)


def scope_of(user: User) -> str:
    """The prefix whose users see what a user did in the audit."""
    return _scope(user.grants[0].prefixes)


def _scope(prefixes: tuple[str, ...]) -> str:
    return prefixes[0] if len(prefixes) == 1 else ALL


def _shown(user: User) -> dict[str, object]:
    grants = [{"role": one.role, "prefixes": one.prefixes} for one in user.grants]
    return {"name": user.name, "kind": user.kind, "ends": user.ends_ms or None, "grants": grants}
