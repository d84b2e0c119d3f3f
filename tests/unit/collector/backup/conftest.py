"""A store of three days, as a collector leaves it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from collector.backup.backup import back_up
from collector.backup.manifest import names_in
from collector.backup.pace import Pace
from collector.ledger.ledger import Ledger
from collector.state.audit import Audit, AuditEntry
from collector.state.state_file import StateFile
from collector.store.snapshot import Stopped
from collector.store.store import SqliteStore
from tests.unit.collector.conftest import SetClock

DAY_MS = 86_400_000


class Writer:
    """A collector's writer on a store: `write` stores messages, `next_day` begins a new file."""

    def __init__(self, folder: Path, clock: SetClock, batch: Any, commit: Any, event: Any) -> None:
        self.folder = folder
        self.clock = clock
        self.seq = 0
        self.ledger = Ledger()
        self.store = SqliteStore(folder, clock)
        self._made = batch, commit, event

    def write(self, count: int = 10) -> None:
        """Store messages, one of them an event."""
        batch, commit, event = self._made
        first, self.seq = self.seq + 1, self.seq + count
        received = [batch(seq, t0=self.clock.ms) for seq in range(first, self.seq)]
        commit(self.store, self.ledger, [*received, event(self.seq, ts=self.clock.ms)], self.clock.ms)
        self.store.work()

    def next_day(self) -> None:
        """Go on at the same time of the next day."""
        self.clock.ms += DAY_MS


@pytest.fixture
def writer(folder: Path, clock: SetClock, batch: Any, commit: Any, event: Any) -> Iterator[Writer]:
    """A writer that stored ten messages on each of three days."""
    found = Writer(folder, clock, batch, commit, event)
    for _ in range(3):
        found.write()
        found.next_day()
    found.clock.ms -= DAY_MS
    with closing(StateFile(folder)) as state:
        Audit(state).add(AuditEntry(1, "kim", "reset-node", "n", "o", "done"))
    yield found
    found.store.close()


@pytest.fixture
def saved(writer: Writer, tmp_path: Path) -> Callable[..., Path]:
    """`saved("name")`: a new backup of the store."""

    def make(name: str = "backup", **options: Any) -> Path:
        back_up(writer.folder, tmp_path / name, "0.1", writer.clock, Pace(pauses=False), **options)
        return tmp_path / name

    return make


def tree(folder: Path) -> dict[str, bytes]:
    """Names and contents of the files in a folder."""
    return {name: (folder / name).read_bytes() for name in names_in(folder)}


class Counting(Pace):
    """Counts steps."""

    steps = 0

    def step(self, size: int) -> None:
        self.steps += 1


class Stopping(Counting):
    """Stops the work after some steps."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._after = after

    def step(self, size: int) -> None:
        super().step(size)
        if self.steps > self._after:
            raise Stopped


KILLER = """
import os, signal, sys
from pathlib import Path
from collector.backup.backup import back_up
from collector.backup.pace import Pace
from collector.backup.restore import restore
from wire.clock import Clock

what, source, target = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])

class Killing(Pace):
    def step(self, size):
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

for left in map(int, sys.argv[4:]):
    child = os.fork()
    if child == 0:
        pace = Killing()
        pace.left = left
        if what == "backup":
            back_up(source, target, "", Clock(), pace)
        else:
            restore(source, target, Clock(), pace, print)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(code, target.exists(), len(list(target.parent.glob(f".{target.name}.*"))))
"""


def killed(what: str, source: Path, target: Path, steps: Iterable[int]) -> list[str]:
    """Kill a backup or restore at each of these steps: exit code, whether the target is there, half ones."""
    command = [sys.executable, "-c", KILLER, what, str(source), str(target), *map(str, steps)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
