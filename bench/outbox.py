"""Compare the outbox with SQLite and a bare append: durable records per second; a million waiting."""

from __future__ import annotations

import gc
import os
import sqlite3
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from agent.outbox import Message, Outbox, OutboxSettings
from wire.clock import Clock
from wire.messages import Batch
from wire.ranges import Ranges

GROUP = 10
SECONDS = 4.0
PENDING = 1_000_000
TARGET = 25_000  # records/s
_SIZE = 250  # bytes of a body
_FILE = 4_194_304
_DRAIN = 512  # records at once
_AHEAD = 2_000  # records that may wait for the disk
_encode = msgspec.json.Encoder().encode


def run(pending: int = PENDING, seconds: float = SECONDS) -> list[dict[str, Any]]:
    """Return the rows of this part; every rate counts records that are on disk."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("EDGEBED_BENCH_DIR")) as name:
        folder = Path(name)
        rows = _rates(folder, seconds)
        rows += _million(folder / "million", pending)
    return rows


def _rates(folder: Path, seconds: float) -> list[dict[str, Any]]:
    bare = _bare(folder / "bare", seconds / 2)
    ours = _outbox(folder / "outbox", seconds)
    sqlite = _sqlite(folder / "sqlite", seconds)
    bare = (
        bare + _bare(folder / "bare", seconds / 2)
    ) / 2  # before and after: the speed of shared disks changes
    merged = _merged(folder / "merged", seconds)
    sqlite_merged = _sqlite_merged(folder / "sqlite-merged", seconds)
    each = f"{_SIZE} B records in groups of {GROUP}, each group waits for the disk, live drain"
    agent = f"{_SIZE} B records in groups of {GROUP}, group commit as in the agent, live drain"
    return [
        _row(f"{agent}; peer SQLite WAL FULL, same", merged, sqlite_merged, "records/s", f">= {TARGET}"),
        _row(f"{each}; peer SQLite WAL FULL, same", ours, sqlite, "records/s", ""),
        _row(f"{each}; peer bare append + fdatasync", ours, bare, "records/s", ""),
    ]


def _million(folder: Path, count: int) -> list[dict[str, Any]]:
    """Measure the opening with `count` pending records, beside the same records in SQLite."""
    settings = OutboxSettings(max_mb=1_000)
    outbox = Outbox.open(folder, settings, Clock())
    for number in range(count):
        outbox.append(_message())
        if number % 2_000 == 0:
            outbox.commit()
    outbox.close()
    del outbox
    gc.collect()
    before = _rss_mb()
    began = time.perf_counter()
    outbox = Outbox.open(folder, settings, Clock())
    opened_ms = (time.perf_counter() - began) * 1e3
    assert outbox.stats().depth == count
    records = outbox.take(_DRAIN, 1 << 30)
    first_ms = (time.perf_counter() - began) * 1e3
    outbox.ack([(record.seq, record.seq) for record in records])
    gc.collect()
    grown = _rss_mb() - before
    on_disk = outbox.stats().bytes
    outbox.close()
    return [
        _row(f"open with {count:,} pending", opened_ms, None, "ms", "<= 300"),
        _row(f"open and take the first {_DRAIN}", first_ms, None, "ms", ""),
        _row(f"memory grown by it with {count:,} pending", grown, None, "MiB", "<= 8"),
        _row("bytes on disk of a record with a body of 250", on_disk / (count - _DRAIN), None, "bytes", ""),
    ]


def _message() -> Message:
    batch = Batch(t0=1_700_000_000_000, per=100, n=5, f=_COLUMNS)
    return Message("data", "arm", "joints", batch)


def _columns() -> dict[str, list[Any]]:
    empty = Batch(
        ep="ab" * 8, seq=100_000, t0=1_700_000_000_000, per=100, n=5, f={"x": [1.25] * 5, "y": [""] * 5}
    )
    room = _SIZE - len(msgspec.json.encode(empty))
    return {"x": [1.25] * 5, "y": ["v" * room, "", "", "", ""]}


def _outbox(folder: Path, seconds: float) -> float:
    """Append and commit groups in one thread; read and acknowledge committed records in another."""
    outbox = Outbox.open(folder, OutboxSettings(max_mb=64), Clock())

    def group() -> int:
        for _ in range(GROUP):
            outbox.append(_message())
        outbox.commit()
        return GROUP

    with _draining(outbox):
        rate = _timed(group, seconds)
    outbox.close()
    return rate


def _merged(folder: Path, seconds: float) -> float:
    """Append in groups on the event loop; a thread commits what has been appended, as in the agent."""
    outbox = Outbox.open(folder, OutboxSettings(max_mb=64), Clock())
    done = threading.Event()

    def commit() -> None:
        while not done.is_set():
            outbox.commit()

    committer = threading.Thread(target=commit)

    def group() -> int:
        for _ in range(GROUP):
            outbox.append(_message())
        while outbox.head - outbox.stats().head > _AHEAD:  # wait, as a bounded pipeline does
            time.sleep(0.0005)
        return GROUP

    with _draining(outbox):
        committer.start()
        began = time.perf_counter()
        _timed(group, seconds)
        done.set()
        committer.join()
        outbox.commit()
        rate = outbox.stats().head / (time.perf_counter() - began)
    assert outbox.stats().dropped["data"] == 0
    outbox.close()
    return rate


@contextmanager
def _draining(outbox: Outbox) -> Iterator[None]:
    done = threading.Event()
    failed: list[BaseException] = []

    def drain() -> None:
        try:
            last = False
            while not last:
                last = done.is_set()
                while records := outbox.take(_DRAIN, 1 << 21):
                    outbox.ack(Ranges((record.seq, record.seq) for record in records))
                time.sleep(0.005)
        except BaseException as error:  # noqa: BLE001 - raised below, in the measuring thread
            failed.append(error)

    thread = threading.Thread(target=drain)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    assert not failed, failed
    assert outbox.stats().depth == 0


def _sqlite(folder: Path, seconds: float) -> float:
    """Do the same with SQLite in its durable mode, one transaction per group."""
    with _sqlite_draining(folder) as db:

        def group() -> int:
            _insert(db, [_message() for _ in range(GROUP)])
            return GROUP

        return _timed(group, seconds)


def _sqlite_merged(folder: Path, seconds: float) -> float:
    """Do the same with SQLite as in the agent: a thread commits what was appended in one transaction."""
    waiting: deque[Message] = deque()
    stored, done = 0, threading.Event()

    def commit() -> None:
        nonlocal stored
        while waiting or not done.is_set():
            if group := [waiting.popleft() for _ in range(len(waiting))]:
                _insert(db, group)
                stored += len(group)
            else:
                time.sleep(0.0002)

    def group() -> int:
        waiting.extend(_message() for _ in range(GROUP))
        while len(waiting) > _AHEAD:
            time.sleep(0.0005)
        return GROUP

    with _sqlite_draining(folder) as db:
        committer = threading.Thread(target=commit)
        committer.start()
        began = time.perf_counter()
        _timed(group, seconds)
        done.set()
        committer.join()
        return stored / (time.perf_counter() - began)


@contextmanager
def _sqlite_draining(folder: Path) -> Iterator[sqlite3.Connection]:
    folder.mkdir()
    path = folder / "outbox.db"
    db = _connect(path)
    db.execute("CREATE TABLE outbox (seq INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT, body BLOB)")
    done = threading.Event()

    def drain() -> None:
        mine = _connect(path)
        last = False
        while not last:
            last = done.is_set()
            rows = mine.execute(
                "SELECT seq, topic, body FROM outbox ORDER BY seq LIMIT ?", (_DRAIN,)
            ).fetchall()
            if rows:
                mine.execute("BEGIN IMMEDIATE")
                mine.execute("DELETE FROM outbox WHERE seq <= ?", (rows[-1][0],))
                mine.execute("COMMIT")
                last = False
            else:
                time.sleep(0.005)
        mine.close()

    drainer = threading.Thread(target=drain)
    drainer.start()
    try:
        yield db
    finally:
        done.set()
        drainer.join()
        db.close()


def _insert(db: sqlite3.Connection, messages: list[Message]) -> None:
    bodies = [("arm/joints", _encode(message.body)) for message in messages]
    db.execute("BEGIN IMMEDIATE")
    db.executemany("INSERT INTO outbox (topic, body) VALUES (?, ?)", bodies)
    db.execute("COMMIT")


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, timeout=60, check_same_thread=False)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    return db


def _bare(path: Path, seconds: float) -> float:
    """Measure the disk: append the bytes of a group to a pre-written file, fdatasync, nothing else."""
    data = bytes(_SIZE * GROUP)
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(fd, bytes(_FILE), 0)
        os.fsync(fd)
        at = 0

        def append() -> int:
            nonlocal at
            os.pwrite(fd, data, at)
            os.fdatasync(fd)
            at = (at + len(data)) % (_FILE - len(data))
            return GROUP

        return _timed(append, seconds)
    finally:
        os.close(fd)


def _timed(step: Callable[[], int], seconds: float) -> float:
    count, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        count += step()
    return count / elapsed


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _row(what: str, ours: float, peer: float | None, unit: str, limit: str) -> dict[str, Any]:
    ratio = None if peer is None else round(ours / peer, 2)
    return {
        "what": what,
        "ours": _short(ours),
        "peer": _short(peer),
        "ratio": ratio,
        "unit": unit,
        "limit": limit,
    }


def _short(value: float | None) -> float | None:
    return None if value is None else round(value) if value >= 100 else round(value, 1)


_COLUMNS = _columns()


if __name__ == "__main__":
    for row in run():
        peer = "" if row["peer"] is None else f"  peer {row['peer']:>10,}  x{row['ratio']}"
        print(f"{row['what']:<100} {row['ours']:>10,} {row['unit']}{peer}  {row['limit']}")
