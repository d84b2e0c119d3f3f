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


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, TryAgain), (errno.EDQUOT, TryAgain), (errno.EROFS, ConfigError)]
)
def test_a_full_disk_is_temporary_and_another_error_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    def failing(*_: Any, **__: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", failing)
    with pytest.raises(kind, match=r"state folder .* cannot be written"), locked(tmp_path):
        pass
    with pytest.raises(kind, match=r"the outbox in .* cannot be written"):
        Outbox.open(tmp_path, OutboxSettings(), Clock())


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    assert not is_running(tmp_path)
    with locked(tmp_path):
        assert is_running(tmp_path)
        with pytest.raises(TryAgain, match="another agent"), locked(tmp_path):
            pass
    assert not is_running(tmp_path)
