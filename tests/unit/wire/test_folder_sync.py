"""The names in a folder are flushed, and nothing stays open."""

import os
from pathlib import Path

import pytest

from wire.folder_sync import sync_folder


def test_the_folder_itself_is_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[tuple[int, os.stat_result]] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append((descriptor, os.fstat(descriptor))))
    sync_folder(tmp_path)
    assert [found.st_ino for _, found in flushed] == [tmp_path.stat().st_ino]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(flushed[0][0])


def test_what_is_not_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "absent"):
        with pytest.raises(OSError, match=r"Not a directory|No such file"):
            sync_folder(path)
