"""A range with unreadable chunks or pages answers with the rest and names the holes."""

from __future__ import annotations

import gzip
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zstandard
from msgspec.structs import replace

from collector.ledger.ledger import Ledger
from collector.mqtt.received import Received
from collector.store.chunk import ChunkHead, ChunkRows, pack, read_chunk
from collector.store.folder import day_files
from collector.store.reader import read_rows, read_series
from collector.store.sqlite_source import SqliteSource
from collector.store.store import SqliteStore
from wire.errors import WireError
from wire.messages import Batch

NODE, EP, T0 = "acme/trial/hall/cobot-01", "00112233aabbccdd", 1_795_356_000_000
SPAN = {"start_ms": T0, "end_ms": T0 + 3_600_000}


pytestmark = pytest.mark.usefixtures("packed_at_once")


def framed(plain: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(plain)


def headed(head: ChunkHead, rest: bytes = b"") -> bytes:
    encoded = msgspec.msgpack.encode(head)
    return framed(len(encoded).to_bytes(4, "little") + encoded + rest)


def flipped(body: bytes) -> bytes:
    harmed = bytearray(body)
    harmed[len(body) // 2] ^= 4
    return bytes(harmed)


HARMS: dict[str, Callable[[bytes], Any]] = {
    "a huge size": lambda body: b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 7 + b"\x0f" + body[10:],
    "a flipped bit": flipped,
    "cut off": lambda body: body[: len(body) // 2],
    "empty": lambda _body: b"",
    "text": lambda _body: "text",
    "a number": lambda _body: 7,
    "another chunk": lambda _body: headed(ChunkHead([(1, 2)], []), bytes(16)),
    "more rows than bytes": lambda _body: headed(ChunkHead([(1, 10)], [])),
    "negative rows": lambda _body: headed(ChunkHead([(1, -10)], [])),
    "rows beyond all memory": lambda _body: headed(ChunkHead([(1, 2**62)], [])),
    "a column of another length": lambda _body: headed(
        ChunkHead([(1, 10)], [("j1", "j", 2)]), bytes(80) + b"[]"
    ),
    "a column that is not a list": lambda _body: headed(
        ChunkHead([(1, 10)], [("j1", "j", 2)]), bytes(80) + b"{}"
    ),
    "a deep column": lambda _body: headed(
        ChunkHead([(1, 10)], [("j1", "j", 9_000)]), bytes(80) + b"[" * 9_000
    ),
    "a column before its begin": lambda _body: headed(
        ChunkHead([(1, 10)], [("x", "d", -1000), ("j1", "d", 80)]), bytes(160)
    ),
    "too few qualities": lambda _body: headed(ChunkHead([(1, 10)], [], 1, 3), bytes(83)),
}


def filled(folder: Path, clock: Any, batch: Any, commit: Any, count: int = 20) -> Path:
    """A store with `count` chunks of ten rows, a second each; the path of its day file."""
    store, ledger = SqliteStore(folder, clock), Ledger()
    for seq in range(1, count + 1):
        values = {"j1": [seq + n / 10 for n in range(10)]}
        commit(store, ledger, [batch(seq, values, t0=T0 + seq * 1000, per=100)])
    store.close()
    (path,) = day_files(folder)
    return path


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS.keys())
def test_an_unreadable_chunk_is_a_named_hole(
    folder: Path, clock: Any, batch: Any, commit: Any, harm: Callable[[bytes], Any]
) -> None:
    path = filled(folder, clock, batch, commit)
    with sqlite3.connect(path) as db:
        body = db.execute("SELECT body FROM chunk WHERE id = 7").fetchone()[0]
        db.execute("UPDATE chunk SET body = ? WHERE id = 7", (harm(body),))
    db.close()
    reader = SqliteSource(folder)
    hole = (T0 + 7000, T0 + 7900, f"day file {path.name} is damaged: 10 rows cannot be read")
    table = read_rows(reader, (NODE, "arm", "joints"), **SPAN)
    assert (len(table), table.columns()["gaps"]) == (190, [hole])
    series = read_series(reader, (NODE, "arm", "joints"), "j1", points=5000, **SPAN)
    assert (sum(series.n), series.gaps) == (190, [hole])
    outside = read_rows(reader, (NODE, "arm", "joints"), start_ms=T0 + 8000, end_ms=T0 + 10_000)
    assert "gaps" not in outside.columns()
    assert sum(len(seqs) for _, _, seqs, _ in reader.all_chunks()) in (19, 20), "an audit reads no columns"
    assert reader.suspects == {path.name}
    reader.close()


def test_a_message_without_rows_costs_no_other_chunk(
    folder: Path, clock: Any, batch: Any, commit: Any
) -> None:
    path = filled(folder, clock, batch, commit)
    empty = headed(ChunkHead([(7, 0), (70, 10)], [("j1", "d", 80)]), bytes(160))
    with sqlite3.connect(path) as db:
        db.execute("UPDATE chunk SET body = ? WHERE id = 7", (empty,))
        db.execute("UPDATE chunk SET body = ?, rows = 0 WHERE id = 9", (headed(ChunkHead([], [], clk=0)),))
    db.close()
    with closing(SqliteSource(folder)) as reader:
        lost = [(EP, 6, 7, "evicted")]
        series = read_series(reader, (NODE, "arm", "joints"), "j1", points=5000, losses=lost, **SPAN)
    assert (sum(series.n), reader.damaged) == (180, set())


@pytest.mark.parametrize(
    "column", ["first_us", "last_us", "rows", "late", "ep", "stream"], ids=lambda name: f"{name}"
)
@pytest.mark.parametrize("value", ["'text'", "NULL", "x'ff'", "-9e99", "9223372036854775807"])
def test_a_damaged_column_of_a_chunk_costs_no_other_chunk(
    folder: Path, clock: Any, batch: Any, commit: Any, column: str, value: str
) -> None:
    path = filled(folder, clock, batch, commit)
    with sqlite3.connect(path) as db, suppress(sqlite3.IntegrityError):
        db.execute(f"UPDATE chunk SET {column} = {value} WHERE id = 7")  # noqa: S608 - constants
    db.close()
    reader = SqliteSource(folder)
    assert len(read_rows(reader, (NODE, "arm", "joints"), **SPAN)) >= 190
    series = read_series(reader, (NODE, "arm", "joints"), "j1", points=5000, **SPAN)
    assert sum(series.n) >= 190
    reader.close()


def test_damaged_pages_cost_their_own_chunks(folder: Path, clock: Any, batch: Any, commit: Any) -> None:
    path = filled(folder, clock, batch, commit, count=600)
    with sqlite3.connect(path) as db:
        pages = [
            number
            for number, kind in db.execute("SELECT pageno, name FROM dbstat WHERE pagetype = 'leaf'")
            if kind == "chunk"
        ]
    db.close()
    assert len(pages) > 8
    with path.open("r+b") as file:
        for number in (pages[3], pages[-1]):
            file.seek((number - 1) * 8192)
            file.write(b"\xff" * 8192)
    reader = SqliteSource(folder)
    table = read_rows(reader, (NODE, "arm", "joints"), **SPAN)
    assert 5000 < len(table) < 6000
    assert [why for _, _, why in table.gaps] == [f"day file {path.name} is damaged"]
    series = read_series(reader, (NODE, "arm", "joints"), "j1", points=5000, **SPAN)
    assert sum(series.n) == len(table)
    reader.close()


def test_a_finished_day_with_a_damaged_index_gives_its_rows(
    folder: Path, clock: Any, batch: Any, commit: Any
) -> None:
    path = filled(folder, clock, batch, commit, count=300)
    clock.ms += 86_400_000
    store = SqliteStore(folder, clock)
    commit(store, Ledger(store.load().marks), [batch(301, t0=T0 + 86_400_000)])
    store.close()
    with closing(sqlite3.connect(path)) as db:
        query = "SELECT pageno FROM dbstat WHERE pagetype = 'leaf' AND name = 'chunk_by_time'"
        pages = [number for (number,) in db.execute(query)]
    with path.open("r+b") as file:
        for number in pages:
            file.seek((number - 1) * 8192)
            file.write(b"\xff" * 8192)
    with closing(SqliteSource(folder)) as reader:
        series = read_series(reader, (NODE, "arm", "joints"), "j1", points=5000, **SPAN)
        table = read_rows(reader, (NODE, "arm", "joints"), **SPAN)
    assert sum(series.n) == len(table) == 3000
    assert [why for _, _, why in series.gaps] == [f"day file {path.name} is damaged"]


def test_no_flipped_bit_passes_as_a_row_and_none_raises_anything_else() -> None:
    batch = Batch(
        seq=1,
        ep=EP,
        t0=T0,
        per=20,
        n=50,
        f={"x": [n / 3 for n in range(50)], "word": ["ab"] * 50},
        q=[0, 1] * 25,
    )
    rows = ChunkRows(NODE, "arm", "joints", EP, 1, late=False, recv_ms=0)
    rows.add(batch, b"", 0)
    body = pack(rows).body
    chance, refused = random.Random(5), 0
    for _ in range(3000):
        harmed = bytearray(body)
        for _ in range(chance.choice((1, 1, 3))):
            harmed[chance.randrange(len(harmed))] ^= 1 << chance.randrange(8)
        try:
            found = read_chunk(bytes(harmed), None, 50)
        except WireError:
            refused += 1
        else:
            assert (found.columns["x"] == np.array(batch.f["x"])).all()
    assert refused > 2900


def zipped(one: Received) -> Received:
    return replace(one, body=gzip.compress(one.body))


def test_work_and_bytes_grow_with_rows(folder: Path, clock: Any, batch: Any, commit: Any) -> None:
    store, ledger = SqliteStore(folder, clock), Ledger()
    fields = {f"f{n}": [1] * 10_000 for n in range(25)}
    built = commit(
        store, ledger, [zipped(batch(n, fields, t0=n * 60_000 * 10_000, per=60_000)) for n in (1, 2)]
    )
    assert built.rows == 20_000
    assert sum(len(pack(rows).rollups) for rows in built.group.rows) == 0
    reader = SqliteSource(folder)
    ask = {"start_ms": 600_000_000, "end_ms": 1_800_000_000 - 1, "points": 500}
    series = read_series(reader, (NODE, "arm", "joints"), "f3", **ask)
    assert series.source == "rollup"
    assert (sum(series.n), set(series.mean)) == (20_000, {1.0})
    reader.close()
    store.close()
    assert sum(path.stat().st_size for path in day_files(folder)) < 20_000 * 100
    assert [len(pack(rows).rollups) for rows in commit_of_an_hour(clock, folder, batch, commit)] == [60]


def commit_of_an_hour(clock: Any, folder: Path, batch: Any, commit: Any) -> Any:
    store = SqliteStore(folder, clock)
    built = commit(store, Ledger(store.load().marks), [batch(9, {"x": [1.0] * 7200}, per=500)])
    store.close()
    return built.group.rows


@pytest.mark.parametrize("body", ["x'7b'", "'text'", "x'5b5d'", "x'ff'", "7"])
def test_an_unreadable_event_costs_no_other_event(
    folder: Path, clock: Any, event: Any, commit: Any, body: str
) -> None:
    store = SqliteStore(folder, clock)
    commit(store, Ledger(), [event(seq, ts=T0 + seq) for seq in range(1, 6)])
    store.close()
    with sqlite3.connect(day_files(folder)[0]) as db:
        db.execute(f"UPDATE event SET body = {body} WHERE id = 3")  # noqa: S608 - constants
    db.close()
    reader = SqliteSource(folder)
    found = reader.events(NODE, "arm", limit=100, before=(2**50, "", 0))
    assert [one["ts"] - T0 for _, one in found] == [5, 4, 2, 1]
    reader.close()
