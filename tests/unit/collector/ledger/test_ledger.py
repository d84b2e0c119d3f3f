"""The ledger: numbers, gaps and claims, with bounds against hostile or endless input."""

from __future__ import annotations

from typing import Any

import pytest

from collector.ledger import ledger as module
from collector.ledger.ledger import Draft, DraftRefused, Ledger
from collector.store.marks import Claim

NODE, EP = "acme/trial/hall/cobot-01", "00112233aabbccdd"


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
