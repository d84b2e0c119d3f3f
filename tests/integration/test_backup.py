"""Backups of a collector at work: killed, ended, restored; each has what was acknowledged before."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from collector.backup.manifest import names_in
from collector.store.store import SqliteStore
from edgebed.broker import KINDS, BrokerProcess
from edgebed.processes import edgebed_command
from tests.integration.conftest import Box, CollectorProcess
from tests.polling import until, wait_until
from tests.unit.collector.stored import stored
from wire.clock import Clock
from wire.task_cancellation import end

RATE = 200  # messages a second
LARGE = 100_000_000  # bytes of a file that a command works on for a while


class Site:
    """A collector, and a box that takes 200 messages a second and sends them."""

    def __init__(self, folder: Path, collector: CollectorProcess, box: Box) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.collector = collector
        self.box = box

    async def run(self, *words: object) -> tuple[int, str]:
        """Exit code and output of `edgebed collector ...`."""
        command = edgebed_command("collector", *map(str, words))
        done = await asyncio.to_thread(
            subprocess.run, command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120
        )
        return done.returncode, done.stdout

    async def backup(self, name: str, *options: object) -> list[int]:
        """Make and check a backup; the numbers of the messages in it."""
        acked = self.box.outbox.stats().acked
        code, text = await self.run("backup", self.store, self.folder / name, *options)
        assert code == 0, text
        code, text = await self.run("verify", self.folder / name)
        assert code == 0, text
        found = stored(self.folder / name)
        assert len(found) == len(set(found)), "a message is stored twice"
        assert set(range(1, acked + 1)) <= set(found), "what was acknowledged before is not in it"
        return found

    def entry(self) -> dict[str, Any]:
        """The ledger of the box's outbox."""
        (found,) = self.collector.ask("ledger")["entries"]
        return dict(found)


@pytest.fixture
async def site(tmp_path: Path, start_box: Any, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """A site at work, with a thousand messages stored."""
    with BrokerProcess(request.param, tmp_path / "broker") as broker, CollectorProcess(tmp_path, broker) as c:
        await asyncio.to_thread(c.online)
        found = Site(tmp_path, c, await start_box("n1", broker.port))
        async with fed(found.box):
            await until(lambda: found.box.outbox.stats().acked >= 1000, "a thousand are acknowledged")
            yield found


@asynccontextmanager
async def fed(box: Box) -> AsyncIterator[None]:
    """The box takes messages during the block."""

    async def feed() -> None:
        while True:
            box.take(RATE // 20)
            await asyncio.sleep(1 / 20)

    task = asyncio.create_task(feed(), name="feed")
    try:
        yield
    finally:
        await end([task])


@pytest.mark.slow
@pytest.mark.parametrize("site", KINDS, indirect=True)
async def test_backups_under_load_and_a_restore(site: Site) -> None:
    backups, kills = 5, 20
    before: list[int] = []
    for n in range(backups):
        found = await site.backup(f"b{n}")
        assert set(before) < set(found)
        before = found

    rng, done = random.Random(kills), backups
    for n in range(kills):
        done += await asyncio.to_thread(killed, site, f"k{n}", rng.random() * 0.4) == 0
        if (site.folder / f"k{n}").exists():  # it was whole before the kill
            code, text = await site.run("verify", site.folder / f"k{n}")
            assert code == 0, text
    found = await site.backup("last", "--base", site.folder / f"b{backups - 1}")
    # a file of a new kind in the store needs a place in the backup, or here
    other = {name for name in names_in(site.store) if not name.endswith(("-wal", "-shm"))}
    assert other - names_in(site.folder / "last") == {"lock", "in-hand"}
    code, text = await site.run("verify", site.store)
    assert code == 0, text

    # the store is lost; what was acknowledged after the backup is missing, and everything else arrives
    acked = site.box.outbox.stats().acked
    await until(lambda: site.box.outbox.stats().acked > acked + 200, "more is acknowledged")
    await asyncio.to_thread(site.collector.stop)
    had = stored(site.store)
    site.store.rename(site.folder / "lost")
    code, text = await site.run("restore", site.folder / "last", site.store)
    assert code == 0, text
    gone = set(had) - set(found)
    assert gone
    site.collector.start()
    await asyncio.to_thread(site.collector.online)
    taken = site.box.outbox.stats().head + 200
    await until(lambda: site.box.outbox.stats().acked >= taken, "what waits and what is new is acknowledged")
    assert set(range(1, taken + 1)) - set(stored(site.store)) == gone
    await until(lambda: site.entry()["missing_count"] == len(gone), "the ledger shows what is gone")
    code, text = await site.run("audit", site.store)
    acts = [line.partition("command line: ")[2] for line in text.splitlines()]
    assert acts[0] == f"restore {site.folder / 'last'}: done"
    assert done <= sum(act.startswith("backup ") for act in acts) <= backups + kills


def killed(site: Site, name: str, after_s: float) -> int:
    """Begin a backup and kill it a moment after it began to write; 0 if it was done before."""
    command = edgebed_command("collector", "backup", str(site.store), str(site.folder / name))
    work = site.folder / f".{name}.backup"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        wait_until(lambda: work.exists() or running.poll() is not None, "it begins")
        try:
            running.wait(after_s)
        except subprocess.TimeoutExpired:
            running.kill()
    return running.returncode


@pytest.mark.parametrize(
    ("what", "number"),
    [
        ("backup", signal.SIGTERM),
        ("backup", signal.SIGINT),
        ("restore", signal.SIGTERM),
        ("verify", signal.SIGINT),
    ],
)
def test_a_signal_ends_a_command_that_leaves_nothing(tmp_path: Path, what: str, number: int) -> None:
    store, target = tmp_path / "store", tmp_path / "target"
    SqliteStore(store, Clock()).close()
    (store / "accepted-keys").touch()
    source = store
    if what != "backup":
        source = tmp_path / "source"
        subprocess.run(edgebed_command("collector", "backup", str(store), str(source)), check=True)
        grow(source)
    os.truncate(store / "accepted-keys", LARGE)
    before = {path.name for path in tmp_path.iterdir()}
    words = [str(source)] if what == "verify" else [str(source), str(target)]
    command = edgebed_command("collector", what, *words)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        wait_until(begun(running.pid), "it works on the large file")
        running.send_signal(number)
        out, error = running.communicate(timeout=60)
    assert (running.returncode, out, error) == (128 + number, "", "")
    assert {path.name for path in tmp_path.iterdir()} == before


def grow(backup: Path) -> None:
    """Have a file of a backup be so large that a command needs a while for it."""
    path = backup / "accepted-keys"
    os.truncate(path, LARGE)
    made = json.loads((backup / "backup.json").read_text())
    for one in made["files"]:
        if one["name"] == path.name:
            one["bytes"] = LARGE
            one["sha256"] = hashlib.sha256(bytes(LARGE)).hexdigest()
    (backup / "backup.json").write_text(json.dumps(made))


def begun(pid: int) -> Callable[[], bool]:
    """Whether a command has the large file open."""

    def is_open() -> bool:
        try:
            opened = [each.readlink().name for each in Path(f"/proc/{pid}/fd").iterdir()]
        except FileNotFoundError:  # closed meanwhile
            return False
        return "accepted-keys" in opened

    return is_open
