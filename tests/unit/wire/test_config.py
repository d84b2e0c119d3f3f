"""YAML into structs: all mistakes in one pass with their places; any text gives at most a ConfigError."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Meta, Struct

from wire.config import Marks, Mistake, load, parse, schema
from wire.errors import ConfigError


class Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    raw: bool = True
    mode: Literal["change", "each", "never"] = "change"


class Thing(Struct, frozen=True, kw_only=True):
    word: str
    wait_s: Annotated[float, Meta(gt=0)] = 10
    file: Path | None = None
    box: tuple[int, int] = (0, 0)
    names: Annotated[list[str], Meta(max_length=2)] = []
    part: Part = Part()
    free: dict[str, Any] = {}


class Whole(Struct, frozen=True, kw_only=True):
    node: str
    count: int | None = None
    things: Annotated[dict[str, Thing], Meta(min_length=1)]


class Range(Struct):
    low: int = 0
    high: int = 1

    def __post_init__(self) -> None:
        if self.high < self.low:
            raise ValueError("high is below low")


class Holder(Struct):
    range: Range


GOOD = """\
node: a/b/c/d
count: 3
things:
  one: {word: x, wait_s: 2, file: sub/f.txt, box: [1, 2], names: [a, b]}
  two:
    word: no
    part: {raw: false, mode: each}
    free: {deep: [1, 1.5, true, null, ~, on, 0x1F, 0o17, 010, 2026-01-01, 1e3, "7"]}
"""


def read(text: str, check: Any = None, kind: Any = Whole) -> Any:
    return parse(text, kind, name="f.yaml", folder=Path("/conf"), check=check)


def mistakes(text: str, check: Any = None, kind: Any = Whole) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text, check, kind)
    return list(caught.value.mistakes)


def test_a_good_file_becomes_its_struct() -> None:
    whole = read(GOOD)
    assert whole.node == "a/b/c/d"
    assert whole.count == 3
    assert whole.things["one"].file == Path("/conf/sub/f.txt")
    assert whole.things["one"].box == (1, 2)
    assert whole.things["two"].part == Part(raw=False, mode="each")


def test_scalars_are_those_of_yaml_1_2() -> None:
    whole = read(GOOD)
    assert whole.things["two"].word == "no", "YAML 1.1 makes a boolean of it"
    expected = [1, 1.5, True, None, None, "on", 31, 15, 10, "2026-01-01", 1000.0, "7"]
    assert whole.things["two"].free["deep"] == expected


def test_every_mistake_is_told_at_once_in_the_order_of_the_file() -> None:
    text = """\
node: 5
cuont: 3
things:
  one:
    word: x
    wait_s: -1
    part: {raw: yes, mode: eahc}
  one:
    word: again
  two:
    box: [1]
    names: [a, b, c]
    wait_s: soon
