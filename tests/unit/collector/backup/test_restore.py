"""A restored store is what the backup states, or it is not there."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from collector.backup import restore as module
from collector.backup.pace import Pace
from collector.backup.restore import restore
from collector.backup.verify import verify
from collector.ledger.ledger import Ledger
from collector.rollout.engine import resume
from collector.rollout.records import RolloutRecords
from collector.rollout.restored import FILE, mark_restored
from collector.state.audit import Audit
from collector.state.state_file import StateFile
from collector.store.folder import day_files
from collector.store.snapshot import Stopped
from collector.store.store import SqliteStore
from edgebed.cli import command as main
from tests.unit.collector.backup.conftest import Counting, Stopping, Writer, killed, tree
from tests.unit.collector.rollout.test_records import ENTRY, made
from tests.unit.collector.rollout.test_restored import driver
from tests.unit.collector.stored import stored
from wire.errors import EdgebedError, TryAgain

QUICK = Pace(pauses=False)


def test_a_collector_goes_on_with_it(
    saved: Callable[..., Path], writer: Writer, tmp_path: Path, batch: Any, commit: Any
) -> None:
    (writer.folder / "accepted-keys").write_text("acme/trial/hall/n 0011\n")
    (writer.folder / "set-aside").mkdir()
    (writer.folder / "set-aside" / ("0a" * 16)).write_bytes(b"what ended the collector")
    folder = saved()
    found = restore(folder, tmp_path / "new", writer.clock, QUICK, pytest.fail)
    assert (found.content.messages, found.problems) == (30, [])
    kept = tree(folder).keys() - {"backup.json"}
    assert tree(tmp_path / "new").keys() == kept | {"lock", FILE}
    assert stat.S_IMODE((tmp_path / "new/state.db").stat().st_mode) == 0o600
    store = SqliteStore(tmp_path / "new", writer.clock)
    read = store.load()
    ledger = Ledger(read.marks, read.states)
    commit(store, ledger, [batch(seq, t0=writer.clock.ms) for seq in range(28, 36)], writer.clock.ms)
    store.close()
    assert stored(tmp_path / "new") == list(range(1, 36))
    assert verify(tmp_path / "new", QUICK).problems == []
    with closing(StateFile(tmp_path / "new")) as state:
        newest, before = Audit(state).newest(5)
    assert (newest.what, newest.subject, newest.origin) == ("restore", str(folder), "command line")
    assert before.what == "reset-node"


def test_an_empty_folder_keeps_its_owner_and_mode(
    saved: Callable[..., Path], writer: Writer, tmp_path: Path
) -> None:
    new = tmp_path / "new"
    new.mkdir(0o750)
    owner = (1234, 1235) if os.geteuid() == 0 else (os.getuid(), os.getgid())
    os.chown(new, *owner)
    restore(saved(), new, writer.clock, QUICK, pytest.fail)
    assert stat.S_IMODE(new.stat().st_mode) == 0o750
    assert {(each.stat().st_uid, each.stat().st_gid) for each in (new, *new.iterdir())} == {owner}


def test_a_folder_that_cannot_be_the_store(
    saved: Callable[..., Path], writer: Writer, tmp_path: Path
) -> None:
    folder = saved()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/note").touch()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")

    def refused(name: str, kind: type[EdgebedError], text: str) -> None:
        with pytest.raises(kind, match=text) as caught:
            restore(folder, tmp_path / name, writer.clock, QUICK, pytest.fail)
        assert "\n" not in str(caught.value)

    refused("full", EdgebedError, "is not empty")
    refused("file", EdgebedError, "is a file")
    refused("link", EdgebedError, "is a link")
    refused("none/new", EdgebedError, "is not a folder")
    refused("store", TryAgain, "another collector writes to")
    writer.store.close()
    refused("store", EdgebedError, "is not empty")
    writer.store = SqliteStore(writer.folder, writer.clock)
    assert stored(writer.folder) == list(range(1, 31))
    with pytest.raises(EdgebedError, match="is a store, not a backup"):
        restore(writer.folder, tmp_path / "new", writer.clock, QUICK, pytest.fail)
    assert not (tmp_path / "new").exists()


def test_a_mounted_disk_is_named(saved: Callable[..., Path], writer: Writer, tmp_path: Path) -> None:
    folder, disk = saved(), tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(disk)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr}")
    try:
        with pytest.raises(EdgebedError, match="is a mounted disk: name a new folder on it"):
            restore(folder, disk, writer.clock, QUICK, pytest.fail)
        restore(folder, disk / "store", writer.clock, QUICK, pytest.fail)
        assert stored(disk / "store") == list(range(1, 31))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_changed_backup_is_not_restored(saved: Callable[..., Path], writer: Writer, tmp_path: Path) -> None:
    folder = saved()
    path = day_files(folder)[0]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(EdgebedError, match=r"is damaged: .* nothing was restored"):
        restore(folder, tmp_path / "new", writer.clock, QUICK, pytest.fail)
    assert {each.name for each in tmp_path.iterdir()} == {"store", "backup"}


def test_a_backup_that_changes_during_the_restore(
    saved: Callable[..., Path], writer: Writer, tmp_path: Path
) -> None:
    folder = saved()

    class Changing(Pace):
        def begin(self, what: str, size: int = 0) -> None:
            if what.startswith("restore 000002"):
                path = day_files(folder)[1]
                path.write_bytes(b"x" * path.stat().st_size)

    with pytest.raises(EdgebedError, match="changed while it was restored: nothing was restored"):
        restore(folder, tmp_path / "new", writer.clock, Changing(pauses=False), pytest.fail)
    assert {each.name for each in tmp_path.iterdir()} == {"store", "backup"}


@pytest.mark.parametrize("counted", [None, 1, 7])
def test_rollouts_of_any_backup_are_held_until_all_are(
    saved: Callable[..., Path], writer: Writer, tmp_path: Path, counted: int | None
) -> None:
    """None is a backup of a release that did not count; the store that it was made of goes on."""
    with closing(StateFile(writer.folder, owns_store=True)) as state:
        for number, node in enumerate(("acme/p/s/a", "acme/p/s/b")):
            RolloutRecords(state).add(made(str(number), "a" * 64, node), ENTRY)
        with state.transaction() as db:
            db.execute("DELETE FROM fact WHERE key = 'rollouts'")
            if counted is not None:
                db.execute("INSERT INTO fact VALUES ('rollouts', ?)", (str(counted),))
    (writer.folder / FILE).unlink()
    new = tmp_path / "new"
    restore(saved(), new, writer.clock, QUICK, pytest.fail)

    def step(folder: Path) -> set[str]:
        with closing(StateFile(folder, owns_store=True)) as state:
            rollouts = driver(state)
            rollouts.step()
            return {f"{one.state}, was {one.was}" for one in rollouts.records.open()}

    assert step(new) == {"paused, was running"}
    before = entries(new)
    mark_restored(new)  # killed before the mark was replaced
    assert (step(new), entries(new)) == ({"paused, was running"}, before), "they are held already"
    with closing(StateFile(new, owns_store=True)) as state:
        rollouts = driver(state)
        for number in range(2):
            assert rollouts.change("acme", str(number), lambda one: resume(one, "kim", 7), ENTRY)
    assert step(new) == {"running, was running"}, "an operator has decided, and a restart changes nothing"
    if counted is None:
        assert step(writer.folder) == {"running, was running"}, "an upgrade pauses nothing"


def entries(folder: Path) -> int:
    with closing(StateFile(folder)) as state:
        return len(Audit(state).newest(99))


def test_a_restored_store_without_rollouts_holds_none_that_begin_later(
    saved: Callable[..., Path], writer: Writer, tmp_path: Path
) -> None:
    new = tmp_path / "new"
    restore(saved(), new, writer.clock, QUICK, pytest.fail)
    for _ in range(2):
        with closing(StateFile(new, owns_store=True)) as state:
            rollouts = driver(state)
            if not rollouts.records.open():
                rollouts.start(made("1", "a" * 64, "acme/p/s/a"), ENTRY)
            rollouts.step()
            assert [one.state for one in rollouts.records.open()] == ["running"]


def test_damage_that_the_backup_states_is_restored_and_named(
    saved: Callable[..., Path], writer: Writer, tmp_path: Path
) -> None:
    first, *_ = day_files(writer.folder)
    first.write_bytes(b"x" * 9000)
    (writer.folder / "state.db").write_bytes(b"x" * 5000)
    folder = saved()
    warnings: list[str] = []
    found = restore(folder, tmp_path / "new", writer.clock, QUICK, warnings.append)
    assert first.name in " ".join(found.problems)
    assert "this is not in the audit" in " ".join(warnings)
    store = SqliteStore(tmp_path / "new", writer.clock)  # a collector takes it all the same
    store.close()
    assert stored(tmp_path / "new") == list(range(11, 31))


def test_too_little_room(
    saved: Callable[..., Path], writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SPARE_BYTES", 2**60)
    with pytest.raises(TryAgain, match="MB free and the store needs"):
        restore(saved(), tmp_path / "new", writer.clock, QUICK, pytest.fail)
    assert not (tmp_path / "new").exists()


def test_a_stop_at_each_step_leaves_no_store(
    saved: Callable[..., Path], writer: Writer, tmp_path: Path
) -> None:
    folder, before = saved(), {"store", "backup"}
    for steps in range(80):
        try:
            restore(folder, tmp_path / "new", writer.clock, Stopping(steps), pytest.fail)
        except Stopped:
            assert {path.name for path in tmp_path.iterdir()} == before
        else:
            break
    assert steps > 10
    assert stored(tmp_path / "new") == list(range(1, 31))


def test_a_kill_at_random_steps_leaves_no_store(
    saved: Callable[..., Path], writer: Writer, tmp_path: Path
) -> None:
    folder, new, counting = saved(), tmp_path / "new", Counting()
    restore(folder, tmp_path / "first", writer.clock, counting, pytest.fail)
    steps = random.Random(12).choices(range(counting.steps), k=10)
    before = tree(folder)
    found = killed("restore", folder, new, steps)
    assert {line.rpartition(" ")[0] for line in found} == {f"{-signal.SIGKILL} False"}
    restore(folder, new, writer.clock, QUICK, pytest.fail)
    assert stored(new) == list(range(1, 31))
    assert {path.name for path in tmp_path.iterdir()} == {"store", "backup", "first", "new"}
    assert tree(folder) == before


def test_the_command(saved: Callable[..., Path], tmp_path: Path) -> None:
    words = ["collector", "restore", str(saved()), str(tmp_path / "new")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    first, second = done.output.splitlines()
    assert first.startswith(f"{tmp_path}/new: 3 day files, ")
    assert first.endswith("30 messages, 27 rows, 3 events, as of 2026-11-24 14:00:00 UTC")
    assert "it lacks what was acknowledged after that" in second
    done = CliRunner().invoke(main, words)
    assert "is not empty" in str(done.exception)
