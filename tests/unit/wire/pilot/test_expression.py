"""Expressions of KPIs: what they are worth, and that nothing else runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.errors import WireError
from wire.pilot.expression import aggregates, evaluate, names, parse

VALUES = {("sum", "good"): 90.0, ("sum", "bad"): 10.0, ("mean", "t"): -2.5, ("sum", "none"): 0.0}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("sum(good) / (sum(good) + sum(bad))", 0.9),
        ("-mean(t) * 2 + 1e2 - k", 102.0),
        ("sum(good) / sum(none)", None),
        ("sum(good) + sum(missing)", None),
        ("1 - sum(bad) / sum(good) / 2", 1 - 10 / 90 / 2),
    ],
)
def test_the_value_of_an_expression(text: str, value: float | None) -> None:
    assert evaluate(parse(text), {"k": 3.0}, lambda word, name: VALUES.get((word, name))) == value


def test_a_comparison_is_1_or_0() -> None:
    part = parse("sum(bad) >= 10", compares=True)
    assert evaluate(part, {}, lambda word, name: VALUES.get((word, name))) == 1.0
    part = parse("sum(bad) > 10", compares=True)
    assert evaluate(part, {}, lambda word, name: VALUES.get((word, name))) == 0.0


def test_what_an_expression_needs() -> None:
    part = parse("sum(good) / given_a - mean(t) * given_b")
    assert [(each.word, each.name) for each in aggregates(part)] == [("sum", "good"), ("mean", "t")]
    assert names(part) == {"given_a", "given_b"}


@pytest.mark.parametrize(
    "text",
    [
        "", "sum(", "sum(a) ** 9", "sum(a.b)", "sum(a, b)", "sum(a=1)", "sum(1)", "open('x')",
        "a if b else c",
        "[1]", "'text'", "True", "sum(a) and sum(b)", "x := 3", "lambda: 1", "9e999", "sum(a)[0]", "f'{a}'",
        "sum(a) % 2", "sum(a) // 2", "~sum(a)", "+".join(["sum(a)"] * 60), "(" * 200 + "1" + ")" * 99,
        "1\n2", "1_0j",
        "sum(a) < 3", "a" * 400,
    ],
)  # fmt: skip
def test_nothing_else_is_an_expression(text: str) -> None:
    with pytest.raises(WireError):
        parse(text)


@pytest.mark.parametrize("text", ["sum(a)", "1 < sum(a) < 3", "sum(a) == 3", "sum(a) in b"])
def test_a_condition_compares_once(text: str) -> None:
    with pytest.raises(WireError):
        parse(text, compares=True)


@given(st.text("sum(ab)+-*/<>=.0123 _,[]'\x00é", max_size=40))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    try:
        parse(text)
    except WireError as error:
        assert str(error)
