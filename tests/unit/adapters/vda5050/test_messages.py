"""A field of a VDA 5050 message that is null, missing or of another type costs itself, never the row."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import ProtocolViolation, Reading, Value
from adapters.mqtt.payload import iso_ns
from adapters.mqtt.session import TopicMessage
from adapters.vda5050.adapter import Vda5050
from adapters.vda5050.options import Vda5050Options
from agent.pipeline.validation import Validator
from wire.clock import Clock
from wire.messages import Quality

NOW = iso_ns("2026-07-18T09:34:16Z") or 0
GOOD, WRONG, DOUBT = Quality.GOOD, Quality.WRONG_TYPE, Quality.UNCERTAIN
HEADER = {
    "headerId": 41,
    "timestamp": "2026-07-18T09:34:15.12Z",
    "version": "2.1.0",
    "manufacturer": "acme",
    "serialNumber": "n1",
}
STATE: dict[str, Any] = {
    **HEADER,
    "orderId": "o-1",
    "orderUpdateId": 3,
    "lastNodeId": "n7",
    "lastNodeSequenceId": 4,
    "nodeStates": [{"nodeId": "n8", "sequenceId": 6, "released": True}],
    "edgeStates": [{"edgeId": "e5", "sequenceId": 5, "released": True}],
    "actionStates": [],
    "driving": True,
    "paused": False,
    "distanceSinceLastNode": 0.5,
    "operatingMode": "AUTOMATIC",
    "agvPosition": {
        "x": 1.5,
        "y": -2.5,
        "theta": 0.5,
        "mapId": "hall",
        "positionInitialized": True,
        "localizationScore": 0.9,
    },
    "velocity": {"vx": 1.2, "vy": 0.0, "omega": 0.1},
    "loads": [{"loadId": "pallet"}],
    "errors": [{"errorType": "lowBattery", "errorLevel": "WARNING", "errorReferences": []}],
    "batteryState": {"batteryCharge": 80.5, "batteryVoltage": 24.1, "charging": False, "reach": 7},
    "safetyState": {"eStop": "NONE", "fieldViolation": False},
}
CONNECTION = {**HEADER, "connectionState": "ONLINE"}
VISUALIZATION = {key: STATE[key] for key in (*HEADER, "agvPosition", "velocity")}
ORDER = {
    **HEADER,
    "orderId": "o",
    "orderUpdateId": 0,
    "nodes": STATE["nodeStates"],
    "edges": STATE["edgeStates"],
}
BODIES = {"state": STATE, "connection": CONNECTION, "visualization": VISUALIZATION, "order": ORDER}
GONE = object()


def vehicle() -> Vda5050:
    options = Vda5050Options(url="mqtt://x", manufacturer="acme", serial="n1", visualization=True)
    return Vda5050(options, Clock(start_ns=NOW))


def read(adapter: Vda5050, body: Any, kind: str = "state") -> list[Reading]:
    raw = json.dumps(body).encode()
    return list(adapter.rows(TopicMessage(f"uagv/v2/acme/n1/{kind}", raw, False, NOW)))


def changed(body: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy of a message with another value at a path such as batteryState.charging."""
    made = copy.deepcopy(body)
    *above, last = path.split(".")
    place: Any = made
    for step in above:
        place = place[int(step) if step.isdigit() else step]
    if value is GONE:
        del place[last]
    else:
        place[int(last) if last.isdigit() else last] = value
    return made


BEFORE = read(vehicle(), STATE)[0].values
BATTERY = ("battery_charge", "battery_voltage", "charging")
POSE = ("x", "y", "theta", "map_id", "position_initialized", "localization_score")
ERRORS = ("errors", "error_level", "error_types")


