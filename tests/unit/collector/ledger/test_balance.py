"""Every number of an outbox is stored, declared lost, waiting or missing, and nothing else."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from collector.ledger.balance import GONE, NEVER, OUTBOX_LOST, RESTORED, Totals, sum_up, totals
from collector.ledger.ledger import Draft, Ledger
from collector.store.marks import Claim

NODE, EP, T0 = "acme/trial/hall/cobot-01", "00112233aabbccdd", 1_795_356_000_000


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


def test_a_missing_number_has_the_time_of_the_first_claim_that_reached_it(numbers: Any) -> None:
    ledger = numbers([1, 2])
    for head, at_ms in ((5, 100), (7, 200), (7, 300)):
        ledger.claim(NODE, EP, Claim(head=head, at_ms=at_ms))
    (known,) = ledger.known(lambda _key: True)
    assert [known.since(number) for number in (3, 5, 6, 7, 8)] == [100, 100, 200, 200, 300]


def test_a_missing_number_below_others_has_the_time_of_the_message_before_it(numbers: Any) -> None:
    (known,) = numbers([1, 4, 7]).known(lambda _key: True)
    assert [known.since(number) for number in (2, 3, 5, 6)] == [T0 + 1, T0 + 1, T0 + 4, T0 + 4]
    assert [known.since(number) for number in (1, 4, 7, 8)] == [0, 0, 0, 0], "no hole and no claim"


def test_an_outbox_that_was_replaced_holds_nothing(numbers: Any) -> None:
    ledger = numbers([1])
    ledger.claim(NODE, EP, Claim(head=3, depth=2, at_ms=1))
    assert ledger.entries()[0].waiting == 2
    ledger.claim(NODE, "ffffffff00000000", Claim(head=0, depth=0, at_ms=2))
    old = next(entry for entry in ledger.entries() if entry.ep == EP)
    assert (old.waiting, old.missing) == (0, [(2, 3)])


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


def test_why_a_number_is_missing(numbers: Any) -> None:
    ledger = numbers([1, 2, 5, 9])
    ledger.claim(NODE, EP, Claim(head=12, acked=6, depth=0, at_ms=50))
    (entry,) = ledger.entries()
    assert entry.absent == [
        (3, 4, T0 + 2, RESTORED), (6, 6, T0 + 5, RESTORED), (7, 8, T0 + 5, NEVER), (10, 12, 50, NEVER)
    ]  # fmt: skip
    ledger.claim(NODE, EP, Claim(head=12, acked=99, depth=0, at_ms=51))
    assert ledger.entries()[0].absent[-1] == (10, 12, 50, RESTORED), "no more than the head is acknowledged"
    ledger.claim(NODE, "ffffffff00000000", Claim(head=1, at_ms=60))
    ledger.claim(NODE, EP, Claim(head=13, acked=3, depth=0, at_ms=70))
    ledger.claim(NODE, "ffffffff00000000", Claim(head=1, at_ms=80))
    lost = "its outbox was lost: the node goes on as ep ffffffff00000000"
    old = next(entry for entry in ledger.entries() if entry.ep == EP)
    assert [one[::3] for one in old.absent][:3] == [(3, RESTORED), (4, lost), (6, lost)]


def test_the_texts_of_reasons_are_those_that_stores_have() -> None:
    assert (GONE, NEVER) == ("was stored once: its day file is gone or damaged", "never arrived")
    assert (OUTBOX_LOST, RESTORED) == (
        "its outbox was lost", "was stored once: this store is restored from an older backup"
    )  # fmt: skip


def test_an_entry_lists_a_hundred_ranges_and_counts_all() -> None:
    ledger, draft = Ledger(), Draft(Ledger())
    for at in range(1, 121):
        draft.add(NODE, EP, 4 * at, 2, at)
        draft.lose(NODE, EP, [(4 * at - 2, 4 * at - 2)], "quota")
    ledger.accept(draft.accounts.values())
    (entry,) = ledger.entries()
    assert [len(entry.gaps), len(entry.missing), len(entry.absent)] == [100, 100, 100]
    assert (entry.gap_count, entry.missing_count, entry.rows_stored, entry.rows_taken) == (120, 240, 240, 0)
    ledger.claim(NODE, EP, Claim(head=480, rows=241, at_ms=5))
    assert ledger.entries()[0].rows_taken == 241


def test_totals_are_the_sums() -> None:
    ledger, draft = Ledger(), Draft(Ledger())
    for ep, seqs in (("11111111", (1, 2, 2, 9)), ("22222222", (1, 1, 1, 4))):
        for seq in seqs:
            draft.add(NODE, ep, seq, 1, 1)
    draft.lose(NODE, "11111111", [(3, 5)], "quota")
    ledger.accept(draft.accounts.values())
    ledger.claim(NODE, "22222222", Claim(head=10, depth=6))
    found = totals(ledger.entries())
    assert (found.taken, found.stored, found.duplicates) == (9 + 10, 3 + 2, 1 + 2)
    assert (found.gap_count, found.missing_count, found.waiting) == (3, 3 + 2, 6)
    absent = [at_ms for entry in ledger.entries() for _, _, at_ms, _ in entry.absent]
    assert sum_up(ledger.known_of(NODE)) == (found, min(absent))
    assert sum_up([]) == (Totals(), None)


def test_the_lowest_missing_numbers_are_not_those_that_wait(numbers: Any) -> None:
    ledger = numbers([2, 5])
    for depth, missing in (
        (0, [(1, 1), (3, 4), (6, 7)]),
        (1, [(1, 1), (3, 4), (6, 6)]),
        (4, [(1, 1)]),
        (5, []),
    ):
        ledger.claim(NODE, EP, Claim(head=7, depth=depth, at_ms=1))
        (entry,) = ledger.entries()
        assert (entry.waiting, entry.missing, entry.missing_count) == (depth, missing, 5 - depth)
    ledger.claim(NODE, EP, Claim(head=7, depth=3, at_ms=2))
    draft = Draft(ledger)
    draft.add(NODE, EP, 10, 1, 1)  # the heartbeat is older: 8 and 9 may be on the way
    ledger.accept(draft.accounts.values())
    (entry,) = ledger.entries()
    assert (entry.waiting, entry.missing) == (5, [(1, 1), (3, 3)])
