"""Power cuts under the collector's store: acknowledged messages are there, whole, and exactly once."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import signal
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest

from collector.ingest.group_builder import GroupBuilder
from collector.ledger.ledger import Ledger
from collector.store.clock_skew import Offset
from collector.store.folder import aside, day_files
from collector.store.sqlite_source import SqliteSource
from collector.store.store import SqliteStore
from tests.powercut.disk import Op, cuts, replayed, write_files
from tests.powercut.write_log import WriteLog, traced
from wire.errors import EdgebedError

WRITER = Path(__file__).with_name("power_writer.py")

Message = tuple[str, int]  # ep, seq


def _writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("power_writer", WRITER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


writer = _writer()


@dataclass
class Known:
    """What was promised up to some point of the log."""

    acked: set[Message] = field(default_factory=set)
    begun: list[frozenset[Message]] = field(default_factory=list)  # what was new in each group
    number: int = 0  # of the newest group that was begun
    done: int = 0  # of the newest one that was acknowledged
    next: int = 1

    def hear(self, said: str) -> None:
        words = json.loads(said)
        if "new" in words:
            new = frozenset((ep, seq) for ep, seq in words["new"])
            # after a kill, a group's messages come again with others
            self.begun = [*(group for group in self.begun if not group & new), new]
            self.number, self.next = words["number"], words["next"]
        else:
            self.done = words["done"]
            for ep, first, last in words["acked"]:
                self.acked.update((ep, seq) for seq in range(first, last + 1))


def check(folder: Path, known: Known) -> None:
    """Open what the power cut left, check the promise, and go on writing."""
    clock = writer.SteppedClock(writer.T0 + 400 * writer.DAY_MS)
    store = SqliteStore(folder, clock)
    try:
        assert aside(folder) == [], "a day file is unusable"
        saved = store.load()
        marked = Counter(
            (mark.ep, seq) for mark in saved.marks for a, b in mark.stored for seq in range(a, b + 1)
        )
        lost = sorted(known.acked - marked.keys())
        held = [path.name for path in day_files(folder)]
        assert not lost, f"acknowledged and gone: {lost[:20]}, {len(lost)} of {len(known.acked)}, in {held}"
        for group in known.begun:
            assert group <= marked.keys() or not group & marked.keys(), "half a group is there"
        assert counted(folder) == marked, "marks and data disagree"
        number = int(saved.states.get("number", b"0"))
        assert known.done <= number <= known.number, "a state is not of the last group"
        _check_tables(folder)
        ledger = Ledger(saved.marks)
        again = [writer.message(ep, seq) for group in known.begun[-2:] for ep, seq in group]
        built = GroupBuilder(ledger, lambda _node: Offset(), clock.now_ms()).build(again)
        built.group.marks = ledger.marks(built.drafts)
        store.commit(built.group)
        held = {
            (mark.ep, seq) for mark in store.load().marks for a, b in mark.stored for seq in range(a, b + 1)
        }
    finally:
        store.close()
    assert set(counted(folder).values()) <= {1}, "stored twice"
    assert known.acked.union(*known.begun[-2:]) <= held


def counted(folder: Path) -> Counter[Message]:
    """How often each message is in the day files."""
    reader = SqliteSource(folder)
    try:
        return Counter((ep, seq) for _, ep, seqs, _ in reader.all_chunks() for seq in seqs)
    finally:
        reader.close()


def _check_tables(folder: Path) -> None:
    """Check that the other content of a group belongs to the same messages."""
    for path in day_files(folder):
        with contextlib.closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            sums = "SELECT (SELECT total(rows) FROM chunk), (SELECT total(rows) FROM hour)"
            (in_chunks, in_hours) = db.execute(sums).fetchone()
            query = "SELECT total(n) FROM rollup JOIN field ON field.id = field WHERE name = 'x'"
            assert in_chunks == in_hours == db.execute(query).fetchone()[0], "half a group is there"


@dataclass
class Run:
    """A traced writer over several lives: some end by kill -9, and the next goes on at once."""

    place: Path
    seed: int
    groups: int = 25
    lives: int = 2
    sync: str = ""
    checked: int = 0

    def record(self) -> list[Op]:
        rng = random.Random(self.seed)
        log, known = WriteLog(self.place / "store"), Known()
        heard = 0
        for life in range(self.lives):
            kill = rng.choice([("pwrite64", rng.randrange(20, 800)), ("fdatasync", rng.randrange(10, 70))])
            words = [str(self.seed * 100 + life), str(known.next), str(self.groups), self.sync]
            self._run(log, words, None if life == self.lives - 1 else kill)
            for op in log.ops[heard:]:
                if op.what == "say":
                    known.hear(op.said)
            heard = len(log.ops)
        last = {
            path.name: path.read_bytes() for path in log.folder.iterdir() if not path.name.endswith("-shm")
        }
        assert replayed(log.ops) == last, "the log does not have all writes"
        return log.ops

    def _run(self, log: WriteLog, words: list[str], kill: tuple[str, int] | None) -> None:
        said = self.place / "words"
        command = [sys.executable, str(WRITER), str(log.folder), str(said), *words]
        assert traced(log, command, said, kill_at=kill) == (-signal.SIGKILL if kill else 0)

    def go(self, count: int) -> Run:
        """Cut the power at `count` points of the log."""
        known = Known()
        for image in cuts(self.record(), known.hear, count, random.Random(self.seed)):
            write_files(self.place / "cut", image)
            check(self.place / "cut", known)
            self.checked += 1
        return self


@pytest.fixture
def place(require: object) -> Iterator[Path]:
    """A folder in memory where possible: thousands of images are written to it."""
    require("strace")  # type: ignore[operator]
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        try:
            traced(WriteLog(Path(name)), ["true"], Path(name) / "words")
        except EdgebedError as error:
            pytest.skip(str(error))
        yield Path(name)


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_acknowledged_is_gone(place: Path, seed: int) -> None:
    assert Run(place, seed).go(count=60).checked > 30


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("seed", range(100, 112))
def test_thousands_of_cuts(place: Path, seed: int) -> None:
    assert Run(place, seed, groups=60, lives=3).go(count=300).checked > 200


@pytest.mark.parametrize("sync", ["NORMAL", pytest.param("OFF", marks=pytest.mark.slow)])
def test_these_cuts_find_what_is_not_flushed(place: Path, sync: str) -> None:
    with pytest.raises(AssertionError, match=r"acknowledged and gone|beyond use|half a group|disagree"):
        Run(place, 7, sync=sync, lives=1).go(count=150)