@pytest.mark.parametrize(
    ("path", "value", "null", "quality"),
    [
        ("agvPosition", None, POSE, GOOD),  # an optional object
        ("agvPosition", "unknown", POSE, WRONG),
        ("agvPosition.x", "1.5", ("x",), WRONG),
        ("agvPosition.x", GONE, ("x",), DOUBT),
        ("agvPosition.mapId", 7, ("map_id",), WRONG),
        ("agvPosition.localizationScore", None, ("localization_score",), GOOD),
        ("loads", None, ("loads",), GOOD),
        ("loads", 1, ("loads",), WRONG),
        ("velocity", {"vx": None}, ("vx", "vy", "omega"), GOOD),
        ("velocity", [1, 2], ("vx", "vy", "omega"), WRONG),
        ("errors", None, ERRORS, DOUBT),
        ("errors", {}, ERRORS, WRONG),
        ("nodeStates", None, ("nodes_left",), DOUBT),
        ("edgeStates", "none", ("edges_left",), WRONG),
        ("orderId", None, ("order_id",), DOUBT),
        ("orderUpdateId", None, ("order_update_id",), DOUBT),
        ("orderUpdateId", 1.5, ("order_update_id",), WRONG),
        ("batteryState", None, BATTERY, DOUBT),
        ("batteryState", GONE, BATTERY, DOUBT),
        ("batteryState.batteryCharge", "80.5", ("battery_charge",), WRONG),
        ("batteryState.batteryVoltage", None, ("battery_voltage",), GOOD),
        ("batteryState.charging", 0, ("charging",), WRONG),
        ("batteryState.reach", None, (), GOOD),
        ("safetyState", GONE, ("e_stop", "field_violation"), DOUBT),
        ("safetyState.fieldViolation", "false", ("field_violation",), WRONG),
        ("lastNodeId", None, ("last_node_id",), DOUBT),
        ("driving", GONE, ("driving",), DOUBT),
        ("operatingMode", 3, ("operating_mode",), WRONG),
        ("errors.0.errorReferences", None, (), GOOD),
        ("headerId", "H", (), WRONG),
        ("headerId", None, (), DOUBT),
        ("timestamp", None, (), DOUBT),
        ("timestamp", 1_760_000_000, (), WRONG),
        ("manufacturer", GONE, (), DOUBT),
        ("serialNumber", 17, (), WRONG),
        ("version", GONE, (), DOUBT),
        ("version", "2.1", (), GOOD),
        ("version", "v2.0", (), GOOD),
        ("version", "V2", (), GOOD),
        ("version", 2, (), GOOD),
        ("version", 2.0, (), GOOD),
    ],
)
def test_an_odd_field_is_null_and_flagged_and_the_rest_stays(
    path: str, value: object, null: tuple[str, ...], quality: Quality
) -> None:
    adapter = vehicle()
    (row,) = read(adapter, changed(STATE, path, value))
    assert row.values == {**BEFORE, **dict.fromkeys(null)}
    assert row.quality is quality
    (again,) = read(adapter, STATE)
    assert (again.values, again.quality) == (BEFORE, GOOD)
    assert not adapter.unread, "a field that is read again is no longer named"


def test_the_state_of_the_device_names_an_odd_field() -> None:
    adapter, charge = vehicle(), "batteryState.batteryCharge"
    read(adapter, changed(changed(STATE, charge, "80"), "safetyState", None))
    assert {part: each.what for part, each in adapter.unread.items()} == {
        f"state/{charge}": f"{charge} of state is the text '80', not a number",
        "state/safetyState": "safetyState of state is null",
    }
    assert adapter.counters == Counter(odd_fields=2)


def test_errors_that_are_odd_are_counted_and_do_not_hide_the_others() -> None:
    errors = [None, "broken", {"errorType": None, "errorLevel": "FATAL"}, {"errorType": "bumper"}]
    (row,) = read(vehicle(), {**STATE, "errors": errors})
    assert [row.values[name] for name in ERRORS] == [4, "FATAL", "bumper"]
    assert row.quality is WRONG


@pytest.mark.parametrize("version", ["1.1.0", "v1.1", "3.0.0", "v3", "20.1", 1.1, 3])
def test_another_version_is_an_error(version: Value) -> None:
    with pytest.raises(ProtocolViolation, match="this adapter reads version 2"):
        read(vehicle(), {**STATE, "version": version})


