"""`verify` finds each fault of a backup or a store, changes nothing, and needs no quiet store."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from collector.backup.pace import Pace
from collector.backup.verify import verify
from collector.store.day_schema import StoreError
from collector.store.folder import day_files
from collector.store.retention import Retention
from collector.store.soundness import SHOWN
from edgebed.cli import command as main
from tests.unit.collector.backup.conftest import Writer, tree
from wire.errors import EdgebedError

QUICK = Pace(pauses=False)


def problems(folder: Path) -> str:
    return " ".join(verify(folder, QUICK).problems)


def test_a_sound_backup_and_a_sound_store_are_not_changed(saved: Callable[..., Path], writer: Writer) -> None:
    folder = saved()
    before = tree(folder)
    found = verify(folder, QUICK)
    assert (found.problems, found.days, found.missing) == ([], 3, 0)
    held = found.content
    assert (held.messages, held.rows, held.events, held.twice) == (30, 27, 3, 0)
    assert tree(folder) == before
    writer.write()
    found = verify(writer.folder, QUICK)  # as it is, with a WAL
    assert (found.problems, found.content.messages, found.manifest) == ([], 40, None)


def cut(folder: Path) -> str:
    path = day_files(folder)[0]
    path.write_bytes(path.read_bytes()[:-8192])
    return f"{path.name} has "


def flip(folder: Path) -> str:
    path = day_files(folder)[1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return f"{path.name} is not the file that was backed up"


def swap(folder: Path) -> str:
    first, second, _ = day_files(folder)
    first.rename(folder / "x")
    second.rename(first)
    (folder / "x").rename(second)
    return f"{first.name} "


def take(folder: Path) -> str:
    (folder / "state.db").unlink()
    return "state.db is missing"


def put(folder: Path) -> str:
    (folder / "000009-2026-11-30.db").write_bytes(b"")
    return "it has files that it should not have: 000009-2026-11-30.db"


def link(folder: Path) -> str:
    path = day_files(folder)[0]
    path.rename(folder.parent / "elsewhere")
    path.symlink_to(folder.parent / "elsewhere")
    return f"{path.name} is a link"


def folder_instead(folder: Path) -> str:
    (folder / "marks.db").unlink()
    (folder / "marks.db").mkdir()
    return "marks.db is missing"


@pytest.mark.parametrize("harm", [cut, flip, swap, take, put, link, folder_instead])
def test_a_backup_that_was_changed_is_named(saved: Callable[..., Path], harm: Callable[[Path], str]) -> None:
    folder = saved()
    text = harm(folder)
    assert text in problems(folder)
    done = CliRunner().invoke(main, ["collector", "verify", str(folder)])
    assert done.exit_code == 3
    assert text in done.output
    assert ": sound" not in done.output


def manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    found = json.loads((folder / "backup.json").read_text())
    change(found)
    (folder / "backup.json").write_text(json.dumps(found))


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found["files"].append(found["files"][0]),
        lambda found: found["files"][0].update(name="../marks.db"),
        lambda found: found["files"][0].update(name="/etc/passwd"),
        lambda found: found["files"][0].update(name="backup.json"),
        lambda found: found.update(files=3),
        lambda found: found.pop("files"),
    ],
)
def test_a_manifest_that_names_what_it_must_not(saved: Callable[..., Path], change: Any) -> None:
    folder = saved()
    manifest(folder, change)
    with pytest.raises(EdgebedError, match=r"backup\.json (is damaged|names files)") as caught:
        verify(folder, QUICK)
    assert "\n" not in str(caught.value)


def test_what_is_not_a_backup(saved: Callable[..., Path], tmp_path: Path) -> None:
    folder = saved()
    body = (folder / "backup.json").read_bytes()
    for half in (body[: len(body) // 2], b"", b"\xff" * 50, b"[" * 100_000):
        (folder / "backup.json").write_bytes(half)
        with pytest.raises(EdgebedError, match=r"backup\.json is damaged"):
            verify(folder, QUICK)
    (tmp_path / "empty").mkdir()
    with pytest.raises(EdgebedError, match="not a finished backup"):
        verify(tmp_path / "empty", QUICK)


def test_a_backup_of_a_newer_version_is_refused(saved: Callable[..., Path], tmp_path: Path) -> None:
    folder = saved()
    manifest(folder, lambda found: found.update(format=2, edgebed="9.1", files="changed"))
    with pytest.raises(StoreError, match=r"written by a newer version of edgebed \(9\.1\)"):
        verify(folder, QUICK)
    for name in ("state.db", "000002-2026-11-23.db"):
        folder = saved(f"of-{name}")
        for each in ("backup.json", "removed.json"):
            (folder / each).unlink()
        shutil.copyfile(folder / name, tmp_path / "x")
        with closing(sqlite3.connect(folder / name)) as db:
            db.execute("PRAGMA user_version = 1000")
        with pytest.raises(StoreError, match=r"newer version|has schema 1000"):
            verify(folder, QUICK)


def edit(folder: Path, statement: str, day: int = 1) -> None:
    with closing(sqlite3.connect(day_files(folder)[day])) as db:
        db.execute(statement)
        db.commit()


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("UPDATE chunk SET body = zeroblob(10)", "not a column chunk"),
        ("UPDATE chunk SET body = 'text'", "is damaged: chunk 1"),
        ("UPDATE chunk SET rows = 8", "8"),
        ("UPDATE chunk SET seq_b = 7", "its message numbers are others than stated"),
        ("UPDATE chunk SET last_us = 7", "its times are others than stated"),
        ("UPDATE chunk SET stream = 70", "belongs to no stream"),
        ("UPDATE event SET body = '{'", "event 1"),
        ("UPDATE hour SET messages = 1", "messages and counts"),
        ("UPDATE hour SET rows = 1", "9 rows and counts 1"),
        ("UPDATE mark SET body = '{'", "is damaged"),
        ("UPDATE raw SET body = zeroblob(10)", "message 1: not a Batch"),
        ("UPDATE raw SET body = 7", "is damaged: message 1"),
        ("UPDATE raw SET seq = 7", "message 1: it is another message than stated"),
        ("UPDATE raw SET rows = 8", "message 1: it is another message than stated"),
        ("UPDATE raw SET stream = 70", "message 1 belongs to no stream"),
        ("UPDATE raw SET recv_ms = recv_ms + 1", "message 1: it was changed after being stored"),
        ("UPDATE raw SET late = 1", "message 1: it was changed after being stored"),
        ("UPDATE raw SET skew = 1", "message 1: it was changed after being stored"),
        ("UPDATE raw SET err = 1", "message 1: it was changed after being stored"),
        ("UPDATE raw SET seal = NULL", "message 1: it was changed after being stored"),
        ("UPDATE stream SET device = 'leg'; -- raw", "message 1: it was changed after being stored"),
        ("DELETE FROM raw", "9 messages that are marked as stored are in no day file, such as 21-29 of"),
        (
            "DELETE FROM chunk",
            "9 messages that are marked as stored are in no day file, such as 11-19 of",
        ),
        (
            "INSERT INTO event SELECT 9, node, device, type, sev, ts, recv, ep, seq, body, seal FROM event",
            "twice",
        ),
        ("UPDATE event SET sev = 3", "event 1 was changed after being stored"),
        ("UPDATE event SET seal = NULL", "event 1 was changed after being stored"),
    ],
)
def test_a_store_whose_content_is_wrong(writer: Writer, statement: str, text: str) -> None:
    edit(writer.folder, statement, 2 if "raw" in statement else 1)
    if statement.startswith("DELETE"):
        edit(writer.folder, "DELETE FROM hour")
    assert text in problems(writer.folder)


@pytest.mark.usefixtures("packed_at_once")
def test_much_damage_is_one_line(writer: Writer) -> None:
    writer.write(5 * SHOWN)
    for _ in range(2 * SHOWN):
        writer.write(2)
    with closing(sqlite3.connect(day_files(writer.folder)[2])) as db:
        db.execute("UPDATE chunk SET body = zeroblob(10)")
        db.commit()
    text, *_ = verify(writer.folder, QUICK).problems
    assert text.count("not a column chunk") == SHOWN
    assert "; and " in text
    assert "\n" not in text


def test_damaged_pages_and_lost_files_of_a_store(writer: Writer) -> None:
    first, second, _ = day_files(writer.folder)
    data = bytearray(second.read_bytes())
    data[8192 * 4 : 8192 * 9] = b"\xff" * (8192 * 5)
    second.write_bytes(data)
    assert f"{second.name} is damaged" in problems(writer.folder)
    (writer.folder / "marks.db").write_bytes(b"x" * 9000)
    first.unlink()
    found = problems(writer.folder)
    assert "marks.db is damaged" in found
    assert "messages that are marked as stored are in no day file" in found


def test_what_retention_removed_is_not_missing(writer: Writer) -> None:
    writer.store.retention = Retention(1)
    writer.store._retire()
    assert len(day_files(writer.folder)) == 2
    assert problems(writer.folder) == ""
