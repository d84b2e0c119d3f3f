"""Lines of text become values, and no line raises an error."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import Value
from adapters.lines.formats import (
    LineReader,
    as_declared,
    csv_reader,
    json_reader,
    pair_reader,
    pattern_reader,
    unix_ns,
)
from wire.messages import Quality

READERS: list[LineReader] = [
    csv_reader({"a": "1", "b": "3"}, ""),
    json_reader({"a": "x.0.y", "b": "b"}, ""),
    pair_reader({"a": "T", "b": "H"}, ""),
    pattern_reader({"a": "a"}, r"(?P<a>\S+) .*"),
]


@pytest.mark.parametrize(
    ("reader", "line", "found"),
    [
        (0, '1, 2 ,"3,5"', {"a": "1", "b": "3,5"}),
        (0, "1,2", None),
        (0, ",,", {"a": "", "b": ""}),
        (1, '{"x":[{"y":1.5}],"b":"on"}', {"a": 1.5, "b": "on"}),
        (1, '{"x":{"0":{"y":2}}}', {"a": 2}),
        (1, '{"x":[]}', {}),
        (1, "[" * 100_000, None),
        (1, "3", None),
        (1, '{"b":-Infinity}', {"b": -math.inf}),
        (1, '{"b":1e999}', {"b": math.inf}),
        (1, '{"b":}', None),
        (2, "T=1.5;H: 40, x", {"a": "1.5", "b": "40"}),
        (2, "T:23.5 H:1", {"a": "23.5", "b": "1"}),
        (2, "nothing here", {}),
        (3, "on and on", {"a": "on"}),
        (3, "on", None),
    ],
)
def test_lines(reader: int, line: str, found: object) -> None:
    assert READERS[reader](line) == found


@pytest.mark.parametrize(
    ("raw", "declared", "value", "quality"),
    [
        ("1.5", "f64", 1.5, Quality.GOOD),
        (2, "f64", 2.0, Quality.GOOD),
        ("1_000", "f64", None, Quality.WRONG_TYPE),
        ("ERR", "f64", None, Quality.WRONG_TYPE),
        (10**400, "f64", None, Quality.WRONG_TYPE),
        (True, "f64", None, Quality.WRONG_TYPE),
        ("", "f64", None, Quality.UNCERTAIN),
        (None, "str", None, Quality.UNCERTAIN),
        ("7", "i64", 7, Quality.GOOD),
        ("7.5", "i64", None, Quality.WRONG_TYPE),
        ("9" * 5_000, "i64", None, Quality.WRONG_TYPE),
        ("On", "bool", True, Quality.GOOD),
        (0, "bool", False, Quality.GOOD),
        ("maybe", "bool", None, Quality.WRONG_TYPE),
        ("서울", "str", "서울", Quality.GOOD),
        (1, "str", None, Quality.WRONG_TYPE),
    ],
)
def test_values_as_declared(raw: object, declared: str, value: Value, quality: Quality) -> None:
    assert as_declared(raw, declared) == (value, quality)


@pytest.mark.parametrize(
    ("raw", "unit", "at_ns"),
    [
        ("2026-01-01T00:00:00Z", "iso", 1_767_225_600_000_000_000),
        ("2026-01-01 09:00:00.25+09:00", "iso", 1_767_225_600_250_000_000),
        ("2026-01-01T00:00:00", "iso", 1_767_225_600_000_000_000),
        ("0001-01-01T00:00:00+14:00", "iso", -62_135_647_200_000_000_000),
        ("yesterday", "iso", None),
        (5, "iso", None),
        (1_767_225_600.123456, "s", 1_767_225_600_123_456_000),
        ("1767225600123", "ms", 1_767_225_600_123_000_000),
        ("1767225600123456789", "ns", 1_767_225_600_123_456_789),
        ("nan", "s", None),
        ("1e999999", "s", None),
        (None, "s", None),
        (True, "s", None),
    ],
)
def test_times(raw: object, unit: str, at_ns: int | None) -> None:
    assert unix_ns(raw, unit) == at_ns


@given(st.sampled_from(READERS), st.text(max_size=300))
def test_no_line_raises(reader: LineReader, line: str) -> None:
    found = reader(line)
    assert found is None or set(found) <= {"a", "b"}
    for raw in (found or {}).values():
        for declared in ("f64", "i64", "bool", "str"):
            as_declared(raw, declared)
        for unit in ("iso", "s", "ns"):
            unix_ns(raw, unit)
