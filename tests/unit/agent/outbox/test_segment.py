"""Segments: written records are found again; bytes of an earlier generation are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.outbox import record as record_file
from agent.outbox import segment as segment_file
from agent.outbox.record import MAX_RECORD, OVERHEAD, PAGE, Blob, Record, blob
from agent.outbox.segment import Header, Segment, SegmentTotals
from wire.messages import MAX_BODY

SIZE = 131_072
EP = "ab" * 8
Make = Callable[..., Segment]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    path = tmp_path / "000001.seg"
    segment_file.create(path, SIZE)

    def make(generation: int = 1, base: int = 1) -> Segment:
        return Segment(path, Header("data", EP, generation, base, SIZE, SegmentTotals(7, 2, 3)))

    return make


def record(seq: int, body: bytes = b"{}", rows: int = 1) -> Blob:
    flags = record_file.UNSYNCED
    return blob(seq, b"arm/joints", body, at_ms=5, offset_ns=-6, boot=7, rows=rows, flags=flags)


def commit(segment: Segment, group: list[Blob], settled: int) -> None:
    segment.write(group, settled)
    segment.flush()
    segment.publish()


def written(segment: Segment, *groups: list[Blob]) -> Segment:
    segment.begin()
    for group in groups:
        commit(segment, group, settled=group[0].seq - 1)
    segment.close()
    return segment


def walk(segment: Segment, data: bytes | None = None) -> tuple[list[Record], list[tuple[int, int]]]:
    damage: list[tuple[int, int]] = []
    data = segment.path.read_bytes() if data is None else data
    return list(segment.records.walk(data, damage)), damage


def test_a_new_file_is_zeros_and_never_used(make: Make) -> None:
    assert segment_file.load(make().path) is None
    assert make().path.read_bytes() == bytes(SIZE)


def test_what_is_written_is_found(make: Make) -> None:
    segment = written(make(), [record(1, b"a" * 10), record(3, b"b")], [record(4, b"", rows=9)])
    found, damage = walk(segment)
    assert [(each.seq, each.settled, each.rows) for each in found] == [(1, 0, 1), (3, 0, 1), (4, 3, 9)]
    assert {(each.at_ms, each.offset_ns, each.boot, each.unsynced) for each in found} == {(5, -6, 7, True)}
    assert damage == []
    assert found[-1].at + found[-1].size == segment.end
    assert (segment.count, segment.rows, segment.last_seq) == (3, 11, 4)


def test_the_largest_record_fits_the_smallest_segment(make: Make) -> None:
    largest = blob(1, b"t" * 255, b"x" * MAX_BODY, at_ms=0, offset_ns=0, boot=0, rows=10_000, flags=0)
    assert largest.size == MAX_RECORD
    segment = make()
    assert segment.room > 2 * MAX_RECORD
    found, _ = walk(written(segment, [largest]))
    assert found[0].size == MAX_RECORD


def test_a_recycled_file_shows_nothing_of_before(make: Make) -> None:
    written(make(), [record(seq, b"x" * 100) for seq in range(1, 200)])
    second = written(make(generation=2, base=200), [record(200)])
    found, damage = walk(second)
    assert [each.seq for each in found] == [200]
    assert damage == []
    assert second.records.torn(second.path.read_bytes(), second.end) == (0, 0)


@pytest.mark.parametrize("sector", [0, 512])
def test_one_copy_of_the_header_is_enough(make: Make, sector: int) -> None:
    segment = written(make(generation=9, base=41), [record(41)])
    raw = bytearray(segment.path.read_bytes())
    raw[sector : sector + 512] = bytes(512)
    segment.path.write_bytes(raw)
    loaded = segment_file.load(segment.path)
    assert loaded is not None
    assert (loaded.generation, loaded.base, loaded.ep, loaded.kind) == (9, 41, EP, "data")
    assert loaded.before == SegmentTotals(7, 2, 3)
    assert [each.seq for each in walk(loaded)[0]] == [41]


@pytest.mark.parametrize("sector", [0, 512])
def test_of_two_valid_headers_the_newer_one_counts(make: Make, sector: int) -> None:
    older = written(make(generation=8, base=31), [record(31)]).path.read_bytes()
    raw = bytearray(written(make(generation=9, base=41), [record(41)]).path.read_bytes())
    raw[sector : sector + 512] = older[sector : sector + 512]  # power failed between the two copies
    make().path.write_bytes(raw)
    loaded = segment_file.load(make().path)
    assert loaded is not None
    assert (loaded.generation, loaded.base, loaded.last_seq) == (9, 41, 40)
    assert [each.seq for each in walk(loaded)[0]] == [41]


def test_without_a_header_loading_fails(make: Make) -> None:
    segment = written(make(), [record(1)])
    raw = bytearray(segment.path.read_bytes())
    raw[:1024] = bytes(1024)
    segment.path.write_bytes(raw)
    with pytest.raises(ValueError, match="header"):
        segment_file.load(segment.path)


def test_a_first_header_that_was_cut_off_means_never_used(make: Make) -> None:
    segment = make()
    segment.begin()
    segment.close()
    head = segment.path.read_bytes()[:60]
    segment.path.write_bytes(head + bytes(SIZE - 60))
    assert segment_file.load(segment.path) is None


def test_seal_and_mark_come_back(make: Make) -> None:
    segment = make()
    segment.begin()
    commit(segment, [record(1), record(2, rows=5)], settled=0)
    segment.settle(PAGE + record(1).size, 1)
    segment.seal()
    segment.mark(segment.note(dropped=4, dropped_rows=40) or b"")
    segment.close()
    loaded = segment_file.load(segment.path)
    assert loaded is not None
    assert loaded.sealed
    assert (loaded.end, loaded.count, loaded.last_seq, loaded.rows) == (segment.end, 2, 2, 6)
    assert (loaded.low, loaded.done, loaded.acked) == (segment.low, 1, 1)
    assert (loaded.noted.end, loaded.noted.last_seq) == (segment.end, 2)
    assert (loaded.noted.dropped, loaded.noted.dropped_rows) == (4, 40)


def test_seal_and_mark_of_an_earlier_generation_do_not_count(make: Make) -> None:
    first = make()
    first.begin()
    commit(first, [record(1)], settled=0)
    first.settle(first.end, 1)
    first.seal()
    first.mark(first.note(9, 9) or b"")
    first.close()
    written(make(generation=2, base=2), [record(2)])
    loaded = segment_file.load(first.path)
    assert loaded is not None
    assert (loaded.generation, loaded.sealed, loaded.low, loaded.noted.dropped) == (2, False, PAGE, 2)


def test_damage_costs_the_record_it_hit(make: Make) -> None:
    segment = written(make(), [record(seq, b"x" * 50) for seq in range(1, 6)])
    size = record(1, b"x" * 50).size
    raw = bytearray(segment.path.read_bytes())
    raw[PAGE + 2 * size + OVERHEAD + 3] ^= 1
    found, damage = walk(segment, bytes(raw))
    assert [each.seq for each in found] == [1, 2, 4, 5]
    assert damage == [(PAGE + 2 * size, size)]


def test_a_body_that_looks_like_a_record_is_not_one(make: Make) -> None:
    inner = written(make(), [record(77, b"fake")])
    fake = inner.path.read_bytes()[PAGE : inner.end]
    outer = written(make(generation=2), [record(1, fake), record(2)])
    raw = bytearray(outer.path.read_bytes())
    raw[PAGE] ^= 1  # even when the record around it is damaged
    found, _ = walk(outer, bytes(raw))
    assert [each.seq for each in found] == [2]


@pytest.mark.parametrize("cut", [4, 20, OVERHEAD - 1, OVERHEAD, OVERHEAD + 5])
def test_a_torn_record_is_recognised(make: Make, cut: int) -> None:
    segment = written(make(), [record(1)], [record(2, b"y" * 30)])
    torn_at = PAGE + record(1).size
    raw = segment.path.read_bytes()
    raw = raw[: torn_at + cut] + bytes(SIZE - torn_at - cut)
    found, _ = walk(segment, raw)
    assert [each.seq for each in found] == [1]
    size, claimed = segment.records.torn(raw, torn_at)
    assert size > 0
    assert claimed == (2 if cut >= OVERHEAD else claimed)


def test_creating_on_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    def no_space(fd: int, data: bytes, at: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", no_space)
    with pytest.raises(OSError, match="No space"):
        segment_file.create(tmp_path / "new.seg", SIZE)
    assert list(tmp_path.iterdir()) == []
