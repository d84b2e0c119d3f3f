"""The window between outbox and acknowledgement: limits, timers and who may let a message go."""

from __future__ import annotations

import pytest

from agent.flight import (
    NO_MATCHING_SUBSCRIBERS,
    QUIET_S,
    RESEND_MAX_S,
    RESEND_S,
    SOON_S,
    WINDOW,
    WINDOW_BYTES,
    WIRE_BYTES,
    Flight,
    Sent,
)
from wire.ranges import Ranges

MANY = 65_535


def filled(count: int = 3, size: int = 10, *, puback_is_enough: bool = False) -> Flight:
    flight = Flight(puback_is_enough=puback_is_enough)
    flight.connected(0.0)
    flight.add(Sent(seq, f"t/{seq}", b"x" * size) for seq in range(1, count + 1))
    return flight


def send_all(flight: Flight, now_s: float, first_mid: int = 1) -> list[int]:
    seqs = []
    while (sent := flight.next(now_s, MANY)) is not None:
        flight.sent(sent, first_mid + len(seqs), now_s)
        seqs.append(sent.seq)
    return seqs


def test_in_the_order_of_the_outbox_and_once() -> None:
    flight = filled()
    assert send_all(flight, 0.0) == [1, 2, 3]
    assert flight.next(0.0, MANY) is None


def test_room_is_what_the_window_leaves() -> None:
    flight = filled(10, size=100)
    assert flight.room == (WINDOW - 10, WINDOW_BYTES - 1_000)
    flight.acked(Ranges([(1, 4)]), 0.0)
    assert flight.room == (WINDOW - 6, WINDOW_BYTES - 600)


def test_the_broker_may_limit_what_is_on_the_wire() -> None:
    flight = filled(5)
    for mid in (1, 2):
        sent = flight.next(0.0, 2)
        assert sent is not None
        flight.sent(sent, mid, 0.0)
    assert flight.next(0.0, 2) is None
    flight.puback(1, 0, 0.0)
    assert flight.next(0.0, 2) is not None


def test_bytes_on_the_wire_are_limited() -> None:
    flight = filled(100, size=WIRE_BYTES // 4)
    assert len(send_all(flight, 0.0)) == 4


def test_an_acknowledgement_before_the_puback_still_occupies_the_wire() -> None:
    flight = filled(2)
    send_all(flight, 0.0)
    assert flight.acked(Ranges([(1, 2)]), 0.0) == [1, 2]
    assert (len(flight), flight.on_wire) == (0, 2)
    flight.puback(1, 0, 1.0)
    flight.puback(2, 0, 1.0)
    assert flight.on_wire == 0
    assert flight.room == (WINDOW, WINDOW_BYTES)


def test_resent_after_the_puback_with_doubling_delays() -> None:
    flight = filled(1)
    now_s, delays = 0.0, []
    for mid in range(1, 8):
        assert send_all(flight, now_s, mid) == [1]
        flight.puback(mid, 0, now_s)
        wait_s = flight.idle_s(now_s)
        assert wait_s is not None
        assert flight.next(now_s + wait_s - 0.001, MANY) is None
        delays.append(wait_s)
        now_s += wait_s
    assert delays == [RESEND_S * factor for factor in (1, 2, 4, 8, 16)] + [RESEND_MAX_S] * 2
    assert flight.resent == 6


def test_nothing_is_resent_while_the_broker_owes_a_puback() -> None:
    flight = filled(1)
    send_all(flight, 0.0)
    assert flight.next(10_000.0, MANY) is None
    assert flight.silent_s(20.0) == 20.0


def test_silence_counts_from_the_last_puback() -> None:
    flight = filled(2)
    assert flight.silent_s(5.0) == 0.0
    send_all(flight, 10.0)
    flight.puback(1, 0, 12.0)
    assert flight.silent_s(13.0) == 1.0
    flight.puback(2, 0, 14.0)
    assert flight.silent_s(99.0) == 0.0


def test_everything_again_on_a_new_connection() -> None:
    flight = filled(3)
    send_all(flight, 0.0)
    flight.puback(1, 0, 0.0)
    flight.acked(Ranges([(2, 2)]), 0.0)
    flight.connected(1.0)
    assert flight.on_wire == 0
    assert send_all(flight, 1.0) == [1, 3]
    assert flight.resent == 2


def test_pubacks_of_an_earlier_connection_change_nothing() -> None:
    flight = filled(1)
    assert flight.puback(77, 0, 0.0) == 0
    assert len(flight) == 1


@pytest.mark.parametrize("reason", [128, 131, 135, 151, 255])
@pytest.mark.parametrize("puback_is_enough", [False, True])
def test_a_refusing_puback_never_lets_a_message_go(reason: int, puback_is_enough: bool) -> None:
    flight = filled(1, puback_is_enough=puback_is_enough)
    send_all(flight, 0.0)
    assert flight.puback(1, reason, 0.0) == 0
    assert (len(flight), flight.refused) == (1, 1)
    assert flight.next(RESEND_S - 0.001, MANY) is None
    assert flight.next(RESEND_S, MANY) is not None


def test_puback_mode_lets_go_unless_nobody_listens() -> None:
    flight = filled(2, puback_is_enough=True)
    send_all(flight, 0.0)
    assert flight.puback(1, NO_MATCHING_SUBSCRIBERS, 0.0) == 0
    assert flight.puback(2, 0, 0.0) == 2
    assert len(flight) == 1


def test_a_collector_that_comes_back_gets_what_it_left_out_soon() -> None:
    flight = filled(2)
    send_all(flight, 0.0)
    flight.acked(Ranges([(9, 9)]), 0.0)
    flight.puback(1, 0, 0.0)
    flight.puback(2, 0, 0.0)
    now_s = 0.0
    for mid in (10, 20, 30):  # resent in vain, the delays grow
        now_s += flight.idle_s(now_s) or 0.0
        assert len(send_all(flight, now_s, mid)) == 2
        flight.puback(mid, 0, now_s)
        flight.puback(mid + 1, 0, now_s)
    assert now_s > QUIET_S
    flight.acked(Ranges([(1, 1)]), now_s)
    assert flight.idle_s(now_s) == SOON_S


def test_timers_do_not_pile_up() -> None:
    flight = Flight()
    flight.connected(0.0)
    for seq in range(1, 20_000):
        flight.add([Sent(seq, "t", b"x")])
        (mid,) = [seq % 65_535 or 1]
        sent = flight.next(0.0, MANY)
        assert sent is not None
        flight.sent(sent, mid, 0.0)
        flight.puback(mid, 0, 0.0)
        flight.acked(Ranges([(seq, seq)]), 0.0)
    assert len(flight._due) <= 4 * WINDOW + 1
