"""The model packages of each tenant: takes what an operator pushes, and gives it to nodes and users."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute

from collector.rights.user import Action, User, covers, may
from collector.rollout.packages import Kept, NoRoom, PackageRefused, Packages, Push
from collector.state.audit import Audit, AuditEntry
from collector.web.bodies import json_answer
from collector.web.connections import network_of
from collector.web.rules import FILTERED, Rule, Ruled, user_of
from wire.clock import Clock
from wire.errors import EdgebedError, WireError
from wire.model_package import MAX_LISTING, read_listing
from wire.topics import ID

ALL = "/api/v1/models"
ONE = ALL + "/{tenant}/{digest}"
_PART = 1 << 20  # bytes that are written at once
_SILENT_S = 30.0  # without a byte of a body
_DIGEST = re.compile("[0-9a-f]{64}")

T = TypeVar("T")
Offered = Callable[[str, str], bool]  # whether a node was offered a digest


class ModelRoutes:
    """The routes; `in_use` says why a package of a tenant must stay, or ""."""

    def __init__(
        self,
        packages: Packages,
        audit: Audit,
        clock: Clock,
        offered: Offered,
        in_use: Callable[[str, str], str],
    ) -> None:
        self._packages = packages
        self._audit = audit
        self._clock = clock
        self._offered = offered
        self._in_use = in_use

    def routes(self) -> list[BaseRoute]:
        """Its routes."""
        rule = TenantRule(str(Action.CONFIGURE), Action.CONFIGURE)
        return [
            Ruled(ALL, self.list, FILTERED),
            Ruled(ONE, self.show, FILTERED),
            Ruled(ONE + "/files/{file:path}", self.file, FILTERED),
            Ruled(ONE, self.push, rule, methods=["PUT"]),
            Ruled(ONE, self.remove, rule, methods=["DELETE"]),
        ]

    async def list(self, request: Request) -> Response:
        """Every package that who asks may see."""
        found = await asyncio.to_thread(self._packages.ls)
        user = user_of(request)
        is_person = user.kind != "node"
        shown = [_shown(one) for one in found if is_person and may_in(user, Action.VIEW, one.tenant)]
        return json_answer({"models": shown})

    async def show(self, request: Request) -> Response:
        """One package with the listing of its files."""
        tenant, digest = await self._visible(request)
        kept = await asyncio.to_thread(self._packages.get, tenant, digest)
        listing = await asyncio.to_thread(self._packages.listing, tenant, digest)
        if kept is None or listing is None:
            raise _no_model()
        return json_answer({**_shown(kept), "listing": msgspec.to_builtins(listing)})

    async def file(self, request: Request) -> Response:
        """A file of a package; a `Range` of it where that is asked for."""
        tenant, digest = await self._visible(request)
        path = await asyncio.to_thread(self._packages.file, tenant, digest, request.path_params["file"])
        if path is None or not await asyncio.to_thread(path.is_file):
            raise _no_model()
        return FileResponse(path, media_type="application/octet-stream")

    async def push(self, request: Request) -> Response:
        """Keep a package: the listing as one line of JSON, then the contents in the order of the names."""
        tenant, digest = _asked(request)
        try:
            kept = await self._received(request, tenant, digest)
        except HTTPException as error:
            await self._note(request, "model pushed", f"{tenant} {digest[:12]}", f"refused: {error.detail}")
            raise
        await self._note(request, "model pushed", f"{tenant} {kept.ref} {digest[:12]}", "done")
        return json_answer(_shown(kept), 201)

    async def remove(self, request: Request) -> Response:
        """Remove a package."""
        tenant, digest = _asked(request)
        if why := await asyncio.to_thread(self._in_use, tenant, digest):
            raise HTTPException(409, why)
        if not await _refusable(partial(self._packages.remove, tenant, digest)):
            raise _no_model()
        await self._note(request, "model removed", f"{tenant} {digest[:12]}", "done")
        return json_answer({"tenant": tenant, "digest": digest})

    async def _visible(self, request: Request) -> tuple[str, str]:
        """The package that is asked for; unknown and forbidden take one path."""
        tenant, digest = _asked(request)
        user = user_of(request)
        if user.kind == "node":
            is_own = user.name.partition("/")[0] == tenant
            if not (is_own and await asyncio.to_thread(self._offered, user.name, digest)):
                raise _no_model()
        elif not may_in(user, Action.VIEW, tenant):
            raise _no_model()
        return tenant, digest

    async def _received(self, request: Request, tenant: str, digest: str) -> Kept:
        body = _Body(request)
        line = await body.line()
        try:
            listing = read_listing(line, digest)
        except WireError as error:
            raise HTTPException(400, str(error)) from error
        push = await _refusable(partial(self._packages.push, tenant, digest, listing))
        try:
            await body.write_to(push)
            return await _refusable(push.finish)
        finally:
            await asyncio.to_thread(push.close)

    async def _note(self, request: Request, what: str, subject: str, result: str) -> None:
        origin = network_of(request.client.host if request.client else "")
        scope = f"{request.path_params['tenant']}/*"
        entry = AuditEntry(
            self._clock.now_ms(), user_of(request).name, what, subject, origin, result[:300], scope
        )
        await asyncio.to_thread(self._audit.note, entry)


class TenantRule(Rule):
    """As `changes`, for what belongs to the tenant in the path."""

    async def check(self, request: Request) -> None:
        """Refuse who may not do this to any node of the tenant; it is unknown to who sees none of them.

        Raises:
            HTTPException: 403, 404.
        """
        user, tenant = user_of(request), request.path_params["tenant"]
        if user.kind == "node" or not may_in(user, Action.VIEW, tenant):
            raise _no_model()
        if self.action is not None and not may_in(user, self.action, tenant):
            raise HTTPException(403, f"{user.name} may see this, but not {self.action} it: a higher role may")


def may_in(user: User, action: Action, tenant: str) -> bool:
    """Whether a user may do something to at least one node of a tenant."""
    whole = f"{tenant}/*"
    return any(
        may(user, action, scope) for scope in (whole, *(one for one in user.prefixes if covers(whole, one)))
    )


class _Body:
    """The body of a request as it comes: a line, and then what follows in parts of a bounded size."""

    def __init__(self, request: Request) -> None:
        self._stream = request.stream().__aiter__()
        self._read = bytearray()

    async def line(self) -> bytes:
        """The first line.

        Raises:
            HTTPException: it is too long, or too slow.
        """
        while (end := self._read.find(b"\n")) < 0:
            if len(self._read) > MAX_LISTING or not await self._more():
                raise HTTPException(400, "the body does not begin with a line: the listing of the package")
        found = bytes(self._read[:end])
        del self._read[: end + 1]
        return found

    async def write_to(self, push: Push) -> None:
        """Write the rest.

        Raises:
            HTTPException: it is not what was listed, it is too slow, or it cannot be kept.
        """
        is_open = True
        while is_open:
            is_open = await self._more()
            if len(self._read) >= _PART or not is_open:
                await _refusable(partial(push.write, bytes(self._read)))
                self._read.clear()

    async def _more(self) -> bool:
        """Read on; False at the end."""
        try:
            async with asyncio.timeout(_SILENT_S):
                self._read += await anext(self._stream)
        except StopAsyncIteration:
            return False
        except TimeoutError as error:
            raise HTTPException(408, f"nothing of the body arrived for {_SILENT_S:.0f} s") from error
        except ClientDisconnect as error:
            raise HTTPException(400, "the connection ended within the body") from error
        return True


def _asked(request: Request) -> tuple[str, str]:
    tenant, digest = request.path_params["tenant"], request.path_params["digest"]
    if not ID.fullmatch(tenant) or not _DIGEST.fullmatch(digest):
        raise _no_model()
    return tenant, digest


def _no_model() -> HTTPException:
    return HTTPException(404, "there is no such model package: `edgebed model pushed` lists them")


def _shown(one: Kept) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(one)
    return found


async def _refusable(act: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(act)
    except NoRoom as error:
        raise HTTPException(413, str(error)) from error
    except PackageRefused as error:
        raise HTTPException(400, str(error)) from error
    except EdgebedError as error:
        raise HTTPException(507, str(error)) from error
