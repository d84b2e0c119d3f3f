"""The audit keeps who did what, when, from where and with which result."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from collector.state import audit as module
from collector.state.audit import Audit, AuditEntry, audited, user
from collector.state.state_file import STATE, StateFile
from edgebed.cli import command as main
from wire.errors import EdgebedError


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateFile]:
    found = StateFile(tmp_path)
    yield found
    found.close()


def entry(what: str, **fields: Any) -> AuditEntry:
    return AuditEntry(
        **{"at_ms": 1, "who": "kim", "what": what, "subject": "s", "origin": "o", "result": "r", **fields}
    )


def test_the_newest_come_first_and_the_oldest_go(state: StateFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ENTRIES", 3)
    audit = Audit(state)
    for what in "abcde":
        audit.add(entry(what))
    assert [one.what for one in audit.newest(10)] == ["e", "d", "c"]
    assert [one.what for one in audit.newest(1)] == ["e"]


def test_a_long_text_and_one_that_is_not_text(state: StateFile) -> None:
    Audit(state).add(entry("x" * 10_000, subject=os.fsdecode(b"\xff/store")))
    (found,) = Audit(state).newest(1)
    assert (len(found.what), found.subject) == (500, "?/store")


def test_the_result_of_a_command_is_noted_whatever_it_is(state: StateFile, clock: Any) -> None:
    def act(error: BaseException | None) -> None:
        with audited(state, clock, "act", "thing", pytest.fail):
            if error is not None:
                raise error

    act(None)
    for error in (EdgebedError("the disk is full"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            act(error)
    found = Audit(state).newest(10)
    assert [one.result for one in found] == ["interrupted", "failed: the disk is full", "done"]
    me = pwd.getpwuid(os.getuid()).pw_name
    assert {(one.who, one.what, one.subject, one.origin) for one in found} == {
        (me, "act", "thing", "command line")
    }


def test_who_called_sudo_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "lee")
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert user() == "root (sudo of lee)"
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    assert user() == "uid 4000000"


def test_a_damaged_file_stops_no_command_and_is_named(state: StateFile, clock: Any, tmp_path: Path) -> None:
    (tmp_path / STATE).write_bytes(b"x" * 5000)
    warnings: list[str] = []
    with audited(state, clock, "act", "thing", warnings.append):
        pass
    assert len(warnings) == 1
    assert warnings[0].startswith("this is not in the audit: ")


def test_the_command_shows_it(state: StateFile, tmp_path: Path) -> None:
    asked = CliRunner().invoke(main, ["collector", "audit", str(tmp_path)])
    assert "has no state.db" in str(asked.exception)
    assert list(tmp_path.iterdir()) == [], "to look makes no file"
    Audit(state).add(entry("reset-node", at_ms=1_795_356_000_000, result="a\x1b[2Jb"))
    asked = CliRunner().invoke(main, ["collector", "audit", str(tmp_path)])
    assert asked.output == "2026-11-22 14:00:00 UTC  kim, o: reset-node s: a\\x1b[2Jb\n"
    asked = CliRunner().invoke(main, ["collector", "audit", str(tmp_path), "--json"])
    assert asked.output.startswith('{"at_ms":1795356000000,"who":"kim","what":"reset-node"')
