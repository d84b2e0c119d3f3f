"""Roles, prefixes, and `may`."""

from __future__ import annotations

import pytest

from collector.rights.user import LOCAL, Action, Grant, User, covers, may, read_prefix, read_role, sight
from wire.errors import EdgebedError

NODE = "acme/trial/hall/cobot-01"


def user(role: str, *prefixes: str, token: Grant | None = None) -> User:
    return User("kim", (Grant(role, prefixes), *([token] if token else [])), "session")


@pytest.mark.parametrize(
    ("prefix", "node", "does"),
    [
        ("*", NODE, True), ("*", "", True), ("acme/*", NODE, True), ("acme/trial/*", NODE, True),
        ("acme/trial/hall/*", NODE, True), (NODE, NODE, True),
        ("acme/*", "", False), ("acme/*", "acme2/trial/hall/cobot-01", False), ("acme/*", "acme", False),
        ("acm/*", NODE, False), ("acme/tri/*", NODE, False), (NODE, NODE + "1", False), ("acme", NODE, False),
        ("", NODE, False), ("", "", False),
        ("acme/*", "acme/trial/*", True), ("acme/trial/*", "acme/*", False), ("acme/*", "*", False),
    ],
)  # fmt: skip
def test_a_prefix_ends_at_a_slash(prefix: str, node: str, does: bool) -> None:
    assert covers(prefix, node) is does


def test_each_role_may_do_what_those_below_it_may() -> None:
    allowed = {
        role: [str(action) for action in Action if may(user(role, "acme/*"), action, NODE)]
        for role in ("viewer", "operator", "admin")
    }
    assert allowed == {
        "viewer": ["view"],
        "operator": ["view", "command", "configure"],
        "admin": ["view", "command", "configure", "enrol", "users"],
    }
    assert not any(may(user("admin", "acme/*"), action) for action in Action), "the collector itself"
    assert all(may(LOCAL, action, node) for action in Action for node in ("", NODE))


def test_a_token_may_no_more_than_its_user_and_no_more_than_itself() -> None:
    wide, narrow = Grant("admin", ("*",)), Grant("viewer", ("acme/trial/*", "hanbit/*"))
    for one in (user("viewer", "acme/*", token=wide), user("admin", "*", token=Grant("viewer", ("acme/*",)))):
        assert may(one, Action.VIEW, NODE)
        assert not may(one, Action.COMMAND, NODE)
        assert not may(one, Action.VIEW, "hanbit/a/b/c")
        assert not one.sees_all
        assert one.prefixes == ["acme/*"]
    assert user("admin", "acme/*", token=narrow).prefixes == ["acme/trial/*"]
    assert user("admin", "*", token=wide).sees_all
    assert user("admin").prefixes == []
    assert sight(user("viewer", "acme/*"))(NODE)


@pytest.mark.parametrize("text", ["*", "acme/*", "acme/trial/*", "acme/trial/hall/*", NODE])
def test_a_prefix_is_read(text: str) -> None:
    assert read_prefix(text) == text


@pytest.mark.parametrize(
    "text", ["", "acme", "acme/", "/*", "**", "acme*", "*/acme", "Acme/*", "a/b/c/d/*", "a/b c/*"]
)
def test_what_is_not_a_prefix_is_named(text: str) -> None:
    with pytest.raises(EdgebedError, match="is not '\\*', 'tenant/\\*'"):
        read_prefix(text)


def test_what_is_not_a_role_is_named() -> None:
    assert read_role("viewer") == "viewer"
    with pytest.raises(EdgebedError, match="'root' is not one of viewer, operator, admin"):
        read_role("root")
