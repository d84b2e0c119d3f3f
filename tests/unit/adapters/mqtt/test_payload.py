"""JSON, text, times and LoRaWAN payloads of any device become values; all others raise Unusable."""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import OptionsError
from adapters.chirpstack.lorawan_payload import raw_part
from adapters.device_time import checked_time, time_zone
from adapters.mqtt.options import check_filters, matches_any
from adapters.mqtt.payload import (
    MISSING,
    Unusable,
    any_json,
    as_declared,
    converted,
    find,
    from_text,
    instant_ns,
    iso_ns,
    path_steps,
    text_of,
    wrong_type,
)
from wire.clock import NS_PER_S
from wire.messages import Quality

DOCUMENT = {"air": [{"temp": 1}, {"temp": 2}], "a/b": {"m~n": 3}, "": {"": 4}, "온도": 5}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("air.1.temp", 2),
        ("/air/0/temp", 1),
        ("/a~1b/m~0n", 3),
        ("//", 4),
        ("온도", 5),
        ("air", DOCUMENT["air"]),
        ("air.2.temp", MISSING),
        ("air.-1", MISSING),
        ("air.１", MISSING),
        ("air.99999999999999999999", MISSING),
        ("온도.x", MISSING),
        ("nothing", MISSING),
    ],
)
def test_paths_follow_rfc_6901(path: str, found: object) -> None:
    assert find(DOCUMENT, path_steps(path)) == found


def test_a_number_of_any_length_is_read() -> None:
    digits = b"9" * 10_000
    assert any_json(b'{"a": 1, "b": %s}' % digits)["a"] == 1
    assert any_json(b'{"a": 1e999, "b": %s}' % digits) == {"a": math.inf, "b": math.inf}


@pytest.mark.parametrize("path", ["", "a..b", ".a", "a."])
def test_wrong_paths(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        path_steps(path)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'"\xff"',
        b"nan",
        b"{'a': 1}",
        b"NaN" * 9,
    ],
)
def test_bytes_that_are_not_json_are_unusable(body: bytes) -> None:
    with pytest.raises(Unusable):
        any_json(body)


@given(st.binary(max_size=300))
def test_no_bytes_raise_another_error(body: bytes) -> None:
    try:
        found = any_json(body)
    except Unusable:
        return
    for declared in ("f64", "i64", "str", "bool"):
        as_declared(found, declared)
        as_declared(find(found, ("a", "0")), declared)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)


@given(json_values)
def test_every_document_is_read_as_the_standard_library_reads_it(document: Any) -> None:
    body = json.dumps(document, ensure_ascii=False)
    try:
        encoded = body.encode()
    except UnicodeEncodeError:
        return  # a lone surrogate has no UTF-8
    assert repr(any_json(b"\xef\xbb\xbf" + encoded)) == repr(json.loads(body))


def test_values_as_declared() -> None:
    good, wrong, doubt = Quality.GOOD, Quality.WRONG_TYPE, Quality.UNCERTAIN
    table: list[tuple[object, str, object, Quality]] = [
        (1, "f64", 1, good),
        (True, "f64", None, wrong),
        ("1", "f64", None, wrong),
        (5.0, "i64", 5, good),
        (5.5, "i64", None, wrong),
        (math.nan, "i64", None, wrong),
        (True, "i64", None, wrong),
        (1, "bool", None, wrong),
        ([], "str", None, wrong),
        (None, "f64", None, good),
        (MISSING, "f64", None, doubt),
    ]
    for raw, declared, value, quality in table:
        assert as_declared(raw, declared) == (value, quality), (raw, declared)


def test_values_that_came_as_text() -> None:
    for text, declared, value in [
        (" -1.5e3\n", "f64", -1500.0),
        ("9007199254740993", "i64", 9_007_199_254_740_993),
        ("3.0", "i64", 3),
        ("TRUE", "bool", True),
        ("0", "bool", False),
        (" 열림 ", "str", "열림"),
    ]:
        assert from_text(text, declared) == (value, Quality.GOOD)
    assert from_text("-Infinity", "f64") == (-math.inf, Quality.GOOD)
    assert from_text("", "f64") == (None, Quality.UNCERTAIN)
    for text in ("1,500", "1_000", "0x10", "١", "1.5.2", "1e99999", "--1", "9" * 400):
        assert from_text(text, "f64") == (None, Quality.WRONG_TYPE), text


def test_values_that_are_converted() -> None:
    for raw, declared, value in [
        ("22.5", "f64", 22.5),
        ("12.30 ", "f32", 12.3),
        ("7", "i64", 7),
        ("ON", "bool", True),
        ("off", "bool", False),
        ("Yes", "bool", True),
        (1, "bool", True),
        (0.0, "bool", False),
        (7, "str", "7"),
        (2.5, "f64", 2.5),
        (True, "bool", True),
    ]:
        assert converted(raw, declared) == (value, Quality.GOOD), (raw, declared)
    for odd, declared in [
        ("2,500", "f64"),
        ("22.5 C", "f64"),
        (2, "bool"),
        (True, "f64"),
        ([], "str"),
        ("ok", "bool"),
    ]:
        assert converted(odd, declared) == (None, Quality.WRONG_TYPE), (odd, declared)
    assert wrong_type("2,500", "f64") == "is the text '2,500', not a number"
    assert wrong_type("22.5", "f64") == "is the text '22.5', not a number; set convert: true"
    assert wrong_type(10**5000, "bool") == "is a number of many digits, not true or false"


