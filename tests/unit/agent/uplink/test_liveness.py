"""A node that does not hear itself any more is deaf; one that never could is told so once."""

from __future__ import annotations

from agent.uplink.liveness import ANSWER_S, ASK_S, SubscriptionLiveness


def said(liveness: SubscriptionLiveness, until_s: int) -> list[tuple[int, str]]:
    return [(at, what) for at in range(until_s) if (what := liveness.next(float(at)))]


def test_it_asks_now_and_then_and_is_content_with_an_answer() -> None:
    liveness = SubscriptionLiveness()
    liveness.connected(0.0)
    assert said(liveness, 61) == [(ASK_S, "ask")]
    liveness.returned(62.0)
    assert said(liveness, 122) == []
    assert liveness.next(122.0) == "ask"


def test_no_answer_where_there_was_one_before_is_deafness_on_another_connection_too() -> None:
    liveness = SubscriptionLiveness()
    liveness.returned(0.0)
    for began in (100.0, 300.0):
        liveness.connected(began)
        assert liveness.next(began + ASK_S) == "ask"
        assert liveness.next(began + ASK_S + ANSWER_S - 1) == ""
        assert liveness.next(began + ASK_S + ANSWER_S) == "reconnect"


def test_a_broker_that_never_gave_it_back_is_left_alone_and_told_of_once() -> None:
    liveness = SubscriptionLiveness()
    liveness.connected(0.0)
    words = [what for _, what in said(liveness, 1_000)]
    assert words.count("warn") == 1
    assert "reconnect" not in words
    assert words.count("ask") > 5
