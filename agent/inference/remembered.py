"""Answers about model packages that are kept in files, so that a restart does not ask for them again."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

_MOST = 400  # the oldest are removed

S = TypeVar("S", bound=Struct)


def read(saved: Path, kind: type[S]) -> S | None:
    """The answer in a file; None if it is not there, or damaged by a power cut."""
    try:
        return msgspec.json.decode(saved.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def write(saved: Path, answer: Struct) -> None:
    """Keep an answer; a folder that cannot be written costs only time."""
    draft = saved.with_suffix(f".{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        saved.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(msgspec.json.encode(answer))
        draft.replace(saved)
        answers = sorted(saved.parent.glob("*.json"), key=lambda each: each.stat().st_mtime_ns)
        for old in answers[:-_MOST]:
            old.unlink(missing_ok=True)
    except OSError:  # with a full disk the next start asks again
        with suppress(OSError):
            draft.unlink(missing_ok=True)
