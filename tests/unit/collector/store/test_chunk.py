"""Column chunks return the values of every type, and their rollups add up."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from collector.store.chunk import MINUTE_US, ChunkRows, pack, read_chunk, read_head
from wire.errors import WireError
from wire.messages import Batch

I64 = st.integers(-(2**63), 2**63 - 1)
COLUMN = st.sampled_from(
    [st.floats(allow_nan=False, allow_infinity=False), I64, st.booleans(), st.text(max_size=5), st.none()]
)


def gather(columns: dict[str, list[Any]], times: list[int], seqs: tuple[int, ...] = (1,)) -> ChunkRows:
    rows = ChunkRows("a/b/c/d", "arm", "joints", "00112233", -1, False, 0)
    step = len(times) // len(seqs)
    for at, seq in enumerate(seqs):
        part = slice(at * step, (at + 1) * step)
        piece = {name: column[part] for name, column in columns.items()}
        rows.add(Batch(seq=seq, t0=0, dt=times[part], tu="us", f=piece), b"", 0)
    return rows


@given(st.data(), st.integers(1, 30))
def test_values_of_every_type_come_back(data: st.DataObject, count: int) -> None:
    columns: dict[str, list[Any]] = {}
    for name in ("a", "b", "c"):
        kinds = data.draw(st.lists(COLUMN, min_size=1, max_size=2))
        columns[name] = data.draw(st.lists(st.one_of(kinds), min_size=count, max_size=count))
    times = data.draw(st.lists(st.integers(0, 2**57), min_size=count, max_size=count))
    packed = pack(gather(columns, times))
    chunk = read_chunk(packed.body)
    head, found = chunk.head, chunk.columns
    assert chunk.times.tolist() == times
    assert (packed.first_us, packed.last_us, packed.rows.count) == (min(times), max(times), count)
    assert head.messages == [(1, count)]
    for name, column in columns.items():
        back = list(found[name]) if isinstance(found[name], list) else found[name].tolist()
        assert [None if isinstance(v, float) and math.isnan(v) else v for v in back] == column


@given(
    st.lists(
        st.tuples(st.integers(0, 5 * MINUTE_US), st.none() | st.floats(-1e6, 1e6)), min_size=1, max_size=50
    )
)
def test_rollups_add_up_to_the_rows(rows: list[tuple[int, float | None]]) -> None:
    times, values = [at for at, _ in rows], [value for _, value in rows]
    rollups = pack(gather({"x": values}, times)).rollups
    expected: dict[int, list[float]] = {}
    for at, value in rows:
        if value is not None:
            expected.setdefault(at // MINUTE_US, []).append(value)
    assert {one.minute: (one.n, one.low, one.high) for one in rollups} == {
        minute: (len(some), min(some), max(some)) for minute, some in expected.items()
    }
    for one in rollups:
        assert one.total == pytest.approx(sum(expected[one.minute]), abs=1e-3)


def test_messages_of_a_group_share_a_chunk_and_keep_their_numbers() -> None:
    rows = gather({"x": [1.0, 2.0, 3.0, 4.0]}, [10, 20, 30, 40], (7, 8))
    found = read_chunk(pack(rows).body, ("x",))
    assert found.head.messages == [(7, 2), (8, 2)]
    assert (found.times.tolist(), found.columns["x"].tolist()) == ([10, 20, 30, 40], [1.0, 2.0, 3.0, 4.0])


def test_text_is_counted_but_not_averaged() -> None:
    (one,) = pack(gather({"x": ["a", "b"]}, [0, 1])).rollups
    assert (one.n, one.low, one.high) == (2, None, None)


def test_huge_values_do_not_warn() -> None:
    (one,) = pack(gather({"x": [1.7e308, 1.7e308]}, [0, 1])).rollups
    assert one.total == math.inf


def test_quality_marks_survive() -> None:
    rows = ChunkRows("a/b/c/d", "arm", "joints", "00112233", -1, False, 0)
    rows.add(Batch(seq=1, t0=0, dt=[0, 1], f={"x": [1.0, 2.0]}), b"", 0)
    rows.add(Batch(seq=2, t0=0, dt=[2], f={"x": [3.0]}, q=[4]), b"", 0)
    found = read_chunk(pack(rows).body)
    assert found.head.quality == 3
    assert found.columns["x"].tolist() == [1.0, 2.0, 3.0]


@given(st.binary(max_size=200))
def test_garbage_is_refused(body: bytes) -> None:
    for read in (read_chunk, read_head):
        with pytest.raises(WireError):
            read(body)


def test_a_head_is_read_without_what_follows_it() -> None:
    values = np.random.default_rng(7).random(20_000).tolist()
    packed = pack(gather({"x": values}, list(range(20_000)), (4, 5)))
    head = read_chunk(packed.body).head
    half = packed.body[: len(packed.body) // 2]
    with pytest.raises(WireError):
        read_chunk(half)
    assert read_head(half, packed.rows.count) == read_head(packed.body) == head
    assert [read_chunk(packed.body).head, read_head(packed.body)] == [head, head], "one after the other"
    with pytest.raises(WireError, match="20000 rows instead of 3"):
        read_head(packed.body, 3)


@pytest.mark.parametrize("plain", [b"", b"\xff", b"\xff\xff\xff\xff", b"\xff\xff\xff\xff" + bytes(1_000_000)])
def test_a_head_that_cannot_be_is_refused(plain: bytes) -> None:
    unsized = zstandard.ZstdCompressor().compressobj()
    for body in (zstandard.compress(plain), unsized.compress(plain) + unsized.flush()):
        with pytest.raises(WireError):
            read_head(body, 2)


def test_packing_pays() -> None:
    values = np.round(np.sin(np.arange(1000) / 50), 3).tolist()
    rows = gather({"x": values}, list(range(0, 20_000_000, 20_000)))
    assert len(pack(rows).body) < 1000 * 8, "a chunk is smaller than its bare numbers without their times"


@pytest.mark.parametrize(
    "messages", [[(2**64 - 1, 4)], [(-1, 4)], [(1, -1), (2, 5)], [(1, 2**63), (2, 4 - 2**63)]]
)
def test_numbers_that_no_message_has_are_refused(messages: list[tuple[int, int]]) -> None:
    rows = gather({"x": [1.0, 2.0, 3.0, 4.0]}, [0, 1, 2, 3])
    rows.messages = messages
    body = pack(rows).body
    for read in (read_chunk, read_head):
        with pytest.raises(WireError):
            read(body, declared=4)
