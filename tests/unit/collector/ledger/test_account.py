"""An account: its draft and its stored form."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from collector.ledger.balance import totals
from collector.ledger.ledger import Draft, Ledger
from collector.store.marks import Account, Claim, encoded, read_account

NODE, EP = "acme/trial/hall/cobot-01", "00112233aabbccdd"


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
