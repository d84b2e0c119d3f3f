"""What an ONNX file says about itself: who wrote it, the classes of its trees, the notes of its exporter."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Any

from edgebed.model_tools.protobuf import Value, fields, text, whole

_LONGEST = 1_000_000  # characters of one note
_MOST = 10_000  # classes
# fields of the messages of onnx.proto that are read
_PRODUCER, _GRAPH, _NOTES = 2, 7, 14
_NODE, _ATTRIBUTE, _OPERATOR = 1, 5, 4
_NAME, _INTS, _STRINGS = 1, 8, 9
_CLASSES = ("classlabels_strings", "classlabels_int64s", "classlabels_ints")


@dataclass(slots=True)
class Facts:
    """What a file says about itself; trusted for nothing."""

    producer: str = ""
    notes: dict[str, str] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)  # of operators of scikit-learn, LightGBM and such
    operators: set[str] = field(default_factory=set)

    def value(self, name: str) -> Any:
        """A note of Ultralytics, which writes values as Python does; None if it is not one."""
        try:
            return ast.literal_eval(self.notes[name])
        except (KeyError, ValueError, SyntaxError, MemoryError, RecursionError):
            return None

    def numbers(self, name: str, count: int, most: int) -> list[int]:
        """A note that is a list of `count` numbers from 1 to `most`; [] if it is not."""
        found = self.value(name)
        if not isinstance(found, list | tuple) or len(found) != count:
            return []
        usable = all(isinstance(each, int) and 1 <= each <= most for each in found)
        return list(found) if usable else []

    @property
    def names(self) -> list[str]:
        """The class names that Ultralytics writes, as {0: 'person', 1: 'bicycle'}."""
        found = self.value("names")
        if isinstance(found, list | tuple):
            found = dict(enumerate(found))
        if not isinstance(found, dict) or not 0 < len(found) <= _MOST:
            return []
        return [str(found[at]) for at in range(len(found))] if {*found} == {*range(len(found))} else []


def read(body: bytes) -> Facts:
    """The facts of a file that `onnx_scan.scan` accepted.

    Raises:
        ModelError: it is not a protobuf message.
    """
    found = Facts()
    for number, value in fields(memoryview(body)):
        if number == _PRODUCER:
            found.producer = text(value)[:64]
        elif number == _NOTES:
            note = dict(_texts(value))
            if len(found.notes) < 256 and len(note.get(2, "")) <= _LONGEST:
                found.notes[note.get(1, "")] = note.get(2, "")
        elif number == _GRAPH and not isinstance(value, int):
            _read_graph(value, found)
    return found


def _texts(value: Value) -> list[tuple[int, str]]:
    return [] if isinstance(value, int) else [(number, text(each)) for number, each in fields(value)]


def _read_graph(graph: memoryview, found: Facts) -> None:
    for number, node in fields(graph):
        if number != _NODE or isinstance(node, int):
            continue
        for part, value in fields(node):
            if part == _OPERATOR:
                found.operators.add(text(value)[:64])
            elif part == _ATTRIBUTE and not found.classes and not isinstance(value, int):
                found.classes = _classes(value)


def _classes(attribute: memoryview) -> list[str]:
    """The classes that an attribute lists; [] if it is another attribute."""
    parts = list(fields(attribute)) if len(attribute) <= _LONGEST else []
    if not any(number == _NAME and text(value) in _CLASSES for number, value in parts):
        return []
    listed = [text(value) for number, value in parts if number == _STRINGS]
    listed += [str(one) for number, value in parts if number == _INTS for one in whole(value)]
    return listed if len(listed) <= _MOST else []
