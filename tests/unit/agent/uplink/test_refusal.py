"""A refusal lasts as long as the collector asks, by its clock, and ten minutes at most."""

from __future__ import annotations

from agent.uplink.refusal import MAX_WAIT_S, Refusal
from wire.clock import NS_PER_S, Clock
from wire.messages import Refused

T0 = 1_795_356_000_000


class SetClock(Clock):
    """A clock whose time the test sets."""

    s = 0.0

    def monotonic_ns(self) -> int:
        return int(self.s * NS_PER_S)


def test_the_wait_needs_no_equal_clocks() -> None:
    clock = SetClock()
    refusal = Refusal(clock)
    assert refusal.current is None
    refused = Refused(code="share-values", until=T0 + 3_000, why="too many")
    assert refusal.note(refused, T0) == 3.0
    assert refusal.current == refused
    clock.s = 7.9
    assert refusal.current == refused, "it may come again"
    clock.s = 8.1
    assert refusal.current is None


def test_the_wait_is_bounded() -> None:
    refusal = Refusal(SetClock())
    assert refusal.note(Refused(code="share-disk", until=T0 + 80_000_000), T0) == MAX_WAIT_S
    assert refusal.note(Refused(code="share-bytes", until=0), T0) == 0.0


def test_only_some_messages_exceed_a_share_of_names() -> None:
    refusal = Refusal(SetClock())
    for code in ("share-names", "share-streams", "share-live", "a-code-of-a-later-release"):
        assert refusal.note(Refused(code=code, until=T0 + 9_000), T0) == 0.0
        assert refusal.current is not None
