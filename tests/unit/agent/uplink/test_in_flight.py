"""The window between outbox and acknowledgement: limits, timers, and what releases a message."""

from __future__ import annotations

import pytest

from agent.uplink.in_flight import (
    CREDIT,
    NO_MATCHING_SUBSCRIBERS,
    PACKED_WINDOW,
    QUIET_S,
    RESEND_MAX_S,
    RESEND_S,
    SOON_S,
    WINDOW,
    WINDOW_BYTES,
    WIRE_BYTES,
    InFlightWindow,
    Sent,
)
from wire.ranges import Ranges

MANY = 65_535


def filled(count: int = 3, size: int = 10, *, puback_is_enough: bool = False) -> InFlightWindow:
    in_flight = InFlightWindow(puback_is_enough=puback_is_enough)
    in_flight.connected(0.0)
    in_flight.add(Sent(seq, f"t/{seq}", b"x" * size) for seq in range(1, count + 1))
    return in_flight


def send_all(in_flight: InFlightWindow, now_s: float, first_mid: int = 1) -> list[int]:
    seqs = []
    while (sent := in_flight.next(now_s, MANY)) is not None:
        in_flight.sent(sent, first_mid + len(seqs), now_s)
        seqs.append(sent.seq)
    return seqs


def test_in_the_order_of_the_outbox_and_once() -> None:
    in_flight = filled()
    assert send_all(in_flight, 0.0) == [1, 2, 3]
    assert in_flight.next(0.0, MANY) is None


def test_room_is_what_the_window_leaves() -> None:
    in_flight = filled(10, size=100)
    assert in_flight.room == (WINDOW - 10, WINDOW_BYTES - 1_000)
    in_flight.acked(Ranges([(1, 4)]), 0.0)
    assert in_flight.room == (WINDOW - 6, WINDOW_BYTES - 600)


def test_the_broker_may_limit_what_is_on_the_wire() -> None:
    in_flight = filled(5)
    for mid in (1, 2):
        sent = in_flight.next(0.0, 2)
        assert sent is not None
        in_flight.sent(sent, mid, 0.0)
    assert in_flight.next(0.0, 2) is None
    in_flight.puback(1, 0, 0.0)
    assert in_flight.next(0.0, 2) is not None


