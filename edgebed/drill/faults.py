"""Everything a drill does to an installation; a harm ends with it healed, not yet recovered."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgebed.drill.check import Kept, kept
from edgebed.drill.clock import step
from edgebed.drill.hostile_publisher import flood, numbers, rubbish
from edgebed.drill.installation import BOXES, Bench
from edgebed.processes import Child

Needs = Literal["", "tmpfs"]


@dataclass(frozen=True, slots=True)
class Harm:
    """One kind of fault; `alone` ones get an installation of their own, because of what they cost."""

    name: str
    does: str
    run: Callable[[Bench], Awaitable[None]]
    alone: bool = False
    needs: Needs = ""

    @property
    def ours(self) -> bool:
        """Whether it harms nothing but our own boxes and links, so that it can be done at any site."""
        return not self.alone and not self.name.startswith(("broker-", "collector-", "hostile-"))

    @property
    def by_command(self) -> bool:
        """Whether a command of a site could do it there."""
        return self.name.startswith(("broker-", "collector-"))


# --- processes


async def _kill_agent(bench: Bench) -> None:
    box = bench.any_box()
    bench.agent(box).kill()
    await bench.pause()
    bench.agent(box).start()


async def _stop_agent(bench: Bench) -> None:
    box = bench.any_box()
    await asyncio.to_thread(bench.agent(box).stop)
    bench.agent(box).start()


async def _kill_broker(bench: Bench) -> None:
    bench.stand.broker.kill()
    await bench.pause()
    await asyncio.to_thread(bench.stand.broker.start)


async def _stop_broker(bench: Bench) -> None:
    await asyncio.to_thread(bench.stand.broker.stop)
    await bench.pause()
    await asyncio.to_thread(bench.stand.broker.start)


async def _wipe_broker(bench: Bench) -> None:
    broker = bench.stand.broker
    broker.kill()
    for each in broker.folder.iterdir():
        if each.suffix not in (".log", ".out"):
            shutil.rmtree(each) if each.is_dir() else each.unlink()
    await asyncio.to_thread(broker.start)


async def _kill_collector(bench: Bench) -> None:
    bench.stand.collector.kill()
    await bench.pause()
    bench.stand.collector.start()


async def _stop_collector(bench: Bench) -> None:
    await asyncio.to_thread(bench.stand.collector.stop)
    bench.stand.collector.start()


async def _freeze(bench: Bench, child: Child) -> None:
    os.kill(child.pid, signal.SIGSTOP)
    await bench.pause(0.5, 3.0)
    os.kill(child.pid, signal.SIGCONT)


async def _freeze_agent(bench: Bench) -> None:
    box = bench.any_box()
    await _freeze(bench, bench.agent(box))


async def _freeze_broker(bench: Bench) -> None:
    await _freeze(bench, bench.stand.broker.child)


async def _freeze_collector(bench: Bench) -> None:
    await _freeze(bench, bench.stand.collector)


async def _lock_store(bench: Bench) -> None:
    """As a backup program does that does not know SQLite."""
    days = sorted((bench.folder / "store").glob("0*.db"))
    with closing(sqlite3.connect(days[-1], isolation_level=None, timeout=10.0)) as other:
        other.execute("BEGIN EXCLUSIVE")
        await bench.pause(1.0, 8.0)
        other.execute("ROLLBACK")


# --- the line between a box and the broker


async def _cut(bench: Bench, *, reset: bool) -> None:
    link = bench.link(bench.any_box())
    link.refuse()
    link.cut(reset=reset)
    await bench.pause(0.2, 2.0)
    link.refuse(False)


async def _cut_rst(bench: Bench) -> None:
    await _cut(bench, reset=True)


async def _cut_fin(bench: Bench) -> None:
    await _cut(bench, reset=False)


async def _black_hole(bench: Bench) -> None:
    link = bench.link(bench.any_box())
    link.black_hole()
    await bench.pause(0.5, 3.0)
    link.cut()
    link.heal()


async def _half_open(bench: Bench) -> None:
    """One direction is swallowed; the agent has to find out by itself: nobody cuts the connection."""
    link = bench.link(bench.any_box())
    link.black_hole(way=bench.dice.choice(["up", "down"]))
    await bench.pause(1.0, 3.0)
    link.heal()


async def _swallow(bench: Bench) -> None:
    link = bench.link(bench.any_box())
    link.set("up", hole_after=bench.dice.randrange(1, 20_000))
    link.cut()  # the next connection has the hole
    await bench.pause(1.0, 3.0)
    link.heal()
    link.cut()


async def _corrupt(bench: Bench) -> None:
    link = bench.link(bench.any_box())
    link.corrupt(0.001)
    await bench.pause(0.5, 2.0)
    link.heal()
    link.cut()


async def _slow(bench: Bench) -> None:
    link = bench.link(bench.any_box())
    link.set("both", latency_s=0.3, jitter_s=0.2, rate=20_000.0, slice=100)
    await bench.pause(1.0, 3.0)
    link.heal()


async def _storm(bench: Bench) -> None:
    for _ in range(bench.dice.randrange(5, 20)):
        for box in BOXES:
            bench.link(box).cut(reset=bench.dice.random() < 0.5)
        await bench.pause(0.02, 0.2)


# --- devices


async def _flood(bench: Bench) -> None:
    bench.devices[bench.any_box()].flood(bench.dice.randrange(2_000, 10_000))
    await bench.pause()


async def _stall(bench: Bench) -> None:
    device = bench.devices[bench.any_box()]
    device.silent = True
    await bench.pause(0.5, 4.0)
    device.silent = False


async def _nan(bench: Bench) -> None:
    box = bench.any_box()
    bench.devices[box].nan = True
    await bench.pause(0.2, 0.5)
    bench.devices[box].nan = False


async def _backward(bench: Bench) -> None:
    device = bench.devices[bench.any_box()]
    device.backward_s = bench.dice.uniform(1, 3000)
    await bench.pause()
    device.backward_s = 0.0


# --- clocks


async def _step_clock(bench: Bench) -> None:
    path = bench.clock_file(bench.any_box())
    for hours in bench.dice.sample([-1, 1, 0], 3):
        step(path, offset_s=3600 * hours)
        await bench.pause(0.3, 1.0)
    step(path)


async def _no_clock_at_boot(bench: Bench) -> None:
    box = bench.any_box()
    path = bench.clock_file(box)
    bench.agent(box).kill()
    step(path, offset_s=-1.6e9, synced=False)
    bench.agent(box).start()
    await bench.pause(1.0, 3.0)
    step(path)
    await bench.pause(1.0, 2.5)  # it looks every two seconds


# --- what costs something: each in an installation of its own


async def _corrupt_tail(bench: Bench) -> None:
    """Bytes of the newest segment change, or its end is gone: what it held is declared, nothing else."""
    box = bench.any_box()
    bench.link(box).refuse()
    bench.link(box).cut()
    await bench.pause(2.0, 3.0)  # something waits
    bench.agent(box).kill()
    segments = [path for path in (bench.state(box) / "outbox").iterdir() if path.is_file()]
    newest = max(segments, key=lambda path: path.stat().st_mtime_ns)
    data = bytearray(newest.read_bytes())
    end = len(data.rstrip(b"\0"))
    if bench.dice.random() < 0.5:
        for _ in range(20):
            data[bench.dice.randrange(max(1, end - 20_000), end)] ^= 0xFF
        newest.write_bytes(data)
    else:
        os.truncate(newest, max(1, end - bench.dice.randrange(1, 10_000)))
    bench.allowed.reasons |= {"torn", "damaged"}
    bench.link(box).refuse(False)
    bench.agent(box).start()


async def _lost_disk(bench: Bench) -> None:
    """The box comes back re-imaged: a new outbox; the ledger says what of the old one never came."""
    box = bench.any_box()
    bench.agent(box).kill()
    shutil.rmtree(bench.state(box))
    bench.agent(box).start()


async def _restored(bench: Bench) -> None:
    """The collector's database is restored from a backup: what it lost by that is told, or comes again."""
    stand, store = bench.stand, bench.folder / "store"
    await asyncio.to_thread(stand.collector.stop)
    backup = bench.folder / "backup"
    shutil.copytree(store, backup)
    known = kept(backup)
    stand.collector.start()
    await bench.recovers()
    await stand.until("an outbox has let go what the backup lacks", lambda: _let_go(bench, known))
    await asyncio.to_thread(stand.collector.stop)
    before = kept(store)
    shutil.rmtree(store)
    backup.rename(store)
    after = kept(store)
    for key, had in before.items():
        box = key[0].rpartition("/")[2]
        has = after[key].stored if key in after else set()
        bench.allowed.forgotten[box] = bench.allowed.forgotten.get(box, set()) | (had.stored - has)
    stand.collector.start()


