"""Measure wear: bytes written to the device per record, for the outbox, a bare append and SQLite."""

from __future__ import annotations

import os
import sqlite3
import statistics
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from agent.outbox import Message, Outbox, OutboxSettings
from tests.powercut.volume import SECTOR, Volume
from wire.clock import Clock
from wire.errors import EdgebedError
from wire.messages import Batch
from wire.ranges import Ranges

GROUP = 10
RECORDS = 30_000  # the outbox fills more than two of its files with them
SECONDS = 4.0
PACE = 2_000  # records/s where latency is measured: a busy node, not a full disk
WANTED = 750  # bytes per record
_SIZE = 250  # bytes of a body
_FILE = 4_194_304
_DRAIN_EVERY = 50  # groups between two reads of the sender
_AHEAD = 2_000  # records that may wait for the disk
_encode = msgspec.json.Encoder().encode


class Wear(NamedTuple):
    """What one record costs the device."""

    bytes: float
    flushes: float


def run(records: int = RECORDS, seconds: float = SECONDS) -> list[dict[str, Any]]:
    """Return the rows of this part; one row with the reason where nothing can be mounted."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("EDGEBED_BENCH_DIR")) as name:
        place = Path(name)
        volume = Volume(place / "image", place / "mounted", megabytes=512)
        try:
            with volume:
                return [*_wear(volume, records), *_speed(volume.folder / "speed", seconds)]
        except EdgebedError as error:
            return [_row(f"not measured: {error}", None, None, "", "")]


def _wear(volume: Volume, records: int) -> list[dict[str, Any]]:
    ours = _cost(volume, records, _outbox, warm=records)  # until its files are recycled
    growing = _cost(volume, records, lambda folder: _outbox(folder, drain=False))
    peers = {
        "bare append to a growing file + fdatasync": _cost(volume, records, _growing),
        "bare write into a pre-written file + fdatasync": _cost(volume, records, _in_place),
        "SQLite WAL FULL": _cost(volume, records, lambda folder: _sqlite(folder, "FULL")),
        "SQLite WAL NORMAL, which a power cut robs": _cost(
            volume, records, lambda folder: _sqlite(folder, "NORMAL")
        ),
    }
    each = f"written to the device per {_SIZE} B record, groups of {GROUP}"
    rows = [
        _row(f"{each}, live drain; peer {name}", ours.bytes, peer.bytes, "bytes", f"<= {WANTED}")
        for name, peer in peers.items()
    ]
    bare, full = peers["bare append to a growing file + fdatasync"], peers["SQLite WAL FULL"]
    return [
        *rows,
        _row(f"{each}, while a backlog grows into new files", growing.bytes, None, "bytes", ""),
        _row("flushes of the device per group; peer bare append", ours.flushes, bare.flushes, "", ""),
        _row("flushes of the device per group; peer SQLite WAL FULL", ours.flushes, full.flushes, "", ""),
    ]


def _cost(volume: Volume, records: int, start: Callable[[Path], Any], warm: int = 1_000) -> Wear:
    """Write `records` in groups that wait for the disk; bytes that are written later count too."""
    folder = volume.folder / "run"
    folder.mkdir(exist_ok=True)
    with start(folder) as group:
        for _ in range(warm // GROUP):  # one-time work: files, tables
            group()
        _sync(folder)
        before = volume.written()
        for _ in range(records // GROUP):
            group()
    _sync(volume.folder)
    after = volume.written()
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    _sync(volume.folder)
    return Wear(
        (after.sectors - before.sectors) * SECTOR / records,
        (after.flushes - before.flushes) / (records / GROUP),
    )


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    os.sync()


@contextmanager
def _outbox(folder: Path, *, drain: bool = True) -> Iterator[Callable[[], None]]:
    outbox = Outbox.open(folder / "outbox", OutboxSettings(), Clock())
    groups = 0

    def group() -> None:
        nonlocal groups
        groups += 1
        for _ in range(GROUP):
            outbox.append(_message())
        assert outbox.commit()
        if drain and groups % _DRAIN_EVERY == 0:
            _drain(outbox)

    yield group
    outbox.close()


def _drain(outbox: Outbox) -> None:
    while records := outbox.take(512, 1 << 21):
        outbox.ack(Ranges((record.seq, record.seq) for record in records))


@contextmanager
def _sqlite(folder: Path, mode: str) -> Iterator[Callable[[], None]]:
    db = sqlite3.connect(folder / "outbox.db", isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute(f"PRAGMA synchronous={mode}")
    db.execute("CREATE TABLE outbox (seq INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT, body BLOB)")
    groups = 0

    def group() -> None:
        nonlocal groups
        groups += 1
        bodies = [("arm/joints", _encode(_message().body)) for _ in range(GROUP)]
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT INTO outbox (topic, body) VALUES (?, ?)", bodies)
        db.execute("COMMIT")
        if groups % _DRAIN_EVERY == 0:
            db.execute("DELETE FROM outbox WHERE seq <= (SELECT max(seq) FROM outbox)")

    yield group
    db.close()


@contextmanager
def _growing(folder: Path) -> Iterator[Callable[[], None]]:
    fd = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def group() -> None:
        os.write(fd, bytes(_SIZE * GROUP))
        os.fdatasync(fd)

    yield group
    os.close(fd)


@contextmanager
def _in_place(folder: Path) -> Iterator[Callable[[], None]]:
    fd, at = os.open(folder / "log", os.O_RDWR | os.O_CREAT), 0
    os.pwrite(fd, bytes(_FILE), 0)
    os.fsync(fd)

    def group() -> None:
        nonlocal at
        os.pwrite(fd, bytes(_SIZE * GROUP), at)
        os.fdatasync(fd)
        at = (at + _SIZE * GROUP) % (_FILE - _SIZE * GROUP)

    yield group
    os.close(fd)


def _speed(folder: Path, seconds: float) -> list[dict[str, Any]]:
    rate, _ = _group_commit(folder / "full", seconds, 0)
    _, ours = _group_commit(folder / "paced", seconds, PACE)
    bare = _bare_times(folder / "bare", seconds)
    rows = [_row("group commit on that device, as fast as it goes", rate, None, "records/s", "")]
    for name, at in (("p50", 49), ("p99", 98)):
        mine, peer = (statistics.quantiles(times, n=100)[at] * 1e3 for times in (ours, bare))
        what = f"enqueue to durable, {name}, group commit at {PACE:,} records/s; peer a bare group's flush"
        rows.append(_row(what, mine, peer, "ms", ""))
    return rows


def _bare_times(folder: Path, seconds: float) -> list[float]:
    folder.mkdir()
    times, until = [], time.perf_counter() + seconds
    with _in_place(folder) as group:
        while (began := time.perf_counter()) < until:
            group()
            times.append(time.perf_counter() - began)
            time.sleep(GROUP / PACE)
    return times


def _group_commit(folder: Path, seconds: float, pace: int) -> tuple[float, list[float]]:
    """Return records per second and the time of each from `append` to disk, with group commit."""
    outbox = Outbox.open(folder, OutboxSettings(), Clock())
    outbox.append(_message())
    outbox.commit()  # creates its first files
    waiting: deque[tuple[int, float]] = deque()
    times: list[float] = []
    done = threading.Event()

    def commit() -> None:
        while not done.is_set() or waiting:
            upto = outbox.head
            assert outbox.commit()
            now = time.perf_counter()
            while waiting and waiting[0][0] <= upto:
                times.append(now - waiting.popleft()[1])
            time.sleep(0.0002)

    def send() -> None:
        while not done.is_set():
            _drain(outbox)
            time.sleep(0.05)

    threads = [threading.Thread(target=commit), threading.Thread(target=send)]
    for thread in threads:
        thread.start()
    began, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < seconds:
        if len(waiting) > _AHEAD or (pace and count > elapsed * pace):
            time.sleep(0.0005)
            continue
        for _ in range(GROUP):
            now = time.perf_counter()
            waiting.append((outbox.append(_message()), now))
        count += GROUP
    done.set()
    for thread in threads:
        thread.join()
    rate = count / (time.perf_counter() - began)
    outbox.close()
    return rate, times


def _message() -> Message:
    return Message("data", "arm", "joints", Batch(t0=1_700_000_000_000, per=100, n=5, f=_COLUMNS))


def _columns() -> dict[str, list[Any]]:
    empty = Batch(
        ep="ab" * 8, seq=100_000, t0=1_700_000_000_000, per=100, n=5, f={"x": [1.25] * 5, "y": [""] * 5}
    )
    room = _SIZE - len(_encode(empty))
    return {"x": [1.25] * 5, "y": ["v" * room, "", "", "", ""]}


def _row(what: str, ours: float | None, peer: float | None, unit: str, limit: str) -> dict[str, Any]:
    ratio = None if ours is None or not peer else round(ours / peer, 2)
    shown = {"ours": _short(ours), "peer": _short(peer)}
    return {"what": what, **shown, "ratio": ratio, "unit": unit, "limit": limit}


def _short(value: float | None) -> float | None:
    return None if value is None else round(value) if value >= 100 else round(value, 2)


_COLUMNS = _columns()


if __name__ == "__main__":
    for row in run():
        shown = [str(row[key]) for key in ("ours", "peer", "ratio") if row[key] is not None]
        print(f"{row['what']:<112} {' '.join(shown)} {row['unit']} {row['limit']}")
