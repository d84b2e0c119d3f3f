"""YAML into structs: all mistakes in one pass with their places; any text gives at most a ConfigError."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Meta, Struct, UnsetType, field

from wire.config import Marks, Mistake, decoded, did_you_mean, keys, load, parse, schema
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


def test_a_share_in_percent_says_how_a_share_is_written() -> None:
    (found,) = [each for each in mistakes("things:\n  two:\n    wait_s: 3 %\n") if "wait_s" in each]
    assert found.endswith("expected a number, got '3 %': write a share without %, such as 0.05 for 5%")


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


def test_a_mistake_names_the_file_and_the_keys_of_any_yaml_are_read(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("node: n\nthings: 3\n")
    with pytest.raises(ConfigError, match=re.escape(f"{path}:2:9: things: expected keys and values, got 3")):
        load(path, Whole)
    assert keys(path) == {"node", "things"}
    path.write_text("- 1\n")
    assert keys(path) == frozenset()
    path.write_text("a: [\n")
    assert keys(path) == frozenset()
    assert keys(tmp_path / "absent") == frozenset()


def test_paths_may_start_at_another_folder(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("node: n\nthings: {one: {word: x, file: y}}\n")
    assert load(path, Whole, folder=Path("/other")).things["one"].file == Path("/other/y")


@pytest.mark.parametrize(
    ("word", "words", "hint"),
    [
        ("cuont", ["count", "node"], "; did you mean 'count'?"),
        ("x", ["only"], "; there is only"),
        ("zzz", ["b", "a"], "; there is a, b"),
        ("zzz", [f"k{n:02}" for n in range(20)], "; there is " + ", ".join(f"k{n:02}" for n in range(20))),
        ("zzz", [f"k{n:02}" for n in range(21)], ""),
        ("zzz", [], ""),
    ],
)
def test_a_hint_for_a_wrong_word(word: str, words: list[str], hint: str) -> None:
    assert did_you_mean(word, words) == hint


class Every(Struct, kw_only=True):
    """A field of each kind."""

    text: str = ""
    many: list[int] = []
    pair: tuple[int, str] | None = None
    run: tuple[int, ...] = ()
    map: dict[str, int] = {}
    named: dict[Annotated[str, Meta(max_length=2)], int] = {}
    either: bool | str = False
    part: Part | None = None
    several: list[Part] = []
    few: Annotated[list[int], Meta(min_length=1, max_length=2)] = field(default_factory=lambda: [0])
    one: Literal["a", "b", 3] = "a"
    limit: Annotated[float, Meta(ge=0, le=1)] | UnsetType = msgspec.UNSET
    file: Path = Path("x")
    free: Any = None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("text: a", {"text": "a"}),
        ("many: [1, 2]", {"many": [1, 2]}),
        ("pair: [1, x]", {"pair": (1, "x")}),
        ("pair:", {"pair": None}),
        ("run: [1, 2, 3]", {"run": (1, 2, 3)}),
        ("map: {a: 1}", {"map": {"a": 1}}),
        ("map:", {"map": {}}),
        ("either: x", {"either": "x"}),
        ("either: true", {"either": True}),
        ("part: {raw: false}", {"part": Part(raw=False)}),
        ("part: null", {"part": None}),
        ("several: [{raw: false}, {}]", {"several": [Part(raw=False), Part()]}),
        ("few: [1]", {"few": [1]}),
        ("few: [1, 2]", {"few": [1, 2]}),
        ("one: 3", {"one": 3}),
        ("limit: 1", {"limit": 1.0}),
        ("free: [1, {a: x}]", {"free": [1, {"a": "x"}]}),
        ("file: sub/y", {"file": Path("/conf/sub/y")}),
        ("file: /abs/y", {"file": Path("/abs/y")}),
    ],
)
def test_each_kind_of_value_is_read(text: str, expected: dict[str, Any]) -> None:
    assert read(text, kind=Every) == Every(**expected)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("text: {a: 1}", "1:7: text: expected text, got keys and values"),
        ("text: true", "1:7: text: expected text, got true: put it in quotes"),
        ("text: [a]", "1:7: text: expected text, got a list"),
        ("text:", "1:1: text: expected text, got nothing"),
        ("many: 1", "1:7: many: expected a list, got 1"),
        ("many: {a: 1}", "1:7: many: expected a list, got keys and values"),
        ("many: [1, x]", "1:11: many.1: expected a whole number, got 'x'"),
        ("many:\n  - 1\n  -\n", "3:4: many.1: expected a whole number, got nothing"),
        ("pair: [1]", "1:7: pair: expected 2 values, got 1"),
        ("pair: 3", "1:7: pair: expected a list, got 3"),
        ("run: [1, x]", "1:10: run.1: expected a whole number, got 'x'"),
        ("map: [1]", "1:6: map: expected keys and values, got a list"),
        ("map: {a: x}", "1:10: map.a: expected a whole number, got 'x'"),
        ("named: {abc: 1}", "1:9: named.abc: expected text of length <= 2, got 'abc'"),
        ("either: 3", "1:9: either: expected true or false or text, got 3"),
        ("part: 3", "1:7: part: expected keys and values, got 3"),
        ("several: [{x: 1}]", "1:12: several.0.x: unknown key; there is mode, raw"),
        ("few: []", "1:6: few: 0 entries; 1 are needed"),
        ("few: [1, 2, 3]", "1:6: few: 3 entries; 2 are allowed"),
        ("one: c", "1:6: one: 'c' is not one of a, b, 3"),
        ("limit: 2", "1:8: limit: expected a number <= 1.0, got 2"),
        ("limit: -.inf", "1:8: limit: -.inf is not a finite number"),
        ("file: 3", "1:7: file: expected a path, got 3"),
        ('file: "a\\0b"', "1:7: file: expected a path, got 'a\\x00b'"),
        ("either: [no]", "1:9: either: expected true or false or text, got a list"),
        ("text: " + "[" + "]", "1:7: text: expected text, got a list"),
        ("many: " + "y" * 61, "1:7: many: expected a list, got '" + "y" * 57 + "...'"),
        ("many: " + "y" * 60, "1:7: many: expected a list, got '" + "y" * 60 + "'"),
        ("part:\n  raw: On\n", "2:8: part.raw: expected true or false, got 'On': this is YAML 1.2"),
        ("part:\n  raw: of\n", "2:8: part.raw: expected true or false, got 'of'"),
    ],
)
def test_each_kind_of_mistake_has_a_sentence(text: str, sentence: str) -> None:
    assert mistakes(text, kind=Every) == [f"f.yaml:{sentence}"]


def test_a_value_that_could_not_be_read_is_a_placeholder_for_the_check() -> None:
    seen: list[Any] = []

    class Needs(Struct):
        """Fields without a default."""

        text: str
        number: int
        real: float
        yes: bool
        many: list[int]
        map: dict[str, int]
        run: tuple[int, ...]
        word: Literal["b", "a"]
        maybe: int | None
        either: int | str
        file: Path
        part: Part
        range: Range

    def check(value: Any, marks: Marks) -> Iterator[Mistake]:
        seen.append(value)
        yield from ()

    found = mistakes("{}", check, Needs)
    assert found == [f"f.yaml:1:1: {name}: is missing" for name in Needs.__struct_fields__]
    assert seen == [
        Needs("", 0, 0.0, False, [], {}, (), "b", None, 0, Path(), Part(), Range())
    ]  # fmt: skip
    wrong = "".join(f"{name}: {{x: [1]}}\n" for name in Needs.__struct_fields__ if name != "range")
    mistakes(wrong + "range: {low: 9}\n", check, Needs)
    assert (seen[1].text, seen[1].many, seen[1].word, seen[1].range) == ("", [], "b", Range())


class Picky(Struct):
    """Refuses every placeholder."""

    name: str

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a name is needed")


class Outer(Struct):
    """Needs a picky part."""

    part: Picky


def test_the_check_is_not_asked_where_no_placeholder_is_possible() -> None:
    def check(value: Any, marks: Marks) -> Iterator[Mistake]:
        yield (), "was asked"

    assert (
        mistakes("part: {name: 3}", check, Outer)
        == [
            "f.yaml:1:14: part.name: expected text, got 3: put it in quotes",
            "f.yaml:1:7: part: a name is needed",
        ][::-1]
    )
    assert read("part: {name: x}", kind=Outer) == Outer(Picky("x"))


def test_marks_are_places_of_values_or_of_their_nearest_parent() -> None:
    def check(whole: Whole, marks: Marks) -> Iterator[Mistake]:
        places = [
            ((), "1:1"), (("node",), "1:7"), (("things",), "2:1"), (("things", "one"), "3:3"),
            (("things", "one", "box"), "4:10"), (("things", "one", "box", 1), "4:15"),
            (("things", "one", "box", 2), "4:10"), (("things", "one", "box", -1), "4:10"),
            (("things", "one", "none"), "3:3"), (("node", "x"), "1:7"), (("node", 0), "1:7"),
        ]  # fmt: skip
        assert [marks.at(*path) for path, _ in places] == [f"f.yaml:{place}" for _, place in places]
        assert [marks.has(*path) for path, _ in places] == [
            True, True, True, True, True, True, False, False, False, False, False
        ]  # fmt: skip
        assert (marks.name, marks.folder) == ("f.yaml", Path("/conf"))
        yield (), "of all of it"

    text = "node: n\nthings:\n  one:\n    box: [10, 20]\n    word: x\n"
    assert mistakes(text, check) == ["f.yaml:1:1: of all of it"]


def test_a_hundred_mistakes_are_listed_in_full() -> None:
    text = "node: a\nthings: {o: {word: x}}\n" + "".join(f"x{i}: 1\n" for i in range(100))
    assert len(mistakes(text)) == 100


def test_bytes_that_are_not_text_have_a_place() -> None:
    assert decoded("\ufeffnode: 비밀".encode(), "x") == "node: 비밀"
    for body, place in ((b"\xff", "1:1"), (b"ab\n\ncd\xff", "3:3"), (b"a\xe9", "1:2")):
        with pytest.raises(ConfigError) as caught:
            decoded(body, "x")
        assert str(caught.value) == f"x:{place}: this byte is not valid UTF-8: save the file as UTF-8"


def test_a_file_may_be_a_quarter_of_a_megabyte(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    text = "node: n\nthings: {one: {word: x}}\n#"
    path.write_text(text + "x" * (262_144 - len(text)))
    assert load(path, Whole).node == "n"
    path.write_text(text + "x" * (262_145 - len(text)))
    with pytest.raises(ConfigError) as caught:
        load(path, Whole)
    assert str(caught.value) == f"{path}: has 262145 bytes; 262144 are allowed"


def test_the_schema_has_paths_and_the_fields_of_the_struct() -> None:
    found = schema(Thing)
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert found["$defs"]["Thing"]["properties"]["file"]["anyOf"][0] == {"type": "string", "format": "path"}
