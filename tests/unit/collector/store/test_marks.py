"""Marks and books: bounded, united without loss, and readable from an older store."""

from __future__ import annotations

import pytest

from collector.ledger.ledger import Ledger
from collector.store import marks
from collector.store.marks import Account, Book, encoded, read_account
from wire.ranges import Ranges

NODE, EP = "acme/trial/hall/cobot-01", "00112233aabbccdd"
JOINTS = "data/arm/joints"


def test_streams_and_holes_without_end_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "MAX_STREAMS", 5)
    monkeypatch.setattr(marks, "MAX_HOLES", 5)
    book = Book()
    for number in range(20):
        book.number((1, 2 * number + 1), JOINTS, 1)
        book.number((1, 1), f"data/arm/s{number}", 1)
    assert len(book.rows[1]) == 5
    assert list(book.rows[1][JOINTS]) == [(n, n) for n in (1, 3, 5, 7, 9)]
    book.number((1, 10), JOINTS, 1)
    assert list(book.rows[1][JOINTS])[-1] == (9, 10), "a number beside a known one needs no room"


def test_a_copy_shares_ranges_until_they_change() -> None:
    book = Book()
    book.number((1, 1), JOINTS, 10)
    book.number((2, 1), JOINTS, 10)
    first, second = book.copy(), book.copy()
    first.number((1, 11), JOINTS, 5, book)
    second.number((1, 21), JOINTS, 5, book)
    assert first.rows[2][JOINTS] is second.rows[2][JOINTS]
    assert [list(each.rows[1][JOINTS]) for each in (book, first, second)] == [
        [(1, 10)], [(1, 15)], [(1, 10), (21, 25)],
    ]  # fmt: skip


def test_two_copies_of_a_book_are_united() -> None:
    left, right = Book(), Book()
    left.number((1, 1), JOINTS, 10)
    right.number((1, 6), JOINTS, 10)
    right.number((16, 1), "data/arm/tcp", 3)
    united = left.united(right)
    assert united.rows == {1: {JOINTS: Ranges([(1, 15)])}, 16: {"data/arm/tcp": Ranges([(1, 3)])}}


def test_the_stored_form_of_a_book_comes_back() -> None:
    book = Book()
    book.number((1, 1), JOINTS, 10)
    book.stated.made_at, book.stated.acked, book.stated.refused = 77, 5, {"its key is not accepted": 2}
    body = encoded(Account(NODE, EP, book=book))
    assert b'"said"' in body, "the name in the file is older than that in the code"
    assert read_account(body).book == book


def test_marks_of_an_older_store_are_read() -> None:
    """A mark without a book, as it was written before there were statements."""
    counts = '"stored":[[1,3]],"lost":[],"duplicates":0,"rows":3,"first":1,"last":2'
    body = f'{{"node":"{NODE}","ep":"{EP}",{counts}}}'
    (entry,) = Ledger([read_account(body.encode())]).entries()
    assert (entry.stored, entry.missing_count) == (3, 0)
