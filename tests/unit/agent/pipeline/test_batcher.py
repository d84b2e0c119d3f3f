"""Rows to batches: each rule for sending, times, rounding, quality and live values."""

from __future__ import annotations

import math
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clock_sync import Stamps
from agent.outbox import Message
from agent.pipeline.batcher import Batcher, batch
from agent.pipeline.settings import PublishConfig
from agent.pipeline.sinks import Sinks
from wire.clock import NS_PER_MS, NS_PER_S, Clock
from wire.codec import decode, decode_live, encode
from wire.messages import MAX_BODY, Batch, ClockState, Field, Live, Quality, Stream

T0 = 1_760_000_000_000 * NS_PER_MS


class SteppedClock(Clock):
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        super().__init__(start_ns=T0)
        self.passed_ns = 0

    def monotonic_ns(self) -> int:
        return self.passed_ns


class Desk:
    """A batcher with everything it handed on."""

    def __init__(self, stream: Stream, *, live_hz: float = 0, raw: bool = True) -> None:
        self.sent: list[Message] = []
        self.shown: list[Live] = []
        self.clock = SteppedClock()
        self.clk = ClockState.NTP
        self.batcher = Batcher(
            "arm",
            "joints",
            stream,
            stamps=Stamps(self.clock, lambda: self.clk),
            sinks=Sinks(send=self.sent.append, live=lambda device, name, body: self.shown.append(body)),
            publish=PublishConfig(raw=raw, live_hz=live_hz),
        )

    def body(self, at: int = -1) -> Batch:
        found = self.sent[at].body
        assert isinstance(found, Batch)
        return found

    def passes(self, seconds: float) -> None:
        self.clock.passed_ns += round(seconds * NS_PER_S)
        self.batcher.tick()


ROWS = Stream(fields={"q": Field(dec=3), "ok": Field(t="bool"), "word": Field(t="str")})


def test_a_hundred_rows_are_one_message_with_a_period() -> None:
    desk = Desk(ROWS)
    for i in range(250):
        desk.batcher.add(T0 + i * 20 * NS_PER_MS, {"q": i / 3, "ok": True, "word": "a"})
    assert [message.rows for message in desk.sent] == [100, 100]
    body = desk.body(0)
    assert (body.per, body.n, body.tu, body.dt) == (20, 100, "ms", msgspec.UNSET)
    assert body.f["q"][:3] == [0.0, 0.333, 0.667]
    assert body.q is msgspec.UNSET
    desk.batcher.flush()
    assert desk.sent[-1].rows == 50
    assert (desk.sent[-1].cls, desk.sent[-1].device, desk.sent[-1].name) == ("data", "arm", "joints")


def test_a_second_is_long_enough() -> None:
    desk = Desk(ROWS)
    desk.batcher.add(T0, {"q": 1.0})
    desk.passes(0.9)
    assert not desk.sent
    desk.passes(0.2)
    assert desk.sent[0].rows == 1
    assert desk.body().f == {"q": [1.0], "ok": [None], "word": [None]}
    desk.passes(5)
    assert len(desk.sent) == 1


def test_large_rows_flush_by_size_and_every_body_fits_a_message() -> None:
    desk = Desk(Stream(fields={"text": Field(t="str")}))
    for i in range(60):
        desk.batcher.add(T0 + i * NS_PER_MS, {"text": "é" * 1_900})
    desk.batcher.flush()
    assert sum(message.rows for message in desk.sent) == 60
    assert all(len(encode(message.body)) <= MAX_BODY for message in desk.sent)
    assert 5 <= desk.sent[0].rows <= 12


@pytest.mark.parametrize("number", [-1.2345678901234567e-100, -(2**63), 0.0])
@pytest.mark.parametrize("fields", [1, 18, 60, 1_200])
def test_the_longest_numbers_fit_a_message(number: float, fields: int) -> None:
    desk = Desk(Stream(fields={f"f{i}": Field() for i in range(fields)}))
    for i in range(101):
        desk.batcher.add(T0 + i * i, dict.fromkeys((f"f{i}" for i in range(fields)), number), Quality.BAD)
    desk.batcher.flush()
    assert sum(message.rows for message in desk.sent) == 101
    assert all(len(encode(message.body)) <= MAX_BODY for message in desk.sent)
    assert desk.sent[0].rows >= (100 if fields <= 18 else 1)


def test_a_row_that_is_too_large_is_counted_and_the_others_are_sent() -> None:
    desk = Desk(Stream(fields={f"f{i}": Field(t="str") for i in range(40)}))
    desk.batcher.add(T0, {f"f{i}": "x" * 2_000 for i in range(40)})
    desk.batcher.add(T0 + 1, {"f0": "x"})
    desk.batcher.flush()
    assert desk.batcher.oversized == 1
    assert [message.rows for message in desk.sent] == [1]


def test_quality_is_sent_only_if_a_row_is_flagged() -> None:
    desk = Desk(ROWS)
    desk.batcher.add(T0, {"q": 1.0})
    desk.batcher.add(T0 + NS_PER_S, {"q": 9.0}, Quality.OUT_OF_RANGE)
    desk.batcher.flush()
    assert desk.body().q == [0, 1]


