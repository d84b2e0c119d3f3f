"""docs/glossary.md: every row is complete, every term is unique, every file exists."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs/glossary.md"
HEAD = ["term", "용어", "meaning", "뜻", "file"]
LINES = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
CELLS = [[cell.strip() for cell in line.strip("|").split("|")] for line in LINES]
ROWS = [cells for cells in CELLS if cells != HEAD and set(cells) != {"---"}]
HANGUL = re.compile(r"[가-힣]")


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_row_is_complete_and_names_a_file_that_exists(row: list[str]) -> None:
    assert len(row) == len(HEAD)
    assert all(row)
    term, korean_term, meaning, korean_meaning, file = row
    assert HANGUL.search(korean_term)
    assert HANGUL.search(korean_meaning)
    assert not HANGUL.search(term + meaning)
    assert meaning.endswith(".")
    assert korean_meaning.endswith(".")
    link = re.fullmatch(r"\[[^]]+\]\(([^)]+)\)", file)
    assert link is not None
    assert (PAGE.parent / link[1]).is_file()


def test_the_terms_are_unique() -> None:
    assert len(ROWS) >= 45
    for column in (0, 1):
        counted = Counter(name for row in ROWS for name in row[column].split(", "))
        assert not {name for name, times in counted.items() if times > 1}
