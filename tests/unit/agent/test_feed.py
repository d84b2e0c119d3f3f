"""From the outbox into the window: nothing stays behind because of how full the window was."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent import flight as flight_module
from agent.feed import Feed
from agent.flight import Flight
from agent.message import Message
from agent.outbox import Outbox, OutboxSettings
from wire.clock import Clock
from wire.messages import Batch, ClockState
from wire.ranges import Ranges
from wire.topics import Address

NODE = Address("acme", "trial", "hall", "n1")


@pytest.mark.parametrize("short", range(0, 121, 10))
async def test_what_did_not_fit_is_read_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: int
) -> None:
    """Whatever the last bit of room is: less than a record, its overhead, or nothing."""
    outbox = Outbox.open(tmp_path / "outbox", OutboxSettings(max_mb=4), Clock())
    for _ in range(4):
        body = Batch(t0=1_000, per=1, n=1, f={"x": ["v" * 8_000]})
        outbox.append(Message("data", "arm", "joints", body))
    outbox.commit()
    (first,) = outbox.take(1, 1)
    monkeypatch.setattr(flight_module, "WINDOW_BYTES", 2 * len(first.body) + short)
    feed, flight = Feed(outbox, NODE, Clock(), lambda: ClockState.NTP), Flight()
    got: list[int] = []
    for turn in range(6):
        await feed.fill(flight, float(turn))
        while (sent := flight.next(float(turn), 100)) is not None:
            flight.sent(sent, len(got) + 1, float(turn))
            got.append(sent.seq)
        flight.acked(Ranges((seq, seq) for seq in got), float(turn))
    assert sorted(got) == [2, 3, 4]
    outbox.close()