"""
    assert mistakes(text) == [
        "f.yaml:1:7: node: expected text, got 5: put it in quotes",
        "f.yaml:2:1: cuont: unknown key; did you mean 'count'?",
        "f.yaml:6:13: things.one.wait_s: expected a number > 0.0, got -1",
        "f.yaml:7:17: things.one.part.raw: expected true or false, got 'yes': this is YAML 1.2",
        "f.yaml:7:28: things.one.part.mode: 'eahc' is not one of change, each, never; did you mean 'each'?",
        "f.yaml:8:3: key 'one' is set twice; line 4 sets it already",
        "f.yaml:10:3: things.two.word: is missing",
        "f.yaml:11:10: things.two.box: expected 2 values, got 1",
        "f.yaml:12:12: things.two.names: 3 entries; 2 are allowed",
        "f.yaml:13:13: things.two.wait_s: expected a number, got 'soon'",
    ]


def test_the_check_runs_beside_wrong_types_and_is_not_heard_about_stand_ins() -> None:
    seen: list[Whole] = []

    def check(whole: Whole, marks: Marks) -> Iterator[Mistake]:
        seen.append(whole)
        yield ("node",), "is a placeholder"
        yield ("things", "one", "word"), f"is too short, see {marks.at('things', 'one', 'word')}"
        yield ("things", "one", "absent"), "should be there"

    found = mistakes("node: [1]\nthings:\n  one:\n    word: x\n", check)
    assert found == [
        "f.yaml:1:7: node: expected text, got a list",
        "f.yaml:3:3: things.one.absent: should be there",
        "f.yaml:4:11: things.one.word: is too short, see f.yaml:4:11",
    ]
    assert seen[0].node == ""


def test_a_missing_root_key_does_not_hide_the_check() -> None:
    def check(whole: Whole, marks: Marks) -> Iterator[Mistake]:
        assert marks.has("count")
        assert not marks.has("node")
        yield ("count",), "is odd"

    assert mistakes("count: 3\nthings: 7\n", check) == [
        "f.yaml:1:1: node: is missing",
        "f.yaml:1:8: count: is odd",
        "f.yaml:2:9: things: expected keys and values, got 7",
    ]


def test_a_part_whose_type_is_known_late_is_read_with_its_marks() -> None:
    def check(whole: Whole, marks: Marks) -> Iterator[Mistake]:
        assert marks.convert(Part, "things", "one", "free") is None
        assert marks.convert(Part, "things", "two", "free") == Part(), "nothing there reads as an empty map"
        yield from ()

    text = (
        "node: n\nthings:\n  one:\n    word: x\n    free:\n      rwa: true\n      mode: 3\n  two: {word: y}\n"
    )
    assert mistakes(text, check) == [
        "f.yaml:6:7: things.one.free.rwa: unknown key; did you mean 'raw'?",
        "f.yaml:7:13: things.one.free.mode: 3 is not one of change, each, never",
    ]


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("", "1:1", "empty"),
        ("# nothing\n", "1:1", "empty"),
        ("a: 1\n---\nb: 2\n", "2:1", "second document"),
        ("node: a\n\tcount: 3\n", "2:1", "tab"),
        ("node: a: b\n", "1:8", "put the text in quotes"),
        ("node: x\n  count: 3\n", "2:8", "':'"),
        ("node: 'open\n", "2:1", "not valid YAML"),
        ("node: *gone\n", "1:7", "is not defined"),
        ("node: &a [*a]\n", "1:11", "contains itself"),
        ("node: !!python/object/apply:os.system [id]\n", "1:7", "not supported"),
        ("node: !!binary aGk=\n", "1:7", "not supported"),
        ("node: a\x01b\n", "1:8", "U+0001"),
        ("? [a]\n: b\n", "1:3", "a key must be a word"),
        ("node: " + "[" * 60 + "\n", "1:47", "nested deeper"),
        ("count: " + "9" * 5000 + "\n", "1:8", "20 digits"),
        ("count: .inf\n", "1:8", "not a finite number"),
        ("- a\n- b\n", "1:1", "expected keys and values, got a list"),
        ("%YAML 1.1\n---\nnode: a\n", "1:1", "1.1"),
    ],
)
def test_invalid_yaml_is_reported_with_its_place(text: str, place: str, words: str) -> None:
    found = mistakes(text)
    assert any(each.startswith(f"f.yaml:{place}: ") and words in each for each in found), found


@pytest.mark.parametrize("text", ['name: "\\ud800"', '"\\udfff": 1', 'many: ["a\\udc80b"]'])
def test_half_of_a_character_is_a_mistake(text: str) -> None:
    """No file, message or terminal takes such a text."""
    assert [each for each in mistakes(text) if "half of a character: write the whole one" in each]


def test_an_alias_is_read_and_an_alias_bomb_is_not() -> None:
    whole = read("node: &n x\nthings:\n  one: &t {word: *n}\n  two: *t\n")
    assert whole.things["two"].word == "x"
    layers = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"] + [
        f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)
    ]
    assert "aliases expanded" in mistakes("\n".join(layers))[0]


def test_a_struct_may_refuse_its_own_values() -> None:
    found = mistakes("range:\n  low: 4\n  high: 2\n", kind=Holder)
    assert found == ["f.yaml:1:1: range: high is below low"]


def test_a_flood_of_mistakes_is_cut() -> None:
    text = "node: a\nthings: {}\n" + "".join(f"x{i}: 1\n" for i in range(300))
    found = mistakes(text)
    assert len(found) == 101
    assert found[-1] == "f.yaml: and 201 more mistakes"


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    large.write_bytes(b"a" * 300_000)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("node: a\nthings: é\n".encode("latin-1"))
    fifo = tmp_path / "fifo.yaml"
    os.mkfifo(fifo)
    for path, words in [
        (tmp_path / "absent.yaml", "No such file"),
        (tmp_path, "is not a regular file"),
        (large, "300000 bytes"),
        (latin, "latin.yaml:2:9: this byte is not valid UTF-8"),
        (fifo, "is not a regular file"),
    ]:
        with pytest.raises(ConfigError) as caught:
            load(path, Whole)
        assert len(caught.value.mistakes) == 1
        assert words in caught.value.mistakes[0]


def test_a_relative_path_is_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("﻿node: n\nthings: {one: {word: x, file: ../y}}\n")
    assert load(path, Whole).things["one"].file == tmp_path / ".." / "y"
    path.write_text("node: n\nthings: {one: {word: x, file: ''}}\n")
    with pytest.raises(ConfigError, match=r"things\.one\.file: expected a path, got ''"):
        load(path, Whole)


def test_the_schema_is_one_that_editors_take() -> None:
    found = schema(Whole)
    assert found["$schema"].startswith("https://json-schema.org/")
    assert msgspec.json.encode(found)
    assert found["$defs"]["Thing"]["required"] == ["word"]


@given(st.text() | st.text(alphabet="node:things{}[]&*!-? \n\t#'\"|>%@0.eEx"))
@example("!<\n")
@example("? ? ?")
@example("node: !<tag:yaml.org,2002:int> x")
def test_any_text_is_a_value_or_one_config_error(text: str) -> None:
    try:
        read(text)
    except ConfigError as error:
        assert error.mistakes