def test_bytes_on_the_wire_are_limited() -> None:
    in_flight = filled(100, size=WIRE_BYTES // 4)
    assert len(send_all(in_flight, 0.0)) == 4


def test_an_acknowledgement_before_the_puback_still_occupies_the_wire() -> None:
    in_flight = filled(2)
    send_all(in_flight, 0.0)
    assert in_flight.acked(Ranges([(1, 2)]), 0.0) == [1, 2]
    assert (len(in_flight), in_flight.on_wire) == (0, 2)
    in_flight.puback(1, 0, 1.0)
    in_flight.puback(2, 0, 1.0)
    assert in_flight.on_wire == 0
    assert in_flight.room == (WINDOW, WINDOW_BYTES)


def test_resent_after_the_puback_with_doubling_delays() -> None:
    in_flight = filled(1)
    now_s, delay = 0.0, []
    for mid in range(1, 8):
        assert send_all(in_flight, now_s, mid) == [1]
        in_flight.puback(mid, 0, now_s)
        wait_s = in_flight.idle_s(now_s)
        assert wait_s is not None
        assert in_flight.next(now_s + wait_s - 0.001, MANY) is None
        delay.append(wait_s)
        now_s += wait_s
    assert delay == [RESEND_S * factor for factor in (1, 2, 4, 8, 16)] + [RESEND_MAX_S] * 2
    assert in_flight.resent == 6


def test_nothing_is_resent_while_the_broker_owes_a_puback() -> None:
    in_flight = filled(1)
    send_all(in_flight, 0.0)
    assert in_flight.next(10_000.0, MANY) is None
    assert in_flight.silent_s(20.0) == 20.0


def test_silence_counts_from_the_last_puback() -> None:
    in_flight = filled(2)
    assert in_flight.silent_s(5.0) == 0.0
    send_all(in_flight, 10.0)
    in_flight.puback(1, 0, 12.0)
    assert in_flight.silent_s(13.0) == 1.0
    in_flight.puback(2, 0, 14.0)
    assert in_flight.silent_s(99.0) == 0.0


def test_everything_again_on_a_new_connection() -> None:
    in_flight = filled(3)
    send_all(in_flight, 0.0)
    in_flight.puback(1, 0, 0.0)
    in_flight.acked(Ranges([(2, 2)]), 0.0)
    in_flight.connected(1.0)
    assert in_flight.on_wire == 0
    assert send_all(in_flight, 1.0) == [1, 3]
    assert in_flight.resent == 2


def test_pubacks_of_an_earlier_connection_change_nothing() -> None:
    in_flight = filled(1)
    assert in_flight.puback(77, 0, 0.0) == 0
    assert len(in_flight) == 1


@pytest.mark.parametrize("reason", [128, 131, 135, 151, 255])
@pytest.mark.parametrize("puback_is_enough", [False, True])
def test_a_refusing_puback_never_releases_a_message(reason: int, puback_is_enough: bool) -> None:
    in_flight = filled(1, puback_is_enough=puback_is_enough)
    send_all(in_flight, 0.0)
    assert in_flight.puback(1, reason, 0.0) == 0
    assert (len(in_flight), in_flight.refused) == (1, 1)
    assert in_flight.next(RESEND_S - 0.001, MANY) is None
    assert in_flight.next(RESEND_S, MANY) is not None


def test_what_is_too_large_for_the_broker_waits_and_stops_no_other() -> None:
    in_flight = filled(2)
    large = in_flight.next(0.0, MANY)
    assert large is not None
    in_flight.too_large(large, 0.0)
    assert send_all(in_flight, 0.0) == [2]
    assert (len(in_flight), in_flight.refused, in_flight.on_wire) == (2, 1, 1)
    in_flight.puback(1, 0, 0.0)
    assert in_flight.next(RESEND_S - 0.001, MANY) is None
    assert in_flight.next(RESEND_S, MANY) is large


def test_puback_mode_releases_unless_there_is_no_subscriber() -> None:
    in_flight = filled(2, puback_is_enough=True)
    send_all(in_flight, 0.0)
    assert in_flight.puback(1, NO_MATCHING_SUBSCRIBERS, 0.0) == 0
    assert in_flight.puback(2, 0, 0.0) == 2
    assert len(in_flight) == 1


def test_a_collector_that_comes_back_gets_what_it_left_out_soon() -> None:
    in_flight = filled(2)
    send_all(in_flight, 0.0)
    in_flight.acked(Ranges([(9, 9)]), 0.0)
    in_flight.puback(1, 0, 0.0)
    in_flight.puback(2, 0, 0.0)
    now_s = 0.0
    for mid in (10, 20, 30):  # resent without an acknowledgement: the delays grow
        now_s += in_flight.idle_s(now_s) or 0.0
        assert len(send_all(in_flight, now_s, mid)) == 2
        in_flight.puback(mid, 0, now_s)
        in_flight.puback(mid + 1, 0, now_s)
    assert now_s > QUIET_S
    in_flight.acked(Ranges([(1, 1)]), now_s)
    assert in_flight.idle_s(now_s) == SOON_S


def test_timers_do_not_pile_up() -> None:
    in_flight = InFlightWindow()
    in_flight.connected(0.0)
    for seq in range(1, 20_000):
        in_flight.add([Sent(seq, "t", b"x")])
        (mid,) = [seq % 65_535 or 1]
        sent = in_flight.next(0.0, MANY)
        assert sent is not None
        in_flight.sent(sent, mid, 0.0)
        in_flight.puback(mid, 0, 0.0)
        in_flight.acked(Ranges([(seq, seq)]), 0.0)
    assert len(in_flight._due) <= 4 * WINDOW + 1


def old(*seqs: int, size: int = 10) -> list[Sent]:
    return [Sent(seq, f"t/{seq}", b"x" * size, overtaken=True) for seq in seqs]


def pack(*seqs: int, size: int = 10) -> Sent:
    return Sent(seqs[0], "t/pack", b"p" * size, overtaken=True, members=set(seqs))


def singles(sent: Sent) -> list[Sent]:
    return old(*sorted(sent.members))


def packing() -> InFlightWindow:
    in_flight = InFlightWindow(unpacked=singles)
    in_flight.connected(0.0)
    in_flight.takes_packs()
    return in_flight


class TestBacklog:
    def test_what_is_new_goes_first_but_a_share_is_the_backlogs(self) -> None:
        in_flight = InFlightWindow()
        in_flight.connected(0.0)
        in_flight.add(old(*range(1, 21)))
        in_flight.add(Sent(seq, "t", b"x") for seq in range(101, 131))
        order = send_all(in_flight, 0.0)
        assert order[:7] == list(range(101, 108))
        assert [seq for seq in order if seq < 100] == list(range(1, 21))
        assert order.index(130) <= 35  # 30 new ones and one in eight of the others

    def test_a_backlog_takes_no_room_from_what_is_new(self) -> None:
        in_flight = InFlightWindow()
        in_flight.connected(0.0)
        in_flight.add(old(*range(1, WINDOW + 1), size=100))
        assert in_flight.room == (WINDOW, WINDOW_BYTES)
        assert in_flight.room_overtaken[0] < 0

    def test_a_backlog_has_no_more_on_its_way_than_its_delay_allows(self) -> None:
        in_flight = InFlightWindow()
        in_flight.connected(0.0)
        window = in_flight.pacing.window
        in_flight.add(old(1, size=window * 4 // 5))
        assert in_flight.room_overtaken[1] == 0, "less than a quarter is not worth a read"
        send_all(in_flight, 0.0)
        in_flight.acked(Ranges([(1, 1)]), 0.05)
        assert in_flight.room_overtaken[1] > window

    def test_a_message_sent_twice_says_nothing_of_the_delay(self) -> None:
        in_flight = InFlightWindow()
        in_flight.connected(0.0)
        in_flight.add(old(1))
        window = in_flight.pacing.window
        for mid, at_s in ((1, 0.0), (2, RESEND_S)):
            assert send_all(in_flight, at_s, mid) == [1]
            in_flight.puback(mid, 0, at_s)
        in_flight.acked(Ranges([(1, 1)]), RESEND_S + 0.01)
        assert in_flight.pacing.window == window


class TestPacks:
    def test_none_without_a_collector_that_reads_them(self) -> None:
        for in_flight in (
            InFlightWindow(),
            InFlightWindow(unpacked=singles),
            InFlightWindow(puback_is_enough=True, unpacked=singles),
        ):
            in_flight.connected(0.0)
            assert not in_flight.packing
        for in_flight in (InFlightWindow(), InFlightWindow(puback_is_enough=True, unpacked=singles)):
            in_flight.takes_packs()
            assert not in_flight.packing
        assert packing().packing

    def test_acknowledged_in_parts(self) -> None:
        in_flight = packing()
        in_flight.add([pack(1, 2, 3), pack(7, 8)])
        assert (len(in_flight), in_flight.room_overtaken[0]) == (5, PACKED_WINDOW - 5)
        assert send_all(in_flight, 0.0) == [1, 7]
        assert sorted(in_flight.acked(Ranges([(2, 2), (7, 8)]), 0.1)) == [2, 7, 8]
        assert len(in_flight) == 2
        assert in_flight.acked(Ranges([(1, 3)]), 0.1) == [1, 3]
        assert (len(in_flight), in_flight.room_overtaken[0]) == (0, PACKED_WINDOW)

    def test_a_pack_that_is_too_large_for_the_broker_comes_one_by_one(self) -> None:
        in_flight = packing()
        in_flight.add([pack(1, 2, 3)])
        large = in_flight.next(0.0, MANY)
        assert large is not None
        in_flight.too_large(large, 0.0)
        assert send_all(in_flight, 0.0) == [1, 2, 3]
        assert (len(in_flight), in_flight.refused, in_flight.packing) == (3, 0, True)

    def test_what_nobody_acknowledged_comes_one_by_one_and_no_pack_after_it(self) -> None:
        in_flight = packing()
        in_flight.add([pack(1, 2, 3)])
        send_all(in_flight, 0.0)
        in_flight.puback(1, 0, 0.0)
        in_flight.acked(Ranges([(2, 2)]), 0.0)
        assert send_all(in_flight, RESEND_S, 2) == [1, 3]
        assert not in_flight.packing
        assert in_flight.resent == 2
        assert in_flight.acked(Ranges([(1, 3)]), RESEND_S) == [1, 3]
        assert len(in_flight) == 0
        in_flight.connected(100.0)
        in_flight.takes_packs()
        assert in_flight.packing

    def test_a_new_connection_takes_them_apart(self) -> None:
        in_flight = packing()
        in_flight.add([pack(1, 2), *old(5)])
        send_all(in_flight, 0.0)
        in_flight.connected(1.0)
        assert not in_flight.packing
        assert sorted(send_all(in_flight, 1.0)) == [1, 2, 5]

    def test_connections_that_end_with_packs_end_packing(self) -> None:
        in_flight = packing()
        for turn in range(1, 4):
            assert in_flight.packing
            in_flight.add([pack(10 * turn, 10 * turn + 1)])
            send_all(in_flight, turn, 100 * turn)
            in_flight.connected(turn)
            in_flight.takes_packs()
        assert not in_flight.packing
        in_flight.acked(Ranges([(1, 100)]), 4.0)
        in_flight.connected(700.0)
        in_flight.takes_packs()
        assert in_flight.packing, "after a while packs are tried again"

    def test_one_that_arrives_shows_that_they_do(self) -> None:
        in_flight = packing()
        for turn in range(1, 9):
            in_flight.add([pack(10 * turn, 10 * turn + 1), pack(10 * turn + 2, 10 * turn + 3)])
            send_all(in_flight, turn, 100 * turn)
            in_flight.acked(Ranges([(10 * turn, 10 * turn + 1)]), turn)
            in_flight.connected(turn)
            in_flight.takes_packs()
            assert in_flight.packing


def test_while_a_collector_refuses_nothing_is_sent_and_then_all_in_order() -> None:
    in_flight = filled(5)
    assert send_all(in_flight, 0.0) == [1, 2, 3, 4, 5]
    for mid in range(1, 6):
        in_flight.puback(mid, 0, 0.1)
    in_flight.acked(Ranges([(1, 2)]), 0.2)
    in_flight.hold(50.0, 0.2)
    in_flight.hold(1.0, 0.3)  # a shorter one does not end it
    in_flight.add([Sent(6, "t/6", b"x")])
    for second in range(1, 50):
        assert in_flight.next(float(second), MANY) is None, "not even at the time of the resend"
    assert in_flight.idle_s(49.2) == pytest.approx(1.0)
    assert send_all(in_flight, 50.3, first_mid=10) == [3, 4, 5, 6], "each once, in its order"
    assert in_flight.resent == 3
    in_flight.puback(10, 0, 50.4)
    assert in_flight.next(50.4 + RESEND_S - 0.1, MANY) is None
    assert send_all(in_flight, 50.4 + RESEND_S, first_mid=20) == [3], "the interval starts again"


def test_a_hold_survives_a_new_connection() -> None:
    in_flight = filled(2)
    in_flight.hold(20.0, 0.0)
    in_flight.connected(5.0)
    assert in_flight.next(19.9, MANY) is None
    assert send_all(in_flight, 20.0) == [1, 2]


def test_what_is_on_the_wire_at_the_end_of_a_hold_is_not_sent_twice() -> None:
    in_flight = filled(2)
    assert send_all(in_flight, 0.0) == [1, 2]
    in_flight.puback(2, 0, 0.1)
    in_flight.hold(1.0, 0.1)
    assert send_all(in_flight, 1.2, first_mid=7) == [2]
    in_flight.puback(1, 0, 1.3)
    assert in_flight.next(1.4, MANY) is None
    assert send_all(in_flight, 1.4 + RESEND_S, first_mid=9) == [1]


def test_a_refused_pack_is_sent_again_as_a_pack() -> None:
    in_flight = InFlightWindow(unpacked=lambda _pack: [])
    in_flight.connected(0.0)
    in_flight.takes_packs()
    in_flight.add([Sent(1, "t/pack", b"x", overtaken=True, members={1, 2, 3})])
    assert send_all(in_flight, 0.0) == [1]
    in_flight.puback(1, 0, 0.1)
    in_flight.hold(60.0, 0.2)
    assert send_all(in_flight, 60.3, first_mid=2) == [1]
    assert in_flight.packing
    assert len(in_flight) == 3


def test_a_node_that_is_refused_again_and_again_does_not_send_its_whole_window_each_time() -> None:
    in_flight = filled(400)
    assert len(send_all(in_flight, 0.0)) == 400
    for mid in range(1, 401):
        in_flight.puback(mid, 0, 0.1)
    now_s, taken, sent, mid = 0.2, 0, 0, 1_000
    while taken < 400:
        in_flight.hold(1.0, now_s)
        now_s += 1.1
        seqs = send_all(in_flight, now_s, first_mid=mid)
        for at in range(len(seqs)):
            in_flight.puback(mid + at, 0, now_s)
        sent, mid = sent + len(seqs), mid + len(seqs)
        assert len(seqs) <= CREDIT
        assert seqs[0] == taken + 1, "the oldest first"
        taken = min(400, taken + 3)  # the share lets three pass
        in_flight.acked(Ranges([(1, taken)]), now_s + 0.1)
    assert sent < 400 * CREDIT / 3 + CREDIT


def test_a_node_that_is_taken_again_is_soon_at_full_speed() -> None:
    in_flight = filled(500)
    in_flight.hold(1.0, 0.0)
    now_s, rounds = 1.1, 0
    while len(in_flight):
        seqs = send_all(in_flight, now_s, first_mid=1 + rounds * 1_000)
        for at in range(len(seqs)):
            in_flight.puback(1 + rounds * 1_000 + at, 0, now_s)
        in_flight.acked(Ranges([(seqs[0], seqs[-1])]), now_s)
        rounds += 1
    assert rounds <= 8


def test_without_an_answer_after_a_refusal_everything_is_sent_at_last() -> None:
    in_flight = filled(100)
    in_flight.hold(1.0, 0.0)
    assert len(send_all(in_flight, 1.0)) == CREDIT
    assert in_flight.next(RESEND_S, MANY) is None
    assert len(send_all(in_flight, 1.0 + RESEND_S, first_mid=500)) == 100 - CREDIT


def sent_once(count: int, *, overtaken: bool = False) -> InFlightWindow:
    window = InFlightWindow()
    window.connected(0.0)
    window.add(Sent(seq, f"t/{seq}", b"x" * 10, overtaken) for seq in range(1, count + 1))
    mid = 0
    while (sent := window.next(0.0, MANY)) is not None:
        mid += 1
        window.sent(sent, mid, 0.0)
    for one in range(1, mid + 1):
        window.puback(one, 0, 0.1)
    return window


def test_a_message_is_set_aside_when_it_would_be_sent_again() -> None:
    window = sent_once(5)
    window.held(Ranges([(1, 4)]), 0.2)
    assert window.set_aside(RESEND_S - 1, away=False) == []
    assert window.set_aside(RESEND_S + 1, away=False) == [2, 3, 4]
    assert len(window) == 2
    again = window.next(RESEND_S + 1, MANY)
    assert again is not None
    assert again.seq in (1, 5)  # one that a collector lacks, and one that none has


def test_a_full_window_is_cleared_at_once_while_a_collector_is_away() -> None:
    window = sent_once(WINDOW)
    window.held(Ranges([(1, WINDOW)]), 0.2)
    assert window.set_aside(0.3, away=False) == []
    assert len(window.set_aside(0.3, away=True)) == WINDOW - 1
    assert window.room[0] == WINDOW - 1


def test_a_backlog_does_not_wait_for_the_collector_that_is_away() -> None:
    window = sent_once(100, overtaken=True)
    window.held(Ranges([(1, 100)]), 0.2)
    assert len(window.set_aside(0.3, away=True)) == 99


def test_what_no_collector_has_stays() -> None:
    window = sent_once(10)
    assert window.set_aside(9.0, away=True) == []


def test_after_clear_a_late_puback_belongs_to_no_message() -> None:
    window = sent_once(0)
    window.add([Sent(1, "t/1", b"x")])
    sent = window.next(0.0, 9)
    assert sent is not None
    window.sent(sent, 7, 0.0)
    window.clear()
    assert (len(window), window.room[0], window.on_wire) == (0, WINDOW, 1)
    window.add([Sent(1, "t/1", b"x")])
    assert window.puback(7, 0, 0.1) == 0
    assert window.next(0.1, 9) is not None
