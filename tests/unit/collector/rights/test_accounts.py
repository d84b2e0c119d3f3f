"""What is kept of users, their sessions and their tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.rights import accounts as module
from collector.rights.accounts import DAY_MS, Accounts, digest, user_of
from collector.rights.user import Action, Grant, may
from collector.state.state_file import STATE, StateFile
from tests.unit.collector.conftest import SetClock
from wire.errors import ConfigError, EdgebedError

VIEWER = Grant("viewer", ("acme/*",))


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateFile]:
    found = StateFile(tmp_path)
    yield found
    found.close()


@pytest.fixture
def accounts(state: StateFile, clock: SetClock) -> Accounts:
    found = Accounts(state, clock)
    found.add("kim", "s1", VIEWER)
    return found


def test_a_user_is_kept_and_gone_with_all_it_has(accounts: Accounts) -> None:
    accounts.add("lee", "s2", Grant("admin", ("*", "hanbit/*")))
    accounts.open_session("lee", "s2", "192.0.2.1", 1000)
    accounts.add_token("lee", "export", VIEWER, 1)
    saved = accounts.read()
    assert saved.accounts["lee"].grant == Grant("admin", ("*", "hanbit/*"))
    assert (len(saved.sessions), len(saved.tokens)) == (1, 1)
    accounts.remove("lee")
    saved = accounts.read()
    assert (set(saved.accounts), saved.sessions, saved.tokens) == ({"kim"}, {}, {})


@pytest.mark.parametrize("name", ["", "Kim", "kim lee", "-kim", "k" * 65, "김", "a/b", "kim\n"])
def test_a_name_that_is_not_one_is_refused(accounts: Accounts, name: str) -> None:
    with pytest.raises(EdgebedError, match="is not a user name"):
        accounts.add(name, "s", VIEWER)


def test_a_taken_and_an_unknown_name_are_named(accounts: Accounts) -> None:
    with pytest.raises(EdgebedError, match="user kim exists already"):
        accounts.add("kim", "s", VIEWER)
    for act in (
        lambda: accounts.remove("kmi"),
        lambda: accounts.change_password("kmi", "s"),
        lambda: accounts.add_token("kmi", "", VIEWER, 1),
    ):
        with pytest.raises(EdgebedError, match="there is no user 'kmi'; did you mean 'kim'"):
            act()
    with pytest.raises(EdgebedError, match="has no token 'x'"):
        accounts.remove_token("kim", "x")


def test_no_secret_is_kept(accounts: Accounts, state: StateFile, tmp_path: Path) -> None:
    cookie = accounts.open_session("kim", "s1", "192.0.2.1", 1000)
    _, token = accounts.add_token("kim", "export", VIEWER, 1)
    state.close()
    kept = b"".join(path.read_bytes() for path in tmp_path.glob(f"{STATE}*"))
    assert digest(cookie) in kept
    assert cookie.encode() not in kept
    assert token.encode() not in kept
    assert token.startswith("ebt_")


def test_a_new_password_ends_sessions_and_keeps_tokens(accounts: Accounts) -> None:
    accounts.open_session("kim", "s1", "192.0.2.1", 1000)
    accounts.add_token("kim", "export", VIEWER, 1)
    accounts.change_password("kim", "s2")
    saved = accounts.read()
    assert (saved.accounts["kim"].secret, saved.sessions, len(saved.tokens)) == ("s2", {}, 1)
    accounts.open_session("kim", "s1", "192.0.2.1", 1000)
    assert accounts.read().sessions == {}, "the password changed while it was checked"


def test_a_user_has_so_many_sessions_and_tokens(
    accounts: Accounts, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SESSIONS", 3)
    monkeypatch.setattr(module, "MAX_TOKENS", 2)
    secrets = []
    for _ in range(5):
        secrets.append(accounts.open_session("kim", "s1", "192.0.2.1", 1000))
        clock.ms += 1
    assert set(accounts.read().sessions) == {digest(each) for each in secrets[-3:]}, "the oldest went"
    for _ in range(2):
        accounts.add_token("kim", "x", VIEWER, 1)
    with pytest.raises(EdgebedError, match="has 2 tokens already"):
        accounts.add_token("kim", "x", VIEWER, 1)
    clock.ms += DAY_MS
    accounts.add_token("kim", "x", VIEWER, 1)
    assert len(accounts.read().tokens) == 1, "those that had expired went"


def test_a_clock_that_is_set_makes_nothing_live_longer(accounts: Accounts, clock: SetClock) -> None:
    secret = accounts.open_session("kim", "s1", "192.0.2.1", 1000)
    one = accounts.read().sessions[digest(secret)]
    year = 365 * DAY_MS
    assert [one.is_valid(clock.ms + step) for step in (0, 999, 1000, year, -1000, -year)] == [
        True, True, False, False, True, False,
    ]  # fmt: skip
    accounts.end_session(one.hash)
    assert accounts.read().sessions == {}


def test_an_unknown_role_in_the_file_allows_nothing(accounts: Accounts, state: StateFile) -> None:
    _, token = accounts.add_token("kim", "x", Grant("admin", ("*",)), 1)
    with state.transaction() as db:
        db.execute("UPDATE user SET role = 'root', prefixes = '*'")
    saved = accounts.read()
    user = user_of(saved, saved.tokens[digest(token)], "token")
    assert not any(may(user, action, node) for action in Action for node in ("", "acme/a/b/c"))


def test_a_file_that_others_can_read_is_refused(accounts: Accounts, state: StateFile, tmp_path: Path) -> None:
    state.close()
    (tmp_path / STATE).chmod(0o644)
    with pytest.raises(ConfigError, match=r"has mode 0644: .*; run chmod 600 "):
        accounts.read()
