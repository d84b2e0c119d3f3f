"""A node that does not hear itself any more is deaf; one that never could is told so once."""

from __future__ import annotations

from agent.uplink.liveness import ANSWER_S, ASK_S, Hearing


def said(hearing: Hearing, until_s: int) -> list[tuple[int, str]]:
    return [(at, what) for at in range(until_s) if (what := hearing.next(float(at)))]


def test_it_asks_now_and_then_and_is_content_with_an_answer() -> None:
    hearing = Hearing()
    hearing.connected(0.0)
    assert said(hearing, 61) == [(ASK_S, "ask")]
    hearing.heard(62.0)
    assert said(hearing, 122) == []
    assert hearing.next(122.0) == "ask"


def test_no_answer_where_there_was_one_before_is_deafness_on_another_connection_too() -> None:
    hearing = Hearing()
    hearing.heard(0.0)
    for began in (100.0, 300.0):
        hearing.connected(began)
        assert hearing.next(began + ASK_S) == "ask"
        assert hearing.next(began + ASK_S + ANSWER_S - 1) == ""
        assert hearing.next(began + ASK_S + ANSWER_S) == "deaf"


def test_a_broker_that_never_gave_it_back_is_left_alone_and_told_of_once() -> None:
    hearing = Hearing()
    hearing.connected(0.0)
    words = [what for _, what in said(hearing, 1_000)]
    assert words.count("warn") == 1
    assert "deaf" not in words
    assert words.count("ask") > 5
