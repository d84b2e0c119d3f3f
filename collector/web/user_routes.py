"""Users and their API tokens, for administrators on other machines: list, add, change, remove."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Annotated, Any

from msgspec import Meta, Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from collector.fleet.fleet import Fleet
from collector.rights import passwords
from collector.rights.accounts import LABEL, MAX_DAYS, Account, Saved, check_name, listed
from collector.rights.directory import Directory
from collector.rights.user import Action, Grant, User, may, read_prefix, read_role
from collector.state.audit import EVERYWHERE, Audit, AuditEntry
from collector.web.bodies import json_answer, read_body
from collector.web.connections import network_of
from collector.web.refusals import Refusals
from collector.web.rules import MANAGES_USERS, Endpoint, Ruled, user_of
from wire.clock import Clock
from wire.config import did_you_mean
from wire.errors import EdgebedError, TryAgain

log = logging.getLogger(__name__)

PATH = "/api/v1/users"
_MAX_BODY = 16_384
_Prefixes = Annotated[list[Annotated[str, Meta(max_length=200)]], Meta(max_length=50)]
_Name = Annotated[str, Meta(min_length=1, max_length=64)]
_Password = Annotated[str, Meta(min_length=1, max_length=passwords.MOST)]


class NewUser(Struct, forbid_unknown_fields=True):
    """The body of a request for a user."""

    name: _Name
    password: _Password
    role: str
    prefixes: _Prefixes


class NewPassword(Struct, forbid_unknown_fields=True):
    """The body of a change of a password."""

    password: _Password


class NewToken(Struct, forbid_unknown_fields=True):
    """The body of a request for an API token; without prefixes it has all of its user."""

    label: Annotated[str, Meta(max_length=LABEL)] = ""
    role: str = "viewer"
    prefixes: _Prefixes = []
    days: Annotated[int, Meta(ge=1, le=MAX_DAYS)] = 90


class UserRoutes:
    """The routes. An administrator manages the users whose prefixes all lie inside his own."""

    def __init__(
        self,
        directory: Directory,
        audit: Audit,
        clock: Clock,
        hashed: Callable[[Request, str], Awaitable[str]],
        fleet: Fleet,
    ) -> None:
        self._directory = directory
        self._audit = audit
        self._clock = clock
        self._hashed = hashed
        self._refusals = Refusals(fleet, audit, clock)

    def routes(self) -> list[BaseRoute]:
        """Its routes."""
        one = PATH + "/{name}"
        return [
            Ruled(PATH, self.users, MANAGES_USERS),
            self._change(PATH, self.add, "POST", "user add"),
            self._change(one + "/password", self.change_password, "PUT", "user passwd"),
            self._change(one + "/tokens", self.add_token, "POST", "token add"),
            self._change(one + "/tokens/{token}", self.remove_token, "DELETE", "token remove"),
            self._change(one, self.remove, "DELETE", "user remove"),
        ]

    def _change(self, path: str, endpoint: Endpoint, method: str, what: str) -> Ruled:
        """A route that changes users; who is refused is noted, as far as it is about rights."""
        rule = self._refusals.noted_by(MANAGES_USERS, {method: what})

        async def noted(request: Request) -> Response:
            try:
                return await endpoint(request)
            except HTTPException as error:
                if error.status_code == HTTPStatus.FORBIDDEN:
                    await self._refusals.note(request, what, error)
                raise

        return Ruled(path, noted, rule, methods=[method])

    async def users(self, request: Request) -> Response:
        """The users that the asking one manages, without secrets."""
        saved = await asyncio.to_thread(self._directory.accounts.read)
        own = _managed(user_of(request), saved)
        return json_answer({"users": [listed(own[name], saved) for name in sorted(own)]})

    async def add(self, request: Request) -> Response:
        """Add a user."""
        body = await read_body(request, NewUser, _MAX_BODY)
        grant = _asked_grant(user_of(request), body.role, body.prefixes, body.name)
        secret = await self._hashed(request, body.password)
        text = f"{body.name}: {grant.role} of {' '.join(grant.prefixes)}"

        def act() -> dict[str, Any]:
            self._directory.accounts.add(body.name, secret, grant)
            return {"name": body.name, "role": grant.role, "prefixes": grant.prefixes}

        return await self._act(request, "user add", text, grant, act)

    async def change_password(self, request: Request) -> Response:
        """Change a password; the sessions of the user end."""
        account = await self._account(request)
        body = await read_body(request, NewPassword, _MAX_BODY)
        secret = await self._hashed(request, body.password)

        def act() -> dict[str, Any]:
            self._directory.accounts.change_password(account.name, secret)
            return _named(account)

        return await self._act(request, "user passwd", account.name, account.grant, act)

    async def remove(self, request: Request) -> Response:
        """Remove a user, but not the last administrator of its nodes."""
        account = await self._account(request)

        def act() -> dict[str, Any]:
            self._directory.accounts.remove(account.name, keeps_admin=True)
            return _named(account)

        return await self._act(request, "user remove", account.name, account.grant, act)

    async def add_token(self, request: Request) -> Response:
        """Make an API token; its secret is in this answer alone."""
        account = await self._account(request)
        body = await read_body(request, NewToken, _MAX_BODY)
        prefixes = body.prefixes or list(account.grant.prefixes)
        grant = _asked_grant(user_of(request), body.role, prefixes)
        text = f"{account.name}: {grant.role} of {' '.join(grant.prefixes)} for {body.days} days"

        def act() -> dict[str, Any]:
            identity, secret = self._directory.accounts.add_token(account.name, body.label, grant, body.days)
            asked = {"role": grant.role, "prefixes": grant.prefixes}
            return {"name": account.name, "id": identity, "token": secret, **asked}

        return await self._act(request, "token add", text, account.grant, act)

    async def remove_token(self, request: Request) -> Response:
        """Remove an API token."""
        account, identity = await self._account(request), request.path_params["token"]

        def act() -> dict[str, Any]:
            self._directory.accounts.remove_token(account.name, identity)
            return _named(account)

        return await self._act(request, "token remove", f"{account.name} {identity}", account.grant, act)

    async def _account(self, request: Request) -> Account:
        """The user in the path; one that the asking user does not manage does not exist for it."""
        saved = await asyncio.to_thread(self._directory.accounts.read)
        own, name = _managed(user_of(request), saved), request.path_params["name"]
        if name not in own:
            raise HTTPException(404, f"there is no user {name[:80]!r}{did_you_mean(name, own)}")
        return own[name]

    async def _act(
        self, request: Request, what: str, subject: str, grant: Grant, act: Callable[[], dict[str, Any]]
    ) -> Response:
        """Change the users, and note it with its result."""
        scope = grant.prefixes[0] if len(grant.prefixes) == 1 else EVERYWHERE
        origin = network_of(request.client.host if request.client else "")
        who = user_of(request).name

        def acted() -> dict[str, Any]:
            result = "done"
            try:
                return act()
            except EdgebedError as error:
                result = f"failed: {error}"
                raise
            finally:
                self._note(AuditEntry(self._clock.now_ms(), who, what, subject, origin, result, scope))

        try:
            found = await asyncio.to_thread(acted)
        except TryAgain:
            raise
        except EdgebedError as error:
            raise HTTPException(409, str(error)) from error
        await asyncio.to_thread(self._directory.refresh)
        return json_answer(found)

    def _note(self, entry: AuditEntry) -> None:
        try:
            self._audit.add(entry)
        except EdgebedError as error:
            log.warning("this is not in the audit: %s: %s", entry.what, error)


def _managed(user: User, saved: Saved) -> dict[str, Account]:
    """The users whose prefixes all lie inside those of an administrator."""
    return {name: one for name, one in saved.accounts.items() if _covers(user, one.grant.prefixes)}


def _covers(user: User, prefixes: tuple[str, ...]) -> bool:
    return bool(prefixes) and all(may(user, Action.USERS, each) for each in prefixes)


def _asked_grant(user: User, role: str, prefixes: list[str], name: str = "") -> Grant:
    """The grant that a body asks for.

    Raises:
        HTTPException: 400, it is not one; 403, it is more than the user has.
    """
    try:
        if name:
            check_name(name)
        grant = Grant(read_role(role), tuple(read_prefix(each) for each in prefixes))
    except EdgebedError as error:
        raise HTTPException(400, str(error)) from error
    if not grant.prefixes:
        raise HTTPException(400, "name at least one prefix")
    if not _covers(user, grant.prefixes):
        own = " ".join(user.prefixes)
        raise HTTPException(403, f"{user.name} manages users of {own} alone: ask for prefixes inside it")
    return grant


def _named(account: Account) -> dict[str, Any]:
    return {"name": account.name, "role": account.grant.role, "prefixes": account.grant.prefixes}
