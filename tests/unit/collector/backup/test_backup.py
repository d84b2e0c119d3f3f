"""A backup is whole or not there, and its marks name no message that its files do not have."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import stat
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from collector.backup import backup as module
from collector.backup import manifest as manifests
from collector.backup.backup import back_up
from collector.backup.pace import Pace
from collector.backup.verify import verify
from collector.backup.work_folder import work_folder
from collector.ledger.ledger import Ledger
from collector.state import state_file
from collector.store import snapshot
from collector.store.day_schema import SCHEMA
from collector.store.folder import day_files
from collector.store.removed import Removed
from collector.store.retention import Retention
from collector.store.snapshot import Stopped
from collector.store.store import peek
from edgebed.cli import command as main
from tests.unit.collector.backup.conftest import Counting, Stopping, Writer, killed, tree
from tests.unit.collector.stored import stored
from wire.errors import EdgebedError, TryAgain

QUICK = Pace(pauses=False)


def marked(folder: Path) -> list[int]:
    """The numbers that the marks of a folder state to be stored."""
    saved = peek(folder)
    numbers = [ranges for ranges, _ in Ledger(saved.marks, saved.states).stored().values()]
    return sorted(seq for ranges in numbers for first, last in ranges for seq in range(first, last + 1))


def test_it_has_everything_that_a_restore_needs(saved: Callable[..., Path], writer: Writer) -> None:
    (writer.folder / "accepted-keys").write_text("acme/trial/hall/n 0011\n")
    (writer.folder / "in-hand.json").write_text("{}")
    (writer.folder / "set-aside").mkdir()
    (writer.folder / "set-aside" / ("0a" * 16)).write_bytes(b"what ended the collector")
    (writer.folder / "set-aside/note.txt").touch()  # these two are an operator's
    (writer.folder / "old.db").touch()
    folder = saved()
    names = manifests.names_in(folder)
    store = {
        name
        for name in manifests.names_in(writer.folder)
        if not name.endswith(("-wal", "-shm")) and name not in ("lock", "set-aside/note.txt", "old.db")
    }
    assert names == store | {"backup.json"}
    assert stored(folder) == marked(folder) == list(range(1, 31))
    assert verify(folder, QUICK).problems == []
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    made = manifests.read(folder)
    assert [one.schema for one in made.days()] == [SCHEMA] * 3
    assert (made.edgebed, made.at_ms, len(made.store)) == ("0.1", writer.clock.ms, 16)


def test_what_is_stored_during_the_copy_is_neither_in_the_marks_nor_in_the_files(
    writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With marks that are newer than the files, the ledger would count messages that are in no file."""

    monkeypatch.setattr(snapshot, "BLOCK", 8192)  # several steps for each file

    class Busy(Pace):
        left = 60

        def step(self, size: int) -> None:
            if self.left > 0:  # without an end, a copy that begins again with each commit has none
                self.left -= 1
                writer.clock.ms += 3_000  # the copy of the marks is written again
                writer.write(2)

    back_up(writer.folder, tmp_path / "b", "", writer.clock, Busy())
    assert writer.seq > 40
    found = stored(tmp_path / "b")
    assert found == marked(tmp_path / "b") == list(range(1, len(found) + 1))
    assert 30 <= len(found) < 40, "it is not as it was when its copy began"
    # the copy of the marks replaces a damaged day: it may be older than the files, never newer
    for path in day_files(tmp_path / "b"):
        path.unlink()
    (tmp_path / "b/000001-2026-11-22.db").write_bytes(b"x" * 9000)
    assert set(range(1, 21)) <= set(marked(tmp_path / "b")) <= set(found)


def test_midnight_during_the_copy(writer: Writer, tmp_path: Path) -> None:
    class Midnight(Pace):
        def step(self, size: int) -> None:
            writer.next_day()
            writer.write(2)

    back_up(writer.folder, tmp_path / "b", "", writer.clock, Midnight())
    found = stored(tmp_path / "b")
    assert found == marked(tmp_path / "b") == list(range(1, len(found) + 1))
    assert len(found) >= 30
    assert verify(tmp_path / "b", QUICK).problems == []


@pytest.mark.parametrize("when", range(1, 15))
def test_retention_during_the_copy(writer: Writer, tmp_path: Path, when: int) -> None:
    """A file that retention removes is in the backup or counted as removed, not both."""
    steps = 0

    class Retiring(Pace):
        def step(self, size: int) -> None:
            nonlocal steps
            steps += 1
            if steps == when:
                writer.store.retention = Retention(1)
                writer.store._retire()

    back_up(writer.folder, tmp_path / "b", "", writer.clock, Retiring())
    assert steps >= when
    assert verify(tmp_path / "b", QUICK).problems == []
    removed = Removed(tmp_path / "b").messages() or {}
    assert len(stored(tmp_path / "b")) + sum(removed.values()) == 30


