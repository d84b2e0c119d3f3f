"""The ledger: numbers, gaps and claims, with bounds against hostile or endless input."""

from __future__ import annotations

from typing import Any

import pytest

from collector.ledger import ledger as module
from collector.ledger.ledger import Draft, DraftRefused, Ledger
from collector.store.marks import Claim
from wire.ranges import Ranges

NODE, EP, T0 = "acme/trial/hall/cobot-01", "00112233aabbccdd", 1_795_356_000_000


def test_a_number_counts_once_and_duplicates_are_counted(numbers: Any) -> None:
    ledger = numbers([1, 2, 3])
    draft = Draft(ledger)
    assert not draft.add(NODE, EP, 2, 10, 5)
    assert draft.add(NODE, EP, 4, 10, 5)
    assert ledger.entries()[0].stored == 3, "a draft changes nothing before it is accepted"
    ledger.accept(draft.accounts.values())
    (entry,) = ledger.entries()
    assert (entry.stored, entry.duplicates, entry.rows_stored, entry.taken) == (4, 1, 40, 4)


def test_the_times_of_the_first_and_the_newest_message_are_kept() -> None:
    ledger, draft = Ledger(), Draft(Ledger())
    for seq, at_ms in ((1, 50), (2, 60), (3, 55), (2, 70)):  # a clock may go back; a duplicate does not count
        draft.add(NODE, EP, seq, 1, at_ms)
    ledger.accept(draft.accounts.values())
    (entry,) = ledger.entries()
    assert (entry.first, entry.last) == (50, 55)


def test_an_older_claim_is_ignored(numbers: Any) -> None:
    ledger = numbers([1])
    ledger.claim(NODE, EP, Claim(head=9, depth=8, at_ms=1))
    ledger.claim(NODE, EP, Claim(head=5, depth=4, at_ms=2))
    assert ledger.entries()[0].taken == 9


def test_gaps_in_a_row_become_one() -> None:
    draft = Draft(Ledger())
    for first in range(1, 100, 10):
        draft.lose(NODE, EP, [(first, first + 9)], "full")
    assert draft.accounts[(NODE, EP)].lost == [(1, 100, "full")]


def test_a_gap_that_is_declared_again_is_kept_once() -> None:
    draft = Draft(Ledger())
    lost = [(3, 6), (9, 9), (12, 20)]
    for _ in range(2):
        draft.lose(NODE, EP, lost, "full")
    assert draft.accounts[(NODE, EP)].lost == [(first, last, "full") for first, last in lost]
    draft.lose(NODE, EP, [(3, 6)], "quota")
    assert draft.accounts[(NODE, EP)].lost[3:] == [(3, 6, "quota")], "another reason is another gap"


def test_a_part_of_a_joined_gap_that_is_declared_again_is_kept_once() -> None:
    draft = Draft(Ledger())
    for number in (5, 6, 7, 5, 6, 7):
        draft.lose(NODE, EP, [(number, number)], "quarantined")
    assert draft.accounts[(NODE, EP)].lost == [(5, 7, "quarantined")]


def test_scattered_numbers_are_refused_beyond_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RANGES", 10)
    draft = Draft(Ledger())
    for seq in range(1, 21, 2):
        assert draft.add(NODE, EP, seq, 1, 1)
    with pytest.raises(DraftRefused, match="too many holes"):
        draft.add(NODE, EP, 100, 1, 1)
    assert draft.add(NODE, EP, 2, 1, 1), "a number that closes a hole needs no room"
    assert draft.add(NODE, EP, 100, 1, 1), "and it makes room"
    for first in range(1000, 1100, 10):
        draft.lose(NODE, EP, [(first, first + 5)], "x")
    with pytest.raises(DraftRefused, match="declared already"):
        draft.lose(NODE, EP, [(5000, 5001)], "x")


def test_a_node_shares_its_room_over_its_outboxes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RANGES", 10)
    draft = Draft(Ledger())
    for number in range(5):
        draft.add(NODE, f"{number:08x}", 1, 1, 1)
    draft.add(NODE, EP, 1, 1, 1)
    with pytest.raises(DraftRefused):
        draft.add(NODE, EP, 3, 1, 1)


def test_outboxes_without_end_are_refused_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_EPOCHS", 3)
    ledger = Ledger()
    for number in range(5):
        ledger.claim(NODE, f"{number:08x}", Claim(head=1))
    assert len(ledger.entries()) == 3
    draft = Draft(ledger)
    with pytest.raises(DraftRefused):
        draft.add(NODE, "ffffffff", 1, 1, 1)
    assert draft.add(NODE, "00000000", 1, 1, 1)
    assert draft.add("acme/trial/hall/other", "ffffffff", 1, 1, 1)


def test_names_outboxes_and_entries_are_those_of_the_nodes() -> None:
    ledger, draft = Ledger(), Draft(Ledger())
    for node, ep, at_ms in (
        ("b/b/b/b", "22", 5),
        ("a/a/a/a", "33", 9),
        ("a/a/a/a", "11", 9),
        ("a/a/a/a", "44", 7),
    ):
        draft.add(node, ep, 1, 1, at_ms)
    ledger.accept(draft.accounts.values())
    assert ledger.names() == {"a/a/a/a", "b/b/b/b"}
    assert [ledger.outboxes(node) for node in ("a/a/a/a", "b/b/b/b", "c/c/c/c")] == [3, 1, 0]
    assert [(entry.node[0], entry.ep) for entry in ledger.entries()] == [
        ("a", "44"), ("a", "11"), ("a", "33"), ("b", "22"),
    ]  # fmt: skip
    assert [entry.ep for entry in ledger.entries("b/b/b/b")] == ["22"]
    ledger.accept(draft.accounts.values())
    assert ledger.outboxes("a/a/a/a") == 3, "they are known"


