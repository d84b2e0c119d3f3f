"""`state.db` is made whole or not at all, upgraded step by step, and refused in one sentence."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from collector.state.migrations import STEPS
from collector.state.state_file import STATE, StateDamaged, StateFile, StateNewer
from wire.errors import EdgebedError, TryAgain


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def state(folder: Path) -> Iterator[StateFile]:
    found = StateFile(folder, owns_store=True)
    yield found
    found.close()


def test_a_new_file_is_whole_private_and_durable(folder: Path, state: StateFile) -> None:
    assert not (folder / STATE).exists(), "it is opened with its first use"
    name = state.store_id()
    assert len(name) == 16
    for each in folder.iterdir():
        assert stat.S_IMODE(each.stat().st_mode) == 0o600, each
    with state.transaction() as db:
        found = [
            db.execute(f"PRAGMA {key}").fetchone()[0]
            for key in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert found == ["wal", 2, 1]
    state.close()
    with closing(StateFile(folder)) as again:
        assert again.store_id() == name
    assert {each.name for each in folder.iterdir()} == {STATE}


def test_a_transaction_that_fails_writes_nothing(folder: Path, state: StateFile) -> None:
    def write(fail: bool) -> None:
        with state.transaction() as db:
            db.execute("INSERT INTO fact VALUES ('a', 'b')")
            if fail:
                raise KeyError("the caller's own")

    with pytest.raises(KeyError):
        write(fail=True)
    write(fail=False)


def test_a_violated_constraint_is_the_callers(state: StateFile) -> None:
    def add() -> None:
        with state.transaction() as db:
            db.execute("INSERT INTO fact VALUES ('once', 'b')")

    add()
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        add()
    state.check()


def test_processes_that_start_at_once_share_one_file(folder: Path) -> None:
    script = (
        "from pathlib import Path; from collector.state.state_file import StateFile;"
        f"print(StateFile(Path({str(folder)!r})).store_id())"
    )
    started = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) for _ in range(5)]
    names = {each.communicate(timeout=60)[0] for each in started}
    assert [each.returncode for each in started] == [0] * 5
    assert len(names) == 1
    # two that end in the same moment may each leave the log to the other one: the next to close it removes it
    with closing(StateFile(folder)) as last:
        last.check()
    assert {each.name for each in folder.iterdir()} == {STATE}


def test_a_newer_file_and_one_of_another_program_are_refused(folder: Path, state: StateFile) -> None:
    state.store_id()
    state.close()
    set_pragma(folder, "user_version", len(STEPS) + 1)
    before = (folder / STATE).read_bytes()
    with pytest.raises(StateNewer, match="was written by a newer version of edgebed") as caught:
        state.check()
    assert caught.value.exit_code == 78
    assert "\n" not in str(caught.value)
    assert (folder / STATE).read_bytes() == before
    set_pragma(folder, "user_version", len(STEPS))
    set_pragma(folder, "application_id", 7)
    with pytest.raises(StateNewer, match="made by another program"):
        state.check()


def set_pragma(folder: Path, name: str, value: int) -> None:
    with closing(sqlite3.connect(folder / STATE)) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute(f"PRAGMA {name} = {value}")
        db.commit()


@pytest.mark.parametrize("damage", ["empty", "half", "text", "page"])
def test_a_damaged_file_is_named_and_stays_as_it_is(folder: Path, state: StateFile, damage: str) -> None:
    with state.transaction() as db:
        db.executemany("INSERT INTO fact VALUES (?, 'x')", [(f"{n:0200}",) for n in range(200)])
    state.close()
    path = folder / STATE
    body = bytearray(path.read_bytes())
    body[4096 * 2 : 4096 * 4] = b"\xff" * 8192
    path.write_bytes(
        {"empty": b"", "half": path.read_bytes()[: path.stat().st_size // 2], "text": b"x" * 9000}.get(
            damage, bytes(body)
        )
    )
    before = path.read_bytes()
    with pytest.raises(StateDamaged, match="is damaged") as caught:
        state.check()
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    path.unlink()
    state.check()  # an operator moved it away: the next use makes a new one


def test_a_file_that_is_replaced_is_opened_again(folder: Path, state: StateFile) -> None:
    first = state.store_id()
    for each in list(folder.iterdir()):
        each.unlink()
    assert state.store_id() != first


def test_a_locked_file_is_waited_for_and_then_named(
    folder: Path, state: StateFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collector.state.state_file.WAIT_S", 0.2)
    state.check()
    with closing(sqlite3.connect(folder / STATE, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        with closing(StateFile(folder)) as second, pytest.raises(TryAgain, match="locked"):
            second.check()
        monkeypatch.setattr("collector.state.state_file.WAIT_S", 60)
        done = threading.Timer(0.3, lambda: other.execute("COMMIT"))
        done.start()
        with closing(StateFile(folder)) as third:
            third.check()
        done.join()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with (
        closing(StateFile(tmp_path / "none")) as state,
        pytest.raises(EdgebedError, match="cannot be written"),
    ):
        state.check()


def limited(action: Any, room: int) -> None:
    """Call `action` while no file may grow above `room` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        action()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("room", [0, 5000, 9000])
