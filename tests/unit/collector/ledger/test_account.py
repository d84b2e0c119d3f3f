"""An account: its draft and its stored form."""

from __future__ import annotations

from typing import Any

import msgspec

from collector.ledger.account import Account
from collector.ledger.balance import totals
from collector.ledger.ledger import Draft, Ledger
from collector.store.marks import Claim, Mark

NODE, EP = "acme/trial/hall/cobot-01", "00112233aabbccdd"


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


def test_a_draft_does_not_change_the_account() -> None:
    account = Account(NODE, EP)
    account.stored.add(1, 3)
    account.lost.append((4, 5, "quota"))
    account.book.number((1, 1), "data/arm/joints", 10)
    before = account.mark(None, [])
    draft = account.copy()
    draft.stored.add(9)
    draft.lost.append((6, 6, "disk"))
    draft.holes.append((4, 8, 1))
    draft.book.number((1, 11), "data/arm/joints", 5)
    draft.book.number((1, 1), "data/arm/tcp", 5)
    draft.book.stated.refused["why"] = 1
    assert account.mark(None, []) == before
    assert draft.mark(None, []) != before


def test_a_hole_that_was_filled_is_not_saved() -> None:
    account = Account(NODE, EP, holes=[(2, 3, 100), (5, 6, 200)])
    account.stored.add(1, 4)
    account.stored.add(7)
    assert account.mark(None, []).holes == [(5, 6, 200)]


def test_an_account_comes_back_from_its_mark() -> None:
    account = Account(NODE, EP, duplicates=3, rows=40, first=5, last=9, holes=[(2, 2, 7)])
    account.stored.add(1)
    account.stored.add(3, 4)
    account.book.number((1, 1), "data/arm/joints", 10)
    claim = Claim(head=9, acked=1, depth=2, rows=50, at_ms=11)
    mark = msgspec.json.decode(msgspec.json.encode(account.mark(claim, [(9, 11)])), type=Mark)
    assert (mark.claim, mark.heads) == (claim, [(9, 11)])
    again = Account.of(mark)
    again.book.own = account.book.own  # which ranges are shared is not saved
    assert again == account
