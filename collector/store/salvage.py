"""Reads what a damaged table still gives: a row that cannot be read costs itself, not the rows around it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from collector.store.day_file import SQL_ERRORS, Damaged, translate

MAX_FAILURES = 20_000  # spans of ids that fail; a table with more is read no further
STEP = 1_000  # ids that are read at once


def highest_id(db: sqlite3.Connection, table: str) -> int:
    """An id that no row of the table exceeds."""
    try:
        found: int | None = db.execute(f"SELECT max(id) FROM {table}").fetchone()[0]  # noqa: S608 - a constant
    except SQL_ERRORS as error:
        _require_damage(error)
        # the last page is damaged: a row needs at least 32 bytes
        pages = db.execute("PRAGMA page_count").fetchone()[0] * db.execute("PRAGMA page_size").fetchone()[0]
        return int(pages) // 32
    return found or 0


def readable(
    db: sqlite3.Connection,
    query: str,
    parameters: tuple[Any, ...],
    highest: int,
    lost: Callable[[int, int], None] = lambda _first, _last: None,
) -> Iterator[tuple[Any, ...]]:
    """The rows of `query` that can be read, in order of id; `lost` gets the spans of ids that cannot.

    The query ends with `id BETWEEN ? AND ?` and reads the table itself, without an index.
    """
    failures = 0
    for start in range(1, highest + 1, STEP):
        spans = [(start, min(start + STEP - 1, highest))]
        while spans:
            first, last = spans.pop()
            try:
                yield from db.execute(query, (*parameters, first, last)).fetchall()
            except SQL_ERRORS as error:
                _require_damage(error)
                failures += 1
                if failures > MAX_FAILURES:
                    lost(first, highest)
                    return
                if first == last:
                    lost(first, last)
                else:
                    middle = (first + last) // 2
                    spans += [(middle + 1, last), (first, middle)]


def _require_damage(error: Exception) -> None:
    """Raise an error again unless damage caused it: a deadline, a lock or a failing disk."""
    if not isinstance(translate(error, Path()), Damaged):
        raise error
