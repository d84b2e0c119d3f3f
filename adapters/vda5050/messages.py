"""Reads the fields of VDA 5050 version 2 messages one by one: a field that is odd costs only itself.

Names and required keys are those of the JSON schemas of versions 2.0 and 2.1; other keys are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapters.base import Value
from adapters.mqtt.payload import KINDS, MISSING, as_declared, shown
from wire.messages import Quality

OPERATING_MODES = frozenset({"AUTOMATIC", "SEMIAUTOMATIC", "MANUAL", "SERVICE", "TEACHIN"})
E_STOPS = frozenset({"AUTOACK", "MANUAL", "REMOTE", "NONE"})
CONNECTION_STATES = frozenset({"ONLINE", "OFFLINE", "CONNECTIONBROKEN"})
ERROR_LEVELS = {"WARNING": 1, "FATAL": 2}  # error level -> severity

_LONGEST = 2_000


class Message:
    """One message; `quality` is that of the worst field so far.

    `odd` has each field that was taken, with the reason why it cannot be used, or "" if it can. A field of
    the items of an array can be used if it can in all of them.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.root = Part(document, "", self)
        self.quality = Quality.GOOD
        self.odd: dict[str, str] = {}

    def note(self, field: str, quality: Quality, why: str = "") -> None:
        """Take the quality of a field."""
        self.quality = self.quality.worse(quality)
        self.odd[field] = self.odd.get(field) or why


class Part:
    """One object of a message. `there` is False if the message does not have it: then its fields are null."""

    def __init__(self, fields: Mapping[str, Any], path: str, message: Message, *, there: bool = True) -> None:
        self.there = there
        self._fields = fields
        self._path = path
        self._message = message

    def take(self, key: str, kind: str, *, required: bool = True) -> Value:
        """The value of a field in its declared type; null and flagged if it is odd."""
        raw = self._fields.get(key, MISSING)
        value, quality = as_declared(raw, kind)
        if raw is None or raw is MISSING:
            self._absent(key, raw, required)
        else:
            self._message.note(self._path + key, quality, _why(raw, KINDS[kind]) if quality else "")
        return value

    def plain(self, key: str) -> str:
        """A field as text, also if the device wrote it as a number."""
        raw = self._fields.get(key, MISSING)
        if not isinstance(raw, str | float) and not _is_short(raw):
            self._not_a(raw, key, True, "a text")
            return ""
        self._message.note(self._path + key, Quality.GOOD)
        return str(raw)[:_LONGEST]

    def items(self, key: str, *, required: bool = True) -> list[Any] | None:
        """The items of an array; None if it is odd."""
        raw = self._fields.get(key, MISSING)
        if isinstance(raw, list):
            self._message.note(self._path + key, Quality.GOOD)
            return raw
        self._not_a(raw, key, required, "an array")
        return None

    def part(self, key: str, *, required: bool = True) -> Part:
        """An object of this object; without fields if it is odd."""
        raw = self._fields.get(key, MISSING)
        if isinstance(raw, dict):
            self._message.note(self._path + key, Quality.GOOD)
            return Part(raw, f"{self._path}{key}.", self._message)
        self._not_a(raw, key, required, "an object")
        return Part({}, "", self._message, there=False)

    def listed(self, key: str, item: object) -> Part:
        """An item of an array as an object; without fields if it is not one."""
        if isinstance(item, dict):
            return Part(item, f"{self._path}{key}.", self._message)
        self._not_a(item, key, True, "an array of objects")
        return Part({}, "", self._message, there=False)

    def _not_a(self, raw: object, key: str, required: bool, what: str) -> None:
        if raw is None or raw is MISSING:
            self._absent(key, raw, required)
        else:
            self._message.note(self._path + key, Quality.WRONG_TYPE, _why(raw, what))

    def _absent(self, key: str, raw: object, required: bool) -> None:
        if not self.there:  # the object that should have it is noted already
            return
        why = ("is missing" if raw is MISSING else "is null") if required else ""
        self._message.note(self._path + key, Quality.UNCERTAIN if required else Quality.GOOD, why)


def _why(raw: object, what: str) -> str:
    return f"is {shown(raw)}, not {what}"


def _is_short(raw: object) -> bool:
    return isinstance(raw, int) and not isinstance(raw, bool) and abs(raw) < 2**63
