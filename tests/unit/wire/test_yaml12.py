"""YAML 1.2 into nodes: scalars of the core schema, places, and limits that stop hostile text."""

from __future__ import annotations

import math
from typing import Any

import pytest

from wire.yaml12 import MAX_DEPTH, MAX_NODES, Node, Place, YamlMistake, compose


def plain(text: str) -> Any:
    root, mistakes = compose(text)
    assert mistakes == []
    return root.plain()


def noted(text: str) -> list[tuple[int, int, str]]:
    return [(one.place.line, one.place.col, one.sentence) for one in compose(text)[1]]


def stopped(text: str) -> tuple[int, int, str]:
    with pytest.raises(YamlMistake) as caught:
        compose(text)
    assert str(caught.value) == caught.value.sentence
    return caught.value.place.line, caught.value.place.col, caught.value.sentence


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((word, None) for word in ("~", "null", "Null", "NULL")),
        *((word, True) for word in ("true", "True", "TRUE")),
        *((word, False) for word in ("false", "False", "FALSE")),
        *((word, math.inf) for word in (".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF")),
        *((word, -math.inf) for word in ("-.inf", "-.Inf", "-.INF")),
        *((word, word) for word in ("yes", "No", "on", "tRUE", "nULL", "2026-01-01", "1_000")),
        *((word, word) for word in ("0b1", "1e", ".")),
        ("010", 10), ("-7", -7), ("+7", 7), ("0x1F", 31), ("0o17", 15), ("0xg", "0xg"), ("0o8", "0o8"),
        ("1.5", 1.5), (".5", 0.5), ("1.", 1.0), ("1e3", 1000.0), ("-1.5E-2", -0.015), ("1.e1", 10.0),
        ("'7'", "7"), ('"true"', "true"), ("!!str 7", "7"), ("! 7", "7"), ("9" * 20, int("9" * 20)),
    ],
)  # fmt: skip
def test_a_scalar_is_that_of_the_core_schema(text: str, value: Any) -> None:
    found = plain(f"a: {text}")["a"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("word", [".nan", ".NaN", ".NAN"])
def test_not_a_number_is_a_number_of_its_own(word: str) -> None:
    assert math.isnan(plain(word))


def test_lists_and_maps_become_python_values() -> None:
    assert plain("a: [1, {b: x}]\nc:\n  - d: null\n  - []\n") == {
        "a": [1, {"b": "x"}],
        "c": [{"d": None}, []],
    }
    assert plain("a:\n") == {"a": None}


def test_each_value_and_key_has_its_place() -> None:
    root, _ = compose("one: x\ntwo:\n  - 5\n  - {k: v}\n")
    assert (root.place, root.kind, root.flow) == (Place(1, 1), "map", False)
    assert root.key_places == {"one": Place(1, 1), "two": Place(2, 1)}
    one, two = root.keys.values()
    assert (one.place, one.kind, one.value, one.text) == (Place(1, 6), "scalar", "x", "x")
    assert (two.place, two.kind, two.flow) == (Place(3, 3), "list", False)
    five, inner = two.items
    assert (five.place, five.value, five.text) == (Place(3, 5), 5, "5")
    assert (inner.place, inner.flow, inner.key_places) == (Place(4, 5), True, {"k": Place(4, 6)})


def test_an_alias_is_the_node_that_it_names_and_counts_again() -> None:
    root, _ = compose("a: &x [1, 2]\nb: *x\n")
    assert root.keys["a"] is root.keys["b"]
    assert (root.keys["a"].size, root.size) == (3, 7)
    assert compose("a: {b: [c]}")[0].size == 4


def test_the_depth_is_limited() -> None:
    assert compose("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))[0].size == MAX_DEPTH + 1
    assert stopped("[" * MAX_DEPTH + "[x]" + "]" * MAX_DEPTH) == (1, 42, "nested deeper than 40 levels")
    assert stopped("{a: " * 41 + "x" + "}" * 41)[2] == "nested deeper than 40 levels"


def test_the_number_of_values_is_limited() -> None:
    assert compose(f"[{'x,' * (MAX_NODES - 1)}]")[0].size == MAX_NODES
    sentence = "more than 20000 values, aliases expanded"
    assert stopped(f"[{'x,' * MAX_NODES}]") == (1, 2 * MAX_NODES, sentence)
    assert stopped("".join(f"k{n}: x\n" for n in range(MAX_NODES))) == (MAX_NODES, 9, sentence)


@pytest.mark.parametrize(
    ("text", "place", "sentence"),
    [
        ("", (1, 1), "the file is empty"),
        ("a: 1\n---\nb: 2\n", (2, 1), "a second document starts here: only one is allowed"),
        ("a: *gone\n", (1, 4), "*gone is not defined: there is no &gone before it"),
        ("a: &x [*x]\n", (1, 8), "*x contains itself"),
        ('a: "\\ud800"\n', (1, 4), "\\uD800 is half of a character: write the whole one"),
        ("a: 1\nb: x\x01\n", (2, 5), "the character U+0001 is not allowed in YAML"),
        ("\x01", (1, 1), "the character U+0001 is not allowed in YAML"),
        ("a: 1\n\tb: 2\n", (2, 1), "a tab is used where YAML requires spaces: indent with spaces"),
        (
            "a: b: c\n",
            (1, 5),
            "a ':' is not allowed here: check the indentation, or put the text in quotes",
        ),
        ("a:\n  - 1\n b: 2\n", (3, 2), "this line is indented differently from the lines it belongs to"),
        (
            "a: 'x",
            (1, 6),
            "not valid YAML: found unexpected end of stream (while scanning a quoted scalar)",
        ),
        ("q: {en: Does it help?, ko: x}", (1, 21), "a '?' is not allowed within { }: put the text in quotes"),
        ("'a' 'b'", (1, 5), "not valid YAML: expected '<document start>', but found '<scalar>'"),
        ("a: !<x\n", (1, 7), "not valid YAML: expected '>', but found '\\n' (while parsing a tag)"),
    ],
)
def test_text_that_stops_the_reader(text: str, place: tuple[int, int], sentence: str) -> None:
    assert stopped(text) == (*place, sentence)


@pytest.mark.parametrize(
    ("text", "place", "sentence", "value"),
    [
        ("a: 1\na: 2\n", (2, 1), "key 'a' is set twice; line 1 sets it already", {"a": 1}),
        ("? [x]\n: 1\nb: 2\n", (1, 3), "a key must be a word", {"b": 2}),
        ("'': 1\nb: 2\n", (1, 1), "a key must be a word", {"b": 2}),
        ("a: !x 1\n", (1, 4), "tag '!x' is not supported: write the value alone", {"a": "1"}),
        ("a: !x [1]\n", (1, 4), "tag '!x' is not supported: write the value alone", {"a": [1]}),
        ("a: !x {b: 1}\n", (1, 4), "tag '!x' is not supported: write the value alone", {"a": {"b": 1}}),
        ("a: " + "9" * 21, (1, 4), "a number of more than 20 digits", {"a": 0}),
        (
            "%YAML 1.1\n---\na: 1\n", (1, 1),
            "the file declares YAML 1.1 but is read as 1.2: remove this line", {"a": 1},
        ),
    ],
)  # fmt: skip
def test_mistakes_that_do_not_stop_the_reader(
    text: str, place: tuple[int, int], sentence: str, value: Any
) -> None:
    assert noted(text) == [(*place, sentence)]
    assert compose(text)[0].plain() == value


@pytest.mark.parametrize("text", ["!!seq [1]", "!!map {a: 1}", "! [1]", "! {a: 1}", "%YAML 1.2\n---\na: 1\n"])
def test_tags_that_say_what_the_value_is_anyway(text: str) -> None:
    assert noted(text) == []


def test_nodes_are_compared_by_identity() -> None:
    assert Node(Place(1, 1), "scalar") != Node(Place(1, 1), "scalar")
