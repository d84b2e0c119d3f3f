"""Segments: written records are found again; bytes of an earlier generation are not."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
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
OLD_HASH = "6f327a10073ef762fb82bd3db94a69e803390db2157ff40097e97164b7dd2c65"
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


def open_files(path: Path) -> int:
    return sum(os.path.realpath(link) == str(path) for link in Path("/proc/self/fd").iterdir())


def test_the_file_has_the_format_of_the_first_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hash is of a file that the first release wrote: outboxes in the field are opened by this one."""
    monkeypatch.setattr(secrets, "token_bytes", lambda count: bytes(range(1, count + 1)))
    path = tmp_path / "000001.seg"
    segment_file.create(path, SIZE)
    segment = Segment(path, Header("event", EP, 9, 41, SIZE, SegmentTotals(7, 2, 3)))
    segment.begin()
    commit(segment, [record(41), record(43, b"x" * 5_000, rows=70_000)], settled=40)
    commit(segment, [record(44, b"", rows=9)], settled=43)
    segment.settle(PAGE + record(41).size, 1)
    segment.seal()
    segment.mark(segment.note(4, 40) or b"")
    segment.close()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == OLD_HASH
    loaded = segment_file.load(path)
    assert loaded is not None
    assert (loaded.kind, loaded.generation, loaded.size, loaded.rows) == ("event", 9, SIZE, 70_010)
    found = [(each.seq, each.cls, each.tail, each.rows, len(each.body)) for each in walk(loaded)[0]]
    assert found == [
        (41, "event", "arm/joints", 1, 2), (43, "event", "arm/joints", 65_535, 5_000),
        (44, "event", "arm/joints", 9, 0),
    ]  # fmt: skip


def test_room_and_counts_are_of_what_is_published(make: Make) -> None:
    segment, one = make(), record(1)
    segment.begin()
    segment.write([one], 0)
    segment.write([record(2, rows=4)], 0)
    assert (segment.count, segment.rows, segment.last_seq, segment.room) == (0, 0, 0, SIZE - PAGE)
    segment.flush()
    segment.publish()
    assert (segment.count, segment.rows, segment.last_seq) == (2, 5, 2)
    assert (segment.end, segment.room) == (PAGE + 2 * one.size, SIZE - PAGE - 2 * one.size)
    segment.write([record(3)], 2)
    segment.give_up()
    assert (segment.size, segment.room, segment.count) == (segment.end, 0, 2)
    segment.close()
    assert open_files(segment.path) == 0


def test_a_segment_is_finished_when_it_is_full_and_all_that_was_read_is_acknowledged(make: Make) -> None:
    segment = make()
    segment.took(2)
    segment.acknowledge()
    segment.set_sealed()
    assert not segment.is_finished
    segment.acknowledge()
    assert segment.is_finished
    segment.set_sealed(False)
    assert not segment.is_finished
    assert not segment.gone
    segment.retire()
    assert segment.gone


def test_the_same_mark_is_written_once_and_no_file_stays_open(make: Make) -> None:
    segment = written(make(), [record(1), record(2)])
    assert segment.note(0, 0)
    assert segment.note(0, 0) is None
    first = segment.note(1, 10)
    assert first
    segment.mark(first)
    assert open_files(segment.path) == 0
    segment.settle(PAGE + record(1).size, 1)
    assert segment.note(1, 10)
    empty = segment.note_empty()
    assert empty
    segment.mark(empty)
    loaded = segment_file.load(segment.path)
    assert loaded is not None
    assert (loaded.low, loaded.done) == (segment.end, 2)
    assert (loaded.noted.dropped, loaded.noted.dropped_rows) == (2, 3), "as before this generation"
    segment.wipe_rest()
    assert open_files(segment.path) == 0


def test_bytes_after_the_last_record_are_wiped(make: Make) -> None:
    segment = written(make(), [record(1)])
    raw = segment.path.read_bytes()
    segment.path.write_bytes(raw[: segment.end] + b"x" * (SIZE - segment.end))
    segment.wipe_rest()
    assert segment.path.read_bytes() == raw


