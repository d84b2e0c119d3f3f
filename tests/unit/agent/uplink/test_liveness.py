"""Subscription liveness: a status that stops coming back means reconnect; one that never came, a warning."""

from __future__ import annotations

from agent.uplink.liveness import ANSWER_S, ASK_S, SubscriptionLiveness


def said(liveness: SubscriptionLiveness, until_s: int) -> list[tuple[int, str]]:
    return [(at, what) for at in range(until_s) if (what := liveness.next(float(at)))]


def test_it_asks_now_and_then_and_an_answer_is_enough() -> None:
    liveness = SubscriptionLiveness()
    liveness.connected(0.0)
    assert said(liveness, 61) == [(ASK_S, "ask")]
    liveness.returned(62.0)
    assert said(liveness, 122) == []
    assert liveness.next(122.0) == "ask"


def test_a_missing_answer_after_an_earlier_one_means_reconnect() -> None:
    liveness = SubscriptionLiveness()
    liveness.returned(0.0)
    for began in (100.0, 300.0):
        liveness.connected(began)
        assert liveness.next(began + ASK_S) == "ask"
        assert liveness.next(began + ASK_S + ANSWER_S - 1) == ""
        assert liveness.next(began + ASK_S + ANSWER_S) == "reconnect"


def test_a_status_that_never_came_back_is_warned_about_once() -> None:
    liveness = SubscriptionLiveness()
    liveness.connected(0.0)
    words = [what for _, what in said(liveness, 1_000)]
    assert words.count("warn") == 1
    assert "reconnect" not in words
    assert words.count("ask") > 5
