"""Faults that lose data: damaged outbox, lost disk, restored store, full disks."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from edgebed import __version__
from edgebed.drill.check import Kept, kept
from edgebed.drill.installation import DrillInstallation
from wire.clock import Clock

log = logging.getLogger(__name__)


async def corrupt_outbox(target: DrillInstallation) -> None:
    """Change bytes of the newest segment or cut off its end: only what it held may be declared lost."""
    box = target.any_box()
    target.link(box).refuse()
    target.link(box).cut()
    await target.pause(2.0, 3.0)  # messages collect in the outbox
    target.agent(box).kill()
    segments = [path for path in (target.state(box) / "outbox").iterdir() if path.is_file()]
    newest = max(segments, key=lambda path: path.stat().st_mtime_ns)
    data = bytearray(newest.read_bytes())
    end = len(data.rstrip(b"\0"))
    if target.rng.random() < 0.5:
        for _ in range(20):
            data[target.rng.randrange(max(1, end - 20_000), end)] ^= 0xFF
        newest.write_bytes(data)
    else:
        os.truncate(newest, max(1, end - target.rng.randrange(1, 10_000)))
    target.allowed.reasons |= {"torn", "damaged"}
    target.link(box).refuse(False)
    target.agent(box).start()


async def lose_agent_disk(target: DrillInstallation) -> None:
    """Delete a box's state: it starts a new outbox, and the ledger shows what is missing of the old one."""
    box = target.any_box()
    target.agent(box).kill()
    shutil.rmtree(target.state(box))
    target.agent(box).start()


async def restore_collector(target: DrillInstallation) -> None:
    """Restore the collector's store from a backup: what it lacks arrives again or is shown as missing."""
    from collector.backup.backup import back_up
    from collector.backup.pace import Pace
    from collector.backup.restore import restore

    installation, store, backup = target.installation, target.folder / "store", target.folder / "backup"
    await asyncio.to_thread(back_up, store, backup, __version__, Clock(), Pace())  # while it runs
    known = kept(backup)
    await installation.until("an outbox releases what the backup lacks", lambda: _released(target, known))
    await asyncio.to_thread(installation.collector.stop)
    before = kept(store)
    shutil.rmtree(store)
    await asyncio.to_thread(restore, backup, store, Clock(), Pace(), log.warning)
    shutil.rmtree(backup)
    after = kept(store)
    for key, had in before.items():
        box = key[0].rpartition("/")[2]
        has = after[key].stored if key in after else set()
        target.allowed.forgotten[box] = target.allowed.forgotten.get(box, set()) | (had.stored - has)
    installation.collector.start()


def _released(target: DrillInstallation, known: Mapping[tuple[str, str], Kept]) -> bool:
    """Whether an outbox got an acknowledgement for a message that `known` does not have."""
    for (node, ep), had in known.items():
        status = target.installation.agent_status(node.rpartition("/")[2])
        if status.get("ep") == ep and status["head"] - status["depth"] > max(had.stored, default=0) + 1:
            return True
    return False


async def fill_agent_disk(target: DrillInstallation) -> None:
    """Fill the outbox's disk for a while: what the agent drops meanwhile is declared lost."""
    box = target.any_box()
    target.allowed.reasons |= {"disk", "overload"}
    with _Ballast(target.state(box)):
        target.link(box).refuse()
        target.link(box).cut()
        target.devices[box].flood(200_000)  # more than the outbox's existing files can hold
        await target.pause(8.0, 10.0)
    target.link(box).refuse(False)


async def fill_collector_disk(target: DrillInstallation) -> None:
    """Fill the store's disk for a while: the collector acknowledges nothing, so nothing is lost."""
    with _Ballast(target.folder / "store"):
        await target.pause(3.0, 5.0)


class _Ballast:
    """Fills the file system of a folder to its last byte."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ballast"

    def __enter__(self) -> None:
        with self._path.open("wb", buffering=0) as file:
            for size in (2**20, 4096, 1):
                try:
                    while file.write(b"\xff" * size) == size:
                        pass
                except OSError:
                    continue

    def __exit__(self, *_: object) -> None:
        self._path.unlink()


def mount(folder: Path, size_mb: int) -> None:
    """Mount a small file system on `folder`; it disappears with the mount namespace of this process."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(folder)],
        check=True,
        capture_output=True,
    )
