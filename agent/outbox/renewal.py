"""Renewal: moves what waits into an outbox with a new ep: a collector has other messages with these numbers.

That is so after a device was restored from an image: it continues with the number that it had when the
image was made. A new outbox is made beside the old one and takes its place at once, so a crash leaves one of
the two.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from agent.clock_sync import machine_boot
from agent.outbox.gaps import GAP
from agent.outbox.message import Message
from agent.outbox.record import Record
from agent.outbox.segment_pool import sync
from wire.custody import CUSTODY
from wire.messages import Batch, Event
from wire.topics import NODE_ITSELF

log = logging.getLogger(__name__)

_ASKED, _DONE = "renew", "renewed"
_MESSAGES, _BYTES = 500, 1_000_000  # that are moved at once
# They are about numbers of the old ep.
_LEFT = {f"{NODE_ITSELF}/{GAP}", f"{NODE_ITSELF}/{CUSTODY}"}


class Opened(Protocol):
    """The part of an outbox that is needed here."""

    @property
    def trouble(self) -> str: ...
    def overtake(self, behind: int) -> bool: ...
    def take_overtaken(self, messages: int, size: int) -> list[Record]: ...
    def append(self, message: Message) -> int: ...
    def commit(self) -> bool: ...
    def close(self) -> None: ...


def ask(folder: Path) -> None:
    """Have the next open renew the outbox in `folder`. Raises OSError."""
    (folder / _ASKED).touch()
    sync(folder)


def is_asked(folder: Path) -> bool:
    """Whether the outbox in `folder` is to be renewed, or a renewal was interrupted."""
    return (folder / _ASKED).exists() or _beside(folder, "new").exists() or _beside(folder, "old").exists()


def prepare(folder: Path) -> Path | None:
    """The empty folder of the new outbox, to be filled; None if it is whole already. Raises OSError."""
    new = _beside(folder, "new")
    if (new / _DONE).exists() or not (folder / _ASKED).exists():
        return None
    shutil.rmtree(new, ignore_errors=True)
    return new


def replace(folder: Path) -> None:
    """Put a new outbox that is whole in the place of the old one, and remove what is left. Raises OSError."""
    new, old = _beside(folder, "new"), _beside(folder, "old")
    if (folder / _ASKED).exists() and (new / _DONE).exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    if not folder.exists() and (new / _DONE).exists():
        new.rename(folder)
        sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(new, ignore_errors=True)
    (folder / _DONE).unlink(missing_ok=True)


def fill(old: Opened, new: Opened, folder: Path) -> int:
    """Copy what waits, in the order of its numbers; returns how many messages. Raises OSError."""
    count = 0
    old.overtake(0)
    while records := old.take_overtaken(_MESSAGES, _BYTES):
        for message in _messages(records):
            new.append(message)
            count += 1
        if not new.commit():
            raise OSError(None, new.trouble)
    new.close()
    (folder / _DONE).touch()
    sync(folder)
    return count


def _messages(records: list[Record]) -> Iterator[Message]:
    boot = machine_boot()
    for record in records:
        if record.tail in _LEFT:
            continue
        device, _, name = record.tail.partition("/")
        try:
            body = msgspec.json.decode(record.body, type=Batch if record.cls == "data" else Event)
        except msgspec.MsgspecError as error:  # written by another version
            log.warning("%s %d is not moved to the new outbox: %s", record.tail, record.seq, error)
            continue
        # the times of an earlier run of the machine cannot be corrected any more
        offset_ns = record.offset_ns if record.boot == boot else None
        yield Message(record.cls, device, name, body, offset_ns)


def _beside(folder: Path, what: str) -> Path:
    # hidden: an operator may have moved an outbox to `outbox.old`
    return folder.with_name(f".{folder.name}.renewal-{what}")
