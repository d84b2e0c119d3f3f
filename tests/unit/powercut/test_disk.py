"""The disk that loses its power keeps flushed writes, may keep others, and invents nothing."""

from __future__ import annotations

import inspect
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.powercut.disk import SECTOR, Disk, Op, replayed, write_files
from tests.powercut.write_log import Stopped, WriteLog, recorded, traced

A, B = b"a" * SECTOR, b"b" * SECTOR


def outcomes(ops: list[Op], before: dict[str, bytes] | None = None) -> list[dict[str, bytes]]:
    disk = Disk(before)
    for op in ops:
        disk.apply(op)
    found = {tuple(disk.cut(random.Random(seed)).items()) for seed in range(400)}
    return [dict(each) for each in found]


def test_what_was_flushed_stays_and_the_rest_comes_in_any_order() -> None:
    before = {"f": A * 3}
    unsynced = [Op("write", "f", 0, B), Op("write", "f", 2 * SECTOR, B)]
    found = {each["f"] for each in outcomes(unsynced, before)}
    assert found == {A + A + A, B + A + A, A + A + B, B + A + B}
    assert outcomes([*unsynced, Op("sync", "f")], before) == [{"f": B + A + B}]


def test_a_sector_is_whole_and_a_write_is_not() -> None:
    found = {each["f"] for each in outcomes([Op("write", "f", 256, B + A)], {"f": bytes(3 * SECTOR)})}
    for each in found:
        assert each[256:SECTOR] in (bytes(256), b"b" * 256)
        assert each[SECTOR : 2 * SECTOR] in (bytes(SECTOR), b"b" * 256 + b"a" * 256)
    assert len(found) == 8


def test_a_later_write_to_a_sector_never_arrives_without_the_one_before() -> None:
    ops = [Op("write", "f", 0, b"1"), Op("write", "f", 1, b"2")]
    assert {each["f"][:2] for each in outcomes(ops, {"f": bytes(SECTOR)})} == {b"\0\0", b"1\0", b"12"}


def test_a_file_that_grew_may_be_short_or_full_of_zeros() -> None:
    found = {each["f"] for each in outcomes([Op("write", "f", SECTOR, B)], {"f": A})}
    assert found >= {A, A + B, A + bytes(SECTOR)}
    assert {each["f"] for each in outcomes([Op("size", "f", SECTOR), Op("sync", "f")], {"f": A + B})} == {A}


def test_what_follows_a_cut_needs_the_cut() -> None:
    ops = [Op("size", "f", 0), Op("write", "f", 0, B)]
    assert {each["f"] for each in outcomes(ops, {"f": A * 2})} == {A * 2, b"", B, bytes(SECTOR)}


def test_a_name_is_there_once_the_folder_was_flushed() -> None:
    made = [Op("create", "f"), Op("write", "f", 0, A), Op("sync", "f")]
    assert sorted(map(len, outcomes(made))) == [0, 1], "with its whole content, or not at all"
    assert outcomes([*made, Op("sync-folder")]) == [{"f": A}]
    renamed = [Op("rename", "f", to="g"), Op("unlink", "h")]
    found = outcomes(renamed, {"f": A, "h": B})
    assert sorted(map(sorted, found)) == [["f", "h"], ["g"], ["g", "h"]]


def work(folder: Path, say: Callable[[Any], object]) -> None:
    """Do every kind of step that a log can have."""
    fd = os.open(folder / "new", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    os.pwrite(fd, A + B, 100)
    os.fdatasync(fd)
    say("written")
    os.ftruncate(fd, 300)
    os.close(fd)
    (folder / "old").rename(folder / "moved")
    (folder / "gone").unlink()
    directory = os.open(folder, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    say("done")


WORDS = ["create", "write", "sync", "say", "size", "rename", "unlink", "sync-folder", "say"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    write_files(folder, {"old": A, "gone": B})
    return folder


def test_a_program_is_recorded_from_within(folder: Path) -> None:
    log = WriteLog(folder)
    before = read(folder)
    with recorded(log):
        work(folder, log.say)
    assert [op.what for op in log.ops] == WORDS
    assert replayed(log.ops, before) == read(folder)


def test_and_killed_where_it_is_asked(folder: Path) -> None:
    log = WriteLog(folder)
    log.stop_at = 2
    with pytest.raises(Stopped), recorded(log):
        work(folder, log.say)
    assert (folder / "new").read_bytes() == b""
    assert [op.what for op in log.ops] == ["create"]


PROGRAM = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
A, B = b"a" * 512, b"b" * 512
exec(open(sys.argv[4]).read())
words = os.open(sys.argv[2], os.O_CREAT | os.O_WRONLY)
work(Path(sys.argv[1]), lambda said: os.write(words, said.encode()))
"""


def test_a_program_is_recorded_by_strace(folder: Path, tmp_path: Path, require: Any) -> None:
    require("strace")
    (tmp_path / "work.py").write_text(inspect.getsource(work).replace("Callable[[Any], object]", "object"))
    log, before, words = WriteLog(folder), read(folder), tmp_path / "words"
    arguments = [str(folder), str(words), str(tmp_path), str(tmp_path / "work.py")]
    assert traced(log, [sys.executable, "-c", PROGRAM, *arguments], words) == 0
    assert [op.what for op in log.ops] == WORDS
    assert [op.said for op in log.ops if op.what == "say"] == ["written", "done"]
    assert replayed(log.ops, before) == read(folder)


def read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