def test_the_nodes_with_a_changed_account_are_named_once(numbers: Any) -> None:
    ledger = numbers([1, 2])
    assert (ledger.take_changed(), ledger.take_changed()) == ({NODE}, set())
    ledger.claim("a/b/c/d", EP, Claim(head=2, at_ms=1))
    assert ledger.take_changed() == {"a/b/c/d"}
    draft = Draft(ledger)
    draft.add(NODE, EP, 3, 1, 1)
    assert ledger.take_changed() == set(), "a draft is not the account yet"
    ledger.accept(draft.accounts.values())
    assert ledger.take_changed() == {NODE}
    ledger.forget((NODE, EP), Ranges([(2, 2)]), 1, 5)
    assert ledger.take_changed() == {NODE}
    ledger.reset(NODE)
    assert ledger.take_changed() == {NODE}
    again = Ledger(ledger.marks(everything=True))
    assert again.take_changed() == {NODE, "a/b/c/d"}, "after a restart every node is new to the fleet"
    assert [known.account.ep for known in again.known_of(NODE)] == [EP]
    assert again.known_of("x/x/x/x") == []


def test_claims_are_written_once_and_again_if_the_disk_failed(numbers: Any) -> None:
    ledger = numbers([1, 2])
    assert not ledger.has_claims
    assert ledger.marks() == []
    ledger.claim(NODE, EP, Claim(head=4, depth=2, at_ms=7))
    assert ledger.has_claims
    (mark,) = marks = ledger.marks()
    assert (mark.claim, mark.heads) == (Claim(head=4, depth=2, at_ms=7), [(4, 7)])
    assert not ledger.has_claims
    ledger.remember(marks)
    assert ledger.has_claims
    assert len(ledger.marks()) == 1
    assert [mark.ep for mark in ledger.marks(everything=True)] == [EP]
    Ledger().remember(marks)  # a node that was removed meanwhile
    assert not Ledger().has_claims


def test_the_outbox_in_use_is_the_one_that_was_seen_last(numbers: Any) -> None:
    ledger = numbers([1, 3])
    other = "ffffffff00000000"
    draft = Draft(ledger)
    draft.add(NODE, other, 2, 1, 500)
    ledger.accept(draft.accounts.values())
    assert [known.current for known in ledger.known(lambda _key: True)] == [EP, EP]
    ledger.claim(NODE, other, Claim(head=2, at_ms=T0 + 9))
    assert [known.current for known in ledger.known(lambda _key: True)] == [other, other]
    assert [known.in_use for known in ledger.known(lambda _key: True)] == [False, True]
    for marks in (ledger.marks(everything=True), ledger.marks(everything=True)[::-1]):
        again = Ledger(marks)
        assert {known.current for known in again.known(lambda _key: True)} == {other}
        assert again.outboxes(NODE) == 2
        assert again.entries() == ledger.entries()
    assert [known.account.ep for known in ledger.known(lambda key: key[1] == other)] == [other]


def test_a_node_that_is_reset_is_believed_at_once(numbers: Any) -> None:
    ledger = numbers([1])
    ledger.claim(NODE, EP, Claim(head=9, at_ms=1))
    ledger.claim(NODE, EP, Claim(head=2, at_ms=2))
    ledger.claim(NODE, EP, Claim(head=2, at_ms=3))
    assert ledger.entries()[0].taken == 9
    ledger.reset(NODE)
    ledger.claim(NODE, EP, Claim(head=9, at_ms=4))
    ledger.claim(NODE, EP, Claim(head=2, at_ms=5))
    assert ledger.entries()[0].taken == 9, "the doubts of before do not count"


def test_row_numbers_of_many_runs_are_released(numbers: Any) -> None:
    draft = Draft(numbers([]))
    for run in range(1, 100):
        draft.add(NODE, EP, run, 3, 1)
        draft.number(NODE, EP, (run, 1), "data/arm/joints", 3)
        assert len(draft.accounts[(NODE, EP)].book.rows) == min(run, 40)
    assert set(draft.accounts[(NODE, EP)].book.rows) == set(range(60, 100))


def test_gaps_too_share_the_room_of_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RANGES", 10)
    draft = Draft(Ledger())
    for number in range(5):
        draft.lose(NODE, f"{number:08x}", [(1, 1), (3, 3)], "quota")
    with pytest.raises(DraftRefused, match="2 gaps were declared already"):
        draft.lose(NODE, "00000000", [(5, 5)], "quota")


def test_outboxes_come_with_their_days(numbers: Any) -> None:
    ledger = numbers([1])
    ((known, days),) = ledger.with_days(lambda node: node == NODE)
    assert (known.account.ep, days) == (EP, {})
    assert ledger.with_days(lambda node: node != NODE) == []
