"""The account: what counts as stored, lost, waiting, missing, and that a restart changes none of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.ledger import ledger as module
from collector.ledger.balance import totals
from collector.ledger.ledger import Draft, DraftRefused, Ledger
from collector.store.marks import Claim, Mark

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


def test_without_a_heartbeat_a_hole_is_missing(numbers: Any) -> None:
    (entry,) = numbers([1, 2, 5]).entries()
    assert (entry.missing, entry.missing_count, entry.waiting) == ([(3, 4)], 2, 0)


def test_what_the_outbox_still_holds_waits(numbers: Any) -> None:
    ledger = numbers([1, 2, 5])
    ledger.claim(NODE, EP, Claim(head=10, acked=3, depth=7, rows=100, at_ms=1))
    (entry,) = ledger.entries()
    assert (entry.taken, entry.waiting, entry.missing_count) == (10, 7, 0)
    ledger.claim(NODE, EP, Claim(head=10, acked=8, depth=2, rows=100, at_ms=2))
    (entry,) = ledger.entries()
    assert (entry.waiting, entry.missing_count, entry.missing) == (2, 5, [(3, 4), (6, 8)])
    ledger.claim(NODE, EP, Claim(head=10, acked=10, depth=0, rows=100, at_ms=3))
    (entry,) = ledger.entries()
    assert (entry.waiting, entry.missing, entry.rows_taken) == (0, [(3, 4), (6, 10)], 100)


def test_an_outbox_that_was_replaced_holds_nothing(numbers: Any) -> None:
    ledger = numbers([1])
    ledger.claim(NODE, EP, Claim(head=3, depth=2, at_ms=1))
    assert ledger.entries()[0].waiting == 2
    ledger.claim(NODE, "ffffffff00000000", Claim(head=0, depth=0, at_ms=2))
    old = next(entry for entry in ledger.entries() if entry.ep == EP)
    assert (old.waiting, old.missing) == (0, [(2, 3)])


def test_an_older_claim_is_ignored(numbers: Any) -> None:
    ledger = numbers([1])
    ledger.claim(NODE, EP, Claim(head=9, depth=8, at_ms=1))
    ledger.claim(NODE, EP, Claim(head=5, depth=4, at_ms=2))
    assert ledger.entries()[0].taken == 9


def test_declared_gaps_are_no_longer_missing_and_late_arrivals_are_stored(numbers: Any) -> None:
    ledger = numbers([1, 2, 8])
    draft = Draft(ledger)
    draft.lose(NODE, EP, [(3, 6)], "disk full")
    ledger.accept(draft.accounts.values())
    (entry,) = ledger.entries()
    assert (entry.gaps, entry.gap_count, entry.missing) == ([(3, 6, "disk full")], 4, [(7, 7)])
    draft = Draft(ledger)
    assert draft.add(NODE, EP, 4, 1, 9)
    ledger.accept(draft.accounts.values())
    (entry,) = ledger.entries()
    assert (entry.stored, entry.gap_count) == (4, 3)
    assert entry.stored + entry.gap_count + entry.missing_count + entry.waiting == entry.taken


def test_gaps_in_a_row_become_one() -> None:
    draft = Draft(Ledger())
    for first in range(1, 100, 10):
        draft.lose(NODE, EP, [(first, first + 9)], "full")
    assert draft.accounts[(NODE, EP)].lost == [(1, 100, "full")]


def test_the_ledger_survives_its_stored_form(numbers: Any) -> None:
    ledger = numbers([1, 2, 5, 6, 9])
    ledger.claim(NODE, EP, Claim(head=12, depth=3, rows=7, at_ms=4))
    draft = Draft(ledger)
    draft.lose(NODE, EP, [(3, 3)], "why not")
    draft.add(NODE, EP, 9, 1, 1)
    ledger.accept(draft.accounts.values())
    marks = msgspec.json.decode(msgspec.json.encode(ledger.marks(everything=True)), type=list[Mark])
    again = Ledger(marks)
    assert again.entries() == ledger.entries()
    assert totals(again.entries()).waiting == 3


def test_scattered_numbers_are_refused_before_they_eat_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RANGES", 10)
    draft = Draft(Ledger())
    for seq in range(1, 21, 2):
        assert draft.add(NODE, EP, seq, 1, 1)
    with pytest.raises(DraftRefused, match="too many holes"):
        draft.add(NODE, EP, 100, 1, 1)
    assert draft.add(NODE, EP, 2, 1, 1), "what closes a hole is always welcome"
    assert draft.add(NODE, EP, 100, 1, 1), "and makes room"
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


@given(
    st.lists(st.integers(1, 40)),
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5))),
    st.none() | st.tuples(st.integers(0, 50), st.integers(0, 50)),
)
def test_every_number_has_exactly_one_place(
    stored: list[int], lost: list[tuple[int, int]], claim: tuple[int, int] | None
) -> None:
    ledger = Ledger()
    draft = Draft(ledger)
    for seq in stored:
        draft.add(NODE, EP, seq, 1, 1)
    draft.lose(NODE, EP, [(first, first + more) for first, more in lost], "x")
    ledger.accept(draft.accounts.values())
    if claim:
        ledger.claim(NODE, EP, Claim(head=claim[0], depth=claim[1]))
    (entry,) = ledger.entries()
    assert entry.stored == len(set(stored))
    assert entry.duplicates == len(stored) - len(set(stored))
    assert entry.stored + entry.gap_count + entry.missing_count + entry.waiting == entry.taken
    gone = {seq for first, last in entry.missing for seq in range(first, last + 1)}
    assert len(gone) == entry.missing_count
    assert not gone & set(stored)


def test_strangers_names_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_NODES", 3)
    ledger = Ledger()
    draft = Draft(ledger)
    for number in range(3):
        assert draft.add(f"acme/trial/hall/n{number}", EP, 1, 1, 5)
    with pytest.raises(DraftRefused, match="more than 3 nodes"):
        draft.add("acme/trial/hall/n3", EP, 1, 1, 5)
    ledger.accept(draft.accounts.values())
    ledger.claim("acme/trial/hall/n4", EP, Claim(head=9, at_ms=1))
    again = Draft(ledger)
    assert again.add("acme/trial/hall/n1", "ffffffff00000000", 1, 1, 5), "those that are known go on"
    with pytest.raises(DraftRefused):
        again.add("acme/trial/hall/n4", EP, 1, 1, 5)
    assert len(ledger.entries()) == 3