def test_a_file_that_is_set_aside_during_the_copy(writer: Writer, tmp_path: Path) -> None:
    first, *_ = day_files(writer.folder)

    class Damaging(Pace):
        def step(self, size: int) -> None:
            if first.exists():
                first.rename(f"{first}.damaged")

    made = back_up(writer.folder, tmp_path / "b", "", writer.clock, Damaging())
    assert f"{first.name}.damaged" in {one.name for one in made.files}
    assert "was damaged and set aside" in " ".join(verify(tmp_path / "b", QUICK).problems)


def test_files_that_change_all_the_time_are_named(writer: Writer, tmp_path: Path) -> None:
    class Moving(Pace):
        def begin(self, what: str, size: int = 0) -> None:
            first, *_ = day_files(writer.folder)
            number = int(first.name[:6])
            first.rename(first.with_name(f"{number + 9:06d}{first.name[6:]}"))

    with pytest.raises(TryAgain, match="changed while they were copied"):
        back_up(writer.folder, tmp_path / "b", "", writer.clock, Moving())
    assert {path.name for path in tmp_path.iterdir()} == {"store"}


def test_days_that_did_not_change_are_linked(saved: Callable[..., Path], writer: Writer) -> None:
    first = saved("first")
    writer.next_day()
    writer.write()
    second = saved("second", base=first)
    linked = {path.name for path in second.iterdir() if path.stat().st_nlink > 1}
    assert linked == {path.name for path in day_files(writer.folder)[:2]}
    assert stored(second) == list(range(1, 41))
    assert verify(second, QUICK).problems == []

    # a file of the earlier backup that is not as it states, and one that changed in the store
    name, other = sorted(linked)
    (first / name).unlink()
    (first / name).write_bytes(b"x" * 100)
    os.utime(writer.folder / other, ns=(1, 1))
    third = saved("third", base=first)
    assert {path.name for path in third.iterdir() if path.stat().st_nlink > 1} == set()
    assert verify(third, QUICK).problems == []


def test_a_base_of_another_store_is_refused(saved: Callable[..., Path], writer: Writer) -> None:
    first = saved("first")
    (writer.folder / "state.db").unlink()
    with pytest.raises(EdgebedError, match="a backup of another store"):
        saved("second", base=first)
    with pytest.raises(EdgebedError, match="not a finished backup"):
        saved("second", base=writer.folder)


def test_a_folder_that_cannot_be_the_backup(
    saved: Callable[..., Path], writer: Writer, tmp_path: Path
) -> None:
    store = tree(writer.folder).keys()
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "way").symlink_to(writer.folder)
    for name, why in {
        "there": "exists",
        "link": "exists",
        "store/b": "inside the store",
        "way/b": "inside the store",
        "none/b": "is not a folder",
    }.items():
        with pytest.raises(EdgebedError, match=why) as caught:
            saved(name)
        assert "\n" not in str(caught.value)
    assert tree(writer.folder).keys() == store
    assert {path.name for path in tmp_path.iterdir()} == {"store", "there", "link", "way"}
    with pytest.raises(EdgebedError, match="is not a store"):
        back_up(tmp_path / "there", tmp_path / "b", "", writer.clock, QUICK)


def test_a_damaged_store_gives_a_backup_that_states_the_damage(
    saved: Callable[..., Path], writer: Writer
) -> None:
    first, second, _ = day_files(writer.folder)
    first.write_bytes(b"x" * 9000)
    with closing(sqlite3.connect(second)) as db:
        db.execute("UPDATE chunk SET body = zeroblob(50) WHERE id = 1")
        db.commit()
    (writer.folder / "state.db").write_bytes(b"x" * 5000)
    folder = saved()
    damaged = {one.name: one.damage for one in manifests.read(folder).files if one.damage}
    assert set(damaged) == {first.name, second.name, "state.db"}
    assert "chunk 1: not a column chunk" in damaged[second.name]
    assert (folder / first.name).read_bytes() == b"x" * 9000
    assert len(verify(folder, QUICK).problems) >= 3


