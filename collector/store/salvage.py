"""Reads what a damaged table still gives: a row that cannot be read costs itself, not the rows around it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

MAX_TRIES = 20_000  # spans of ids that are tried; a file that needs more is left as it is


class Unreadable(Exception):
    """A table that gives nothing."""


def highest_id(db: sqlite3.Connection, table: str) -> int:
    """An id that no row of the table exceeds."""
    try:
        found: int | None = db.execute(f"SELECT max(id) FROM {table}").fetchone()[0]  # noqa: S608 - a constant
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
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
    spans, tries = [(1, highest)] if highest else [], 0
    while spans:
        first, last = spans.pop()
        tries += 1
        try:
            rows = db.execute(query, (*parameters, first, last)).fetchall() if tries <= MAX_TRIES else None
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:
            rows = None
        if rows is not None:
            yield from rows
        elif first == last or tries > MAX_TRIES:
            lost(first, last)
        else:
            middle = (first + last) // 2
            spans += [(middle + 1, last), (first, middle)]
