"""Parse YAML 1.2 (core schema) into a tree of nodes with line and column; size and depth are bounded."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_BYTES = 262_144
MAX_DEPTH = 40
MAX_NODES = 20_000  # an alias counts as the nodes it refers to: this stops an alias bomb

_SURROGATE = re.compile("[\ud800-\udfff]")  # from an escape; such text can be written to no file or message
_INT = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Line and column in a file, both counted from 1."""

    line: int
    col: int


class YamlMistake(ValueError):
    """Text that this reader does not accept: a sentence and its place."""

    def __init__(self, place: Place, sentence: str) -> None:
        super().__init__(sentence)
        self.place = place
        self.sentence = sentence


@dataclass(slots=True, eq=False)
class Node:
    """One value: a scalar (`value`, as written in `text`), a list (`items`) or a map (`keys`).

    `place` is where it starts; `size` counts the nodes below it, aliases expanded.
    """

    place: Place
    kind: str  # scalar | list | map
    value: Any = None
    text: str = ""
    items: list[Node] = field(default_factory=list)
    keys: dict[str, Node] = field(default_factory=dict)
    key_places: dict[str, Place] = field(default_factory=dict)
    flow: bool = False
    size: int = 1

    def plain(self) -> Any:
        """The value as Python's own lists, dicts and scalars."""
        if self.kind == "map":
            return {key: node.plain() for key, node in self.keys.items()}
        if self.kind == "list":
            return [node.plain() for node in self.items]
        return self.value


def compose(text: str) -> tuple[Node, list[YamlMistake]]:
    """The document in `text`, and the mistakes that did not stop the reader (duplicate keys, tags).

    Raises:
        YamlMistake: the reader had to stop: bad syntax, two documents, too deep, too large.
    """
    try:
        composer = _Composer(yaml.parse(text, Loader=yaml.SafeLoader))
        return composer.document(), composer.mistakes
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = Place(before.count("\n") + 1, error.position - (before.rfind("\n") + 1) + 1)
        raise YamlMistake(
            place, f"the character U+{ord(text[error.position]):04X} is not allowed in YAML"
        ) from None
    except yaml.MarkedYAMLError as error:
        raise YamlMistake(_place(error.problem_mark or error.context_mark), _sentence(error)) from error


class _Composer:
    def __init__(self, events: Iterator[yaml.Event]) -> None:
        self.mistakes: list[YamlMistake] = []
        self._events = events
        self._anchors: dict[str, Node | None] = {}  # None while the anchored node is still being read

    def document(self) -> Node:
        root: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    raise YamlMistake(
                        _place(event.start_mark), "a second document starts here: only one is allowed"
                    )
                if event.version == (1, 1):
                    self._note(event, "the file declares YAML 1.1 but is read as 1.2: remove this line")
                root = self._node(next(self._events), 0)
        if root is None:
            raise YamlMistake(Place(1, 1), "the file is empty")
        return root

    def _node(self, event: yaml.Event, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise YamlMistake(_place(event.start_mark), f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        anchor: str | None = getattr(event, "anchor", None)
        if anchor is not None:
            self._anchors[anchor] = None
        node = self._fresh(event, depth)
        if node.size > MAX_NODES:
            raise YamlMistake(node.place, f"more than {MAX_NODES} values, aliases expanded")
        if anchor is not None:
            self._anchors[anchor] = node
        return node

    def _fresh(self, event: yaml.Event, depth: int) -> Node:
        place = _place(event.start_mark)
        if isinstance(event, yaml.ScalarEvent):
            if half := _SURROGATE.search(event.value):
                raise YamlMistake(place, f"\\u{ord(half[0]):04X} is half of a character: write the whole one")
            return Node(place, "scalar", self._scalar(event), event.value)
        if isinstance(event, yaml.SequenceStartEvent):
            node = Node(place, "list", flow=self._collection(event, "tag:yaml.org,2002:seq"))
            while not isinstance(inner := next(self._events), yaml.SequenceEndEvent):
                self._grow(node, item := self._node(inner, depth + 1))
                node.items.append(item)
            return node
        node = Node(place, "map", flow=self._collection(event, "tag:yaml.org,2002:map"))
        while not isinstance(inner := next(self._events), yaml.MappingEndEvent):
            self._entry(node, inner, depth)
        return node

    def _entry(self, node: Node, event: yaml.Event, depth: int) -> None:
        key = self._node(event, depth + 1)
        self._grow(node, value := self._node(next(self._events), depth + 1))
        if key.kind != "scalar" or not key.text:
            self._note(event, "a key must be a word")
        elif key.text in node.keys:
            first = node.key_places[key.text]
            self._note(event, f"key {key.text!r} is set twice; line {first.line} sets it already")
        else:
            node.keys[key.text] = value
            node.key_places[key.text] = _place(event.start_mark)

    def _grow(self, node: Node, item: Node) -> None:
        node.size += item.size
        if node.size > MAX_NODES:
            raise YamlMistake(item.place, f"more than {MAX_NODES} values, aliases expanded")

    def _alias(self, event: yaml.AliasEvent) -> Node:
        name = event.anchor
        if name not in self._anchors:
            raise YamlMistake(
                _place(event.start_mark), f"*{name} is not defined: there is no &{name} before it"
            )
        node = self._anchors[name]
        if node is None:
            raise YamlMistake(_place(event.start_mark), f"*{name} contains itself")
        return node

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        if event.tag not in (None, "!", "tag:yaml.org,2002:str"):
            self._note(event, f"tag {event.tag!r} is not supported: write the value alone")
        if not event.implicit[0] or event.tag is not None:
            return event.value
        if _INT.fullmatch(event.value) or _BASED.fullmatch(event.value):
            if len(event.value) > 20:
                self._note(event, "a number of more than 20 digits")
                return 0
            return int(event.value, 0 if _BASED.fullmatch(event.value) else 10)
        if event.value in _WORDS:
            return _WORDS[event.value]
        return float(event.value) if _FLOAT.fullmatch(event.value) else event.value

    def _collection(self, event: Any, tag: str) -> bool:
        if event.tag not in (None, "!", tag):
            self._note(event, f"tag {event.tag!r} is not supported: write the value alone")
        return bool(event.flow_style)

    def _note(self, event: yaml.Event, sentence: str) -> None:
        self.mistakes.append(YamlMistake(_place(event.start_mark), sentence))


def _place(mark: Any) -> Place:  # the pure and the C parser have a Mark class each
    return Place(1, 1) if mark is None else Place(mark.line + 1, mark.column + 1)


def _sentence(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "not valid YAML"
    if "'\\t'" in problem:
        return "a tab is used where YAML requires spaces: indent with spaces"
    if "mapping values are not allowed" in problem:
        return "a ':' is not allowed here: check the indentation, or put the text in quotes"
    if "expected <block end>" in problem:
        return "this line is indented differently from the lines it belongs to"
    if error.context == "while parsing a flow mapping" and "got '?'" in problem:
        return "a '?' is not allowed within { }: put the text in quotes"
    context = f" ({error.context})" if error.context else ""
    return f"not valid YAML: {problem}{context}"