def paths(node: Any, path: str = "") -> Iterator[str]:
    """The paths of every value in a document."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        here = f"{path}.{key}" if path else str(key)
        yield here
        yield from paths(value, here)


NAMES = ("manufacturer", "serialNumber", "version")
HUGE = "a number of 5,000 digits"
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(HUGE),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=8), each, max_size=3),
    max_leaves=6,
)
CHANGES = st.lists(
    st.sampled_from(sorted(BODIES)).flatmap(
        lambda kind: st.tuples(
            st.just(kind), st.sampled_from(sorted(paths(BODIES[kind]))), ANY_JSON | st.just(GONE)
        )
    ),
    min_size=1,
    max_size=4,
)


@given(CHANGES)
def test_no_change_of_a_message_costs_the_row(changes: list[tuple[str, str, Any]]) -> None:
    kind = changes[0][0]
    body = BODIES[kind]
    for each, path, value in changes:
        # another name or version is another vehicle or adapter, which is an error on purpose
        if each != kind or (path in NAMES and isinstance(value, str | int | float)):
            continue
        try:
            body = changed(body, path, value)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError):
            continue  # an earlier change has removed the place
    there = [isinstance(body.get(key), dict) for key in ("agvPosition", "velocity")]
    if kind == "visualization" and not any(there):
        return
    adapter = vehicle()
    raw = json.dumps(body).replace(f'"{HUGE}"', "9" * 5000).encode()
    rows = list(adapter.rows(TopicMessage(f"uagv/v2/acme/n1/{kind}", raw, False, NOW)))
    assert len(rows) == 1
    stream = "orders" if kind == "order" else kind
    assert rows[0].values.keys() == adapter.streams()[stream].fields.keys()
    checked = Validator(adapter.streams(), Clock(start_ns=NOW), Counter()).check(rows[0])
    assert checked is not None


@pytest.mark.parametrize(
    ("field", "items", "why"),
    [
        ("errors", ["lowBattery"], "errors of state is the text 'lowBattery', not an array of objects"),
        (
            "errors",
            [{"errorType": "x", "errorLevel": None}, {"errorType": "y", "errorLevel": "FATAL"}],
            "errors.errorLevel of state is null",
        ),
        (
            "errors",
            [{"errorType": "x", "errorLevel": "FATAL"}, {"errorType": "y", "errorLevel": None}],
            "errors.errorLevel of state is null",
        ),
    ],
)
def test_one_odd_item_of_an_array_is_named_for_as_long_as_it_comes(
    field: str, items: list[Any], why: str
) -> None:
    """The state shows what has lasted for seconds: a good item beside it must not start the time again."""
    adapter = Vda5050(Vda5050Options(url="mqtt://x", manufacturer="acme", serial="n1"), Clock(start_ns=NOW))
    raw = json.dumps(STATE | {field: items}).encode()
    began: list[float] = []
    for _ in range(3):
        list(adapter.rows(TopicMessage("uagv/v2/acme/n1/state", raw, False, NOW)))
        (unread,) = adapter.unread.values()
        assert unread.what == why
        began.append(unread.since_s)
    assert len(set(began)) == 1
    list(adapter.rows(TopicMessage("uagv/v2/acme/n1/state", json.dumps(STATE).encode(), False, NOW)))
    assert not adapter.unread


@pytest.mark.parametrize(
    ("word", "online"), [("ONLINE", True), ("online", True), ("Offline", False), ("CONNECTED", None)]
)
def test_a_connection_state_in_other_letters_is_not_its_opposite(word: str, online: bool | None) -> None:
    adapter = Vda5050(Vda5050Options(url="mqtt://x", manufacturer="acme", serial="n1"), Clock(start_ns=NOW))
    raw = json.dumps(CONNECTION | {"connectionState": word}).encode()
    (row,) = adapter.rows(TopicMessage("uagv/v2/acme/n1/connection", raw, False, NOW))
    assert row.values == {"connection_state": word, "online": online}
