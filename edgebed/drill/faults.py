"""The faults that a drill can cause. Each removes its cause at the end; the drill waits for the recovery."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

from edgebed.drill.clock import step
from edgebed.drill.data_loss import (
    corrupt_outbox,
    fill_agent_disk,
    fill_collector_disk,
    lose_agent_disk,
    restore_collector,
)
from edgebed.drill.hostile_publisher import publish_flood, publish_garbage, publish_used_numbers
from edgebed.drill.installation import BOXES, DrillInstallation
from edgebed.processes import Child

Needs = Literal["", "tmpfs"]


@dataclass(frozen=True, slots=True)
class DrillFault:
    """One kind of fault. An `alone` fault loses data, so it runs in an installation of its own."""

    name: str
    description: str
    run: Callable[[DrillInstallation], Awaitable[None]]
    alone: bool = False
    needs: Needs = ""

    @property
    def touches_only_boxes(self) -> bool:
        """Whether it affects only the drill's own boxes and links, so that it can run at any site."""
        return not self.alone and not self.name.startswith(("broker-", "collector-", "hostile-"))

    @property
    def by_command(self) -> bool:
        """Whether a site's command can cause it."""
        return self.name.startswith(("broker-", "collector-"))


# --- processes


async def _kill_agent(target: DrillInstallation) -> None:
    box = target.any_box()
    target.agent(box).kill()
    await target.pause()
    target.agent(box).start()


async def _stop_agent(target: DrillInstallation) -> None:
    box = target.any_box()
    await asyncio.to_thread(target.agent(box).stop)
    target.agent(box).start()


async def _kill_broker(target: DrillInstallation) -> None:
    target.installation.broker.kill()
    await target.pause()
    await asyncio.to_thread(target.installation.broker.start)


async def _stop_broker(target: DrillInstallation) -> None:
    await asyncio.to_thread(target.installation.broker.stop)
    await target.pause()
    await asyncio.to_thread(target.installation.broker.start)


async def _wipe_broker(target: DrillInstallation) -> None:
    broker = target.installation.broker
    broker.kill()
    for each in broker.folder.iterdir():
        if each.suffix not in (".log", ".out"):
            shutil.rmtree(each) if each.is_dir() else each.unlink()
    await asyncio.to_thread(broker.start)


async def _kill_collector(target: DrillInstallation) -> None:
    target.installation.collector.kill()
    await target.pause()
    target.installation.collector.start()


async def _stop_collector(target: DrillInstallation) -> None:
    await asyncio.to_thread(target.installation.collector.stop)
    target.installation.collector.start()


async def _freeze(target: DrillInstallation, child: Child) -> None:
    os.kill(child.pid, signal.SIGSTOP)
    await target.pause(0.5, 3.0)
    os.kill(child.pid, signal.SIGCONT)


async def _freeze_agent(target: DrillInstallation) -> None:
    box = target.any_box()
    await _freeze(target, target.agent(box))


async def _freeze_broker(target: DrillInstallation) -> None:
    await _freeze(target, target.installation.broker.child)


async def _freeze_collector(target: DrillInstallation) -> None:
    await _freeze(target, target.installation.collector)


async def _lock_store(target: DrillInstallation) -> None:
    """Lock the newest day file, as a backup program does that does not know SQLite."""
    days = sorted((target.folder / "store").glob("0*.db"))
    with closing(sqlite3.connect(days[-1], isolation_level=None, timeout=10.0)) as other:
        other.execute("BEGIN EXCLUSIVE")
        await target.pause(1.0, 8.0)
        other.execute("ROLLBACK")


# --- the line between a box and the broker


async def _cut(target: DrillInstallation, *, reset: bool) -> None:
    link = target.link(target.any_box())
    link.refuse()
    link.cut(reset=reset)
    await target.pause(0.2, 2.0)
    link.refuse(False)


async def _cut_rst(target: DrillInstallation) -> None:
    await _cut(target, reset=True)


async def _cut_fin(target: DrillInstallation) -> None:
    await _cut(target, reset=False)


async def _black_hole(target: DrillInstallation) -> None:
    link = target.link(target.any_box())
    link.black_hole()
    await target.pause(0.5, 3.0)
    link.cut()
    link.heal()


async def _half_open(target: DrillInstallation) -> None:
    """Drop one direction without closing the connection: the agent must detect it by itself."""
    link = target.link(target.any_box())
    link.black_hole(way=target.rng.choice(["up", "down"]))
    await target.pause(1.0, 3.0)
    link.heal()


async def _swallow(target: DrillInstallation) -> None:
    link = target.link(target.any_box())
    link.set("up", hole_after=target.rng.randrange(1, 20_000))
    link.cut()  # the next connection has the hole
    await target.pause(1.0, 3.0)
    link.heal()
    link.cut()


async def _corrupt(target: DrillInstallation) -> None:
    link = target.link(target.any_box())
    link.corrupt(0.001)
    await target.pause(0.5, 2.0)
    link.heal()
    link.cut()


