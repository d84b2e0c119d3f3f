"""After a kill, a power cut or a bad disk: committed messages are there, every number is accounted for."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.outbox import Message, Outbox, OutboxSettings, Record
from agent.outbox import segment as segment_file
from agent.outbox.recovery import recover
from agent.outbox.segment import Segment
from wire.clock import Clock
from wire.errors import ConfigError
from wire.messages import Batch, Event
from wire.ranges import Ranges

ALL = 1 << 30


def message(kind: str, size: int) -> Message:
    if kind == "event":
        return Message("event", "a", "e", Event(ts=1, type="e", detail={"x": "v" * size}))
    return Message("data", "a", "s", Batch(t0=1, per=1, n=1, f={"x": ["v" * size]}))


def account(records: list[Record], acked: Ranges) -> Ranges:
    """Every number that is delivered, was acknowledged, or is declared lost."""
    known = Ranges(acked)
    for record in records:
        known.add(record.seq)
        if record.tail == "_/gap":
            known.update(msgspec.json.decode(record.body, type=Event).lost)
    return known


class Disk:
    """Remembers every write, and after which writes which numbers counted as taken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.folder = folder
        self.writes: list[tuple[Path, int, bytes]] = []
        self.sizes: dict[Path, int] = {}
        self._pwrite = os.pwrite
        monkeypatch.setattr(os, "pwrite", self._record)

    def _record(self, fd: int, data: bytes, at: int) -> int:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        self.writes.append((path, at, bytes(data)))
        return self._pwrite(fd, data, at)

    def rebuild(self, target: Path, start: Path, writes: list[tuple[Path, int, bytes]]) -> None:
        """The folder as it was in `start`, with only these writes on top."""
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(start, target)
        for path, at, data in writes:
            with (target / path.name).open("r+b") as file:
                file.seek(at)
                file.write(data)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch, tmp_path / "outbox")


def opened(folder: Path) -> Outbox:
    return Outbox.open(folder, OutboxSettings(max_mb=1), Clock())


def check(folder: Path, committed: set[int], acked: Ranges, head: int) -> None:
    """Open the files that a crash left and check the promise."""
    outbox = opened(folder)
    try:
        fresh = outbox.append(message("data", 3))
        assert fresh > head, "a number that counted as taken was given again"
        assert outbox.commit()
        records = outbox.take(ALL, ALL)
        seqs = {record.seq for record in records}
        assert {seq for seq in committed if seq not in acked} <= seqs
        assert list(account(records, acked)) == [(1, outbox.head)]
        for record in records:
            assert msgspec.json.decode(record.body)["seq"] == record.seq
    finally:
        outbox.close()


def run(disk: Disk, seed: int) -> tuple[Path, list[tuple[int, int]], Ranges]:
    """Some commits, the last ones recorded: the folder before them, and `(writes, head)` after each."""
    rng = random.Random(seed)
    outbox = opened(disk.folder)
    acked = Ranges()
    for _ in range(3):  # so that segments hold bytes of an earlier generation
        for _ in range(70):
            outbox.append(message("data" if rng.random() < 0.8 else "event", rng.randrange(600)))
        outbox.commit()
    done = outbox.take(ALL, ALL)
    outbox.ack([(record.seq, record.seq) for record in done])
    acked.update((record.seq, record.seq) for record in done)
    outbox.close()
    start = disk.folder.with_name("start")
    shutil.copytree(disk.folder, start)
    disk.writes.clear()
    outbox = opened(disk.folder)
    marks = [(0, outbox.head)]
    for _ in range(3):
        for _ in range(rng.randrange(1, 4)):
            outbox.append(message("data" if rng.random() < 0.6 else "event", rng.randrange(40)))
        outbox.commit()
        marks.append((len(disk.writes), outbox.head))
    outbox.close()
    return start, marks, acked


def test_power_cut_in_mid_write(disk: Disk, tmp_path: Path) -> None:
    start, marks, acked = run(disk, 1)
    writes = list(disk.writes)
    for number, (path, at, data) in enumerate(writes):
        head = max(head for count, head in marks if count <= number)
        committed = set(range(1, head + 1))
        for cut in (*range(min(len(data), 120)), *range(120, len(data), 9)):  # each byte of a record's head
            disk.rebuild(tmp_path / "cut", start, [*writes[:number], (path, at, data[:cut])])
            check(tmp_path / "cut", committed, acked, head)


