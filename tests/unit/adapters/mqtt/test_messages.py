"""Hand-written VDA 5050 and ChirpStack messages, as their documents describe them, become rows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adapters.base import ProtocolViolation, Reading
from adapters.chirpstack.adapter import ChirpStack
from adapters.chirpstack.options import ChirpStackOptions, UplinkField
from adapters.mqtt.payload import Unusable, iso_ns
from adapters.mqtt.session import TopicMessage
from adapters.vda5050.adapter import Vda5050
from adapters.vda5050.options import Vda5050Options
from wire.clock import Clock
from wire.messages import Quality

NOW = iso_ns("2022-07-18T09:34:16Z") or 0
HEADER = {
    "headerId": 41,
    "timestamp": "2022-07-18T09:34:15.12Z",
    "version": "2.0.0",
    "manufacturer": "KIT",
    "serialNumber": "AGV.7",
}
STATE: dict[str, Any] = {  # only what version 2.0 requires
    **HEADER,
    "orderId": "",
    "orderUpdateId": 0,
    "lastNodeId": "",
    "lastNodeSequenceId": 0,
    "nodeStates": [],
    "edgeStates": [],
    "driving": False,
    "actionStates": [],
    "batteryState": {"batteryCharge": 80, "charging": True},
    "operatingMode": "AUTOMATIC",
    "errors": [],
    "safetyState": {"eStop": "NONE", "fieldViolation": False},
}


def vehicle(**more: Any) -> Vda5050:
    options = Vda5050Options(url="mqtt://x", manufacturer="KIT", serial="AGV.7", visualization=True, **more)
    return Vda5050(options, Clock(start_ns=NOW))


def read(adapter: Vda5050, body: Any, kind: str = "state", *, retained: bool = False) -> list[Reading]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return list(adapter.rows(TopicMessage(f"uagv/v2/KIT/AGV.7/{kind}", raw, retained, NOW)))


def test_the_smallest_state_has_every_field_and_null_for_unknown_values() -> None:
    adapter = vehicle()
    (row,) = read(adapter, STATE)
    assert row.at_ns == NOW - 880_000_000
    assert row.values.keys() == adapter.streams()["state"].fields.keys()
    unknown = {name for name, value in row.values.items() if value is None}
    assert unknown == {
        *("x", "y", "theta", "map_id", "position_initialized", "localization_score", "vx", "vy", "omega"),
        *("battery_voltage", "paused", "loads", "distance_since_last_node"),
    }
    assert row.quality is Quality.GOOD


def test_a_full_state_and_what_newer_versions_add() -> None:
    more = {
        "orderId": "주문-1",
        "orderUpdateId": 3,
        "lastNodeId": "pumpenhaus_1",
        "lastNodeSequenceId": 4,
        "nodeStates": [{"nodeId": "MONTAGE", "sequenceId": 6, "released": True}],
        "edgeStates": [{"edgeId": "e5", "sequenceId": 5, "released": True, "trajectory": {"degree": 1}}],
        "driving": True,
        "paused": False,
        "agvPosition": {"x": 1, "y": -2.5, "theta": 0.5, "mapId": "hall", "positionInitialized": False},
        "velocity": {"vx": 1.2},
        "loads": [{"loadId": "pallet"}, {}],
        "errors": [
            {"errorType": "lowBattery", "errorLevel": "WARNING"},
            {"errorType": "bumper", "errorLevel": "FATAL", "errorHint": "look"},
        ],
        "somethingNew": [1, 2],
    }
    (row,) = read(vehicle(), {**STATE, **more})
    assert row.quality is Quality.UNCERTAIN, "the vehicle does not know its position"
    picked = ("order_id", "x", "y", "vx", "vy", "loads", "errors", "error_level", "error_types", "nodes_left")
    assert [row.values[name] for name in picked] == [
        *("주문-1", 1.0, -2.5, 1.2, None, 2, 2, "FATAL", "lowBattery bumper", 1)
    ]


def test_words_that_vda_5050_does_not_know_are_flagged() -> None:
    adapter = vehicle()
    (row,) = read(adapter, {**STATE, "operatingMode": "SLEEPWALKING"})
    assert (row.values["operating_mode"], row.quality) == ("SLEEPWALKING", Quality.UNCERTAIN)
    assert adapter.counters == {"unknown_word": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"serialNumber": "AGV.8"}, "AGV.8"),
        ({"manufacturer": "OTHER"}, "OTHER"),
        ({"version": "1.1.0"}, "VDA 5050 1.1.0"),
        ({"version": "3.0.0"}, "VDA 5050 3.0.0"),
    ],
)
def test_another_vehicle_is_an_error(change: dict[str, str], message: str) -> None:
    for kind in ("state", "connection", "visualization"):
        with pytest.raises(ProtocolViolation, match=message):
            read(vehicle(), {**STATE, "connectionState": "ONLINE", **change}, kind)


def test_header_ids_show_missing_messages() -> None:
    adapter = vehicle()
    for number in (41, 42, 45, 45, 1, 2, 2**40):
        read(adapter, {**STATE, "headerId": number})
    assert adapter.counters == {"missed": 2, "repeated_header_id": 1, "header_id_restarts": 2}


def test_a_connection_message_of_the_past_waits_for_a_state() -> None:
    adapter = vehicle()
    online = {**HEADER, "connectionState": "ONLINE"}
    assert read(adapter, online, "connection", retained=True) == []
    state, connection = read(adapter, STATE)
    assert (connection.stream, connection.at_ns, connection.values["online"]) == ("connection", NOW, True)
    (row,) = read(adapter, {**online, "connectionState": "CONNECTIONBROKEN"}, "connection")
    assert row.values == {"connection_state": "CONNECTIONBROKEN", "online": False}
    assert "CONNECTIONBROKEN" in adapter.last_report()
    assert [state.stream, *(one.stream for one in read(adapter, STATE))] == ["state", "state"]
    with pytest.raises(Unusable):
        read(adapter, STATE, retained=True)


def test_a_route_too_long_for_a_value_is_cut_and_counted() -> None:
    adapter = vehicle()
    nodes = [{"nodeId": f"node-{n}", "sequenceId": 2 * n, "released": n < 5} for n in range(500)]
    order = {**HEADER, "orderId": "o", "orderUpdateId": 0, "nodes": nodes, "edges": []}
    (row,) = read(adapter, order, "order")
    assert (row.values["nodes"], row.values["released_nodes"]) == (500, 5)
    assert len(str(row.values["route"])) == 2_000
    assert adapter.counters == {"text_cut": 1}
    assert not adapter.alive(row), "an order does not show that the vehicle is alive"


# --- ChirpStack

EUI = "0101010101010101"
UPLINK: dict[str, Any] = {
    "deduplicationId": "3ac7e3c4-4401-4b8d-9386-a5c902f9202d",
    "time": "2022-07-18T09:34:15.775023242+00:00",
    "deviceInfo": {
        "tenantName": "ChirpStack",
        "applicationId": "17c82e96-be03-4f38-aef3-f83d48582d97",
        "deviceName": "온도계",
        "devEui": EUI,
        "tags": {"key": "value"},
    },
    "devAddr": "00189440",
    "dr": 1,
    "fPort": 1,
    "data": "qg==",
    "rxInfo": [
        {"gatewayId": "0016c001f153a14c", "uplinkId": 4217106255, "rssi": -90, "snr": 3.5},
        {"gatewayId": "0016c001f153a14d", "uplinkId": 4217106256, "rssi": -36, "snr": 10.5, "time": None},
    ],
    "txInfo": {"frequency": 867100000},
}


def sensors(**more: Any) -> ChirpStack:
    options = {
        "url": "mqtt://x",
        "application": UPLINK["deviceInfo"]["applicationId"],
        "sensors": {"garden": EUI},
        "fields": {"level": UplinkField(raw="0:u8", t="i64")},
    }
    return ChirpStack(ChirpStackOptions(**(options | more)), Clock(start_ns=NOW))


def heard(adapter: ChirpStack, body: Any, event: str = "up") -> list[Reading]:
    topic = f"application/{UPLINK['deviceInfo']['applicationId']}/device/{EUI}/event/{event}"
    return list(adapter.rows(TopicMessage(topic, json.dumps(body).encode(), False, NOW)))


def test_an_uplink_as_documented_with_its_zeros_left_out() -> None:
    (row,) = heard(sensors(), UPLINK)
    assert row.stream == "garden"
    assert row.at_ns == NOW - 224_976_758
    assert row.values == {"level": 0xAA, "rssi": -36, "snr": 10.5, "gateways": 2, "f_cnt": 0}
    (bare,) = heard(sensors(radio=False), {**UPLINK, "rxInfo": [], "object": None})
    assert bare.values == {"level": 0xAA}
    (unheard,) = heard(sensors(), {**UPLINK, "rxInfo": []})
    assert (unheard.values["rssi"], unheard.values["gateways"]) == (None, 0)


def test_frame_counters_show_repeats_losses_and_new_joins() -> None:
    adapter = sensors()
    rows = [
        row
        for number, (count, addr) in enumerate(
            [
                (10, "a"),
                (11, "a"),
                (11, "a"),
                (15, "a"),
                (2, "a"),
                (3, "a"),
                (0, "b"),
                (0, "c"),
                (2**32 - 1, "c"),
            ]
        )
        for row in heard(adapter, {**UPLINK, "deduplicationId": f"{number}", "fCnt": count, "devAddr": addr})
    ]
    assert [row.values["f_cnt"] for row in rows] == [10, 11, 15, 2, 3, 0, 0, 2**32 - 1]
    assert heard(adapter, {**UPLINK, "deduplicationId": "1", "fCnt": 11, "devAddr": "a"}) == []
    assert adapter.counters == {"duplicates": 2, "lost_uplinks": 3 + 2**32 - 2, "counter_resets": 3}


@pytest.mark.parametrize("ids", [("same", "same"), ("", ""), ("one", "another")])
def test_an_uplink_with_a_constant_id_and_counter_but_other_contents_is_a_row(ids: tuple[str, str]) -> None:
    adapter = sensors(radio=False)
    first = {**UPLINK, "fCnt": 0, "deduplicationId": ids[0], "data": "qg=="}
    other = {**first, "deduplicationId": ids[1], "data": "qw=="}
    later = {**other, "time": "2026-02-25T07:00:00Z"}  # the same value again
    rows = [row.values for uplink in (first, other, later, later) for row in heard(adapter, uplink)]
    assert rows == [{"level": 0xAA}, {"level": 0xAB}, {"level": 0xAB}]
    assert adapter.counters["duplicates"] == 1
    unknown = {**first, "time": None, "deduplicationId": ""}
    assert len([*heard(adapter, unknown), *heard(adapter, unknown)]) == 2


def test_other_events_are_counted_under_fixed_names() -> None:
    adapter = sensors()
    for event in ("join", "status", "log", "made-up", "another"):
        assert heard(adapter, {"whatever": 1}, event) == []
    assert adapter.counters == {"join_events": 1, "status_events": 1, "log_events": 1, "other_events": 2}


@pytest.mark.parametrize(
    ("change", "counter"),
    [
        ({"deviceInfo": {"devEui": "02" * 8, "applicationId": "x"}}, "wrong_identity"),
        ({"deviceInfo": None}, "unexpected_json"),
        ({"data": "not base64!"}, "not_base64"),
        ({"data": ""}, "no_fields"),
    ],
)
def test_uplinks_that_give_no_row(change: dict[str, Any], counter: str) -> None:
    with pytest.raises(Unusable) as caught:
        heard(sensors(), {**UPLINK, **change})
    assert caught.value.counter == counter


@pytest.mark.parametrize(
    ("change", "null"),
    [
        ({"fCnt": -1}, ("f_cnt",)),
        ({"fCnt": "12"}, ("f_cnt",)),
        ({"fCnt": 2**32}, ("f_cnt",)),
        ({"devAddr": 7}, ()),
        ({"deduplicationId": []}, ()),
        ({"fPort": "one"}, ()),
        ({"rxInfo": [{"rssi": "-36", "snr": 10.5}]}, ("rssi", "snr")),
        ({"rxInfo": ["gateway", {"rssi": -36, "snr": "high"}]}, ("snr",)),
        ({"rxInfo": {}}, ("rssi", "snr")),
        ({"time": 1_658_136_855}, ()),
    ],
)
def test_an_odd_part_of_an_uplink_is_null_and_flagged(change: dict[str, Any], null: tuple[str, ...]) -> None:
    (row,) = heard(sensors(), {**UPLINK, **change})
    assert row.values["level"] == 0xAA
    assert row.quality is (Quality.GOOD if change == {"rxInfo": {}} else Quality.WRONG_TYPE)
    assert {name for name in ("rssi", "snr", "f_cnt") if row.values[name] is None} == {*null}


def test_the_state_names_the_odd_parts_of_an_uplink_until_they_are_right() -> None:
    adapter = sensors()
    odd = {**UPLINK, "fCnt": "12", "rxInfo": [{"rssi": "-36"}, {"rssi": "-40"}]}
    assert len(heard(adapter, odd)) == 1
    (named,) = adapter.unread.values()
    assert named.what.startswith("fCnt, rssi in an uplink of ")
    assert adapter.counters["odd_fields"] == 3
    assert len(heard(adapter, {**UPLINK, "fCnt": 13, "deduplicationId": "another"})) == 1
    assert not adapter.unread


@pytest.mark.parametrize("key", ["fCnt", "rxInfo", "devAddr", "deduplicationId", "fPort", "object", "time"])
def test_null_is_the_default_as_in_protobuf(key: str) -> None:
    adapter = sensors()
    (row,) = heard(adapter, {**UPLINK, "fPort": 1, key: None}) or [None]
    if key == "fPort":
        assert row is None
        assert adapter.counters == {"other_ports": 1}
    else:
        assert row is not None
        assert row.values["level"] == 0xAA
        assert row.quality is (Quality.UNCERTAIN if key == "time" else Quality.GOOD)


def test_an_uplink_without_a_codec_says_so() -> None:
    with pytest.raises(Unusable, match="FPort 1 has no `object`: give its device profile a codec"):
        heard(sensors(fields={"t": "temperature"}), UPLINK)
    older = {"applicationID": "1", "devEUI": "AQEBAQEBAQE=", "fCnt": 1, "objectJSON": "{}"}
    with pytest.raises(Unusable, match="ChirpStack v3"):
        heard(sensors(), older)
    broken = {**UPLINK, "data": "not base64!", "object": {"temperature": 20}}
    (row,) = heard(sensors(fields={"t": "temperature"}), broken)
    assert row.values["t"] == 20


def test_values_of_a_codec_that_are_text_need_convert() -> None:
    body = {**UPLINK, "object": {"temperature": "22.5", "occupied": 1}}
    fields = {"t": "temperature", "occupied": UplinkField(path="occupied", t="bool")}
    strict = sensors(fields=fields, radio=False)
    (row,) = heard(strict, body)
    assert (row.values, row.quality) == ({"t": None, "occupied": None}, Quality.WRONG_TYPE)
    assert {part: each.what for part, each in strict.unread.items()} == {
        "field t": "field t is the text '22.5', not a number; set convert: true",
        "field occupied": "field occupied is 1, not true or false; set convert: true",
    }
    (row,) = heard(sensors(fields=fields, radio=False, convert=True), body)
    assert (row.values, row.quality) == ({"t": 22.5, "occupied": True}, Quality.GOOD)


def test_only_the_configured_port_is_read() -> None:
    adapter = sensors(f_port=2)
    assert heard(adapter, UPLINK) == []
    assert len(heard(adapter, {**UPLINK, "deduplicationId": "x", "fCnt": 1, "fPort": 2})) == 1
    assert heard(sensors(), {**UPLINK, "fPort": 0}) == []
    assert adapter.counters == {"other_ports": 1}
