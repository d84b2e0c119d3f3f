"""Writes parts of a manifest as YAML: keys with values, and what only the model's maker knows as TODO."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TODO = "# TODO:"
_WIDEST = 100  # characters of a list on one line
# texts that YAML reads as themselves without quotes
_PLAIN = re.compile(
    r"(?:signal|value|class|point)[-_][0-9]+|frame|window|rgb|bgr|grey|letterbox|stretch|crop|centre|corner"
    r"|nchw|nhwc|time-signal|signal-time|flat|scalar|detection|classification|regression|anomaly"
    r"|reconstruction|embedding|regions|yolov5|yolov8|yolox|fastestdet|ulface|end-to-end|detr|ssd"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A key of a manifest with its value, and the question to the model's maker where it is a guess."""

    key: str
    value: Any
    todo: str = ""


Section = Sequence[Entry]


def plain(section: Section) -> dict[str, Any]:
    """The section as a YAML reader reads it."""
    return {entry.key: entry.value for entry in section}


def lines(section: Section, indent: str = "  ") -> list[str]:
    """The section as lines of YAML."""
    found = []
    for entry in section:
        todo = f" {TODO} {entry.todo}" if entry.todo else ""
        text = scalar(entry.value)
        if len(text) <= _WIDEST or not isinstance(entry.value, list | dict):
            found.append(f"{indent}{entry.key}: {text}{todo}")
            continue
        found.append(f"{indent}{entry.key}:{todo}")
        if isinstance(entry.value, dict):
            found += [f"{indent}  {scalar(key)}: {scalar(each)}" for key, each in entry.value.items()]
        else:
            found += [f"{indent}  - {scalar(each)}" for each in entry.value]
    return found


def scalar(value: Any) -> str:
    """A value in YAML's flow style."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) else quoted(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(key)}: {scalar(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(scalar, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def quoted(text: str) -> str:
    """The text as a YAML scalar in double quotes, which every YAML reader reads as this very text."""
    return '"' + "".join(_escaped(one) for one in text) + '"'


def _escaped(one: str) -> str:
    if one in '"\\':
        return "\\" + one
    code = ord(one)
    if one.isprintable() and code <= 0xFFFF:
        return one
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
