"""The page about pilots lists every formula with its inputs and units, and every word of an expression."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from wire.pilot.expression import AGGREGATES
from wire.pilot.formulas import FORMULAS

PAGE = (Path(__file__).parents[4] / "docs/pilots.md").read_text()


def code(words: Iterable[str]) -> str:
    return " ".join(f"`{word}`" for word in words)


@pytest.mark.parametrize("word", FORMULAS)
def test_a_formula_is_on_the_page(word: str) -> None:
    found = FORMULAS[word]
    units = code(found.units) if len(found.units) < 6 else f"{code(found.units[:2])} ..."
    cells = [f"`{word}`", code(found.inputs), code(found.optional), code(found.given), units, found.estimand]
    assert f"| {' | '.join(cells)} |" in PAGE


@pytest.mark.parametrize("word", AGGREGATES)
def test_a_word_of_an_expression_is_on_the_page(word: str) -> None:
    assert f"| `{word}` | {AGGREGATES[word]} |" in PAGE
