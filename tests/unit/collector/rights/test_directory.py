"""The users in memory follow what another process changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from collector.rights.accounts import Accounts
from collector.rights.directory import Directory
from collector.rights.user import LOCAL, TOKEN_FILE, Grant
from collector.state.state_file import STATE, StateFile
from wire.clock import Clock
from wire.errors import TryAgain

ALL = Grant("admin", ("*",))


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    with closing(StateFile(tmp_path, owns_store=True)) as state:
        yield Directory(Accounts(state, Clock()), Clock())


@pytest.fixture
def command(tmp_path: Path, directory: Directory) -> Iterator[Accounts]:
    """Another process."""
    with closing(StateFile(tmp_path)) as state:
        yield Accounts(state, Clock())


def test_nothing_is_known_before_the_first_reading(directory: Directory, tmp_path: Path) -> None:
    (tmp_path / STATE).write_bytes(b"x" * 5000)
    directory.refresh()
    for ask in (lambda: directory.has_users, lambda: directory.session("x"), lambda: directory.token("x")):
        with pytest.raises(TryAgain, match=r"cannot be read: .*is damaged"):
            ask()


def test_changes_of_another_process_are_seen(directory: Directory, command: Accounts) -> None:
    directory.refresh()
    assert not directory.has_users
    command.add("kim", "s", ALL)
    session, (_, token) = (
        command.open_session("kim", "s", "192.0.2.1", 10_000),
        command.add_token("kim", "", ALL, 1),
    )
    assert not directory.has_users
    directory.refresh()
    assert directory.has_users
    users = directory.session(session), directory.token(token)
    assert [user and user.kind for user in users] == ["session", "token"]
    assert all(user and directory.is_current(user) for user in users)
    assert directory.session(token) is None
    assert directory.token(session) is None
    assert directory.is_known("kim", "192.0.2.1")
    assert not directory.is_known("kim", "192.0.2.2")
    command.change_password("kim", "t")
    directory.refresh()
    assert [bool(user and directory.is_current(user)) for user in users] == [False, True]
    command.remove("kim")
    directory.refresh()
    assert directory.token(token) is None
    assert not any(user and directory.is_current(user) for user in users)
    assert directory.is_current(LOCAL)


def test_a_file_that_is_damaged_later_changes_nothing(
    directory: Directory, command: Accounts, tmp_path: Path
) -> None:
    command.add("kim", "s", ALL)
    directory.refresh()
    (tmp_path / STATE).unlink()
    (tmp_path / STATE).write_bytes(b"x" * 5000)
    directory.refresh()
    assert directory.has_users


def test_less_rights_end_a_stream(directory: Directory, command: Accounts) -> None:
    command.add("kim", "s", ALL)
    session = command.open_session("kim", "s", "192.0.2.1", 10_000)
    directory.refresh()
    user = directory.session(session)
    assert user is not None
    command.remove("kim")
    command.add("kim", "s", Grant("viewer", ("acme/*",)))
    directory.refresh()
    assert not directory.is_current(user)


def test_without_a_login_rights_end_with_the_first_user(directory: Directory, command: Accounts) -> None:
    """A stream that was open before would show everything to everyone."""
    directory.refresh()
    assert directory.is_current(LOCAL)
    command.add("kim", "s", ALL)
    directory.refresh()
    assert not directory.is_current(LOCAL)
    assert directory.is_current(TOKEN_FILE)