def test_utf_16_with_a_byte_order_mark_is_read() -> None:
    for encoding in ("utf-16-le", "utf-16-be"):
        body = ("\ufeff" + '{"온도": 22.5}').encode(encoding)
        assert any_json(body) == {"온도": 22.5}
        assert text_of(body) == '{"온도": 22.5}'
    for broken in (b"\xff\xfe\x00\xd8", b"\xfe\xff1"):
        with pytest.raises(Unusable, match="UTF-16"):
            any_json(broken)


def test_local_times_have_the_zone_of_the_options() -> None:
    seoul, berlin = time_zone("Asia/Seoul"), time_zone("Europe/Berlin")
    at = iso_ns("2026-07-18T09:34:15Z")
    assert iso_ns("2026-07-18T18:34:15", seoul) == at
    assert iso_ns("2026-07-18T11:34:15", berlin) == at
    assert iso_ns("2026-07-18T09:34:15Z", seoul) == iso_ns("2026-07-18T18:34:15+09:00", berlin) == at
    assert iso_ns("0001-01-01T00:00:00", seoul) is None, "before the calendar begins"
    assert instant_ns("2026-07-18 18:34:15", "iso", seoul) == at


def test_times_in_every_format() -> None:
    at = 1_658_136_855 * NS_PER_S
    for text, ns in [
        ("2022-07-18T09:34:15.775023242+00:00", 775_023_242),
        ("2022-07-18T09:34:15Z", 0),
        ("2022-07-18 09:34:15,5", 500_000_000),
        ("2022-07-18T18:34:15.12+09:00", 120_000_000),
        ("2022-07-18T05:04:15-0430", 0),
        ("2022-07-18T09:34:15.1234567899Z", 123_456_789),
    ]:
        assert iso_ns(text) == at + ns, text
    for text in (
        "",
        "2022-13-01T00:00:00Z",
        "2022-07-18",
        "2022-07-18T09:34:60Z",
        "x" * 100_000,
        "２022-07-18T09:34:15Z",
    ):
        assert iso_ns(text) is None
    assert instant_ns(1_658_136_855.25, "s") == at + NS_PER_S // 4
    assert instant_ns("1658136855250", "ms") == at + NS_PER_S // 4
    assert instant_ns(1_658_136_855_000_001, "us") == at + 1_000
    for raw in (True, None, math.nan, math.inf, [], "1e400000"):
        assert instant_ns(raw, "s") is None


@given(st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(9999, 1, 1)))
def test_times_are_those_of_the_standard_library(at: datetime) -> None:
    ns = iso_ns(f"{at.isoformat()}Z")
    assert ns is not None
    assert divmod(ns, 1_000) == ((at - datetime(1970, 1, 1)) // timedelta(microseconds=1), 0)


def test_a_clock_that_is_off_is_not_believed() -> None:
    counters: Counter[str] = Counter()
    assert checked_time(99 * NS_PER_S, 100 * NS_PER_S, 2.0, counters) == (99 * NS_PER_S, Quality.GOOD)
    assert checked_time(90 * NS_PER_S, 100 * NS_PER_S, 2.0, counters) == (100 * NS_PER_S, Quality.UNCERTAIN)
    assert checked_time(None, 100 * NS_PER_S, 2.0, counters) == (100 * NS_PER_S, Quality.UNCERTAIN)
    assert counters == {"clock_not_believed": 1, "no_time": 1}


def test_numbers_in_a_payload_are_those_that_struct_finds() -> None:
    data = struct.pack(">BhIe", 0b1010_0000, -1234, 4_000_000_000, 1.5) + struct.pack("<Hd", 513, -2.5)
    for place, value in [
        ("0:u8", 160),
        ("0:i8", -96),
        ("1:i16", -1234),
        ("3:u32", 4_000_000_000),
        ("7:f16", 1.5),
        ("9:u16le", 513),
        ("9:u16", 258),
        ("11:f64le", -2.5),
        ("0:u24", 0xA0FB2E),
        ("18:u16", None),
    ]:
        assert raw_part(place, 1.0, 0.0, "f64").read(data) == value, place
    assert raw_part("0:bit7", 1.0, 0.0, "bool").read(data) is True
    assert raw_part("0:bit6", 1.0, 0.0, "i64").read(data) == 0
    assert raw_part("1:i16", 0.5, 10.0, "f64").read(data) == -607.0
    assert raw_part("9:u8", 1.0, 0.0, "bool").read(data) is True


def test_filters_that_match_edgebeds_own_topics_are_refused() -> None:
    check_filters(["a/b", "a/+/c/#", "tb10/x", "$SYS/broker/uptime", "$share/g/a/#", "공장/1호기"])
    for topic in (
        "tb1",
        "tb1/#",
        "#",
        "+",
        "+/a",
        "$share/g/#",
        "$share/g/tb1/x",
        "$share/tb1",
        "a/#/b",
        "a+",
        "",
        "a\0",
    ):
        with pytest.raises(OptionsError):
            check_filters([topic])


@pytest.mark.parametrize(
    ("topic", "matches"),
    [
        ("a/b", True),
        ("a/b/c", False),
        ("a", False),
        ("hall/press/air", True),
        ("hall/a+b/air", True),
        ("hall/press/x/air", False),
        ("hall/air", False),
        ("yard", True),
        ("yard/", True),
        ("yard/1/2", True),
        ("yards", False),
        ("공장/1호기", True),
        ("", False),
    ],
)
def test_a_topic_matches_one_of_the_filters(topic: str, matches: bool) -> None:
    assert matches_any(["a/b", "hall/+/air", "$share/group/yard/#", "공장/+"])(topic) is matches
