"""Which messages one of two collectors has and the other lacks."""

from __future__ import annotations

from typing import Any

import pytest

from collector.ledger import holdings
from collector.ledger.holdings import Difference, Holding, differences, page, pages, settled
from collector.ledger.ledger import Ledger
from collector.ledger.report import ReportFilter
from collector.store.marks import Account
from wire.ranges import Ranges

NODE, EP = "acme/trial/hall/n1", "00112233aabbccdd"


def account(node: str, ep: str = EP, *stored: tuple[int, int], **more: Any) -> Account:
    return Account(node, ep, Ranges(stored or [(1, 5)]), **more)


def found(here: list[Holding], there: list[Holding]) -> list[Difference]:
    before = differences(here, there)
    return settled(before, before)


def test_the_same_numbers_are_no_difference() -> None:
    one = Holding(NODE, EP, 10, [(1, 5)])
    assert found([one], [one]) == []
    assert found([], []) == []


@pytest.mark.parametrize(
    ("here", "there", "here_lacks", "there_lacks"),
    [
        ([(1, 5)], [(1, 9)], [(6, 9)], []),
        ([(1, 5), (8, 9)], [(3, 6)], [(6, 6)], [(1, 2), (8, 9)]),
        ([], [(2, 3)], [(2, 3)], []),
    ],
)
def test_numbers_that_one_side_lacks(
    here: list[tuple[int, int]],
    there: list[tuple[int, int]],
    here_lacks: list[tuple[int, int]],
    there_lacks: list[tuple[int, int]],
) -> None:
    (one,) = found([Holding(NODE, EP, 0, here)], [Holding(NODE, EP, 0, there)])
    assert (list(one.here_lacks), list(one.there_lacks)) == (here_lacks, there_lacks)


def test_an_outbox_that_one_side_does_not_know() -> None:
    (one,) = found([], [Holding(NODE, EP, 7, [(1, 7)])])
    assert (one.node, one.ep, list(one.here_lacks)) == (NODE, EP, [(1, 7)])


def test_what_is_lacking_and_declared_lost_is_stated() -> None:
    (one,) = found([Holding(NODE, EP, 0, [(1, 5)], [(4, 8)])], [Holding(NODE, EP, 0, [(1, 9)])])
    assert (list(one.here_lacks), one.here_lost) == ([(6, 9)], 3)


def test_other_rows_in_the_same_messages_are_a_difference() -> None:
    (one,) = found([Holding(NODE, EP, 12, [(1, 5)])], [Holding(NODE, EP, 10, [(1, 5)])])
    assert one.rows == 2


def test_what_was_in_flight_is_not_a_difference() -> None:
    before = differences([Holding(NODE, EP, 0, [(1, 5)])], [Holding(NODE, EP, 0, [(1, 9)])])
    later = differences([Holding(NODE, EP, 0, [(1, 8)])], [Holding(NODE, EP, 0, [(1, 12)])])
    (one,) = settled(before, later)
    assert list(one.here_lacks) == [(9, 9)]
    assert settled(before, {}) == []


def test_pages_give_every_outbox_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdings, "MAX_OUTBOXES", 3)
    names = [f"acme/trial/hall/n{number}" for number in range(8)]
    # in the order of the texts, `n-1` stands before `n/`
    ledger = Ledger([account(name, EP) for name in [*names, "acme/trial/hall/n1-b", "acme/other/hall/n1"]])
    every = list(pages(ledger, ReportFilter()))
    assert sorted(one.node for one in every) == sorted([*names, "acme/trial/hall/n1-b", "acme/other/hall/n1"])
    assert {one.node for one in pages(ledger, ReportFilter(pilot="acme/trial"))} == {
        *names,
        "acme/trial/hall/n1-b",
    }
    assert [one.node for one in pages(ledger, ReportFilter(node=names[3]))] == [names[3]]


def test_a_page_is_bounded_by_its_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdings, "MAX_RANGES", 4)
    parts = [(1, 1), (3, 3), (5, 5)]
    ledger = Ledger([account(f"acme/trial/hall/n{number}", EP, *parts) for number in range(3)])
    first = page(ledger, ReportFilter())
    assert (len(first.outboxes), first.next) == (1, f"acme/trial/hall/n0/{EP}")
    assert len(list(pages(ledger, ReportFilter()))) == 3


def test_declared_gaps_that_overlap_are_joined() -> None:
    lost = [(7, 9, "quota"), (3, 8, "disk")]
    (one,) = page(Ledger([account(NODE, EP, (1, 2), lost=lost)]), ReportFilter()).outboxes
    assert one.lost == [(3, 9)]