def _let_go(bench: Bench, known: Mapping[tuple[str, str], Kept]) -> bool:
    """Whether an outbox has more acknowledged than any number that was stored then."""
    for (node, ep), had in known.items():
        status = bench.stand.agent_status(node.rpartition("/")[2])
        if status.get("ep") == ep and status["head"] - status["depth"] > max(had.stored, default=0) + 1:
            return True
    return False


async def _agent_disk_full(bench: Bench) -> None:
    """The outbox's disk is full for a while, then freed: what was dropped meanwhile is declared."""
    box = bench.any_box()
    bench.allowed.reasons |= {"disk", "overload"}
    with _Ballast(bench.state(box)):
        bench.link(box).refuse()
        bench.link(box).cut()
        bench.devices[box].flood(200_000)  # more than the files hold that the outbox has already
        await bench.pause(8.0, 10.0)
    bench.link(box).refuse(False)


async def _collector_disk_full(bench: Bench) -> None:
    """The store's disk is full for a while: nothing is acknowledged, so nothing is lost."""
    with _Ballast(bench.folder / "store"):
        await bench.pause(3.0, 5.0)


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
    """Put a small file system of its own on `folder`; it ends with the mount namespace of this process."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(folder)],
        check=True,
        capture_output=True,
    )


HARMS: dict[str, Harm] = {
    each.name: each
    for each in (
        Harm("agent-kill", "kill -9 of an agent", _kill_agent),
        Harm("agent-stop", "a graceful stop and start of an agent", _stop_agent),
        Harm("agent-freeze", "SIGSTOP and SIGCONT of an agent", _freeze_agent),
        Harm("broker-kill", "kill -9 of the broker", _kill_broker),
        Harm("broker-stop", "a graceful stop and start of the broker", _stop_broker),
        Harm("broker-freeze", "SIGSTOP and SIGCONT of the broker", _freeze_broker),
        Harm("broker-wiped", "the broker loses everything it had on disk", _wipe_broker),
        Harm("collector-kill", "kill -9 of the collector", _kill_collector),
        Harm("collector-stop", "a graceful stop and start of the collector", _stop_collector),
        Harm("collector-freeze", "SIGSTOP and SIGCONT of the collector", _freeze_collector),
        Harm("collector-locked", "another program holds the collector's database", _lock_store),
        Harm("link-rst", "the link is reset and refused for a while", _cut_rst),
        Harm("link-fin", "the link is closed and refused for a while", _cut_fin),
        Harm("link-black-hole", "every byte is swallowed, the connection stays up", _black_hole),
        Harm("link-half-open", "one direction is swallowed", _half_open),
        Harm("link-swallow", "from some byte on the connection carries nothing", _swallow),
        Harm("link-corrupt", "one byte of a thousand is changed", _corrupt),
        Harm("link-slow", "300 ms latency, 20 kB/s, bytes in slices", _slow),
        Harm("reconnect-storm", "every connection is cut again and again", _storm),
        Harm("device-flood", "thousands of rows at once", _flood),
        Harm("device-stall", "a device that says nothing for a while", _stall),
        Harm("device-nan", "a device that sends NaN", _nan),
        Harm("device-backward", "a device whose time goes back", _backward),
        Harm("clock-step", "the box's clock steps by an hour, forth and back", _step_clock),
        Harm("clock-none-at-boot", "no clock at boot, set later", _no_clock_at_boot),
        Harm("hostile-publisher", "rubbish on the collector's topics", rubbish),
        Harm("hostile-numbers", "rubbish that bears the numbers of a box's own messages", numbers),
        Harm("hostile-flood", "a stranger that publishes as fast as the broker takes it", flood),
        Harm("outbox-corrupt", "bytes of the outbox change or its end is cut off", _corrupt_tail, alone=True),
        Harm("agent-disk-lost", "a box comes back re-imaged", _lost_disk, alone=True),
        Harm("collector-restored", "the collector is restored from an older backup", _restored, alone=True),
        Harm("agent-disk-full", "the outbox's disk is full, then freed", _agent_disk_full, True, "tmpfs"),
        Harm(
            "collector-disk-full", "the store's disk is full, then freed", _collector_disk_full, True, "tmpfs"
        ),
    )
}
