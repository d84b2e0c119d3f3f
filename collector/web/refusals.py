"""Notes in the audit which changes were refused, to whom and why."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request

from collector.fleet.fleet import Fleet
from collector.state.audit import Audit, AuditEntry
from collector.web.connections import network_of
from collector.web.rules import Rule, asked_node, user_of
from collector.web.sign_in import scope_of
from wire.clock import Clock
from wire.log_rate_limit import LogRateLimit


class Refusals:
    """The same refusal is noted once a minute: it must push out no other act."""

    def __init__(self, fleet: Fleet, audit: Audit, clock: Clock) -> None:
        self._fleet = fleet
        self._audit = audit
        self._clock = clock
        self._limit = LogRateLimit(60.0, 1_000, now=clock.monotonic)

    def noted_by(self, rule: Rule, whats: Mapping[str, str]) -> Rule:
        """The rule, which notes whom it refuses; `whats` has the act of each method."""
        return _Noting(rule, self, whats)

    @asynccontextmanager
    async def noted(self, request: Request, what: str) -> AsyncIterator[list[str]]:
        """Note why a request is refused; the caller adds to the subject."""
        more: list[str] = []
        try:
            yield more
        except HTTPException as error:
            await self.note(request, what, error, *more)
            raise

    async def note(self, request: Request, what: str, error: HTTPException, *more: str) -> None:
        """Note a refusal. One about a node that is not known is not noted."""
        user = user_of(request)
        scope = asked_node(request) if "t" in request.path_params else ""
        count = self._limit.since((scope, user.name, what, str(error.detail)))
        if count is None or (scope and scope not in self._fleet.names()):
            return
        result = f"refused: {error.detail}" + (f", and {count} times before" if count else "")
        origin = network_of(request.client.host if request.client else "")
        asked = "/".join(map(str, request.path_params.values()))  # what it is about, if it is not a node
        subject = " ".join(filter(None, [scope, *more])) or asked
        entry = AuditEntry(
            self._clock.now_ms(), user.name, what, subject, origin, result, scope or scope_of(user)
        )
        await asyncio.to_thread(self._audit.note, entry)


class _Noting(Rule):
    """A rule that notes whom it refuses although it may see what it asks for."""

    def __init__(self, rule: Rule, refusals: Refusals, whats: Mapping[str, str]) -> None:
        super().__init__(rule.name, rule.action)
        self._rule = rule
        self._refusals = refusals
        self._whats = whats

    async def check(self, request: Request) -> None:
        """Refuse a request as the rule does."""
        try:
            await self._rule.check(request)
        except HTTPException as error:
            if error.status_code == HTTPStatus.FORBIDDEN and (what := self._whats.get(request.method)):
                await self._refusals.note(request, what, error)
            raise
