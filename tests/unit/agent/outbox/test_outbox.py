"""The promises of the outbox: committed messages are delivered, numbers used once, losses declared."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from agent.outbox import Message, Outbox, OutboxSettings, Record, keep_committing, segment
from wire.clock import Clock
from wire.errors import ConfigError, TryAgain
from wire.messages import Batch, Event
from wire.ranges import Ranges

Open = Callable[..., Outbox]
ALL = 1 << 30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "outbox"


@pytest.fixture
def open_outbox(folder: Path) -> Iterator[Open]:
    with contextlib.ExitStack() as stack:

        def open_outbox(max_mb: int = 1, at: Path = folder) -> Outbox:
            outbox = Outbox.open(at, OutboxSettings(max_mb=max_mb), Clock())
            stack.callback(outbox.close)
            return outbox

        yield open_outbox


def data(size: int = 10, rows: int = 2) -> Message:
    return Message("data", "arm", "joints", Batch(t0=1, per=10, n=rows, f={"x": ["v" * size] * rows}))


def event(size: int = 10) -> Message:
    return Message("event", "arm", "alarm", Event(ts=1, type="alarm", detail={"x": "v" * size}))


def statement(number: int, size: int = 500) -> Message:
    return Message(
        "event", "_", "custody", Event(ts=1, type="custody", detail={"n": number, "x": "v" * size})
    )


def take(outbox: Outbox) -> list[Record]:
    return outbox.take(ALL, ALL)


def ack(outbox: Outbox, records: list[Record]) -> int:
    return outbox.ack([(record.seq, record.seq) for record in records])


def lost(records: list[Record]) -> Ranges:
    found = Ranges()
    for record in records:
        if record.tail == "_/gap":
            found.update(msgspec.json.decode(record.body, type=Event).lost)
    return found


class TestTaking:
    def test_only_what_is_committed_is_given_out(self, open_outbox: Open) -> None:
        outbox = open_outbox()
        assert outbox.append(data()) == 1
        assert take(outbox) == []
        assert outbox.commit()
        assert [record.seq for record in take(outbox)] == [1]
        assert take(outbox) == []

    def test_the_body_travels_with_its_identity(self, open_outbox: Open) -> None:
        outbox = open_outbox()
        outbox.append(data(rows=3))
        outbox.commit()
        (record,) = take(outbox)
        body = msgspec.json.decode(record.body, type=Batch)
        assert (body.ep, body.seq, len(body)) == (outbox.ep, 1, 3)
        assert (record.cls, record.tail, record.rows, record.unsynced) == ("data", "arm/joints", 3, False)

    def test_events_go_first_and_each_class_is_in_order(self, open_outbox: Open) -> None:
        outbox = open_outbox()
        for _ in range(3):
            outbox.append(data())
            outbox.append(event())
        outbox.commit()
        assert [record.seq for record in take(outbox)] == [2, 4, 6, 1, 3, 5]

    def test_limits_of_a_take(self, open_outbox: Open) -> None:
        outbox = open_outbox()
        for _ in range(10):
            outbox.append(data(500))
        outbox.commit()
        assert [record.seq for record in outbox.take(3, ALL)] == [1, 2, 3]
        assert [record.seq for record in outbox.take(ALL, 1)] == [4]
        assert [record.seq for record in outbox.take(ALL, 2_500)] == [5, 6, 7]

    @pytest.mark.parametrize(
        ("overtaken", "fails"), [*((False, at) for at in range(1, 5)), *((True, at) for at in range(1, 12))]
    )
    def test_an_error_in_the_midst_of_reading_keeps_nothing_back(
        self, open_outbox: Open, monkeypatch: pytest.MonkeyPatch, overtaken: bool, fails: int
    ) -> None:
        """Whichever access to the disk fails, each record is given out once."""
        outbox = open_outbox(max_mb=8)
        for _ in range(90):
            outbox.append(data(4_000))
            outbox.append(event(2_000))
        outbox.commit()
        if overtaken:
            assert outbox.overtake(0)
        looks, real = 0, os.open

        def opened(path: object, flags: int, *rest: int, **more: int) -> int:
            nonlocal looks
            looks += str(path).endswith(".seg")
            if looks == fails:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return real(path, flags, *rest, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(os, "open", opened)
        found, failed = list[Record](), 0
        while True:
            try:
                records = (outbox.take_overtaken if overtaken else outbox.take)(1_000, ALL)
            except OSError:
                failed += 1
                continue
            if not records:
                break
            found += records
        assert failed <= 1
        assert looks > fails, "no access failed"
        assert sorted(record.seq for record in found) == list(range(1, 181))

    def test_rows_marked_unsynced_are_flagged(self, open_outbox: Open) -> None:
        outbox = open_outbox()
        message = data()
        message.body.clk = 0
        outbox.append(message)
        outbox.commit()
        assert take(outbox)[0].unsynced

    def test_callbacks_say_when_to_commit_and_when_to_take(self, open_outbox: Open) -> None:
        outbox, heard = open_outbox(), []
        outbox.on_append(lambda: heard.append("append"))
        outbox.on_commit(lambda: heard.append("commit"))
        outbox.append(data())
        outbox.append(data())
        outbox.commit()
        outbox.commit()
        assert heard == ["append", "commit"]

    def test_appending_does_not_wait_for_the_disk(
        self, open_outbox: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        outbox = open_outbox()
        syncing, go_on = threading.Event(), threading.Event()
        real = os.fdatasync

        def slow(fd: int) -> None:
            syncing.set()
            assert go_on.wait(30)
            real(fd)

        outbox.append(data())
        monkeypatch.setattr(os, "fdatasync", slow)
        committing = threading.Thread(target=outbox.commit)
        committing.start()
        assert syncing.wait(30)
        seqs = [outbox.append(data()) for _ in range(100)]  # would never return if it waited
        head = outbox.stats().head
        go_on.set()
        committing.join()
        assert seqs == list(range(2, 102))
        assert head == 0
        assert outbox.stats().head == 101


class TestAcknowledging:
    def test_acknowledged_records_do_not_come_back(self, open_outbox: Open) -> None:
        outbox = open_outbox()
        for _ in range(10):
            outbox.append(data())
        outbox.commit()
        first = outbox.take(6, ALL)
        assert ack(outbox, first) == 6
        assert ack(outbox, first) == 0
        outbox.close()
        outbox = open_outbox()
        assert [record.seq for record in take(outbox)] == [7, 8, 9, 10]

    def test_what_was_acknowledged_out_of_order_may_come_twice_but_nothing_is_missing(
        self, open_outbox: Open
    ) -> None:
        outbox = open_outbox()
        for _ in range(10):
            outbox.append(data())
        outbox.commit()
        take(outbox)
        outbox.ack([(1, 2), (5, 9)])
        assert outbox.stats().depth == 3
        assert outbox.stats().acked == 2
        outbox.close()
        outbox = open_outbox()
        assert [record.seq for record in take(outbox)] == list(range(3, 11))

    def test_numbers_nobody_gave_are_ignored(self, open_outbox: Open) -> None:
        outbox = open_outbox()
        outbox.append(data())
        outbox.commit()
        assert outbox.ack([(1, 2**60)]) == 0  # not taken yet
        take(outbox)
        assert outbox.ack([(2, 2**60)]) == 0
        assert outbox.ack([(1, 2**60)]) == 1

    def test_stats(self, open_outbox: Open) -> None:
        outbox = open_outbox()
        for _ in range(4):
            outbox.append(data(rows=5))
        outbox.append(event())
        outbox.commit()
        stats = outbox.stats()
        assert (stats.depth, stats.head, stats.acked, stats.taken_rows) == (5, 5, 0, 21)
        assert stats.bytes > 5 * 52
        ack(outbox, take(outbox))
        stats = outbox.stats()
        assert (stats.depth, stats.head, stats.acked, stats.bytes, stats.oldest_s) == (0, 5, 5, 0, 0.0)
        assert stats.taken_rows == 21

    def test_the_age_of_the_oldest(self, folder: Path, open_outbox: Open) -> None:
        clock = Clock(rate=1000.0, start_ns=10**18)
        outbox = Outbox.open(folder, OutboxSettings(max_mb=1), clock)
        outbox.append(data())
        outbox.commit()
        at = clock.monotonic()
        while clock.monotonic() < at + 20:
            pass
        assert 20 <= outbox.stats().oldest_s <= clock.monotonic()
        outbox.close()


class TestNumbers:
    def test_one_counter_over_both_classes_and_restarts(self, open_outbox: Open) -> None:
        outbox = open_outbox()
        epoch = outbox.ep
        assert [outbox.append(data()), outbox.append(event()), outbox.append(data())] == [1, 2, 3]
        outbox.close()
        outbox = open_outbox()
        assert (outbox.ep, outbox.head) == (epoch, 3)
        assert outbox.append(event()) == 4

    def test_a_new_folder_is_a_new_epoch(self, open_outbox: Open, tmp_path: Path) -> None:
        assert open_outbox().ep != open_outbox(at=tmp_path / "other").ep

    def test_never_again_after_everything_was_acknowledged_and_recycled(
        self, folder: Path, open_outbox: Open, tmp_path: Path
    ) -> None:
        outbox = open_outbox()
        for turn in range(60):  # several times through all segments
            for _ in range(20):
                outbox.append(data(1_000))
            outbox.append(event(1_000))
            outbox.commit()
            ack(outbox, take(outbox))
            if turn % 7 == 0:  # as kill -9 leaves it
                copy = tmp_path / f"copy-{turn}"
                shutil.copytree(folder, copy)
                found = open_outbox(at=copy)
                assert found.head == outbox.head
                assert found.ep == outbox.ep
        assert outbox.stats().depth == 0
        outbox.close()
        assert open_outbox().head == 60 * 21


class TestQuota:
    def test_the_oldest_data_go_first_and_are_declared(self, folder: Path, open_outbox: Open) -> None:
        outbox = open_outbox()
        first_event = outbox.append(event())
        while not outbox.stats().dropped["data"]:
            for _ in range(5):
                outbox.append(data(4_000))
            outbox.commit()
        stats = outbox.stats()
        assert stats.dropped["event"] == 0
        assert stats.dropped_rows == 2 * stats.dropped["data"]
        assert sum(path.stat().st_size for path in folder.iterdir()) <= 1_000_000
        records = take(outbox)
        seqs = Ranges((record.seq, record.seq) for record in records)
        gap = lost(records)
        assert first_event in seqs
        assert gap.count() == stats.dropped["data"]
        assert next(iter(gap)) == (2, 1 + stats.dropped["data"])
        seqs.update(gap)
        assert list(seqs) == [(1, outbox.head)]

    def test_events_last_and_their_gaps_are_carried_on(self, open_outbox: Open) -> None:
        outbox = open_outbox()
        for _ in range(100):
            outbox.append(data(4_000))
            outbox.commit()
        while outbox.stats().dropped["event"] < 200:
            for _ in range(10):
                outbox.append(event(4_000))
            outbox.commit()
        stats = outbox.stats()
        records = take(outbox)
        seqs = Ranges((record.seq, record.seq) for record in records)
        seqs.update(lost(records))
        assert list(seqs) == [(1, outbox.head)]  # also those whose gap event was dropped in its turn
        assert stats.dropped["data"] > 0

    def test_statements_of_custody_outlive_other_events(self, open_outbox: Open) -> None:
        outbox = open_outbox()
        stated = []
        for turn in range(60):
            stated.append(statement(turn))
            outbox.append(stated[-1])
            for _ in range(20):
                outbox.append(event(4_000))
                outbox.append(data(1_000))
            outbox.commit()
        stats = outbox.stats()
        assert stats.dropped["event"] > 500
        records = take(outbox)
        kept = [msgspec.json.decode(r.body, type=Event) for r in records if r.tail == "_/custody"]
        assert sorted(each.detail["n"] for each in kept) == list(range(60))
        assert {each.detail["n"]: each.detail for each in kept}[0] == stated[0].body.detail
        seqs = Ranges((record.seq, record.seq) for record in records)
        seqs.update(lost(records))
        assert list(seqs) == [(1, outbox.head)]

    def test_nothing_but_statements_has_an_end_too(self, open_outbox: Open) -> None:
        outbox = open_outbox()
        for turn in range(1_000):
            outbox.append(statement(turn, 4_000))
            outbox.commit()
        records = take(outbox)
        kept = {msgspec.json.decode(r.body)["detail"]["n"] for r in records if r.tail == "_/custody"}
        assert len(kept) > 50
        assert max(kept) == 999
        seqs = Ranges((record.seq, record.seq) for record in records)
        seqs.update(lost(records))
        assert list(seqs) == [(1, outbox.head)]

    def test_one_that_is_on_its_way_is_not_given_again(self, open_outbox: Open) -> None:
        outbox = open_outbox()
        outbox.append(statement(1))
        outbox.commit()
        assert len(take(outbox)) == 1
        while outbox.stats().dropped["event"] < 200:
            outbox.append(event(4_000))
            outbox.commit()
        assert "_/custody" not in {record.tail for record in take(outbox)}

    def test_dropped_counts_survive(self, open_outbox: Open) -> None:
        outbox = open_outbox()
        while not outbox.stats().dropped["data"]:
            outbox.append(data(20_000))
            outbox.commit()
        before = outbox.stats()
        outbox.close()
        after = open_outbox().stats()
        assert (after.dropped, after.dropped_rows) == (before.dropped, before.dropped_rows)
        assert after.taken_rows == before.taken_rows

    def test_room_comes_back_with_acknowledgements(self, open_outbox: Open) -> None:
        outbox = open_outbox()
        for _ in range(300):
            outbox.append(data(10_000))
            outbox.commit()
            ack(outbox, take(outbox))
        assert outbox.stats().dropped == {"data": 0, "event": 0}

    def test_a_smaller_quota_frees_disk_as_it_drains(self, folder: Path, open_outbox: Open) -> None:
        outbox = open_outbox(max_mb=3)
        for _ in range(100):
            outbox.append(data(10_000))
            outbox.commit()
        outbox.close()
        outbox = open_outbox(max_mb=1)
        ack(outbox, take(outbox))
        outbox.append(data())
        outbox.commit()
        assert sum(path.stat().st_size for path in folder.iterdir()) <= 1_000_000
        assert outbox.stats().dropped["data"] == 0


class TestFullDisk:
    @pytest.fixture
    def full(self) -> Iterator[Callable[[bool], None]]:
        """Files cannot grow beyond 64 KiB: a new segment then fails as on a full disk."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

        def full(on: bool) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (65_536 if on else soft, hard))

        yield full
        full(False)

    def test_a_new_outbox_waits_in_memory_and_heals(
        self, open_outbox: Open, full: Callable[[bool], None], caplog: pytest.LogCaptureFixture
    ) -> None:
        full(True)
        outbox = open_outbox()
        outbox.append(data())
        assert not outbox.commit()
        assert not outbox.commit()
        assert outbox.stats().trouble
        assert outbox.stats().trouble_code == "disk-full"
        outbox._failed(OSError(errno.EIO, "Input/output error"))
        assert outbox.stats().trouble_code == "disk-failed"
        assert outbox.stats().head == 0
        full(False)
        _patience(outbox)
        assert (outbox.stats().trouble, outbox.stats().trouble_code) == ("", "")
        assert [record.seq for record in take(outbox)] == [1]
        levels = [record.levelname for record in caplog.records if record.name == "agent.outbox.outbox"]
        assert levels == ["ERROR", "WARNING"]  # logged once at the loss, once at the return

    def test_memory_is_bounded_and_what_it_cannot_hold_is_declared(
        self, open_outbox: Open, full: Callable[[bool], None]
    ) -> None:
        full(True)
        outbox = open_outbox(max_mb=8)
        outbox.append(event())
        for _ in range(300):
            outbox.append(data(5_000))
            assert not outbox.commit()
        full(False)
        _patience(outbox)
        stats = outbox.stats()
        assert 50 < stats.dropped["data"] < 250
        assert stats.dropped["event"] == 0
        records = take(outbox)
        seqs = Ranges((record.seq, record.seq) for record in records)
        gap = lost(records)
        assert [record.tail for record in records].count("_/gap") <= 2  # not one for each attempt
        assert 1 in seqs
        seqs.update(gap)
        assert list(seqs) == [(1, outbox.head)]

    def test_in_memory_too_statements_of_custody_go_last(
        self, open_outbox: Open, full: Callable[[bool], None]
    ) -> None:
        full(True)
        outbox = open_outbox(max_mb=8)
        outbox.append(statement(1))
        for _ in range(1_000):
            outbox.append(event(3_000))
        outbox.append(data())
        full(False)
        _patience(outbox)
        records = take(outbox)
        assert outbox.stats().dropped["event"] > 500
        assert [record.seq for record in records if record.tail == "_/custody"] == [1]
        seqs = Ranges((record.seq, record.seq) for record in records)
        seqs.update(lost(records))
        assert list(seqs) == [(1, outbox.head)]

    def test_what_ends_with_the_process_is_told(
        self, open_outbox: Open, full: Callable[[bool], None], caplog: pytest.LogCaptureFixture
    ) -> None:
        full(True)
        outbox = open_outbox()
        for _ in range(3):
            outbox.append(data())
        outbox.close()
        assert any("3 messages could not be written (No space left" in line for line in caplog.messages)

    def test_with_segments_at_hand_the_oldest_make_room(
        self, folder: Path, open_outbox: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        outbox = open_outbox(max_mb=8)
        while len(list(folder.glob("*.seg"))) < 5:
            outbox.append(data(5_000))
            outbox.commit()

        def no_space(path: Path, size: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(segment, "create", no_space)
        while outbox.stats().dropped["data"] < 50:
            outbox.append(data(5_000))
            assert outbox.commit()  # it continues to write: the disk is full, not the outbox
        records = take(outbox)
        gap = lost(records)
        assert gap.count() == outbox.stats().dropped["data"]
        gap.update((record.seq, record.seq) for record in records)
        assert list(gap) == [(1, outbox.head)]


class TestHostileFolder:
    def test_what_is_no_file_is_left_alone(self, folder: Path, open_outbox: Open) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "000001.seg").mkdir()
        (folder / "000002.seg").symlink_to("/dev/zero")  # reading it to the end would take all memory
        outbox = open_outbox()
        outbox.append(data())
        assert outbox.commit()
        assert [record.seq for record in take(outbox)] == [1]


class TestHostileMessages:
    def test_too_large_a_body_is_declared(self, open_outbox: Open) -> None:
        outbox = open_outbox()
        assert outbox.append(data(60_000)) == 1
        assert outbox.append(data()) == 2
        outbox.commit()
        records = take(outbox)
        assert list(lost(records)) == [(1, 1)]
        assert outbox.stats().dropped["data"] == 1

    @pytest.mark.parametrize("value", ["\ud800", object(), {1: {2: {3: object()}}}])
    def test_what_cannot_be_encoded_is_declared(self, open_outbox: Open, value: object) -> None:
        outbox = open_outbox()
        outbox.append(Message("event", "arm", "alarm", Event(ts=1, type="alarm", detail={"x": value})))
        outbox.commit()
        assert list(lost(take(outbox))) == [(1, 1)]


class TestFiles:
    @pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
    def test_an_acknowledgement_in_mid_seal_leaves_the_file_open(
        self, open_outbox: Open, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        """Another thread releases a segment while the writer writes or flushes its seal."""
        outbox = open_outbox()
        pwrite, fdatasync = os.pwrite, os.fdatasync
        sealing, files = list[int](), list[str]()

        def acknowledge(fd: int) -> None:
            thread = threading.Thread(target=lambda: outbox.ack([(1, ALL)]))
            files.append(os.path.realpath(f"/proc/self/fd/{fd}"))
            thread.start()
            thread.join(30)
            files.append(os.path.realpath(f"/proc/self/fd/{fd}"))

        def watched_pwrite(fd: int, data: bytes, at: int) -> int:
            if at == segment._SEAL_AT:
                sealing.append(fd)
                if call == "pwrite":
                    acknowledge(fd)
            return pwrite(fd, data, at)

        def watched_fdatasync(fd: int) -> None:
            if sealing and not files:
                acknowledge(fd)
            fdatasync(fd)

        monkeypatch.setattr(os, "pwrite", watched_pwrite)
        monkeypatch.setattr(os, "fdatasync", watched_fdatasync)
        while not sealing:
            outbox.append(data(5_000))
            before = outbox.stats().depth
            take(outbox)  # everything except what the next commit writes
            assert outbox.commit()
        assert files[0] == files[1]
        assert before > 10
        assert outbox.stats().depth == 1

    def test_a_segment_of_an_earlier_life_is_sealed(self, open_outbox: Open) -> None:
        """Without a seal, a later open takes the numbers of the next segment, if it is free, for damage."""
        outbox = open_outbox()
        self._fill_one(outbox)
        outbox.close()
        outbox = open_outbox()
        self._reuse_all_but_the_first(outbox)
        outbox.close()
        assert open_outbox().drops() == {}

    def test_a_segment_that_a_kill_left_without_its_seal_gets_one(
        self, folder: Path, tmp_path: Path, open_outbox: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pwrite = os.pwrite

        def no_seal(fd: int, data: bytes, at: int) -> int:
            if at == segment._SEAL_AT:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return pwrite(fd, data, at)

        outbox = open_outbox()
        self._fill_one(outbox)
        monkeypatch.setattr(os, "pwrite", no_seal)
        outbox.append(data(45_000, rows=1))
        assert outbox.commit()
        monkeypatch.undo()
        killed = tmp_path / "killed"
        shutil.copytree(folder, killed)
        outbox = open_outbox(at=killed)
        self._reuse_all_but_the_first(outbox)
        outbox.close()
        assert open_outbox(at=killed).drops() == {}

    def _fill_one(self, outbox: Outbox) -> None:
        """Fill a segment so far that the next large record needs another one."""
        for size in (45_000, 45_000, 20_000):
            outbox.append(data(size, rows=1))
            assert outbox.commit()

    def _reuse_all_but_the_first(self, outbox: Outbox) -> None:
        for _ in range(40):
            outbox.append(data(45_000, rows=1))
            assert outbox.commit()
            outbox.ack([(each.seq, each.seq) for each in take(outbox) if each.seq != 1])

    def test_closing_leaves_no_file_open(self, folder: Path, open_outbox: Open) -> None:
        outbox = open_outbox()
        for turn in range(100):
            outbox.append(event(100) if turn % 5 == 0 else data(9_000))
            assert outbox.commit()
            if turn % 10 == 0:
                records = take(outbox)
                outbox.ack([(record.seq, record.seq) for record in records])
        assert _open_in(folder)
        outbox.close()
        assert _open_in(folder) == []

    def test_a_write_that_fails_in_one_class_loses_and_doubles_nothing(
        self, open_outbox: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        outbox = open_outbox()
        for message in (data(), event()):
            outbox.append(message)
            assert outbox.commit()
        pwrite, left = os.pwrite, [2]

        def fails(fd: int, data: bytes, at: int) -> int:
            left[0] -= 1
            if left[0] == 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return pwrite(fd, data, at)

        for message in (data(), event(), data()):
            outbox.append(message)
        monkeypatch.setattr(os, "pwrite", fails)
        assert not outbox.commit()
        assert outbox.stats().head == 2
        assert outbox.commit()
        assert sorted(record.seq for record in take(outbox)) == [1, 2, 3, 4, 5]
        outbox.close()
        again = open_outbox()
        assert sorted(record.seq for record in take(again)) == [1, 2, 3, 4, 5]
        assert again.head == 5


class TestFolder:
    def test_a_second_process_is_refused(self, folder: Path, open_outbox: Open) -> None:
        open_outbox()
        with pytest.raises(TryAgain, match="another process"):
            Outbox.open(folder, OutboxSettings(), Clock())

    def test_no_folder_can_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError, match="a part of this path is a file"):
            Outbox.open(tmp_path / "file" / "outbox", OutboxSettings(), Clock())

    def test_a_folder_that_cannot_be_written(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
        with pytest.raises(ConfigError, match="Permission denied"):
            Outbox.open(folder, OutboxSettings(), Clock())

    @pytest.mark.parametrize("each", [0, 1, 2])
    def test_a_free_file_that_was_deleted_costs_no_other(
        self, each: int, folder: Path, open_outbox: Open
    ) -> None:
        outbox = open_outbox()
        while not outbox._pool.full:
            for _ in range(20):
                outbox.append(data(2_000))
            assert outbox.commit()
        ack(outbox, take(outbox))
        freed, free = [segment.path for segment in outbox._state._freed], len(outbox._pool)
        assert len(freed) > 2
        freed[each].unlink()
        outbox.append(data())
        assert outbox.commit()
        assert len(outbox._pool) == free + len(freed) - 1
        assert len(outbox._pool._files) == len(list(folder.glob("*.seg"))) == 6  # another can be made

    @pytest.mark.parametrize("deleted", [1, 2])
    def test_deleted_free_files_are_made_again(self, deleted: int, folder: Path, open_outbox: Open) -> None:
        outbox = open_outbox()
        outbox.append(data())
        assert outbox.commit()
        for path in list(outbox._pool._free)[:deleted]:
            path.unlink()
        for _ in range(60):
            outbox.append(data(10_000))
            outbox.commit()
            ack(outbox, take(outbox))
        assert not outbox.trouble
        assert outbox.stats().depth == 0
        assert len(outbox._pool._files) == len(list(folder.glob("*.seg")))

    def test_an_append_after_the_event_loop_has_ended_raises_nothing(self, open_outbox: Open) -> None:
        outbox = open_outbox()

        async def commit_for_a_moment() -> None:
            task = asyncio.create_task(keep_committing(outbox, 1))
            await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        asyncio.run(commit_for_a_moment())
        assert outbox.append(data()) == 1
        assert outbox.commit()

    def test_closing_twice(self, open_outbox: Open) -> None:
        outbox = open_outbox()
        outbox.close()
        outbox.close()
        assert outbox.commit()


def _patience(outbox: Outbox) -> None:
    """Let a pool that could not grow try again now instead of after some seconds."""
    outbox._pool._retry_at = 0.0
    assert outbox.commit()


def _open_in(folder: Path) -> list[Path]:
    """The files of a folder that this process has open."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the descriptor of this listing itself
            found.append(link.readlink())
    return [path for path in found if path.is_relative_to(folder)]


class TestCounts:
    def test_what_was_dropped_is_counted_by_class_and_reason(self, open_outbox: Open) -> None:
        outbox = open_outbox()
        for size in (60_000, 60_000):
            outbox.append(data(size, rows=3))
        outbox.append(Message("event", "arm", "alarm", Event(ts=1, type="alarm", detail={"x": object()})))
        outbox.append(Message("data", "d" * 200, "s" * 55, Batch(t0=1, per=1, n=1, f={"x": [1]})))
        outbox.append(Message("data", "d" * 200, "s" * 54, Batch(t0=1, per=1, n=1, f={"x": [1]})))
        assert outbox.drops() == {"data": {"too-large": (3, 7)}, "event": {"unencodable": (1, 1)}}
        outbox.commit()
        stats = outbox.stats()
        assert (stats.dropped, stats.dropped_rows, stats.torn_bytes) == ({"data": 3, "event": 1}, 8, 0)
        assert list(lost(take(outbox))) == [(1, 4)]

    def test_numbers_that_a_crash_took_are_counted_as_of_an_unknown_class(
        self, folder: Path, open_outbox: Open
    ) -> None:
        outbox = open_outbox()
        for _ in range(3):
            outbox.append(data())
            outbox.commit()
        outbox.close()
        path = next(each for each in folder.glob("*.seg") if b"arm/joints" in each.read_bytes())
        raw = path.read_bytes()
        at = raw.rfind(b"arm/joints")
        path.write_bytes(raw[: at + 4] + bytes(len(raw) - at - 4))  # the mark has seen the third
        outbox = open_outbox()
        ((reason, counts),) = outbox.drops()["unknown"].items()
        assert (reason, counts, outbox.head) == ("damaged", (1, 0), 3)
        outbox.commit()
        assert list(lost(take(outbox))) == [(3, 3)]
        assert outbox.stats().torn_bytes > 0

    def test_parts_are_given_when_asked_or_when_a_day_has_ended(self, open_outbox: Open) -> None:
        outbox = open_outbox()
        assert (outbox.unstated, outbox.has_closed, outbox.parts()) == (False, False, [])
        outbox.append(data(rows=4))
        assert (outbox.unstated, outbox.parts(closed=True)) == (True, [])
        (part,) = outbox.parts()
        assert (part.run, part.first, part.upto, part.streams) == (1, 1, 1, {"data/arm/joints": (1, 1, 4)})
        assert not outbox.unstated

    def test_the_settings_of_a_config_without_any(self) -> None:
        found = OutboxSettings()
        assert (found.max_mb, found.group_commit_ms, found.drain_kb_per_s) == (256, 50, 1_000)
        assert (found.packs, found.ack) == (True, "collector")


class TestDamage:
    def test_numbers_of_the_other_class_are_not_declared_with_a_damaged_record(
        self, folder: Path, open_outbox: Open
    ) -> None:
        outbox = open_outbox()
        for message in (data(), event(), data(5_000), data(), event()):
            outbox.append(message)
        outbox.commit()
        path = next(each for each in folder.glob("*.seg") if b"v" * 5_000 in each.read_bytes())
        raw = bytearray(path.read_bytes())
        raw[raw.find(b"v" * 5_000)] ^= 1
        path.write_bytes(raw)
        assert [record.seq for record in take(outbox)] == [2, 5, 1, 4]
        assert outbox.stats().torn_bytes > 5_000
        outbox.commit()
        assert list(lost(take(outbox))) == [(3, 3)]

    def test_a_write_that_failed_and_reached_the_disk_all_the_same_is_given_out_once(
        self, folder: Path, open_outbox: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        outbox = open_outbox()
        outbox.append(data())
        assert outbox.commit()
        fdatasync, left = os.fdatasync, [1]

        def fails(fd: int) -> None:
            fdatasync(fd)
            if left:
                left.clear()
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        outbox.append(data())
        monkeypatch.setattr(os, "fdatasync", fails)
        assert not outbox.commit()
        assert outbox.commit()
        outbox.close()
        files = [path.read_bytes().count(b"arm/joints") for path in sorted(folder.glob("*.seg"))]
        assert files[:2] == [2, 1], "a file whose flush failed is not written to again"
        outbox = open_outbox()
        records = take(outbox)
        assert [record.seq for record in records] == [1, 2]
        assert ack(outbox, records) == 2
        assert (outbox.stats().depth, outbox.drops()) == (0, {})
