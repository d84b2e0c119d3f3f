"""Two copies: a number leaves the outbox when every named collector has it; what waits costs no memory."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from agent.outbox import Message, Outbox, OutboxSettings, Record
from agent.outbox.copies import Copies
from wire.clock import Clock
from wire.messages import Batch, Event
from wire.ranges import Ranges

Open = Callable[..., Outbox]
ALL = 1 << 30
ONE, TWO = "collector-1", "collector-2"


@pytest.fixture
def open_outbox(tmp_path: Path) -> Iterator[Open]:
    with contextlib.ExitStack() as stack:

        def open_outbox(max_mb: int = 1, names: tuple[str, ...] = (ONE, TWO)) -> Outbox:
            settings = OutboxSettings(max_mb=max_mb, ack_from=list(names))
            outbox = Outbox.open(tmp_path / "outbox", settings, Clock())
            stack.callback(outbox.close)
            return outbox

        yield open_outbox


def fill(outbox: Outbox, count: int, size: int = 100) -> list[int]:
    """Append messages, each fourth an event, and commit them; their numbers."""
    numbers = []
    for at in range(count):
        if at % 4 == 3:
            message = Message("event", "arm", "alarm", Event(ts=1, type="alarm", detail={"x": "v" * size}))
        else:
            message = Message("data", "arm", "joints", Batch(t0=1, per=10, n=1, f={"x": ["v" * size]}))
        numbers.append(outbox.append(message))
        if at % 8 == 7:
            assert outbox.commit()
    assert outbox.commit()
    return numbers


def take(outbox: Outbox) -> list[int]:
    return sorted(record.seq for record in _take(outbox))


def _take(outbox: Outbox) -> list[Record]:
    return outbox.take(ALL, ALL) + outbox.take_overtaken(ALL, ALL)


def span(first: int, last: int) -> Ranges:
    return Ranges([(first, last)])


def test_a_message_leaves_when_both_have_it(open_outbox: Open) -> None:
    outbox = open_outbox()
    fill(outbox, 10)
    take(outbox)
    first = outbox.ack_by(ONE, span(1, 10))
    assert (first.released, list(first.waiting), first.lacking) == (0, [(1, 10)], (TWO,))
    assert outbox.stats().depth == 10
    second = outbox.ack_by(TWO, span(1, 7))
    assert (second.released, list(second.waiting), second.lacking) == (7, [], ())
    assert (outbox.stats().depth, outbox.stats().acked) == (3, 7)


def test_the_same_collector_twice_is_one_copy(open_outbox: Open) -> None:
    outbox = open_outbox()
    fill(outbox, 3)
    take(outbox)
    for _ in range(2):
        assert outbox.ack_by(ONE, span(1, 3)).released == 0
    assert outbox.stats().depth == 3


def test_an_unknown_collector_releases_nothing(open_outbox: Open) -> None:
    outbox = open_outbox()
    fill(outbox, 3)
    take(outbox)
    outbox.ack_by("collector-9", span(1, 3))
    assert outbox.ack_by(ONE, span(1, 3)).released == 0
    assert outbox.stats().depth == 3


def test_without_names_any_collector_releases(open_outbox: Open) -> None:
    outbox = open_outbox(names=())
    fill(outbox, 3)
    take(outbox)
    assert outbox.ack_by("collector-9", span(1, 3)).released == 3


def test_an_acknowledgement_before_the_sending_does_not_count(open_outbox: Open) -> None:
    """A stale or forged one would release a message that is stored nowhere."""
    outbox = open_outbox()
    fill(outbox, 3)
    outbox.ack_by(ONE, span(1, 1000))
    outbox.ack_by(TWO, span(1, 1000))
    assert take(outbox) == [1, 2, 3]
    assert outbox.ack_by(ONE, span(1, 3)).released == 0
    assert outbox.stats().depth == 3


def test_what_is_aside_is_read_again_and_only_that(open_outbox: Open) -> None:
    outbox = open_outbox()
    numbers = fill(outbox, 20)
    take(outbox)
    outbox.ack_by(ONE, span(1, 20))
    outbox.ack_by(TWO, Ranges([(3, 4), (9, 9)]))
    outbox.set_aside(numbers)
    assert outbox.aside
    assert take(outbox) == []
    assert outbox.stats().acked == 0
    outbox.rewind()
    waiting = [seq for seq in numbers if seq not in (3, 4, 9)]
    assert take(outbox) == waiting
    assert take(outbox) == []
    assert outbox.ack_by(TWO, span(1, 20)).released == len(waiting)  # the other acknowledged them before
    assert (outbox.stats().depth, outbox.aside) == (0, False)


def test_what_is_aside_is_released_without_reading_it_again(open_outbox: Open) -> None:
    """The broker kept the messages for the collector that was away."""
    outbox = open_outbox()
    fill(outbox, 200, size=2_000)
    numbers = take(outbox)
    outbox.ack_by(ONE, span(1, numbers[-1]))
    outbox.set_aside(numbers)
    assert outbox.ack_by(TWO, span(1, numbers[-1])).waiting == Ranges()
    assert (outbox.stats().depth, outbox.aside) == (0, False)
    outbox.rewind()
    assert take(outbox) == []


def test_a_restart_sends_again_what_one_collector_lacks(open_outbox: Open) -> None:
    outbox = open_outbox()
    fill(outbox, 12)
    numbers = take(outbox)
    outbox.ack_by(ONE, span(1, 12))
    outbox.ack_by(TWO, span(1, 4))
    outbox.set_aside(numbers)
    outbox.close()
    again = open_outbox()
    assert take(again) == list(range(5, 13))


def test_a_full_outbox_declares_what_a_collector_lacks_and_nothing_else(open_outbox: Open) -> None:
    outbox = open_outbox(max_mb=1)
    got: dict[str, Ranges] = {ONE: Ranges(), TWO: Ranges()}
    declared = Ranges()
    for turn in range(40):
        fill(outbox, 25, size=4_000)
        records = _take(outbox)
        for record in records:
            if record.tail == "_/gap":
                declared.update(msgspec.json.decode(record.body, type=Event).lost)
        numbers = [record.seq for record in records]
        sent = Ranges((seq, seq) for seq in sorted(numbers))
        got[ONE].update(sent)
        outbox.ack_by(ONE, sent)
        if turn < 10:
            got[TWO].update(sent)
            outbox.ack_by(TWO, sent)
        outbox.set_aside(numbers)
    assert outbox.stats().dropped["data"] > 0
    outbox.rewind()
    numbers = take(outbox)
    got[TWO].update((seq, seq) for seq in numbers)
    for ranges in got.values():
        ranges.update(declared)
        assert ranges.missing(1, numbers[-1]) == []
    assert declared
    assert not [part for first, last in declared for part in Ranges([(1, 250)]).within(first, last)]


class Traffic:
    """An outbox, and which numbers each collector has."""

    def __init__(self, open_outbox: Callable[[], Outbox], seed: int) -> None:
        self.chance = random.Random(seed)
        self.open_outbox = open_outbox
        self.outbox = open_outbox()
        self.has = {ONE: Ranges(), TWO: Ranges()}
        self.declared = Ranges()
        self.wire: list[int] = []  # given out, and not aside

    def fill(self) -> None:
        fill(self.outbox, self.chance.randint(1, 12), self.chance.choice((50, 3_000, 12_000)))

    def take(self) -> None:
        records = self.outbox.take(self.chance.randint(1, 30), ALL) + self.outbox.take_overtaken(10, ALL)
        assert not set(self.wire) & {record.seq for record in records}, "given out twice"
        self.note(records)

    def note(self, records: list[Record]) -> None:
        self.wire += [record.seq for record in records]
        for record in records:
            if record.tail == "_/gap":
                self.declared.update(msgspec.json.decode(record.body, type=Event).lost)

    def ack(self) -> None:
        by = self.chance.choice((ONE, TWO))
        some = Ranges((seq, seq) for seq in sorted(self.chance.sample(self.wire, len(self.wire) * 2 // 3)))
        self.has[by].update(some)
        self.outbox.ack_by(by, some)

    def aside(self) -> None:
        aside = [seq for seq in self.wire if seq in self.has[ONE] or seq in self.has[TWO]]
        self.outbox.set_aside(aside)
        self.wire = [seq for seq in self.wire if seq not in aside]

    def rewind(self) -> None:
        self.outbox.rewind()
        self.wire = []

    def split(self) -> None:
        self.outbox.overtake(0)

    def restart(self) -> None:
        self.outbox.close()
        self.outbox = self.open_outbox()
        self.wire = []

    def look(self) -> None:
        assert self.outbox.commit()
        stats = self.outbox.stats()
        assert 0 <= stats.acked <= stats.head

    def judge(self) -> None:
        self.rewind()
        for _ in range(3):  # a commit may declare more
            self.note(_take(self.outbox))
            assert self.outbox.commit()
        got = Ranges((seq, seq) for seq in sorted(self.wire))
        for ranges in self.has.values():
            ranges.update(got)
            ranges.update(self.declared)
            assert ranges.missing(1, self.outbox.head) == []
        for name in self.has:
            self.outbox.ack_by(name, span(1, self.outbox.head))
        assert self.outbox.stats().depth == 0


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_order_each_collector_gets_everything_or_a_gap(open_outbox: Open, seed: int) -> None:
    traffic = Traffic(lambda: open_outbox(max_mb=1 + seed % 2), seed)
    steps = (traffic.fill, traffic.take, traffic.ack, traffic.aside, traffic.rewind, traffic.split)
    for _ in range(120):
        traffic.chance.choices((*steps, traffic.restart), (3, 2, 3, 1, 1, 1, 1))[0]()
        traffic.look()
    traffic.judge()


def test_copies_remember_ranges_and_no_numbers() -> None:
    copies = Copies((ONE, TWO))
    for first in range(1, 100_000, 100):
        copies.ack(ONE, [(first, first + 99)])
    copies.set_aside(range(1, 100_001))
    assert len(copies.aside) == 1
    assert copies.lacking(span(5, 6)) == [TWO]
    assert list(copies.ack(TWO, [(1, 100_000)])) == [(1, 100_000)]
    assert not copies.aside
    assert len(copies.released) == 1
