"""The state folder: one owner at a time, and the errors of a full disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from agent.outbox import Outbox, OutboxSettings
from agent.state_dir import is_running, locked
from wire.clock import Clock
from wire.errors import ConfigError, TryAgain

NODE = "t/p/s/n"


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, TryAgain), (errno.EDQUOT, TryAgain), (errno.EROFS, ConfigError)]
)
def test_a_full_disk_is_temporary_and_another_error_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    def failing(*_: Any, **__: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", failing)
    with pytest.raises(kind, match=r"state folder .* cannot be written"), locked(tmp_path, NODE):
        pass
    with pytest.raises(kind, match=r"the outbox in .* cannot be written"):
        Outbox.open(tmp_path, OutboxSettings(), Clock())


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    assert not is_running(tmp_path)
    with locked(tmp_path, NODE):
        assert is_running(tmp_path)
        with pytest.raises(TryAgain, match="another agent"), locked(tmp_path, NODE):
            pass
    assert not is_running(tmp_path)


@pytest.mark.parametrize("damaged", [b"", b"\xff\x00", b"not/an/Address", b"t/p/s/" + b"n" * 5_000])
def test_a_folder_is_noted_for_its_node_and_a_damaged_note_is_written_again(
    tmp_path: Path, damaged: bytes
) -> None:
    state = tmp_path / "state"
    for _ in range(2):
        with locked(state, NODE):
            assert (state / "node").read_bytes() == b"t/p/s/n\n"
    (state / "node").write_bytes(damaged)
    with locked(state, NODE):
        pass
    with pytest.raises(ConfigError, match="belongs to node t/p/s/n"), locked(state, "t/p/s/other"):
        pass


def test_a_folder_that_cannot_be_noted_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with locked(tmp_path, NODE):
        assert is_running(tmp_path)