def test_a_batch_never_mixes_times_of_a_set_and_an_unset_clock() -> None:
    desk = Desk(ROWS)
    desk.clk = ClockState.UNSYNCED
    desk.batcher.add(T0, {"q": 1.0})
    desk.clk = ClockState.NTP
    desk.batcher.add(T0 + NS_PER_S, {"q": 2.0})
    desk.batcher.flush()
    assert [(desk.body(i).clk, desk.body(i).f["q"]) for i in (0, 1)] == [(0, [1.0]), (1, [2.0])]


def test_a_devices_own_time_is_not_moved_when_the_clock_is_set() -> None:
    desk = Desk(ROWS)
    desk.clk = ClockState.UNSYNCED
    desk.batcher.add(T0, {"q": 1.0})
    desk.batcher.add(T0 + 60 * NS_PER_S, {"q": 2.0})
    desk.batcher.flush()
    assert [desk.body(i).clk for i in (0, 1)] == [0, msgspec.UNSET]
    assert [message.unsynced for message in desk.sent] == [True, False]


def test_a_clock_that_jumps_far_begins_a_new_batch() -> None:
    desk = Desk(ROWS)
    for at_ns in (T0, T0 + 1, 0, T0 * 2):
        desk.batcher.add(at_ns, {"q": 1.0})
    desk.batcher.flush()
    assert [message.rows for message in desk.sent] == [2, 1, 1]


def test_live_shows_the_newest_at_its_rate_and_the_last_one_too() -> None:
    desk = Desk(ROWS, live_hz=2)
    for i in range(20):
        desk.batcher.add(T0 + i * 100 * NS_PER_MS, {"q": float(i), "ok": True, "word": "w"})
        desk.passes(0.1)
    desk.passes(1)
    assert [body["q"] for body in desk.shown] == [0.0, 4.0, 9.0, 14.0, 19.0]
    assert desk.shown[0]["ts"] == T0 // NS_PER_MS


@pytest.mark.parametrize(("live_hz", "raw"), [(0.0, True), (0.5, True), (4.0, True), (10.0, False)])
def test_a_tick_at_the_due_times_alone_is_in_time(live_hz: float, raw: bool) -> None:
    """No row waits longer than a second, and no live value longer than its period, whenever the rows come."""
    desk, rng = Desk(ROWS, live_hz=live_hz, raw=raw), Random(7)
    due_ms, taken_ms, shown, ticks = 0.0, [], 0, 0
    for now_ms in range(0, 60_000, 10):
        desk.clock.passed_ns = now_ms * NS_PER_MS
        if rng.random() < (0.5 if now_ms < 30_000 else 0.004):  # fast, then slow
            taken_ms.append(now_ms)
            desk.batcher.add(T0 + now_ms * NS_PER_MS, {"q": 1.0, "ok": True, "word": "w"})
        if now_ms >= due_ms:
            desk.batcher.tick()
            ticks += 1
            due_ms = desk.batcher.due_s(now_ms / 1000) * 1000 - 1e-6
        sent = sum(message.rows for message in desk.sent)
        assert not raw or all(now_ms - at_ms <= 1000 for at_ms in taken_ms[sent : sent + 1])
        if live_hz and len(desk.shown) > shown:
            shown = len(desk.shown)
        if live_hz and taken_ms and now_ms - taken_ms[-1] > 1000 / live_hz:
            assert desk.shown[-1]["ts"] == T0 // NS_PER_MS + taken_ms[-1], "the last one is shown too"
    assert ticks < 60_000 / min(1000, 1000 / live_hz if live_hz else 1000) + 130


def test_a_stream_that_is_not_sent_has_live_values() -> None:
    desk = Desk(ROWS, live_hz=1, raw=False)
    desk.batcher.add(T0, {"q": math.nan})
    desk.passes(2)
    desk.batcher.flush()
    assert not desk.sent
    shown = decode_live(encode(desk.shown[0]))
    assert shown == {"ts": T0 // NS_PER_MS, "q": None, "ok": None, "word": None}


@pytest.mark.parametrize(
    ("step_us", "unit", "regular"),
    [
        (4_000, "ms", True),
        (2_777, "us", False),
        (2_500, "us", True),
        (33_333, "ms", False),
        (1_000, "ms", True),
    ],
)
def test_microseconds_are_sent_where_they_matter(step_us: int, unit: str, regular: bool) -> None:
    times_ns = [T0 + i * step_us * 1000 for i in range(50)]
    body = batch(times_ns, {"q": [0.0] * 50}, None, ClockState.NTP)
    assert body.tu == unit
    assert (body.per is not msgspec.UNSET) == (regular or unit == "us")


@given(st.lists(st.integers(0, 3_600 * 10**6), min_size=1, max_size=120))
def test_times_come_back_within_their_unit(offsets_us: list[int]) -> None:
    times_ns = [T0 + offset * 1000 for offset in offsets_us]
    body = decode(encode(batch(times_ns, {"q": [1.0] * len(times_ns)}, None, ClockState.NTP)), Batch)
    limit_us = 1 if body.tu == "us" else 1000
    for sent_ns, read_us in zip(times_ns, body.times_us(), strict=True):
        assert 0 <= sent_ns // 1000 - read_us < limit_us
