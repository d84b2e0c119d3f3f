"""The rule of each route: what it asks `may`. A route without a rule cannot be served."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from collector.rights.user import Action, User, may, sight
from collector.web.parameters import unknown
from wire.errors import WireError
from wire.topics import Address

NOWHERE = "/"  # asked for instead of a node that is not visible: no node is called so

Endpoint = Callable[[Request], Awaitable[Response]]


class Rule:
    """What a route asks `may` before it answers."""

    def __init__(self, name: str, action: Action | None = None) -> None:
        self.name = name
        self.action = action

    @property
    def is_public(self) -> bool:
        """Whether it answers without a login; then it must not show anything of a node."""
        return self is PUBLIC

    async def check(self, request: Request) -> None:
        """Refuse a request that the rule does not allow.

        Raises:
            HTTPException: 403 where the user may see what it must not change, 404 where it may not see it.
        """
        if self.action is None:
            return
        user, action = user_of(request), self.action
        if "t" not in request.path_params:
            if not may(user, action):
                raise HTTPException(403, f"{user.name} may not do this: it needs a higher role over all")
            return
        node = asked_node(request)
        if not may(user, Action.VIEW, node):
            raise await no_such_node(request, node)
        if not may(user, action, node):
            raise HTTPException(403, f"{user.name} may see {node}, but not {action} it: a higher role may")


PUBLIC = Rule("public")
FILTERED = Rule("filtered")  # the answer has only what the user may see
NODE = Rule("node")  # `node_of` hides a node that the user may not see
WHOLE = Rule("whole", Action.VIEW)  # about the collector itself


class ManagerRule(Rule):
    """For users that are administrators of some nodes; the route asks for which."""

    async def check(self, request: Request) -> None:
        """Refuse who is not an administrator, and who did not log in.

        Raises:
            HTTPException: 403.
        """
        user = user_of(request)
        if user.kind == "local":
            raise HTTPException(
                403, "make the first user on the collector's machine: `edgebed user add NAME --store FOLDER`"
            )
        if not any(may(user, Action.USERS, prefix) for prefix in user.prefixes):
            raise HTTPException(403, f"{user.name} may not manage users: an administrator may")


MANAGES_USERS = ManagerRule("manages users", Action.USERS)


def changes(action: Action) -> Rule:
    """The rule of a route that changes the node in its path, or the collector."""
    return Rule(str(action), action)


class Ruled(Route):
    """A route with its rule."""

    def __init__(
        self, path: str, endpoint: Endpoint, rule: Rule, *, methods: Sequence[str] = ("GET",)
    ) -> None:
        async def checked(request: Request) -> Response:
            await rule.check(request)
            return await endpoint(request)

        super().__init__(path, checked, methods=list(methods))
        self.rule = rule


def user_of(request: Request) -> User:
    """Who asks."""
    user: Any = request.scope.get("user")
    if not isinstance(user, User):
        raise HTTPException(401, "log in first")
    return user


def sight_of(request: Request) -> Callable[[str], bool]:
    """Whether a node is visible to who asks, as a function."""
    return sight(user_of(request))


def asked_node(request: Request) -> str:
    """The node in the path, whether or not it may be seen.

    Raises:
        HTTPException: 400, it is not an address.
    """
    return address("/".join(request.path_params[part] for part in "tpsn"))


def visible(request: Request, node: str) -> str:
    """The node, or `NOWHERE` if the user may not see it: so unknown and forbidden take one path."""
    return node if may(user_of(request), Action.VIEW, node) else NOWHERE


def node_of(request: Request) -> str:
    """The node in the path as the user may see it."""
    return visible(request, asked_node(request))


async def no_such_node(request: Request, node: str) -> HTTPException:
    """The error 404 for a node that does not exist, and for one that the user may not see."""
    names, sees = request.app.state.node_names, sight_of(request)
    # among thousands of names the closest ones take a while
    return HTTPException(404, await asyncio.to_thread(lambda: unknown("node", node, filter(sees, names()))))


def address(text: str) -> str:
    """The text of an address.

    Raises:
        HTTPException: 400, it is not one.
    """
    try:
        return str(Address.parse(text))
    except WireError as error:
        raise HTTPException(400, str(error)) from error
