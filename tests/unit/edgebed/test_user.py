"""`edgebed user`: what it changes, says and refuses, beside a collector or without one."""

from __future__ import annotations

import json
import subprocess
from contextlib import closing
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from collector.rights.accounts import Accounts, Saved
from collector.rights.passwords import fits
from collector.rights.user import Grant
from collector.state.audit import Audit
from collector.state.state_file import STATE, StateFile
from edgebed.cli import command as main
from edgebed.processes import edgebed_command
from wire.clock import Clock
from wire.errors import ConfigError, EdgebedError

PASSWORD = " ".join(["a", "password", "of", "kim"])


def run(folder: Path, *arguments: str, line: str | None = PASSWORD) -> Result:
    given = ["--password-file", "-"] if line is not None and arguments[0] in ("add", "passwd") else []
    command = ["user", *arguments, "--store", str(folder), *given]
    return CliRunner().invoke(main, command, input=f"{line}\n" if line is not None else None)


def saved(folder: Path) -> Saved:
    with closing(StateFile(folder)) as state:
        return Accounts(state, Clock()).read()


def add(folder: Path, name: str = "kim", role: str = "admin", prefix: str = "*") -> None:
    done = run(folder, "add", name, "--role", role, "--prefix", prefix)
    assert (done.exit_code, done.stdout) == (0, f"{name}: {role} of {prefix}\n")


def test_a_user_from_the_first_day_to_the_last(tmp_path: Path) -> None:
    add(tmp_path)
    account = saved(tmp_path).accounts["kim"]
    assert account.grant == Grant("admin", ("*",))
    assert fits(PASSWORD, account.secret)
    done = run(tmp_path, "passwd", "kim", line=PASSWORD + "!")
    assert done.stdout == "kim: new password; its sessions have ended\n"
    assert fits(PASSWORD + "!", saved(tmp_path).accounts["kim"].secret)
    done = run(tmp_path, "token", "kim", "--label", "export", "--prefix", "acme/*", "--days", "7")
    secret = done.stdout.strip()
    assert secret.startswith("ebt_")
    assert "viewer of acme/* for 7 days; it is shown only now" in done.stderr
    listed = run(tmp_path, "ls").stdout
    assert "kim  admin of *, 0 sessions" in listed
    assert "viewer of acme/*, until 20" in listed
    assert secret not in listed
    (line,) = run(tmp_path, "ls", "--json").stdout.splitlines()
    (token,) = json.loads(line)["tokens"]
    assert (token["label"], token["role"], token["prefixes"]) == ("export", "viewer", ["acme/*"])
    assert run(tmp_path, "token", "kim", "--remove", token["id"]).exit_code == 0
    assert saved(tmp_path).tokens == {}
    done = run(tmp_path, "remove", "kim")
    assert "kim: removed, 0 users left" in done.stdout
    assert saved(tmp_path).accounts == {}
    with closing(StateFile(tmp_path)) as state:
        acts = [(one.what, one.result, one.scope) for one in Audit(state).newest(9)]
    assert acts == [
        (what, "done", "*")
        for what in ("user remove", "token remove", "token add", "user passwd", "user add")
    ]


@pytest.mark.parametrize(
    ("arguments", "line", "text"),
    [
        (("add", "kim", "--role", "viewer", "--prefix", "*"), PASSWORD, "user kim exists already"),
        (("add", "Lee", "--role", "viewer", "--prefix", "*"), PASSWORD, "'Lee' is not a user name"),
        (("add", "lee", "--role", "viewer", "--prefix", "acme"), PASSWORD, "prefix 'acme' is not '*'"),
        (("add", "lee", "--role", "viewer", "--prefix", "*"), "short", "a password has 10 to 200 characters"),
        (("add", "lee", "--role", "viewer", "--prefix", "*"), "", "a password has 10 to 200 characters"),
        (("passwd", "kmi"), PASSWORD, "there is no user 'kmi'; did you mean 'kim'?"),
        (("remove", "lee"), None, "there is no user 'lee'"),
        (("token", "lee"), None, "there is no user 'lee'"),
        (("token", "kim", "--remove", "0badcafe"), None, "user kim has no token '0badcafe'"),
        (("token", "kim", "--prefix", "Acme/*"), None, "prefix 'Acme/*' is not"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence_and_changes_nothing(
    tmp_path: Path, arguments: tuple[str, ...], line: str | None, text: str
) -> None:
    add(tmp_path)
    before = saved(tmp_path)
    done = run(tmp_path, *arguments, line=line)
    assert isinstance(done.exception, EdgebedError)
    assert text in str(done.exception)
    assert "\n" not in str(done.exception)
    assert saved(tmp_path) == before


@pytest.mark.parametrize("arguments", [("add", "lee", "--role", "root", "--prefix", "*"), ("add", "lee")])
def test_a_wrong_call_is_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = CliRunner().invoke(main, ["user", *arguments, "--store", str(tmp_path)])
    assert done.exit_code == click.UsageError.exit_code
    assert not (tmp_path / STATE).exists()


def test_a_password_file_must_be_private_text(tmp_path: Path) -> None:
    file = tmp_path / "password"
    command = ["user", "add", "kim", "--store", str(tmp_path), "--role", "viewer", "--prefix", "*"]
    for content, mode, text in (
        (PASSWORD.encode(), 0o640, "has mode 0640: other users could read the password; run chmod 600"),
        (b"", 0o600, "its first line must be the password"),
        (b"\xff\xfe\n", 0o600, "is not text in UTF-8"),
        (b"x" * 10_000, 0o600, "its first line must be the password"),
        (None, 0o600, "No such file"),
    ):
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_bytes(content)
            file.chmod(mode)
        done = CliRunner().invoke(main, [*command, "--password-file", str(file)])
        assert isinstance(done.exception, ConfigError), done.output
        assert text in str(done.exception)
    file.write_text(f"{PASSWORD}\nmore\n")
    file.chmod(0o600)
    assert CliRunner().invoke(main, [*command, "--password-file", str(file)]).exit_code == 0
    assert fits(PASSWORD, saved(tmp_path).accounts["kim"].secret)


def test_a_state_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    add(tmp_path)
    (tmp_path / STATE).chmod(0o644)
    done = run(tmp_path, "ls")
    assert isinstance(done.exception, ConfigError)
    assert "has mode 0644: other users could read or change who may log in; run chmod 600" in str(
        done.exception
    )


def test_without_a_terminal_the_password_is_not_asked_for(tmp_path: Path) -> None:
    command = edgebed_command(
        "user", "add", "kim", "--store", str(tmp_path), "--role", "admin", "--prefix", "*"
    )
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        start_new_session=True,
    )
    assert done.returncode == 2
    assert "no terminal to ask for the password: name --password-file" in done.stderr
    assert "Warning" not in done.stderr
    empty = CliRunner().invoke(main, ["user", "token", "kim", "--store", str(tmp_path), "--remove", ""])
    assert (empty.exit_code, "needs the ID of a token" in empty.output) == (2, True)
