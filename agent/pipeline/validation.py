"""Checks readings against their declared streams: flags and counts faults, never repairs values silently."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import reduce

import numpy as np
from msgspec import UNSET
from msgspec.structs import replace

from adapters.base import Picture, Reading, Value
from wire.clock import NS_PER_S, Clock
from wire.messages import Field, Quality, Stream

MAX_SIDE = 16_384  # pixels
MAX_TEXT = 2_000  # characters of one value: a measurement is never longer
_LAST_NS = 253_402_300_799 * NS_PER_S  # 9999-12-31


class Validator:
    """Checks the readings of one device against the streams it declares; `counters` counts the faults."""

    def __init__(self, streams: Mapping[str, Stream], clock: Clock, counters: Counter[str]) -> None:
        self._streams = {name: _Declared(stream) for name, stream in streams.items()}
        self._clock = clock
        self._counters = counters

    def reopened(self) -> None:
        """Forget the newest times: a recording that is opened again starts at its beginning."""
        for stream in self._streams.values():
            stream.last_ns = None
            stream.nulls.clear()

    def fields(self, stream: str) -> Collection[str]:
        """The names of the fields that a stream declares."""
        return self._streams[stream].fields

    def null_fields(self, rows: int) -> dict[tuple[str, str], int]:
        """Stream and field -> rows since its last value, of fields that are null in the last `rows` rows."""
        return {
            (name, field): count
            for name, stream in self._streams.items()
            for field, count in stream.nulls.items()
            if count >= rows
        }

    def check(self, reading: Reading) -> Reading | None:
        """The reading with its quality; None if its stream is not declared or its picture is not valid."""
        declared = self._streams.get(reading.stream)
        if declared is None or (reading.picture is None) == declared.frame:
            self._counters["undeclared_stream"] += 1
            return None
        if reading.picture is not None and not _is_picture(reading.picture):
            self._counters["bad_picture"] += 1
            return None
        found = [reading.quality] if reading.quality else []
        at_ns = reading.at_ns
        if not 0 <= at_ns < _LAST_NS:
            self._counters["impossible_time"] += 1
            at_ns = self._clock.now_ns()
            found.append(Quality.UNCERTAIN)
        elif declared.last_ns is not None and at_ns <= declared.last_ns:
            found.append(Quality.TIME_REPEATED if at_ns == declared.last_ns else Quality.TIME_BACKWARD)
        declared.last_ns = at_ns
        values = reading.values
        if not declared.fine(values):
            values = declared.flag(values, found, self._counters)
        if not found and at_ns == reading.at_ns and values is reading.values:
            return reading
        for quality in set(found):  # a set: the adapter may have found the same fault
            self._counters[quality.name.lower()] += 1
        worst = reduce(Quality.worse, found, Quality.GOOD)
        return replace(reading, at_ns=at_ns, values=values, quality=worst)


def _is_picture(picture: Picture) -> bool:
    shape = picture.shape
    fits = len(shape) == 3 and shape[2] == 3 and 0 < shape[0] <= MAX_SIDE and 0 < shape[1] <= MAX_SIDE
    return fits and picture.dtype == np.uint8


class _Declared:
    def __init__(self, stream: Stream) -> None:
        self.frame = stream.kind == "frame"
        self.last_ns: int | None = None
        self.nulls: dict[str, int] = {}  # field -> rows in which it is null, since its last value
        self.fields = stream.fields
        self._types = {name: _TYPES[field.t] for name, field in stream.fields.items()}
        self._limits = {
            name: (
                -math.inf if field.min is UNSET else field.min,
                math.inf if field.max is UNSET else field.max,
            )
            for name, field in stream.fields.items()
            if _TYPES[field.t] in (float, int)
        }

    def fine(self, values: Mapping[str, Value]) -> bool:
        """Whether the values have no fault: the fast path for nearly every row."""
        types, limits = self._types, self._limits
        null: list[str] = []
        for name, value in values.items():
            if type(value) is not types.get(name):
                if value is None and name in types:
                    null.append(name)
                    continue
                return False
            if name in limits:
                low, high = limits[name]
                if not low <= value <= high or not -_HUGE < value < _HUGE:  # type: ignore[operator]  # a number
                    return False
            elif type(value) is str and not _is_text(value):
                return False
        if null or self.nulls:
            self._note(values, null)
        return True

    def flag(
        self, values: Mapping[str, Value], found: list[Quality], counters: Counter[str]
    ) -> Mapping[str, Value]:
        kept: dict[str, Value] = {}
        for name, value in values.items():
            field = self.fields.get(name)
            if field is None:
                counters["undeclared_field"] += 1
                continue
            kept[name], quality = _checked(value, field)
            if quality and quality not in found:
                found.append(quality)
        self._note(kept, [name for name, value in kept.items() if value is None])
        return kept

    def _note(self, values: Mapping[str, Value], null: Sequence[str]) -> None:
        """Count the null fields of a row; costs nothing for a row without, once each field had a value."""
        nulls = self.nulls
        for name in [name for name in nulls if values.get(name) is not None]:
            del nulls[name]
        for name in null:
            nulls[name] = nulls.get(name, 0) + 1


_TYPES: dict[str, type] = {"f32": float, "f64": float, "i64": int, "bool": bool, "str": str, "json": str}
_HUGE = 2.0**63


def _checked(value: Value, field: Field) -> tuple[Value, Quality]:
    expected = _TYPES[field.t]
    if value is None:
        return None, Quality.GOOD
    if expected is float and type(value) in (int, float):
        try:
            number = float(value)
        except OverflowError:
            return None, Quality.NOT_FINITE
        return (number, _within(number, field)) if math.isfinite(number) else (None, Quality.NOT_FINITE)
    if expected is int and type(value) is int:
        return (value, _within(value, field)) if -_HUGE <= value < _HUGE else (None, Quality.WRONG_TYPE)
    if type(value) is expected and (not isinstance(value, str) or _is_text(value)):
        return value, Quality.GOOD
    return None, Quality.WRONG_TYPE


def _is_text(value: str) -> bool:
    """Whether the text can be sent: not too long, and without half of a surrogate pair (valid in JSON)."""
    if value.isascii():
        return len(value) <= MAX_TEXT
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return len(value) <= MAX_TEXT


def _within(value: float, field: Field) -> Quality:
    low = -math.inf if field.min is UNSET else field.min
    high = math.inf if field.max is UNSET else field.max
    return Quality.GOOD if low <= value <= high else Quality.OUT_OF_RANGE
