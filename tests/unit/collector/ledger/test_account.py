"""An account: its draft and its stored form."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from collector.ledger.balance import GONE, NEVER, totals
from collector.ledger.ledger import Draft, Ledger
from collector.store.marks import Account, Claim, encoded, read_account
from wire.ranges import Ranges

NODE, EP, T0 = "acme/trial/hall/cobot-01", "00112233aabbccdd", 1_795_356_000_000


def test_the_ledger_survives_its_stored_form(numbers: Any) -> None:
    ledger = numbers([1, 2, 5, 6, 9])
    ledger.claim(NODE, EP, Claim(head=12, depth=3, rows=7, at_ms=4))
    draft = Draft(ledger)
    draft.lose(NODE, EP, [(3, 3)], "why not")
    draft.add(NODE, EP, 9, 1, 1)
    ledger.accept(draft.accounts.values())
    marks = [read_account(encoded(one)) for one in ledger.marks(everything=True)]
    again = Ledger(marks)
    assert again.entries() == ledger.entries()
    assert totals(again.entries()).waiting == 3


def test_a_draft_does_not_change_the_account() -> None:
    account = Account(NODE, EP)
    account.stored.add(1, 3)
    account.lost.append((4, 5, "quota"))
    account.book.number((1, 1), "data/arm/joints", 10)
    before = encoded(account)
    draft = account.copy()
    draft.stored.add(9)
    draft.lost.append((6, 6, "disk"))
    draft.holes.append((4, 8, 1))
    draft.book.number((1, 11), "data/arm/joints", 5, account.book)
    draft.book.number((1, 1), "data/arm/tcp", 5, account.book)
    draft.book.stated.refused["why"] = 1
    assert encoded(account) == before
    assert encoded(draft) != before


def test_a_hole_that_was_filled_is_not_saved() -> None:
    account = Account(NODE, EP, holes=[(2, 3, 100), (5, 6, 200)])
    account.stored.add(1, 4)
    account.stored.add(7)
    (mark,) = Ledger().marks([account])
    assert mark.holes == [(5, 6, 200)]


def test_an_account_comes_back_from_its_stored_form() -> None:
    account = Account(NODE, EP, duplicates=3, rows=40, first=5, last=9, holes=[(2, 2, 7)], heads=[(9, 11)])
    account.stored.add(1)
    account.stored.add(3, 4)
    account.book.number((1, 1), "data/arm/joints", 10)
    account.claim = Claim(head=9, acked=1, depth=2, rows=50, at_ms=11)
    assert read_account(encoded(account)) == account
    assert encoded(account) == (
        b'{"node":"acme/trial/hall/cobot-01","ep":"00112233aabbccdd","stored":[[1,1],[3,4]],"duplicates":3,'
        b'"rows":40,"first":5,"last":9,"claim":{"head":9,"acked":1,"depth":2,"rows":50,"at_ms":11},'
        b'"holes":[[2,2,7]],"heads":[[9,11]],"book":{"rows":{"1":{"data/arm/joints":[[1,10]]}},"said":{}}}'
    ), "a collector of an older release reads it"


def test_a_claim_that_comes_while_a_group_is_committed_is_kept() -> None:
    ledger = Ledger()
    draft = Draft(ledger)
    draft.add(NODE, EP, 1, 1, 1)
    ledger.marks(draft.accounts.values())
    ledger.claim(NODE, EP, Claim(head=5, depth=4, at_ms=2))
    ledger.accept(draft.accounts.values())
    account = ledger.account((NODE, EP))
    assert account is not None
    assert account.claim is not None
    assert (account.claim.head, account.heads, list(account.stored)) == (5, [(5, 2)], [(1, 1)])


@pytest.mark.parametrize("stored", ["[[3,1]]", "[[0,2]]", '[["a",2]]', "[[1]]", "7", '{"1":2}'])
def test_damaged_numbers_are_refused(stored: str) -> None:
    with pytest.raises((ValueError, msgspec.MsgspecError)):
        read_account(f'{{"node":"{NODE}","ep":"{EP}","stored":{stored}}}'.encode())


def test_numbers_that_are_in_no_file_are_missing_until_they_come_again(numbers: Any) -> None:
    ledger = numbers([1, 2, 3, 4, 5, 9])
    ledger.forget(("other/node/a/b", EP), Ranges([(1, 2)]), 5, 77)  # unknown: nothing happens
    assert not ledger.has_claims
    ledger.forget((NODE, EP), Ranges([(2, 3), (5, 8)]), 25, 77)
    assert ledger.has_claims
    (entry,) = ledger.entries()
    assert (entry.stored, entry.rows_stored) == (3, 35)
    assert entry.missing == [(2, 3), (5, 8)]
    assert entry.absent == [(2, 3, 77, GONE), (5, 5, 77, GONE), (6, 8, T0 + 5, NEVER)]
    (known,) = ledger.known(lambda _key: True)
    assert known.account.gone == [(2, 3), (5, 5)], "6 to 8 were never stored"
    ledger.forget((NODE, EP), Ranges([(1, 1)]), 1_000, 78)
    assert ledger.entries()[0].rows_stored == 0
    draft = Draft(ledger)
    assert draft.add(NODE, EP, 2, 1, 99)


def test_what_cannot_follow_is_forgotten_and_named(numbers: Any) -> None:
    ledger = Ledger()
    draft = Draft(ledger)
    draft.add(NODE, EP, 5, 1, 1)
    draft.lose(NODE, EP, [(90_000_000, 90_000_001)], "quota")
    draft.add(NODE, EP, 100_000_004, 1, 2)
    draft.add(NODE, EP, 200_000_003, 1, 3)
    draft.lose(NODE, EP, [(250_000_000, 250_000_009)], "disk")
    draft.add("acme/trial/hall/other", EP, 7, 1, 1)
    ledger.accept(draft.accounts.values())
    ledger.claim(NODE, EP, Claim(head=220_000_000, at_ms=4))
    ledger.marks()
    assert ledger.reset(NODE) == [f"ep {EP}: that its newest number is 220000000"], (
        "a long absence is possible"
    )
    assert ledger.has_claims
    entries = {entry.node: entry for entry in ledger.entries()}
    assert (entries[NODE].stored, entries[NODE].taken) == (3, 250_000_009)
    assert entries["acme/trial/hall/other"].stored == 1
    assert ledger.reset(NODE) == []
    assert ledger.reset("acme/trial/hall/unknown") == []
    ledger.claim(NODE, EP, Claim(head=3, at_ms=5))
    (known,) = ledger.known(lambda key: key[0] == NODE)
    assert known.since(210_000_000) == 5, "the head that was claimed before is forgotten"


def test_forged_numbers_are_forgotten_with_what_belongs_to_them() -> None:
    ledger, far = Ledger(), 10**12
    draft = Draft(ledger)
    draft.add(NODE, EP, far, 10, 1)
    draft.add(NODE, EP, far + 1, 10, 2)
    draft.add(NODE, EP, 3, 10, 3)
    draft.lose(NODE, EP, [(far + 5, far + 6), (far + 8, far + 8), (1, 1)], "quota")
    ledger.accept(draft.accounts.values())
    ledger.forget((NODE, EP), Ranges([(far, far)]), 10, 4)
    assert ledger.reset(NODE) == [
        f"ep {EP}: 1 stored numbers far above the others", f"ep {EP}: 2 declared gaps far above the others"
    ]  # fmt: skip
    (entry,) = ledger.entries()
    assert (entry.taken, entry.stored, entry.gaps, entry.missing) == (3, 1, [(1, 1, "quota")], [(2, 2)])
    (known,) = ledger.known(lambda _key: True)
    assert (known.account.gone, known.account.holes) == ([], [])
