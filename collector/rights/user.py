"""Who asks, and what it may do. `may` decides for every route, page, stream and export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from wire.errors import EdgebedError
from wire.topics import ID

ROLES = ("viewer", "operator", "admin")  # each may do what those before it may
ALL = "*"  # the prefix of every node


class Action(StrEnum):
    """What a request does to a node, or to the collector."""

    VIEW = "view"
    COMMAND = "command"
    CONFIGURE = "configure"
    ENROL = "enrol"
    USERS = "users"


LEAST_ROLE = {
    Action.VIEW: "viewer",
    Action.COMMAND: "operator",
    Action.CONFIGURE: "operator",
    Action.ENROL: "admin",
    Action.USERS: "admin",
}


@dataclass(frozen=True, slots=True)
class Grant:
    """A role over the nodes of some prefixes: `*`, `tenant/*`, `tenant/pilot/*` or one node."""

    role: str
    prefixes: tuple[str, ...]

    def allows(self, action: Action, node: str) -> bool:
        """Whether the role is high enough, and a prefix covers the node ("" is the collector itself)."""
        return ROLES.index(self.role) >= ROLES.index(LEAST_ROLE[action]) and any(
            covers(prefix, node) for prefix in self.prefixes
        )


@dataclass(frozen=True, slots=True)
class User:
    """Who asks. A token has a second grant: both must allow an action."""

    name: str
    grants: tuple[Grant, ...]
    kind: str  # session, token, token_file, local
    credential: bytes = b""  # the hash of the session or token
    ends_ms: int = 0  # of the session or token; 0 never

    def allows(self, action: Action, node: str) -> bool:
        """Whether every grant allows it."""
        return all(grant.allows(action, node) for grant in self.grants)

    @property
    def prefixes(self) -> list[str]:
        """The prefixes that every grant covers."""
        found = list(self.grants[0].prefixes)
        for grant in self.grants[1:]:
            both = ((one, other) for one in found for other in grant.prefixes)
            found = [
                one if covers(other, one) else other
                for one, other in both
                if covers(other, one) or covers(one, other)
            ]
        return found

    @property
    def sees_all(self) -> bool:
        """Whether it may see every node and the collector itself."""
        return may(self, Action.VIEW)


LOCAL = User("local", (Grant("admin", (ALL,)),), "local")  # on loopback, while no user exists
TOKEN_FILE = User("token_file", (Grant("admin", (ALL,)),), "token_file")


def may(user: User, action: Action, node: str = "") -> bool:
    """Whether a user may do something to `tenant/pilot/site/node`; without a node, to the whole collector."""
    return user.allows(action, node)


def sight(user: User) -> Callable[[str], bool]:
    """Whether a node is visible to a user, as a function."""
    return lambda node: may(user, Action.VIEW, node)


def covers(prefix: str, node: str) -> bool:
    """Whether a prefix covers a node, or another prefix."""
    if prefix == ALL:
        return True
    if prefix.endswith("/*"):
        return node.startswith(prefix[:-1])
    return bool(prefix) and node == prefix


def read_prefix(text: str) -> str:
    """The prefix in a text that a person wrote.

    Raises:
        EdgebedError: it is not one.
    """
    parts = text.split("/")
    wild = parts[-1] == "*"
    names = parts[:-1] if wild else parts
    if all(ID.fullmatch(name) for name in names) and (len(names) < 4 if wild else len(names) == 4):
        return text
    raise EdgebedError(
        f"prefix {text[:80]!r} is not '*', 'tenant/*', 'tenant/pilot/*', 'tenant/pilot/site/*' or one node"
    )


def read_role(text: str) -> str:
    """The role in a text that a person wrote.

    Raises:
        EdgebedError: it is not one.
    """
    if text not in ROLES:
        raise EdgebedError(f"role {text[:40]!r} is not one of {', '.join(ROLES)}")
    return text
