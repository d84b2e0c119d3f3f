"""Power cuts under the outbox: taken messages are there, in order, and no number names two messages."""

from __future__ import annotations

import contextlib
import copy
import os
import random
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from unittest.mock import patch

import msgspec
import pytest

from agent.outbox import Message, Outbox, OutboxSettings, Record, recovery
from agent.outbox import outbox as outbox_module
from tests.powercut.disk import Disk, Op, cuts, replayed, write_files
from tests.powercut.write_log import Stopped, WriteLog, recorded
from wire.clock import Clock
from wire.messages import Batch, Event
from wire.ranges import Ranges

ALL = 1 << 30
Kind = Literal["data", "event"]
SHED = {"quota", "disk", "overload"}


def opened(folder: Path, flood: bool) -> Outbox:
    """Files of 128 kB; seven of them for a full outbox."""
    return Outbox.open(folder, OutboxSettings(max_mb=1 if flood else 2), Clock())


def message(kind: Kind, text: str) -> Message:
    if kind == "event":
        return Message("event", "a", "e", Event(ts=1, type="e", detail={"text": text}))
    return Message("data", "a", "s", Batch(t0=1, per=1, n=1, f={"text": [text]}))


def text_of(record: Record) -> str | None:
    """The text the test put into a message; None for the outbox's own messages."""
    if record.tail == "_/gap":
        return None
    body = msgspec.json.decode(record.body)
    assert body["seq"] == record.seq
    return str(body["f"]["text"][0] if record.cls == "data" else body["detail"]["text"])


@dataclass
class Known:
    """What others may rely on at a point of the log."""

    given: dict[int, tuple[Kind, str]] = field(default_factory=dict)  # newest message by number
    taken: dict[int, tuple[Kind, str]] = field(default_factory=dict)  # its number never changes
    acked: Ranges = field(default_factory=Ranges)  # stored at the collector, or declared lost there
    ep: str = ""
    shed: bool = False  # whether the workload ever fills the quota

    def hear(self, said: tuple[str, object]) -> None:
        word, about = said
        if word == "ep":
            assert self.ep in ("", about) or not self.taken, "a new outbox replaced an existing one"
            self.ep = str(about)
            self.given.clear()  # messages that were not committed before the reopening were not promised
        elif word == "given":
            seq, kind, text = about  # type: ignore[misc] # written below, in `Program.append`
            assert seq not in self.taken, "the number of a message is given to another"
            self.given[seq] = (kind, text)
        elif word == "committed":
            self.taken.update((seq, what) for seq, what in self.given.items() if seq <= int(str(about)))
        elif word == "sent":
            for seq, kind, text in about:  # type: ignore[attr-defined]
                assert self.taken.setdefault(seq, (kind, text)) == (kind, text)
        elif word == "acked":
            self.acked.update(about)  # type: ignore[arg-type]


