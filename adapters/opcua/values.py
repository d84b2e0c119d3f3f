"""Turns what a server sends for a field into a value of its declared type, or names why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from datetime import UTC, datetime
from uuid import UUID

from asyncua import ua

from adapters.base import Value
from adapters.opcua.words import of_value
from wire.messages import Quality

_TYPES: dict[str, tuple[type, ...]] = {
    "f32": (float, int),
    "f64": (float, int),
    "i64": (int,),
    "bool": (bool,),
    "str": (str,),
}
_PLAIN = (ua.LocalizedText, ua.QualifiedName, ua.NodeId, ua.StatusCode)
_STRUCTURE = "a structure"
_FITTING = {bool: "bool", int: "i64", float: "f64", str: "str"}
_NAMES = {bool: "a Boolean", int: "a whole number", float: "a number", bytes: "a ByteString", str: "text"}


@dataclass(slots=True)
class FieldReader:
    """Reads the values of one field; `names` are the words of an enumeration."""

    name: str
    t: str
    index: int | None = None
    names: Mapping[int, str] = field(default_factory=dict)

    def read(self, raw: object, status: int) -> tuple[Value, Quality, str]:
        """The value, its quality, and why there is none."""
        severity = status >> 30
        if severity >= 2:
            return None, Quality.BAD, f"{self.name}: {of_value(status)}"
        quality = Quality.UNCERTAIN if severity else Quality.GOOD
        if self.index is None and self._fits(raw):
            return raw, quality, ""  # type: ignore[return-value]  # _TYPES holds nothing else
        if raw is None:
            return None, Quality.UNCERTAIN, f"{self.name}: the server sends no value (null)"
        if why := self._why_no_element(raw):
            return None, Quality.WRONG_TYPE, f"{self.name}: {why}"
        if isinstance(raw, list) and self.index is not None:
            raw = raw[self.index]
        value = self._simple(raw)
        if self._fits(value):
            return value, quality, ""  # type: ignore[return-value]  # as above
        return None, Quality.WRONG_TYPE, f"{self.name}: {self._why_wrong(raw)}"

    def _fits(self, value: object) -> bool:
        if type(value) not in _TYPES[self.t]:
            return False
        return self.t != "i64" or -(2**63) <= value < 2**63  # type: ignore[operator]  # it is an int

    def _why_no_element(self, raw: object) -> str:
        if not isinstance(raw, list):
            return "" if self.index is None else f"not an array but {_kind(raw)} arrived: remove `index`"
        if not raw:
            return "an empty array arrived"
        if self.index is None:
            return f"an array of {len(raw)} values arrived: set `index`, 0 to {len(raw) - 1}"
        if self.index >= len(raw):
            return f"an array of {len(raw)} values arrived, and `index` is {self.index}"
        return ""

    def _simple(self, raw: object) -> object:
        """A value of a type that has a plain form."""
        if self.t == "str":
            if isinstance(raw, ua.LocalizedText):
                return raw.Text
            if isinstance(raw, datetime):
                return (raw if raw.tzinfo else raw.replace(tzinfo=UTC)).isoformat().replace("+00:00", "Z")
            if isinstance(raw, UUID):
                return str(raw)
            if isinstance(raw, ua.QualifiedName):
                return raw.Name
            if isinstance(raw, int) and not isinstance(raw, bool):
                return self.names.get(raw)
        return raw

    def _why_wrong(self, raw: object) -> str:
        if isinstance(raw, int) and not isinstance(raw, bool) and self.t == "str":
            if self.names:
                return f"the server has no name for the number {raw} of its enumeration"
            return f"the number {raw} arrived, and the server has no names for it: set `t: i64`"
        if isinstance(raw, int) and self.t == "i64" and not isinstance(raw, bool):
            return f"{raw} does not fit t i64: set `t: f64`"
        cure = _FITTING.get(type(raw))
        if isinstance(raw, ua.LocalizedText | datetime | UUID | ua.QualifiedName):
            cure = "str"
        if cure is None and _kind(raw) == _STRUCTURE:
            return "a structure arrived, which no field can hold: read its parts as nodes of their own"
        what = f"set `t: {cure}`" if cure else "no field can hold it"
        return f"{_kind(raw)} arrived and t is {self.t}: {what}"


def _kind(raw: object) -> str:
    if isinstance(raw, ua.ExtensionObject) or (is_dataclass(raw) and not isinstance(raw, _PLAIN)):
        return _STRUCTURE
    shown = f" {raw!r:.40}" if isinstance(raw, bool | int | float | str) else ""
    return _NAMES.get(type(raw), f"a {type(raw).__name__}") + shown