def test_what_the_disk_cannot_read_is_zeros_page_by_page(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = make()
    segment.path.write_bytes(b"x" * 20_000)
    pread = os.pread

    def bad_sector(fd: int, count: int, at: int) -> bytes:
        if at < 9_000 < at + count:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(fd, count, at)

    monkeypatch.setattr(os, "pread", bad_sector)
    data = segment.read(100, 17_000)  # pages start at 100
    assert data == b"x" * 8_192 + bytes(4_096) + b"x" * (16_900 - 12_288)
    assert segment.read(9_001, 20_100) == b"x" * 10_999 + bytes(100), "behind the end of the file"
    assert open_files(segment.path) == 0
    segment.path.unlink()
    assert segment.read(5, 12) == bytes(7)


def test_a_temporary_error_of_reading_is_raised(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = make()

    def fails(*_: object) -> bytes:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(os, "pread", fails)
    with pytest.raises(OSError, match="memory"):
        segment.read(0, 10)
    assert open_files(segment.path) == 0
    monkeypatch.setattr(os, "open", fails)
    with pytest.raises(OSError, match="memory"):
        segment.read(0, 10)


def test_a_run_ends_at_its_limits(make: Make) -> None:
    segment, size = written(make(), [record(seq) for seq in range(1, 11)]), record(1).size

    def seqs(messages: int, room: int, below: int | None = None, start: int = 0) -> list[int]:
        run = segment.read_run(PAGE + start * size, segment.end, messages, room, below)
        assert run.damage is None
        assert run.upto == PAGE + (start + len(run.records)) * size
        assert run.ended == (below is not None and len(run.records) < min(messages, 10 - start))
        return [each.seq for each in run.records]

    assert seqs(3, SIZE) == [1, 2, 3]
    assert seqs(20, 1) == [1]
    assert seqs(20, size) == [1]
    assert seqs(20, size + 1) == [1, 2]
    assert seqs(20, SIZE, start=8) == [9, 10]
    assert seqs(20, SIZE, below=5) == [1, 2, 3, 4]
    assert seqs(0, SIZE) == []
    first = segment.peek(PAGE + size, segment.end)
    assert first is not None
    assert (first.seq, first.at, first.size) == (2, PAGE + size, size)


def test_damage_in_a_run_is_named_with_the_numbers_it_may_have_had(make: Make) -> None:
    segment, size = written(make(), [record(seq) for seq in range(1, 11)]), record(1).size
    raw = bytearray(segment.path.read_bytes())
    raw[PAGE + 3 * size + 60] ^= 1
    raw[PAGE + 4 * size + 60] ^= 1
    raw[PAGE + 9 * size + 60] ^= 1
    segment.path.write_bytes(raw)
    run = segment.read_run(PAGE, segment.end, 100, SIZE, None)
    assert ([each.seq for each in run.records], run.upto) == ([1, 2, 3], PAGE + 5 * size)
    assert run.damage == (2 * size, 4, 5)
    run = segment.read_run(run.upto, segment.end, 100, SIZE, None)
    assert ([each.seq for each in run.records], run.upto) == ([6, 7, 8, 9], segment.end)
    assert run.damage == (size, 10, 10)


def test_a_scan_counts_what_is_there(make: Make) -> None:
    segment = written(make(), [record(1, rows=3), record(2, rows=4)], [record(5)])
    loaded = segment_file.load(segment.path)
    assert loaded is not None
    loaded.settle(PAGE + record(1).size, 1)
    assert loaded.scan(segment.path.read_bytes()) == ([1, 2, 5], 4)
    assert (loaded.end, loaded.count, loaded.rows, loaded.last_seq) == (segment.end, 3, 8, 5)
    assert (loaded.low, loaded.done, loaded.acked) == (PAGE + record(1).size, 1, 1)
    empty = make(generation=3, base=7)
    empty.begin()
    empty.close()
    assert empty.scan(empty.path.read_bytes()) == ([], 0)
    assert (empty.end, empty.count, empty.last_seq) == (PAGE, 0, 6)
    for size, limit in ((SIZE * 2, SIZE), (PAGE + 1, PAGE + 1), (10, PAGE)):
        empty.limit(size)
        assert empty.size == limit


def test_half_a_record_at_the_end_of_the_bytes_is_none(make: Make) -> None:
    segment = written(make(), [record(1), record(2)])
    data, second = segment.path.read_bytes(), PAGE + record(1).size
    for cut in (second + 1, second + OVERHEAD - 1, second + OVERHEAD, segment.end - 1):
        assert segment.records.parse(data[:cut], second) is None
    whole = segment.records.parse(data[: segment.end], second)
    assert whole is not None
    assert (whole.seq, whole.body, whole.settled) == (2, b"{}", 0)