class Program:
    """Uses an outbox as an agent does, seeded; writes everything that leaves the outbox into the log."""

    def __init__(self, log: WriteLog, rng: random.Random, stack: contextlib.ExitStack, flood: bool) -> None:
        self.log = log
        self.rng = rng
        self.stack = stack
        self.flood = flood
        self.number = 0
        self.outbox = self._open()
        self.records: dict[int, Record] = {}

    def _open(self) -> Outbox:
        outbox = opened(self.log.folder, self.flood)
        self.stack.callback(_give_up, outbox)
        self.log.say(("ep", outbox.ep))
        return outbox

    def append(self) -> None:
        for _ in range(self.rng.choice((1, 3, 10, 40))):
            self.number += 1
            kind: Kind = "data" if self.rng.random() < 0.7 else "event"
            text = f"{self.number}.".ljust(self.rng.choice((4, 200, 9_000 if self.flood else 2_000)), "v")
            before = self.outbox.head
            seq = self.outbox.append(message(kind, text))
            assert seq > before
            self.log.say(("given", (seq, kind, text)))

    def commit(self) -> None:
        if self.outbox.commit():
            self.log.say(("committed", self.outbox.stats().head))

    def take(self) -> None:
        take = self.rng.choice((self.outbox.take, self.outbox.take_overtaken))
        records = take(self.rng.choice((1, 20, 200)), ALL)
        self.records.update((record.seq, record) for record in records)
        texts = [(record.seq, record.cls, text) for record in records if (text := text_of(record))]
        self.log.say(("sent", texts))

    def overtake(self) -> None:
        self.outbox.overtake(0)

    def ack(self) -> None:
        chosen = [seq for seq in self.records if self.rng.random() < 0.8]
        known = Ranges((seq, seq) for seq in chosen)
        for seq in chosen:
            known.update(lost_in(self.records.pop(seq)))
        self.log.say(("acked", list(known)))  # before: the collector had it in its database
        self.outbox.ack((seq, seq) for seq in chosen)

    def close(self) -> None:
        self.outbox.close()
        self._again()

    def kill(self) -> None:
        """Kill it within its next commit; what it wrote without a flush stays in the page cache."""
        self.append()
        self.log.stop_at = len(self.log.ops) + self.rng.randint(1, 5)
        with contextlib.suppress(Stopped):
            self.outbox.commit()
        self.reopen_copy()

    def reopen_copy(self) -> None:
        self.log.stop_at = 0
        again = self.log.folder.with_name(f"{self.log.folder.name}k")
        shutil.copytree(self.log.folder, again)
        self.log.folder = again
        self._again()

    def _again(self) -> None:
        self.records.clear()
        self.outbox = self._open()

    def run(self, steps: int, weights: dict[str, int]) -> None:
        for name in self.rng.choices(list(weights), list(weights.values()), k=steps):
            getattr(self, name)()


CALM = {"append": 6, "commit": 6, "take": 3, "ack": 3, "overtake": 1, "close": 1, "kill": 1}
FLOOD = {"append": 8, "commit": 8, "take": 1, "ack": 1, "overtake": 1}


def _give_up(outbox: Outbox) -> None:
    with contextlib.suppress(Stopped, IndexError):  # a killed outbox cannot be used
        outbox.close()


def lost_in(record: Record) -> list[tuple[int, int]]:
    if record.tail != "_/gap":
        return []
    return [(first, last) for first, last in msgspec.json.decode(record.body, type=Event).lost]


def check(folder: Path, known: Known) -> None:
    """Open the files that the power cut left and check the promise."""
    outbox = opened(folder, known.shed)
    try:
        assert outbox.head >= max(known.taken, default=0), "a number could be given twice"
        if known.taken:
            assert outbox.ep == known.ep
        assert outbox.append(message("data", "fresh")) > max(known.taken, default=0)
        assert outbox.commit()
        records = outbox.take(ALL, ALL)
        assert outbox.commit()
        records += outbox.take(ALL, ALL)  # torn records found by reading are declared
        for kind in ("data", "event"):
            seqs = [record.seq for record in records if record.cls == kind]
            assert seqs == sorted(set(seqs)), f"{kind} out of order or twice"
        found = {record.seq: (record.cls, text_of(record)) for record in records}
        declared, accounted = Ranges(), Ranges(known.acked)
        for record in records:
            accounted.add(record.seq)
            if msgspec.json.decode(record.body).get("why") in SHED:
                declared.update(lost_in(record))
            accounted.update(lost_in(record))
        for seq, what in known.taken.items():
            if seq in found:
                assert found[seq] == what, f"{seq} names another message now"
            else:
                shed = known.shed and seq in declared
                assert seq in known.acked or shed, f"{what[0]} {seq} was taken and is gone"
        assert accounted.missing(1, outbox.head) == [], "numbers without an account"
    finally:
        outbox.close()


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder in memory if the machine has one: thousands of images are written here."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