async def _slow(target: DrillInstallation) -> None:
    link = target.link(target.any_box())
    link.set("both", latency_s=0.3, jitter_s=0.2, rate=20_000.0, slice=100)
    await target.pause(1.0, 3.0)
    link.heal()


async def _storm(target: DrillInstallation) -> None:
    for _ in range(target.rng.randrange(5, 20)):
        for box in BOXES:
            target.link(box).cut(reset=target.rng.random() < 0.5)
        await target.pause(0.02, 0.2)


# --- devices


async def _flood(target: DrillInstallation) -> None:
    target.devices[target.any_box()].flood(target.rng.randrange(2_000, 10_000))
    await target.pause()


async def _stall(target: DrillInstallation) -> None:
    device = target.devices[target.any_box()]
    device.silent = True
    await target.pause(0.5, 4.0)
    device.silent = False


async def _nan(target: DrillInstallation) -> None:
    box = target.any_box()
    target.devices[box].nan = True
    await target.pause(0.2, 0.5)
    target.devices[box].nan = False


async def _backward(target: DrillInstallation) -> None:
    device = target.devices[target.any_box()]
    device.backward_s = target.rng.uniform(1, 3000)
    await target.pause()
    device.backward_s = 0.0


# --- clocks


async def _step_clock(target: DrillInstallation) -> None:
    path = target.clock_file(target.any_box())
    for hours in target.rng.sample([-1, 1, 0], 3):
        step(path, offset_s=3600 * hours)
        await target.pause(0.3, 1.0)
    step(path)


async def _no_clock_at_boot(target: DrillInstallation) -> None:
    box = target.any_box()
    path = target.clock_file(box)
    target.agent(box).kill()
    step(path, offset_s=-1.6e9, synced=False)
    target.agent(box).start()
    await target.pause(1.0, 3.0)
    step(path)
    await target.pause(1.0, 2.5)  # the agent reads its clock's state every two seconds


FAULTS: dict[str, DrillFault] = {
    each.name: each
    for each in (
        DrillFault("agent-kill", "kill -9 of an agent", _kill_agent),
        DrillFault("agent-stop", "a graceful stop and start of an agent", _stop_agent),
        DrillFault("agent-freeze", "SIGSTOP and SIGCONT of an agent", _freeze_agent),
        DrillFault("broker-kill", "kill -9 of the broker", _kill_broker),
        DrillFault("broker-stop", "a graceful stop and start of the broker", _stop_broker),
        DrillFault("broker-freeze", "SIGSTOP and SIGCONT of the broker", _freeze_broker),
        DrillFault("broker-wiped", "the broker loses everything it had on disk", _wipe_broker),
        DrillFault("collector-kill", "kill -9 of the collector", _kill_collector),
        DrillFault("collector-stop", "a graceful stop and start of the collector", _stop_collector),
        DrillFault("collector-freeze", "SIGSTOP and SIGCONT of the collector", _freeze_collector),
        DrillFault("collector-locked", "another program holds the collector's database", _lock_store),
        DrillFault("link-rst", "the link is reset and refused for a while", _cut_rst),
        DrillFault("link-fin", "the link is closed and refused for a while", _cut_fin),
        DrillFault("link-black-hole", "every byte is dropped, the connection stays up", _black_hole),
        DrillFault("link-half-open", "every byte in one direction is dropped", _half_open),
        DrillFault("link-swallow", "the connection drops every byte after a random one", _swallow),
        DrillFault("link-corrupt", "one byte of a thousand is changed", _corrupt),
        DrillFault("link-slow", "300 ms latency, 20 kB/s, bytes in slices", _slow),
        DrillFault("reconnect-storm", "every connection is cut again and again", _storm),
        DrillFault("device-flood", "thousands of rows at once", _flood),
        DrillFault("device-stall", "a device that sends nothing for a while", _stall),
        DrillFault("device-nan", "a device that sends NaN", _nan),
        DrillFault("device-backward", "a device whose time goes back", _backward),
        DrillFault("clock-step", "the box's clock steps by an hour, forth and back", _step_clock),
        DrillFault("clock-none-at-boot", "no clock at boot, set later", _no_clock_at_boot),
        DrillFault("hostile-publisher", "invalid messages on the collector's topics", publish_garbage),
        DrillFault(
            "hostile-numbers", "invalid messages with the numbers of a box's messages", publish_used_numbers
        ),
        DrillFault(
            "hostile-flood", "an unknown client publishes as fast as the broker accepts", publish_flood
        ),
        DrillFault(
            "outbox-corrupt", "bytes of the outbox change or its end is cut off", corrupt_outbox, alone=True
        ),
        DrillFault("agent-disk-lost", "a box comes back re-imaged", lose_agent_disk, alone=True),
        DrillFault(
            "collector-restored",
            "the collector is restored from an older backup",
            restore_collector,
            alone=True,
        ),
        DrillFault(
            "agent-disk-full", "the outbox's disk is full, then freed", fill_agent_disk, True, "tmpfs"
        ),
        DrillFault(
            "collector-disk-full", "the store's disk is full, then freed", fill_collector_disk, True, "tmpfs"
        ),
    )
}
