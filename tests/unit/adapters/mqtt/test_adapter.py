"""The messages of devices in the field, as their makers write them, become rows or a sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adapters.base import OptionsError, Reading
from adapters.mqtt.adapter import Mqtt
from adapters.mqtt.options import MqttField, MqttTopicOptions, TimeOptions
from adapters.mqtt.payload import Unusable, iso_ns
from adapters.mqtt.session import TopicMessage
from wire.clock import NS_PER_S, Clock
from wire.messages import Quality

NOW = iso_ns("2026-07-18T03:00:00Z") or 0
TASMOTA = {"Time": "2026-07-18T12:00:00", "SDS0X1": {"PM2.5": 12.3, "PM10": 4}, "POWER": "ON"}
AIRROHR = {
    "sensordatavalues": [{"value_type": "SDS_P1", "value": "12.30"}, {"value_type": "SDS_P2", "value": ""}]
}


def adapter(fields: dict[str, Any], **more: Any) -> Mqtt:
    return Mqtt(MqttTopicOptions(url="mqtt://x", topics=["t"], fields=fields, **more), Clock(start_ns=NOW))


def read(made: Mqtt, body: object) -> Reading:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    (row,) = made.rows(TopicMessage("t", raw, False, NOW))
    return row


def named(made: Mqtt) -> list[str]:
    return [each.what for each in made.unread.values()]


def test_local_time_needs_its_zone() -> None:
    fields = {"pm10": "/SDS0X1/PM10"}
    wrong = adapter(fields, time=TimeOptions(path="Time"))
    row = read(wrong, TASMOTA)
    assert (row.at_ns, row.quality) == (NOW + 9 * 3600 * NS_PER_S, Quality.UNCERTAIN)
    assert named(wrong)[0].startswith("the times on t are 9.0 h ahead of this machine")
    assert named(wrong)[0].endswith("or `timezone` of `time` if its times name no zone")
    right = adapter(fields, time=TimeOptions(path="Time", timezone="Asia/Seoul"))
    row = read(right, TASMOTA)
    assert (row.at_ns, row.quality, row.values) == (NOW, Quality.GOOD, {"pm10": 4})
    with pytest.raises(OptionsError, match="Seoul2"):
        adapter(fields, time=TimeOptions(path="Time", timezone="Seoul2"))


def test_local_time_that_is_sent_as_utc_is_flagged_until_it_is_right() -> None:
    made = adapter({"x": "x"}, time=TimeOptions(path="at"))
    ahead = read(made, {"x": 1, "at": "2026-07-18T12:00:00Z"})
    assert (ahead.quality, made.counters["time_ahead"]) == (Quality.UNCERTAIN, 1)
    assert read(made, {"x": 1, "at": "2026-07-18T03:00:01Z"}).quality is Quality.GOOD
    assert not made.unread


def test_numbers_as_text_need_convert_and_the_state_names_it() -> None:
    fields = {"p1": "/sensordatavalues/0/value", "p2": "/sensordatavalues/1/value"}
    made = adapter(fields)
    row = read(made, AIRROHR)
    assert (row.values, row.quality) == ({"p1": None, "p2": None}, Quality.WRONG_TYPE)
    assert named(made)[0] == "field p1 is the text '12.30', not a number; set convert: true"
    row = read(adapter(fields, convert=True), AIRROHR)
    assert (row.values, row.quality) == ({"p1": 12.3, "p2": None}, Quality.UNCERTAIN)


def test_on_and_off_are_truth_values() -> None:
    relay = {"on": MqttField(path="POWER", t="bool")}
    made = adapter(relay)
    assert read(made, TASMOTA).values == {"on": None}
    assert named(made) == ["field on is the text 'ON', not true or false; set convert: true"]
    assert read(adapter(relay, convert=True), TASMOTA).values == {"on": True}
    plain = adapter({"on": MqttField(t="bool")}, format="text")
    assert [read(plain, body).values["on"] for body in (b"ON", b"off\n", b"Yes", b"0")] == [
        True,
        False,
        True,
        False,
    ]
    assert read(plain, b"OPEN").values == {"on": None}
    assert named(plain) == ["field on is the text 'OPEN', not true or false"]
    read(plain, b"ON")
    assert not plain.unread


def test_a_plain_number_with_a_unit_is_named() -> None:
    made = adapter({"x": ""}, format="number")
    assert read(made, b"22.5").values == {"x": 22.5}
    assert read(made, b"22,5").values == {"x": 22.5}
    assert read(made, b"1,234").values == {"x": None}  # it can be 1234 too
    assert read(made, b"22,5 C").values == {"x": None}
    assert named(made) == ["field x is the text '22,5 C', not a number"]


def test_messages_that_may_lack_fields_may_leave_them_null() -> None:
    assert adapter({"x": "x", "y": "y"}, partial=True).may_be_null == {"x", "y"}
    assert adapter({"x": "x"}).may_be_null == set()


@pytest.mark.parametrize(
    ("form", "sent", "why"),
    [
        ("iso", int(NOW / 1e6), "cannot be read"),
        ("s", int(NOW / 1e6), "ahead of this machine, more than `max_skew_s`"),
        ("s", 0, "behind this machine, more than `max_skew_s`"),
        ("iso", None, "cannot be read"),
        pytest.param("s", 10**400, "cannot be read", id="400 digits"),
        pytest.param("ns", -(10**400), "cannot be read", id="minus 400 digits"),
        ("s", "1e9999", "cannot be read"),
        ("ms", "-1e400", "cannot be read"),
        ("s", 1e300, "cannot be read"),
        ("iso", "9999-12-31T23:59:59Z", "ahead of this machine, more than `max_skew_s`"),
    ],
)
def test_times_of_another_format_are_named(form: Any, sent: object, why: str) -> None:
    made = adapter({"x": "x"}, time=TimeOptions(path="at", format=form))
    row = read(made, {"x": 1, "at": sent})
    assert (row.at_ns, row.quality) == (NOW, Quality.UNCERTAIN)
    assert why in named(made)[0]
    assert "`format` of `time`" in named(made)[0]


def test_a_message_without_the_fields_is_named_by_what_it_contains() -> None:
    with pytest.raises(Unusable, match=r"no field of `fields`, only Temp, b, c, d, e, \.\.\.$"):
        read(adapter({"x": "temp"}), dict.fromkeys(["Temp", "b", "c", "d", "e", "f"], 1))


def test_a_decimal_comma_needs_convert_in_json() -> None:
    made = adapter({"x": "x"})
    assert read(made, {"x": "22,5"}).values == {"x": None}
    assert named(made) == ["field x is the text '22,5', not a number; set convert: true"]
    assert read(adapter({"x": "x"}, convert=True), {"x": "22,5"}).values == {"x": 22.5}
