"""The audit of a site: who did what to it, when, from where, and with which result.

It is a file of the site, not of a collector's store: the site's folder has the keys that make nodes, so the
collector, which faces browsers and may be on another machine, must not need to reach it.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from collector.state.audit import COMMAND_LINE, AuditEntry, user
from edgebed.site.files import SECRET, make_folder, read
from wire.clock import Clock
from wire.errors import EdgebedError, unwritable

log = logging.getLogger(__name__)

FOLDER = "audit"
_DONE, _REFUSED = "done", "refused"  # refusals have a file of their own: they push out no act
_MAX_BYTES = 4 * 1024 * 1024  # of a file; the one before it is kept
_MAX_CHARS = 500  # of a text


def note(
    site: Path,
    what: str,
    subject: str,
    result: str = "done",
    *,
    who: str = "",
    origin: str = COMMAND_LINE,
    is_refusal: bool = False,
    clock: Clock | None = None,
) -> None:
    """Add an entry to a site's folder, durably; without `who` it is the user of this process.

    An audit that cannot be written must not stop a removal: it is logged.
    """
    texts = [text.encode("utf-8", "replace").decode()[:_MAX_CHARS] for text in (who, subject, origin, result)]
    entry = AuditEntry(
        (clock or Clock()).now_ms(), texts[0] or user(), what, texts[1], texts[2], texts[3], texts[1]
    )
    try:
        _append(site / FOLDER, _REFUSED if is_refusal else _DONE, msgspec.json.encode(entry))
    except EdgebedError as error:
        log.warning("this is not in the audit of the site: %s: %s", what, error)


@contextmanager
def noted(site: Path, what: str, subject: str) -> Iterator[None]:
    """Note the block, a command of this process, with its result."""
    result = "done"
    try:
        yield
    except BaseException as error:
        result = f"failed: {error}" if isinstance(error, EdgebedError) else "interrupted"
        raise
    finally:
        note(site, what, subject, result)


def newest(site: Path, limit: int) -> list[AuditEntry]:
    """The newest entries, the newest first. A line that a power cut left damaged is left out."""
    found = []
    for name in (_DONE, _REFUSED):
        for path in (_path(site / FOLDER, name, 1), _path(site / FOLDER, name, 0)):
            for line in (read(path) or b"").splitlines():
                with contextlib.suppress(msgspec.MsgspecError):
                    found.append(msgspec.json.decode(line, type=AuditEntry))
    found.sort(key=lambda one: one.at_ms)
    return found[::-1][:limit]


def _path(folder: Path, name: str, age: int) -> Path:
    return folder / (f"{name}.{age}.jsonl" if age else f"{name}.jsonl")


def _append(folder: Path, name: str, line: bytes) -> None:
    make_folder(folder, 0o700)
    path = _path(folder, name, 0)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, SECRET)
        with os.fdopen(handle, "rb+", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            if size:  # a half line of a process that was killed must not damage this one
                file.seek(size - 1)
                line = line if file.read(1) == b"\n" else b"\n" + line
            file.write(line + b"\n")
            os.fsync(handle)
        if size > _MAX_BYTES:
            path.replace(_path(folder, name, 1))
    except OSError as error:
        raise unwritable(str(path), error) from error