@dataclass
class Run:
    """A seeded program over several lives; each starts from the files that a power cut left."""

    place: Path
    seed: int
    steps: int = 30
    cuts: int = 30  # in each life
    lives: int = 2
    flood: bool = False
    skip: tuple[str, ...] = ()
    checked: int = 0
    shed: int = 0

    def go(self) -> Run:
        rng = random.Random(self.seed)
        image, known = dict[str, bytes](), Known(shed=self.flood)
        with (
            patch.object(secrets, "token_bytes", rng.randbytes),
            patch.object(secrets, "token_hex", lambda size: rng.randbytes(size).hex()),
            patch.object(outbox_module, "MARK_EVERY_S", rng.choice((0.0, 0.01, 1.0))),
        ):
            for life in range(self.lives):
                ops = self._record(image, life, rng)
                image, known = self._replay(image, known, ops, rng)
        return self

    def _record(self, image: dict[str, bytes], life: int, rng: random.Random) -> list[Op]:
        log = WriteLog(self.place / f"life{life}")
        write_files(log.folder, image)
        log.names = set(image)
        with contextlib.ExitStack() as stack, recorded(log, skip=self.skip):
            program = Program(log, rng, stack, self.flood)
            program.number = life * 1_000_000
            program.run(self.steps, FLOOD if self.flood else CALM)
            self.shed += sum(program.outbox.stats().dropped.values())
            ops = list(log.ops)
            last = {path.name: path.read_bytes() for path in log.folder.iterdir()}
        assert replayed(ops, image) == last, "the log does not contain every write"
        return ops

    def _replay(
        self, image: dict[str, bytes], known: Known, ops: list[Op], rng: random.Random
    ) -> tuple[dict[str, bytes], Known]:
        """Cut the power all over the log; one of the cuts is where the next life begins."""
        left = image, copy.deepcopy(known)
        for cut in cuts(ops, known.hear, self.cuts, rng, image):
            write_files(self.place / "cut", cut)
            check(self.place / "cut", known)
            self.checked += 1
            if rng.random() < 0.1:
                left = cut, copy.deepcopy(known)
        return left


@pytest.mark.parametrize("seed", range(6))
def test_nothing_taken_is_gone(place: Path, seed: int) -> None:
    assert Run(place, seed).go().checked > 20


@pytest.mark.parametrize("seed", range(2))
def test_a_full_outbox_loses_what_it_declares(place: Path, seed: int) -> None:
    run = Run(place, seed, steps=60, flood=True, lives=1).go()
    assert run.checked > 10
    assert run.shed > 10


def test_what_a_killed_process_did_not_flush_is_flushed_before_it_is_sent(place: Path) -> None:
    log, known = WriteLog(place / "live"), Known()
    with contextlib.ExitStack() as stack, recorded(log):
        program = Program(log, random.Random(1), stack, flood=False)
        program.append()
        program.commit()
        committed = program.outbox.head
        program.append()
        log.stop_at = len(log.ops) + 2  # written, not flushed
        with pytest.raises(Stopped):
            program.outbox.commit()
        program.reopen_copy()
        sent = [(each.seq, each.cls, text_of(each)) for each in program.outbox.take(ALL, ALL)]
        log.say(("sent", sent))
        ops = list(log.ops)
    disk = Disk()
    for op in ops:
        disk.apply(op)
        if op.what == "say":
            known.hear(op.said)
    assert max(known.taken) > committed
    for seed in range(20):
        write_files(place / "cut", disk.cut(random.Random(seed)))
        check(place / "cut", known)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("flood", [False, True])
@pytest.mark.parametrize("seed", range(100, 120))
def test_thousands_of_cuts(place: Path, seed: int, flood: bool) -> None:
    assert Run(place, seed, steps=80, cuts=250, flood=flood).go().checked > 300


@pytest.mark.parametrize("fault", ["no record is flushed", "no file is flushed", "found is not flushed"])
def test_cuts_find_missing_flushes(place: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    skip = {"no record is flushed": ("fdatasync",), "no file is flushed": ("fsync",)}.get(fault, ())
    if fault == "found is not flushed":
        monkeypatch.setattr(recovery, "_flush", lambda *_: None)

    def cut() -> None:
        for seed in (13, 18, *range(30)):  # the first seeds show the rarest fault
            Run(place / str(seed), seed, skip=skip, cuts=60).go()

    with pytest.raises(AssertionError, match=r"is gone|twice|another|without an account|new outbox"):
        cut()
