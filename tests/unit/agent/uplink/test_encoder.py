"""From the outbox into the window: however full the window was, no record stays behind."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from agent.outbox import Message, Outbox, OutboxSettings, Record
from agent.uplink import in_flight as in_flight_module
from agent.uplink.encoder import Encoder
from agent.uplink.fence import UplinkFence
from agent.uplink.in_flight import InFlightWindow
from wire.clock import Clock
from wire.messages import Batch, ClockState
from wire.ranges import Ranges
from wire.task_cancellation import end
from wire.topics import Address

NODE = Address("acme", "trial", "hall", "n1")


def new_encoder(outbox: Outbox) -> Encoder:
    """An encoder without a fence."""
    return Encoder(outbox, NODE, Clock(), lambda: ClockState.NTP, UplinkFence(None))


@pytest.mark.parametrize("short", range(0, 121, 10))
async def test_what_did_not_fit_is_read_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: int
) -> None:
    """The rest of the room may be less than a record, less than its overhead, or nothing."""
    outbox = Outbox.open(tmp_path / "outbox", OutboxSettings(max_mb=4), Clock())
    for _ in range(4):
        body = Batch(t0=1_000, per=1, n=1, f={"x": ["v" * 8_000]})
        outbox.append(Message("data", "arm", "joints", body))
    outbox.commit()
    (first,) = outbox.take(1, 1)
    monkeypatch.setattr(in_flight_module, "WINDOW_BYTES", 2 * len(first.body) + short)
    encoder, in_flight = new_encoder(outbox), InFlightWindow()
    got: list[int] = []
    for turn in range(6):
        await encoder.fill(in_flight, float(turn))
        while (sent := in_flight.next(float(turn), 100)) is not None:
            in_flight.sent(sent, len(got) + 1, float(turn))
            got.append(sent.seq)
        in_flight.acked(Ranges((seq, seq) for seq in got), float(turn))
    assert sorted(got) == [2, 3, 4]
    outbox.close()


async def test_a_slow_disk_outlasts_the_end_of_a_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records read while a connection ends are sent over the next one, after any number of cancellations."""
    outbox = Outbox.open(tmp_path / "outbox", OutboxSettings(max_mb=4), Clock())
    outbox.append(Message("data", "arm", "joints", Batch(t0=1_000, per=1, n=1, f={"x": [1.0]})))
    outbox.commit()
    reading, go_on, real = threading.Event(), threading.Event(), outbox.take

    def slow(messages: int, size: int) -> list[Record]:
        reading.set()
        assert go_on.wait(30)
        return real(messages, size)

    monkeypatch.setattr(outbox, "take", slow)
    monkeypatch.setattr("wire.task_cancellation.AGAIN_S", 0.01)
    encoder, in_flight = new_encoder(outbox), InFlightWindow()
    filling = asyncio.create_task(encoder.fill(in_flight, 0.0))
    assert await asyncio.to_thread(reading.wait, 30)
    late = await end([filling], 0.1)  # some ten cancellations
    go_on.set()
    assert late == {filling}, "it does not end before it has the records"
    await end([filling])
    assert len(in_flight) == 1
    outbox.close()


async def test_one_trip_to_the_disk_reads_all_that_was_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each trip wakes a thread: a second one that finds nothing is left out, also after an error."""
    outbox = Outbox.open(tmp_path / "outbox", OutboxSettings(max_mb=4), Clock())
    reads: list[int] = []
    take = outbox.take

    def failing(messages: int, size: int) -> list[Record]:
        if len(reads) == 1:
            reads.append(0)
            raise OSError("too many open files")
        found = take(1, size)  # as little at once as it may
        reads.append(len(found))
        return found

    monkeypatch.setattr(outbox, "take", failing)
    encoder, in_flight = new_encoder(outbox), InFlightWindow()
    for _ in range(3):
        outbox.append(Message("data", "arm", "joints", Batch(t0=1_000, per=1, n=1, f={"x": [1.0]})))
    outbox.commit()
    await encoder.fill(in_flight, 0.0)
    assert (reads, len(in_flight)) == ([1, 0], 1), "what was read before the error is kept"
    await encoder.fill(in_flight, 0.0)
    assert (reads, len(in_flight)) == ([1, 0, 1, 1, 0], 3)
    await encoder.fill(in_flight, 0.0)
    assert reads == [1, 0, 1, 1, 0], "nothing was committed since"
    outbox.close()