@pytest.mark.parametrize("seed", range(6))
def test_power_cut_with_sectors_in_any_order(disk: Disk, tmp_path: Path, seed: int) -> None:
    start, marks, acked = run(disk, seed)
    rng = random.Random(seed)
    writes = list(disk.writes)
    for number, (path, at, data) in enumerate(writes):
        head = max(head for count, head in marks if count <= number)
        sectors = []
        first = at // 512
        for sector in range(first, (at + len(data) - 1) // 512 + 1):
            low, high = max(at, sector * 512), min(at + len(data), sector * 512 + 512)
            sectors.append((path, low, data[low - at : high - at]))
        for _ in range(6):
            kept = [each for each in sectors if rng.random() < 0.5]
            disk.rebuild(tmp_path / "cut", start, [*writes[:number], *kept])
            check(tmp_path / "cut", set(range(1, head + 1)), acked, head)


def test_power_cut_where_a_file_was_being_made(tmp_path: Path) -> None:
    folder = tmp_path / "outbox"
    outbox = opened(folder)
    outbox.append(message("data", 10))
    outbox.commit()
    outbox.close()
    (folder / "000090.seg").write_bytes(b"")
    (folder / "000091.seg").write_bytes(bytes(70_000))
    check(folder, {1}, Ranges(), 1)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, Ranges]:
    """An outbox of several segments of both kinds: its folder, its head, the acknowledged numbers."""
    folder = tmp_path_factory.mktemp("full") / "outbox"
    outbox = Outbox.open(folder, OutboxSettings(max_mb=2), Clock())
    rng = random.Random(5)
    for _ in range(120):
        for _ in range(5):
            outbox.append(message("data" if rng.random() < 0.7 else "event", rng.randrange(2_000)))
        outbox.commit()
    acked = Ranges((record.seq, record.seq) for record in outbox.take(150, ALL))
    outbox.ack(acked)
    outbox.close()
    return folder, outbox.head, acked


def damage(path: Path, rng: random.Random, first: int) -> None:
    raw = bytearray(path.read_bytes())
    at, size = rng.randrange(first, len(raw)), rng.choice([1, 1, 8, 512, 4_096])
    raw[at : at + size] = rng.choice([bytes(size), rng.randbytes(size)])[: len(raw) - at]
    path.write_bytes(raw[: rng.choice([len(raw)] * 9 + [rng.randrange(first, len(raw))])])


def read_all(outbox: Outbox) -> list[Record]:
    """All records that can be read, and the numbers then declared lost."""
    assert outbox.commit()
    records = outbox.take(ALL, ALL)
    assert outbox.commit()
    records += outbox.take(ALL, ALL)
    for record in records:
        assert msgspec.json.decode(record.body)["seq"] == record.seq
    outbox.ack([(1, 2**40)])
    outbox.append(message("event", 1))
    assert outbox.commit()
    assert outbox.stats().depth == 1
    return records


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_a_bad_disk_costs_what_it_hit_and_nothing_else(
    full: tuple[Path, int, Ranges], tmp_path: Path, seed: int
) -> None:
    origin, _, acked = full
    folder = tmp_path / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(origin, folder)
    rng = random.Random(seed)
    paths = sorted(folder.glob("*.seg"))
    for _ in range(rng.randrange(1, 6)):
        damage(rng.choice(paths), rng, first=4_096)
    outbox = Outbox.open(folder, OutboxSettings(max_mb=2), Clock())
    try:
        head = outbox.head
        assert account(read_all(outbox), acked).missing(1, head) == []
    finally:
        outbox.close()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_any_content_of_the_files_opens(full: tuple[Path, int, Ranges], tmp_path: Path, seed: int) -> None:
    folder = tmp_path / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(full[0], folder)
    rng = random.Random(seed)
    for path in folder.glob("*.seg"):
        damage(path, rng, first=0)
    outbox = Outbox.open(folder, OutboxSettings(max_mb=2), Clock())
    try:
        read_all(outbox)
    finally:
        outbox.close()


