"""Rows come back from their chunks as they were sent: values, gaps, text, quality, in order of time."""

from __future__ import annotations

import pytest

from collector.store.chunk import ChunkRows, Unpacked, pack, read_chunk
from collector.store.clock_skew import Offset
from collector.store.table import Table
from wire.errors import WireError
from wire.messages import Batch

EP = "0123456789abcdef"


def chunk(*batches: Batch) -> Unpacked:
    rows = ChunkRows("a/b/c/d", "arm", "joints", EP, 1, late=False, recv_ms=0)
    for batch in batches:
        rows.add(batch, b"", 0)
    return read_chunk(pack(rows).body)


def test_rows_come_back_as_they_were_sent() -> None:
    table = Table()
    columns = {"x": [1.5, None, -2.0], "n": [1, 2, 3], "on": [True, False, None], "word": ["a", None, "한글"]}
    table.add(chunk(Batch(seq=2, ep=EP, t0=2_000, per=20, n=3, f=columns, q=[0, 3, 1])))
    table.add(chunk(Batch(seq=1, ep=EP, t0=1_000, dt=[0, 500], tu="us", f={"x": [7.0, 8.0], "late": [0, 1]})))
    assert len(table) == 5
    assert table.fields == ["x", "n", "on", "word", "late"]
    assert list(table.between(1_000_000, 2_040_000)) == [
        (1_000_000, {"x": 7.0, "late": 0}, 0),
        (1_000_500, {"x": 8.0, "late": 1}, 0),
        (2_000_000, {"x": 1.5, "n": 1, "on": True, "word": "a"}, 0),
        (2_020_000, {"x": None, "n": 2, "on": False, "word": None}, 3),
    ]


def test_bytes_that_are_not_a_chunk_are_refused() -> None:
    with pytest.raises(WireError, match="chunk"):
        read_chunk(b"nothing of the kind")


def test_rows_know_what_was_known_of_their_clock() -> None:
    table = Table()
    for t0, offset in ((2_000, Offset(40, 3)), (1_000, Offset())):
        rows = ChunkRows("a/b/c/d", "arm", "joints", EP, 1, late=False, recv_ms=0, offset=offset)
        batch = Batch(seq=1, ep=EP, t0=t0, per=20, n=3, f={"x": [1.0, 2.0, 3.0]})
        rows.add(batch, b"", 0)
        table.add(read_chunk(pack(rows).body))
    assert table.between(1_020_000, 3_000_000).columns()["clock"] == [(2, 1, None, None), (3, 1, 40, 3)]
