"""A backlog is overtaken: new records go first, and nothing is lost, doubled or held back."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec
import pytest

from agent.outbox import Message, Outbox, OutboxSettings, Record
from agent.outbox.cursors import MAX_CURSORS
from wire.clock import Clock
from wire.messages import Batch, Event
from wire.ranges import Ranges

ALL = 1 << 30
Open = Callable[..., Outbox]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "outbox"


@pytest.fixture
def open_outbox(folder: Path) -> Iterator[Open]:
    with ExitStack() as stack:

        def open_outbox(max_mb: int = 1, at: Path = folder) -> Outbox:
            outbox = Outbox.open(at, OutboxSettings(max_mb=max_mb), Clock())
            stack.callback(outbox.close)
            return outbox

        yield open_outbox


def append(outbox: Outbox, count: int, *, size: int = 100, event_every: int = 0) -> list[int]:
    seqs = []
    for number in range(count):
        if event_every and number % event_every == 0:
            body = Event(ts=1, type="e", detail={"x": "v" * size})
            seqs.append(outbox.append(Message("event", "a", "e", body)))
        else:
            seqs.append(
                outbox.append(Message("data", "a", "s", Batch(t0=1, per=1, n=1, f={"x": ["v" * size]})))
            )
    assert outbox.commit()
    return seqs


def numbers(records: list[Record]) -> list[int]:
    return [record.seq for record in records]


def ack(outbox: Outbox, seqs: list[int]) -> int:
    return outbox.ack(Ranges((seq, seq) for seq in seqs))


def test_what_comes_now_goes_first_and_the_rest_by_number(open_outbox: Open) -> None:
    outbox = open_outbox()
    old = append(outbox, 20, event_every=3)
    assert outbox.overtake(0)
    new = append(outbox, 5)
    assert numbers(outbox.take(ALL, ALL)) == new
    assert numbers(outbox.take_overtaken(7, ALL)) == old[:7]
    newer = append(outbox, 2)
    assert numbers(outbox.take(ALL, ALL)) == newer
    assert numbers(outbox.take_overtaken(ALL, ALL)) == old[7:]
    assert outbox.take_overtaken(ALL, ALL) == []
    assert ack(outbox, [*old, *new, *newer]) == 27
    assert outbox.stats().depth == 0


def test_only_a_backlog_worth_it_is_overtaken(open_outbox: Open) -> None:
    outbox = open_outbox()
    assert not outbox.overtake(0)
    append(outbox, 10, size=500)
    assert not outbox.overtake(10_000)
    assert outbox.overtake(1_000)
    assert not outbox.overtake(0)  # nothing new was committed


def test_a_backlog_is_overtaken_again_and_again_up_to_a_limit(open_outbox: Open) -> None:
    outbox = open_outbox()
    every: list[list[int]] = []
    for turn in range(3 * MAX_CURSORS):
        every.append(append(outbox, 4))
        assert outbox.overtake(0) == (turn < MAX_CURSORS - 1)
    kept = outbox.take(ALL, ALL)
    assert numbers(kept) == [seq for seqs in every[MAX_CURSORS - 1 :] for seq in seqs]
    oldest = outbox.take_overtaken(ALL, ALL)
    assert numbers(oldest) == [seq for seqs in every[: MAX_CURSORS - 1] for seq in seqs]
    append(outbox, 1)
    assert outbox.overtake(0), "a drained cursor makes room"


def test_segments_of_fresh_data_are_free_again_while_the_backlog_waits(
    folder: Path, open_outbox: Open
) -> None:
    outbox = open_outbox()
    old = append(outbox, 30, size=5_000)
    outbox.overtake(0)
    for _ in range(200):  # several times the quota
        fresh = append(outbox, 5, size=5_000)
        assert numbers(outbox.take(ALL, ALL)) == fresh
        ack(outbox, fresh)
    stats = outbox.stats()
    assert (stats.depth, stats.dropped["data"], stats.acked) == (30, 0, 0)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 1_000_000
    assert numbers(outbox.take_overtaken(ALL, ALL)) == old


def test_a_segment_in_which_a_backlog_began_and_ended_is_released_once(open_outbox: Open) -> None:
    """The segment is read to its last record, as a window fills, and then acknowledged as a whole."""
    outbox = open_outbox(max_mb=8)
    old = append(outbox, 20)
    assert outbox.overtake(0)
    new = append(outbox, 200, size=5_000)  # fills the segment it shares with the backlog and starts the next
    assert numbers(outbox.take(ALL, ALL)) == new
    assert numbers(outbox.take_overtaken(len(old), ALL)) == old
    assert ack(outbox, [*old, *new]) == 220
    assert append(outbox, 1) == [221]
    assert numbers(outbox.take(ALL, ALL)) == [221]
    assert outbox.take_overtaken(ALL, ALL) == []


@pytest.mark.parametrize("graceful", [True, False])
def test_after_a_restart_only_the_last_segment_of_what_was_fresh_comes_again(
    folder: Path, open_outbox: Open, tmp_path: Path, graceful: bool
) -> None:
    outbox = open_outbox()
    old = append(outbox, 30, size=5_000)
    outbox.overtake(0)
    acked: list[int] = []
    for _ in range(40):
        fresh = append(outbox, 5, size=5_000)
        outbox.take(ALL, ALL)
        ack(outbox, fresh)
        acked += fresh
    at = folder
    if graceful:
        outbox.close()
    else:
        at = tmp_path / "copy"
        shutil.copytree(folder, at)
    again = open_outbox(at=at)
    again.commit()
    records = again.take(ALL, ALL)
    assert [record for record in records if record.tail == "_/gap"] == []
    assert set(old) <= set(numbers(records))
    assert len(set(numbers(records)) & set(acked)) < 60  # two segments of 131 kB, the border and the newest
    assert again.head == acked[-1]


def test_a_full_quota_takes_the_backlog_first(open_outbox: Open) -> None:
    outbox = open_outbox()
    old = append(outbox, 100, size=5_000)
    outbox.overtake(0)
    given: list[int] = []
    while outbox.stats().dropped["data"] < 20:
        append(outbox, 5, size=5_000)
    dropped = outbox.stats().dropped["data"]
    records = outbox.take(ALL, ALL) + outbox.take_overtaken(ALL, ALL)
    given = sorted(record.seq for record in records if record.tail != "_/gap")
    assert not set(old[:dropped]) & set(given)
    assert given[0] == old[dropped]


def test_a_damage_in_the_backlog_declares_nothing_that_overtook_it(folder: Path, open_outbox: Open) -> None:
    outbox = open_outbox(max_mb=8)
    old = append(outbox, 20)
    outbox.overtake(0)
    fresh = append(outbox, 20)
    outbox.close()
    path = max(folder.glob("*.seg"), key=lambda each: each.read_bytes().rstrip(b"\0").__len__())
    again = open_outbox(max_mb=8)
    again.overtake(0)  # everything is backlog now, with the damage in the middle
    raw = bytearray(path.read_bytes())
    at = raw.find(b"v" * 100, raw.find(b"v" * 100) + 3_000)
    raw[at : at + 50] = bytes(50)
    path.write_bytes(raw)
    newest = append(again, 1)
    assert numbers(again.take(ALL, ALL)) == newest
    records = again.take_overtaken(ALL, ALL)
    missing = sorted({*old, *fresh} - set(numbers(records)))
    assert len(missing) == 1
    again.commit()
    (gap,) = again.take(ALL, ALL)
    assert gap.tail == "_/gap"
    assert f'"lost":[[{missing[0]},{missing[0]}]]'.encode() in gap.body


@pytest.mark.parametrize("seed", [*range(12), 355])
def test_whatever_the_order_and_what_the_disk_refuses(
    open_outbox: Open, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Each message is given out once or declared, although some opens of files fail."""
    rng = random.Random(seed)
    share, real = rng.choice((0.0, 0.02, 0.1, 0.3)), os.open

    def opened(path: object, flags: int, *rest: int, **more: int) -> int:
        if str(path).endswith(".seg") and rng.random() < share:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(path, flags, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr("agent.outbox.segment_pool._RETRY_S", 0.0)
    outbox = open_outbox(max_mb=rng.choice((1, 8)))
    taken, acked, declared = set[int](), set[int](), Ranges()

    def take(records: list[Record]) -> None:
        assert not taken & set(numbers(records)), "given out twice"
        taken.update(numbers(records))
        for record in records:
            if record.tail == "_/gap":
                declared.update(msgspec.json.decode(record.body, type=Event).lost)

    for what in rng.choices(("append", "commit", "take", "overtake", "ack"), (8, 5, 4, 1, 2), k=150):
        if what == "append":
            for _ in range(rng.choice((1, 5, 30))):
                text = "v" * rng.choice((50, 1_000, 6_000))
                body = Batch(t0=1, per=1, n=1, f={"x": [text]})
                event = Event(ts=1, type="e", detail={"x": text})
                data = rng.random() < 0.7
                outbox.append(Message("data", "a", "s", body) if data else Message("event", "a", "e", event))
        elif what == "commit":
            outbox.commit()
        elif what == "take":
            some = rng.choice((outbox.take, outbox.take_overtaken))
            with suppress(OSError):
                take(some(rng.choice((1, 20, 500)), rng.choice((1, 30_000, ALL))))
        elif what == "overtake":
            outbox.overtake(0)
        else:
            known = {seq for seq in taken - acked if rng.random() < 0.7}
            acked |= known
            ack(outbox, sorted(known))
    share = 0.0
    for _ in range(3):  # damage found by reading is declared by the next commit
        assert outbox.commit()
        while records := outbox.take(ALL, ALL) + outbox.take_overtaken(ALL, ALL):
            take(records)
    assert [seq for seq in range(1, outbox.head + 1) if seq not in taken and seq not in declared] == []
    ack(outbox, sorted(taken))
    assert outbox.stats().depth == 0