@pytest.mark.parametrize("number", range(4))
def test_a_file_without_any_header_costs_its_records_but_no_number_is_given_again(
    full: tuple[Path, int, Ranges], tmp_path: Path, number: int
) -> None:
    origin, head, acked = full
    folder = tmp_path / "damaged"
    shutil.copytree(origin, folder)
    newest = sorted(folder.glob("*.seg"), key=lambda path: path.read_bytes()[44:60])  # by generation, base
    path = newest[-1 - number]
    path.write_bytes(random.Random(number).randbytes(4_096) + path.read_bytes()[4_096:])
    outbox = Outbox.open(folder, OutboxSettings(max_mb=2), Clock())
    try:
        assert outbox.head > head
        assert outbox.stats().torn_bytes >= path.stat().st_size
        first = outbox.head
        assert account(read_all(outbox), acked).missing(1, first) == []
    finally:
        outbox.close()


CHILD = """
import sys
from pathlib import Path
import msgspec
from agent.outbox.message import Message
from agent.outbox import Outbox, OutboxSettings
from wire.clock import Clock
from wire.messages import Batch, Event
outbox = Outbox.open(Path(sys.argv[1]), OutboxSettings(max_mb=2), Clock())
def hand_over(count, take=outbox.take):
    records = take(count, 1 << 30)
    for record in records:  # as a collector receives them
        if record.tail == "_/gap":
            for first, last in msgspec.json.decode(record.body, type=Event).lost:
                print("acked", *range(first, last + 1), flush=True)
    print("acked", *[record.seq for record in records], flush=True)
    outbox.ack([(record.seq, record.seq) for record in records])

turn = 0
while True:
    turn += 1
    for at in range(5):
        outbox.append(Message("data", "a", "s", Batch(t0=1, per=1, n=1, f={"x": ["v" * (turn * 37 % 900)]})))
    outbox.append(Message("event", "a", "e", Event(ts=1, type="e")))
    outbox.commit()
    print("taken", outbox.head, flush=True)
    hand_over(4)
    if turn % 3 == 0:
        hand_over(100)
    if turn % 20 == 19:
        outbox.overtake(0)
    if turn % 50 < 25:
        hand_over(8, outbox.take_overtaken)
"""


def test_kill_9_again_and_again(tmp_path: Path) -> None:
    folder, rng = tmp_path / "outbox", random.Random(11)
    taken, acked, epochs = 0, Ranges(), set()
    for _ in range(8):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(rng.randrange(20, 250))]
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
        child.wait()
        child.stdout.close()
        for line in lines:
            if not line.endswith(b"\n"):
                continue
            word, *numbers = line.split()
            if word == b"taken":
                taken = max(taken, int(numbers[0]))
            else:
                acked.update((int(number), int(number)) for number in numbers)
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        outbox = Outbox.open(copy, OutboxSettings(max_mb=2), Clock())
        assert outbox.head >= taken
        outbox.commit()
        records = outbox.take(ALL, ALL)
        assert account(records, acked).missing(1, taken) == []
        gaps = [msgspec.json.decode(each.body, type=Event) for each in records if each.tail == "_/gap"]
        assert "torn" not in {gap.why for gap in gaps}
        epochs.add(outbox.ep)
        outbox.close()
    assert len(epochs) == 1
    assert taken > 100


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from agent.outbox.message import Message
from agent.outbox import Outbox, OutboxSettings
from wire.clock import Clock
from wire.messages import Batch, Event

# A child for each step kills itself there. As in the kernel, a write is cut between pages, never within one.
PAGE, pwrite, fdatasync = 4096, os.pwrite, os.fdatasync
left = 0

def step():
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

def paged(fd, data, at):
    data, done = bytes(data), 0
    if not data.strip(bytes(1)):
        return pwrite(fd, data, at)  # a file in the making
    while done < len(data):
        step()
        done += pwrite(fd, data[done : done + PAGE - (at + done) % PAGE], at + done)
    return done

def flushed(fd):
    step()
    fdatasync(fd)

