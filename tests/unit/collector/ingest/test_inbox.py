"""First in, first out, and one sender's flood leaves room for the others."""

from __future__ import annotations

import random

import pytest

from collector.ingest import inbox as module
from collector.ingest.inbox import Inbox
from collector.mqtt.received import Received


def message(name: str, size: int = 1) -> Received:
    return Received(name, b"x" * size, 0, False, None)


def names(found: list[Received]) -> list[str]:
    return [one.topic for one in found]


def test_in_order_of_arrival_and_counted() -> None:
    inbox = Inbox()
    assert inbox.put("a", [message("1")])
    assert inbox.put("b", [message("2"), message("3")])
    assert (len(inbox), names(inbox.take(2)), names(inbox.take(9)), names(inbox.take(9))) == (
        3, ["1", "2"], ["3"], [],
    )  # fmt: skip


def test_a_flood_has_its_share_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SENDER_MESSAGES", 10)
    inbox = Inbox()
    taken = [inbox.put("flood", [message(f"f{n}")]) for n in range(100)]
    assert taken == [True] * 10 + [False] * 90
    assert inbox.put("calm", [message("c")])
    assert not inbox.is_full
    assert names(inbox.take(5)) == [f"f{n}" for n in range(5)]
    assert [inbox.put("flood", [message("again")]) for _ in range(6)] == [True] * 5 + [False]
    assert names(inbox.take(99))[5] == "c"


def test_a_share_is_of_bytes_too_and_a_pack_is_one_publication(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SENDER_MESSAGES", 2)
    monkeypatch.setattr(module, "SENDER_BYTES", 1_000)
    inbox = Inbox()
    assert [inbox.put("large", [message("l", 600)]) for _ in range(3)] == [True, True, False]
    assert inbox.put("packs", [message("p")] * 50)
    inbox.take(2 + 49)
    assert [inbox.put("packs", [message("p")]) for _ in range(2)] == [True, False], (
        "it waits until its last message is taken"
    )
    assert inbox.put("large", [message("l", 600)])


@pytest.mark.parametrize(("name", "bound"), [("QUEUE_MESSAGES", 5), ("QUEUE_BYTES", 50)])
def test_it_says_when_it_is_full(monkeypatch: pytest.MonkeyPatch, name: str, bound: int) -> None:
    monkeypatch.setattr(module, name, bound)
    inbox = Inbox()
    for sender in range(5):
        assert not inbox.is_full
        assert inbox.put(str(sender), [message("m", 10)])
    assert inbox.is_full
    inbox.take(1)
    assert not inbox.is_full


def test_a_sender_without_waiting_messages_leaves_no_trace() -> None:
    inbox, dice = Inbox(), random.Random(3)
    for number in range(3_000):
        inbox.put(str(number), [message("m", dice.randrange(5))] * dice.randrange(1, 4))
        if dice.random() < 0.3:
            inbox.take(dice.randrange(10))
    inbox.take(10_000)
    assert (len(inbox), inbox._size, len(inbox._shares), len(inbox._sizes)) == (0, 0, 0, 0)