def test_a_full_disk_while_the_file_is_made_leaves_none(folder: Path, state: StateFile, room: int) -> None:
    def fails() -> None:
        with pytest.raises(EdgebedError):
            state.check()

    limited(fails, room)
    assert not (folder / STATE).exists()
    state.check()


# --- migrations


def grows(db: sqlite3.Connection) -> None:
    """A step of a later version."""
    db.execute("CREATE TABLE later(x TEXT NOT NULL)")
    db.executemany("INSERT INTO later VALUES (?)", [("x" * 500,)] * 2000)


def is_killed(db: sqlite3.Connection) -> None:
    """A step that never ends, because the process dies in it."""
    grows(db)
    db.execute("DROP TABLE audit")
    db.execute("PRAGMA cache_spill = 1")
    os.kill(os.getpid(), signal.SIGKILL)


def breaks(db: sqlite3.Connection) -> None:
    """A step that leaves a row without the row that it refers to."""
    db.execute("CREATE TABLE one(id INTEGER PRIMARY KEY)")
    db.execute("CREATE TABLE two(one INTEGER NOT NULL REFERENCES one(id))")
    db.execute("INSERT INTO two VALUES (1)")


FIXTURES = Path(__file__).parents[3] / "fixtures/state-db"


@pytest.fixture(params=sorted(FIXTURES.glob("schema-*.db")), ids=lambda path: path.stem)
def old(request: pytest.FixtureRequest, folder: Path) -> Path:
    """The folder of a `state.db` that an earlier version made."""
    shutil.copyfile(request.param, folder / STATE)
    (folder / STATE).chmod(0o600)
    return folder


def content(folder: Path) -> tuple[int, list[Any]]:
    with closing(sqlite3.connect(folder / STATE)) as db:
        return db.execute("PRAGMA user_version").fetchone()[0], list(db.iterdump())


def up_to_date(folder: Path) -> None:
    """Run the steps that are released: the next one begins from what they made."""
    with closing(StateFile(folder, owns_store=True)) as state:
        state.check()


def test_every_earlier_version_has_a_fixture() -> None:
    assert [path.stem for path in sorted(FIXTURES.glob("schema-*.db"))] == [
        f"schema-{version}" for version in range(1, len(STEPS) + 1)
    ]


def test_a_file_of_an_earlier_version_is_upgraded_with_all_that_it_holds(old: Path) -> None:
    with closing(StateFile(old, owns_store=True, steps=[*STEPS, grows])) as state:
        assert state.store_id() == "5b0e7f3c9a1d2468"
        with state.transaction() as db:
            assert db.execute("SELECT what, who FROM audit ORDER BY id").fetchall() == [
                ("reset-node", "kim"),
                ("backup", "root (sudo of lee)"),
            ]
            assert db.execute("SELECT count(*) FROM later").fetchone() == (2000,)
    assert content(old)[0] == len(STEPS) + 1


def test_a_command_beside_the_collector_leaves_an_older_file_as_it_is(old: Path) -> None:
    before = content(old)
    with closing(StateFile(old, steps=[*STEPS, grows])) as state, pytest.raises(TryAgain, match="start the"):
        state.check()
    assert content(old) == before


def test_a_kill_in_the_middle_of_a_migration_leaves_the_old_version(old: Path) -> None:
    up_to_date(old)
    before = content(old)
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r});"
        "from pathlib import Path; from test_state_file import *;"
        f"StateFile(Path({str(old)!r}), owns_store=True, steps=[*STEPS, is_killed]).check()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert content(old) == before
    with closing(StateFile(old, owns_store=True, steps=[*STEPS, grows])) as state:
        state.check()


def test_a_full_disk_in_the_middle_of_a_migration_leaves_the_old_version(old: Path) -> None:
    up_to_date(old)
    before = content(old)
    with closing(StateFile(old, owns_store=True, steps=[*STEPS, grows])) as state:

        def fails() -> None:
            with pytest.raises(TryAgain):
                state.check()

        limited(fails, 200_000)
        assert content(old) == before
        state.check()


def test_a_step_that_breaks_a_reference_is_undone(old: Path) -> None:
    up_to_date(old)
    before = content(old)
    with (
        closing(StateFile(old, owns_store=True, steps=[*STEPS, breaks])) as state,
        pytest.raises(EdgebedError, match="refers to a row that is not there"),
    ):
        state.check()
    assert content(old) == before