def live(folder, turns):
    outbox = Outbox.open(folder, OutboxSettings(max_mb=1), Clock())
    for turn, kinds in enumerate(turns):
        for at, kind in enumerate(kinds):
            size = (300, 9_000, 2_000, 17)[(turn + at) % 4]
            if kind == "e":
                message = Message("event", "a", "e", Event(ts=1, type="e", detail={"x": "v" * size}))
            else:
                message = Message("data", "a", "s", Batch(t0=1, per=1, n=1, f={"x": ["v" * size]}))
            outbox.append(message)
        outbox.commit()
        (folder.parent / f"{folder.name}.committed").write_text(str(outbox.head))
    outbox.close()

start, number, status = Path(sys.argv[1]) / "start", 0, -1
live(start, ["d" * 20 + "e"] * int(sys.argv[2]))
while status:
    folder = start.with_name(str(number))
    shutil.copytree(start, folder)
    pid = os.fork()
    if pid == 0:
        left, os.pwrite, os.fdatasync = number, paged, flushed
        live(folder, sys.argv[3].split(","))
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert status in (0, signal.SIGKILL)
    number += int(sys.argv[4])
"""


CALM = ["dde", "d", "ded", "eddedd", "dd" * 20, "dedde", "e" * 9 + "d", "dde"]
BURSTS = ["d" * 70, "d" * 70 + "e", "e" * 8 + "d" * 60, "ddde" * 10]  # each fills more than a segment


@pytest.mark.parametrize(
    ("turns", "then", "every", "reasons"),
    [(0, CALM, 1, set()), (20, CALM, 1, {"quota"}), (20, BURSTS, 9, {"quota"})],
    ids=["new", "full", "bursts"],
)
def test_a_kill_anywhere_costs_no_number(
    tmp_path: Path, turns: int, then: list[str], every: int, reasons: set[str]
) -> None:
    """Numbers of uncommitted messages are free again after a kill; none is declared `torn`."""
    arguments = [str(tmp_path), str(turns), ",".join(then), str(every)]
    subprocess.run([sys.executable, "-c", KILLED, *arguments], check=True, timeout=100)
    folders = [path for path in tmp_path.iterdir() if path.is_dir() and path.name != "start"]
    assert len(folders) > 50
    heads: set[int] = set()
    wrong: dict[int, object] = {}
    for folder in folders:
        outbox = opened(folder)
        try:
            noted = tmp_path / f"{folder.name}.committed"
            assert outbox.head >= (int(noted.read_text()) if noted.exists() else 0)
            heads.add(outbox.head)
            assert outbox.append(message("data", 3)) == outbox.head
            assert outbox.commit()
            records = outbox.take(ALL, ALL)
            gaps = [msgspec.json.decode(each.body, type=Event) for each in records if each.tail == "_/gap"]
            why = {gap.why for gap in gaps}
            missing = account(records, Ranges()).missing(1, outbox.head)
            if missing or not why <= reasons:
                wrong[int(folder.name)] = [(gap.why, gap.lost) for gap in gaps], missing
        finally:
            outbox.close()
    assert wrong == {}, "by the step of the kill"
    assert len(heads) > 20, "kills within groups, too"


def test_a_kill_in_a_flood_hides_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More is appended during each flush than memory holds: the file of a dropped segment is still not reused
    before its gap is on disk, so after a kill every number is there or declared."""
    outbox = opened(tmp_path / "outbox")
    flush, killed, left = os.fdatasync, list[Path](), 0

    def flood(fd: int) -> None:
        nonlocal left
        flush(fd)
        if left:
            left -= 1
            killed.append(shutil.copytree(tmp_path / "outbox", tmp_path / f"killed-{len(killed)}"))
            for number in range(58):
                kind, size = ("event", 9_000) if 40 <= number < 46 else ("data", 45_000)
                outbox.append(message(kind, size))

    monkeypatch.setattr(os, "fdatasync", flood)
    for _ in range(3):
        left = 30
        outbox.append(message("data", 10))
        assert outbox.commit()
    outbox.close()
    assert len(killed) == 90
    hidden: dict[str, list[tuple[int, int]]] = {}
    for folder in killed:
        again = opened(folder)
        head = again.head
        assert again.commit()
        if missing := account(again.take(ALL, ALL), Ranges()).missing(1, head):
            hidden[folder.name] = missing
        again.close()
    assert hidden == {}