def test_too_little_room_is_known_before(
    saved: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SPARE_BYTES", 2**60)
    with pytest.raises(TryAgain, match="MB free and a backup needs"):
        saved()
    assert {path.name for path in tmp_path.iterdir()} == {"store"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """`small_disk(kilobytes)`: a folder on a file system of this size."""
    made: list[Path] = []

    def mount(kilobytes: int) -> Path:
        folder = tmp_path / f"disk{len(made)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr}")
        made.append(folder)
        return folder

    yield mount
    for folder in made:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("kilobytes", [4, 60, 200])
def test_a_disk_that_fills_up_leaves_nothing(
    writer: Writer, small_disk: Any, kilobytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SPARE_BYTES", -(2**40))  # as when another program fills it meanwhile
    disk = small_disk(kilobytes)
    with pytest.raises(TryAgain, match=r"the disk .*is full"):
        back_up(writer.folder, disk / "b", "", writer.clock, QUICK)
    assert list(disk.iterdir()) == []


def test_a_stop_at_each_step_leaves_nothing(writer: Writer, tmp_path: Path) -> None:
    for steps in range(60):
        try:
            back_up(writer.folder, tmp_path / "b", "", writer.clock, Stopping(steps))
        except Stopped:
            assert {path.name for path in tmp_path.iterdir()} == {"store"}
        else:
            break
    assert steps > 10
    assert verify(tmp_path / "b", QUICK).problems == []


def test_a_kill_at_random_steps_leaves_no_backup_and_the_store_as_it_was(
    writer: Writer, tmp_path: Path
) -> None:
    counting, target = Counting(), tmp_path / "b"
    back_up(writer.folder, tmp_path / "first", "", writer.clock, counting)
    steps = random.Random(11).choices(range(counting.steps), k=20)
    before = stored(writer.folder)
    assert killed("backup", writer.folder, target, steps) == [f"{-signal.SIGKILL} False 1"] * 20
    (half,) = tmp_path.glob(".b.*")
    with pytest.raises(EdgebedError, match="not a finished backup"):
        verify(half, QUICK)
    assert stored(writer.folder) == before
    writer.write()  # the store is not locked
    back_up(writer.folder, target, "", writer.clock, QUICK)
    assert {path.name for path in tmp_path.iterdir()} == {"store", "first", "b"}, "the half one is removed"
    assert stored(target) == list(range(1, writer.seq + 1))


def test_what_killed_backups_left_is_removed_by_the_next_one(
    saved: Callable[..., Path], writer: Writer, tmp_path: Path
) -> None:
    killed("backup", writer.folder, tmp_path / "monday", [5])
    killed("backup", writer.folder, tmp_path / "tuesday", [3])
    (tmp_path / ".mine.backup").mkdir()  # no command made it
    with work_folder(tmp_path / "other", "backup"):
        saved("wednesday")
        left = {path.name for path in tmp_path.iterdir()}
    assert left == {"store", "wednesday", ".mine.backup", ".other.backup"}


def test_a_file_that_is_locked_or_not_readable_is_named(
    saved: Callable[..., Path], writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "WAIT_S", 0.1)
    monkeypatch.setattr(state_file, "WAIT_S", 0.1)
    with closing(sqlite3.connect(writer.folder / "state.db", isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TryAgain, match=r"state\.db is locked by another program"):
            saved()
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read everything
    with pytest.raises(EdgebedError, match="permission denied; run this as the collector's user"):
        saved()
    with pytest.raises(EdgebedError, match="permission denied; run this as the collector's user"):
        verify(writer.folder, QUICK)
    assert {path.name for path in tmp_path.iterdir()} == {"store"}


def test_a_store_of_a_newer_version_is_refused(saved: Callable[..., Path], writer: Writer) -> None:
    for path in (writer.folder / "state.db", day_files(writer.folder)[0]):
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA user_version = 1000")
        with pytest.raises(EdgebedError, match=r"newer version of edgebed|has schema 1000") as caught:
            saved()
        assert caught.value.exit_code == 78
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA user_version = 1")


def test_two_backups_to_one_folder_at_once(saved: Callable[..., Path], tmp_path: Path) -> None:
    with work_folder(tmp_path / "backup", "backup"), pytest.raises(TryAgain, match="another process writes"):
        saved()


def test_the_command(writer: Writer, tmp_path: Path) -> None:
    def run(*words: object) -> Any:
        return CliRunner().invoke(main, ["collector", *map(str, words)])

    done = run("backup", writer.folder, tmp_path / "b")
    assert done.exit_code == 0, done.output
    assert done.output.startswith(f"{tmp_path}/b: 3 day files, 0.")
    done = run("backup", writer.folder, tmp_path / "b2", "--base", tmp_path / "b", "--full-speed")
    assert "3 day files (2 linked)" in done.output
    done = run("verify", tmp_path / "b2")
    assert (done.exit_code, "30 messages, 27 rows, 3 events" in done.output) == (0, True), done.output
    done = run("backup", writer.folder, tmp_path / "b2")
    assert "exists" in str(done.exception)
    done = run("audit", writer.folder)
    failed, before, *_ = [line.partition("command line: ")[2] for line in done.output.splitlines()]
    assert failed.startswith(f"backup {tmp_path}/b2: failed: {tmp_path}/b2 exists: name a folder that")
    assert before == f"backup {tmp_path}/b2: done"
    first, *_ = day_files(writer.folder)
    first.write_bytes(b"x" * 9000)
    done = run("backup", writer.folder, tmp_path / "b3")
    assert done.exit_code == 3
    assert f"the store was damaged already: {first.name}" in done.output