operations = st.lists(
    st.one_of(
        st.tuples(
            st.just("append"),
            st.sampled_from(["data", "event"]),
            st.sampled_from([1, 300, 9_000, 30_000]),
            st.integers(1, 40),
        ),
        st.tuples(st.just("commit")),
        st.tuples(st.just("take"), st.integers(1, 40), st.sampled_from([1, 20_000, 1 << 30])),
        st.tuples(st.just("overtake"), st.sampled_from([0, 0, 5_000])),
        st.tuples(st.just("take_overtaken"), st.integers(1, 40), st.sampled_from([1, 20_000, 1 << 30])),
        st.tuples(st.just("ack"), st.integers(0, 2**32)),
        st.tuples(st.just("reopen")),
        st.tuples(st.just("kill")),
    ),
    min_size=25,
    max_size=80,
)


class Model:
    """What is visible from outside: the messages taken, acknowledged and declared lost."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self.stack = stack
        self.outbox = self._open()
        self.committed: set[int] = set()
        self.buffered: set[int] = set()
        self.acked: set[int] = set()
        self.given: set[int] = set()
        self.taken: dict[int, Record] = {}
        self.known = Ranges()

    def _open(self) -> Outbox:
        outbox = opened(self.folder)
        self.stack.callback(outbox.close)
        return outbox

    def append(self, kind: str, size: int, times: int) -> None:
        for _ in range(times):
            seq = self.outbox.append(message(kind, size))
            assert seq not in self.committed
            self.buffered.add(seq)

    def commit(self) -> None:
        assert self.outbox.commit()
        self.committed |= self.buffered
        self.buffered.clear()
        assert self.outbox.stats().head == self.outbox.head

    def take(self, count: int, size: int) -> None:
        records = self.outbox.take(count, size)
        assert len(records) <= count
        for kind in ("data", "event"):
            seqs = [record.seq for record in records if record.cls == kind]
            assert seqs == sorted(seqs)
        self._note(records)

    def overtake(self, behind: int) -> None:
        self.outbox.overtake(behind)

    def take_overtaken(self, count: int, size: int) -> None:
        records = self.outbox.take_overtaken(count, size)
        assert len(records) <= count
        seqs = [record.seq for record in records]
        assert seqs == sorted(seqs), "a backlog is ordered by number over both classes"
        self._note(records)

    def _note(self, records: list[Record]) -> None:
        for record in records:
            assert record.seq not in self.given, "given out twice without a restart"
            self.given.add(record.seq)
            self.taken[record.seq] = record
        self.known.update(account(records, Ranges()))

    def ack(self, seed: int) -> None:
        rng = random.Random(seed)
        chosen = {seq for seq in self.taken if rng.random() < 0.7}
        self.outbox.ack([(seq, seq) for seq in chosen])
        for seq in chosen:
            del self.taken[seq]
        self.acked |= chosen

    def reopen(self) -> None:
        self.outbox.close()
        self.committed |= self.buffered
        self._again()

    def kill(self) -> None:
        copy = self.folder.with_name(self.folder.name + "k")
        shutil.copytree(self.folder, copy)
        self.folder = copy
        self._again()

    def _again(self) -> None:
        self.buffered.clear()
        self.given.clear()
        self.taken.clear()
        self.outbox = self._open()
        assert self.outbox.head >= max(self.committed, default=0)

    def drain(self) -> None:
        self.commit()
        while True:
            self.take(1_000, ALL)
            self.take_overtaken(1_000, ALL)
            if not self.taken:
                break
            self.ack_all()
        assert self.outbox.stats().depth == 0
        assert list(self.known) == ([(1, self.outbox.head)] if self.outbox.head else [])

    def ack_all(self) -> None:
        self.outbox.ack([(seq, seq) for seq in self.taken])
        self.taken.clear()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=operations)
def test_any_sequence_of_operations(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[object, ...]]
) -> None:
    with contextlib.ExitStack() as stack:
        model = Model(tmp_path_factory.mktemp("model") / "o", stack)
        for name, *arguments in steps:
            getattr(model, str(name))(*arguments)
        model.drain()


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_a_file_that_the_disk_cannot_read_is_lost_and_another_error_ends_the_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    folder = tmp_path / "outbox"
    with contextlib.closing(Outbox.open(folder, OutboxSettings(max_mb=1), Clock())) as outbox:
        outbox.append(Message("data", "arm", "joints", Batch(t0=1, dt=[0], f={"x": [1]})))
        outbox.append(Message("event", "arm", "alarm", Event(ts=1, type="alarm")))
        assert outbox.commit()
    events = next(each for each in folder.glob("*.seg") if b"arm/alarm" in each.read_bytes())
    raw = events.read_bytes()
    at = raw.rfind(b"}")
    events.write_bytes(raw[:at] + b"?" + raw[at + 1 :])  # the only event is damaged too
    real = segment_file.load

    def load(path: Path) -> Segment | None:
        if b"arm/joints" in path.read_bytes():
            raise OSError(number, os.strerror(number))
        return real(path)

    monkeypatch.setattr(segment_file, "load", load)
    if number == errno.EACCES:
        with pytest.raises(ConfigError, match="Permission denied"):
            Outbox.open(folder, OutboxSettings(max_mb=1), Clock())
        return
    with contextlib.closing(Outbox.open(folder, OutboxSettings(max_mb=1), Clock())) as outbox:
        assert outbox.stats().torn_bytes > 131_072
        outbox.commit()
        records = outbox.take(1 << 30, 1 << 30)
        assert [record.tail for record in records] == ["_/gap"]


def small(folder: Path) -> Outbox:
    return Outbox.open(folder, OutboxSettings(max_mb=1), Clock())


def row(size: int = 10) -> Message:
    return Message("data", "arm", "joints", Batch(t0=1, dt=[0], f={"x": ["v" * size]}))


def test_what_a_killed_process_left_is_flushed_at_the_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "outbox"
    with contextlib.closing(small(folder)) as outbox:
        outbox.append(row())
        outbox.append(Message("event", "arm", "alarm", Event(ts=1, type="alarm")))
        assert outbox.commit()
    used = {str(path) for path in folder.glob("*.seg") if b'"seq"' in path.read_bytes()}
    fsync, flushed = os.fsync, set[str]()

    def watched(fd: int) -> None:
        flushed.add(os.path.realpath(f"/proc/self/fd/{fd}"))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watched)
    recover(folder)
    assert len(used) == 2
    assert flushed >= {*used, str(folder)}


def test_counts_of_what_was_dropped_come_back(tmp_path: Path) -> None:
    folder = tmp_path / "outbox"
    with contextlib.closing(small(folder)) as outbox:
        while not outbox.stats().dropped["data"]:
            outbox.append(row(20_000))
            assert outbox.commit()
        stats = outbox.stats()
    found = recover(folder)
    assert found.dropped["data"] == (0, stats.dropped["data"], stats.dropped_rows)
    assert found.dropped["event"] == (0, 0, 0)
    assert (found.head, found.torn, found.damaged, found.torn_bytes) == (outbox.head, [], [], 0)


def test_a_segment_without_its_seal_gets_it_and_no_file_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, pwrite = tmp_path / "outbox", os.pwrite

    def no_seal(fd: int, data: bytes, at: int) -> int:
        if at == segment_file._SEAL_AT:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pwrite(fd, data, at)

    monkeypatch.setattr(os, "pwrite", no_seal)
    with contextlib.closing(small(folder)) as outbox:
        for _ in range(4):
            outbox.append(row(45_000))
            assert outbox.commit()
    monkeypatch.undo()
    first, last = recover(folder).segments["data"]
    assert (first.sealed, first.count, last.sealed, last.count) == (True, 2, False, 2)
    found = segment_file.load(first.path)
    assert found is not None
    assert (found.sealed, found.count, found.last_seq) == (True, 2, 2)
    assert not [link for link in Path("/proc/self/fd").iterdir() if str(folder) in os.path.realpath(link)]
