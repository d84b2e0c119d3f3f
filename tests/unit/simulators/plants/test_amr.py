"""The mobile robot and the street sensors as numbers: the same to the bit, possible, their faults visible."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest

from simulators.devices.vda5050.device import AmrVehicle
from simulators.devices.vda5050.order import OrderRefused, job_of
from simulators.faults.fault import Fault, parse
from simulators.plants.amr import FAULTS, GRID, RATE_HZ, SIGNALS, Amr, Job
from simulators.plants.street_sensors import StreetSensors

IDENTITY = {"manufacturer": "acme", "serialNumber": "amr-01"}


def test_any_block_in_any_order_is_the_same_to_the_bit() -> None:
    whole = Amr(5).block(0, 6_000)
    another = Amr(5)
    for start in (5_500, 17, 3_000):
        np.testing.assert_array_equal(another.block(start, 40), whole[start : start + 40])
    assert not np.array_equal(Amr(6).block(0, 600), whole[:600])
    assert another.sample(17) == dict(zip(SIGNALS, whole[17].tolist(), strict=True))


def test_it_moves_as_a_robot_can_and_its_battery_as_one_does() -> None:
    robot = Amr(2)
    hours = [robot.situation(index) for index in range(0, 7_200 * RATE_HZ, 2)]
    for a, b in pairwise(hours):
        assert math.hypot(b.x - a.x, b.y - a.y) <= 1.2 * 0.2 + 1e-6
        assert abs(math.remainder(b.theta - a.theta, math.tau)) <= 0.8 * 0.2 + 1e-6
        assert abs(b.vx - a.vx) <= 0.5 * 0.2 + 1e-6
        assert abs(b.battery_charge - a.battery_charge) < 0.05
    assert any(one.charging for one in hours)
    assert min(one.battery_charge for one in hours) > 25
    assert len({one.mission.order_id for one in hours if one.mission}) > 30
    for one in hours:
        if one.mission and one.reached == len(one.mission.nodes):
            assert (one.x, one.y) == pytest.approx(GRID[one.mission.nodes[-1][0]])


@pytest.mark.parametrize("kind", ["blocked", "e-stop"])
def test_what_stops_it_costs_exactly_that_time(kind: str) -> None:
    free, stopped = Amr(3), Amr(3, [parse(f"{kind}@10-25", FAULTS), parse("blocked@20-30", FAULTS)])
    assert stopped.situation(150).vx == 0
    assert not stopped.situation(299).driving
    assert stopped.situation(150).label == kind
    for index in (0, 99, 301, 2_000):
        lost = 200 if index >= 300 else 0
        a, b = free.situation(index - lost), stopped.situation(index)
        assert (a.x, a.y, a.theta, a.vx) == pytest.approx((b.x, b.y, b.theta, b.vx))


def test_drift_moves_what_it_measures_and_not_the_truth() -> None:
    free, lost = Amr(3).block(0, 900), Amr(3, [parse("drift@20x2", FAULTS)])
    measured = lost.block(0, 900)
    assert measured[800, 0] - free[800, 0] == pytest.approx(3.0)
    np.testing.assert_array_equal(measured[:200], free[:200])
    assert lost.situation(800).x == Amr(3).situation(800).x
    assert lost.situation(800).localization_score < 0.5
    assert lost.labels(190, 20) == [""] * 10 + ["drift"] * 10


def test_an_order_is_done_next_and_the_past_stays() -> None:
    robot = Amr(3, fleet=False)
    job = Job("mine", (("dock", *GRID["dock"]), ("n00", *GRID["n00"])))
    assert robot.situation(5_000).mission is None
    before = robot.block(0, 100)
    assert (
        robot.order(Job("far", (("n53", *GRID["n53"]),)), 10.0)
        == "its first node is not where the robot will stand"
    )
    assert robot.order(job, 10.0) == ""
    assert robot.order(job, 11.0) == "this order is known already"
    np.testing.assert_array_equal(robot.block(0, 100), before)
    end = robot.situation(400)
    assert end.mission is not None
    assert (end.mission.order_id, end.reached, end.driving) == ("mine", 2, False)
    assert (end.x, end.y) == pytest.approx(GRID["n00"])
    busy = Amr(3)
    running = busy.situation(100).mission
    assert running is not None
    last = running.nodes[-1]
    assert busy.order(Job("next", (last, ("n11", *GRID["n11"]))), 10.0) == ""
    assert busy.order(Job("third", (last, ("n11", *GRID["n11"]))), 11.0) == "another order waits already"
    assert busy.situation(round((running.end_s + 1) * RATE_HZ)).mission.order_id == "next"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "change",
    [
        {"serialNumber": "amr-02"},
        {"nodes": []},
        {"nodes": 3},
        {"nodes": [{"nodeId": "nowhere", "sequenceId": 0, "released": True}]},
        {"nodes": [{"nodeId": "n00", "sequenceId": "x", "released": True}]},
        {"nodes": [{"nodeId": "a", "sequenceId": 0, "released": True, "nodePosition": {"x": "nan", "y": 0}}]},
        {"orderUpdateId": 1},
        {"orderId": ""},
    ],
)
def test_orders_that_a_careful_vehicle_refuses(change: dict[str, object]) -> None:
    order = {
        **IDENTITY,
        "orderId": "o",
        "orderUpdateId": 0,
        "nodes": [{"nodeId": "dock", "sequenceId": 0, "released": True}],
    }
    assert job_of(json.dumps(order).encode(), IDENTITY) == Job("o", (("dock", *GRID["dock"]),))
    with pytest.raises(OrderRefused):
        job_of(json.dumps({**order, **change}).encode(), IDENTITY)


@pytest.mark.parametrize("body", [b"", b"[" * 100_000, b"[]", b"null", b'"x"', b"x" * 2_000_000])
def test_a_body_that_is_not_an_order_is_refused(body: bytes) -> None:
    with pytest.raises(OrderRefused):
        job_of(body, IDENTITY)


def test_wrong_arguments_end_in_one_sentence() -> None:
    for more, sentence in [
        ({}, "broker_url"),
        ({"broker_url": "http://x"}, "mqtt://"),
        ({"broker_url": "mqtts://x"}, "plain"),
        ({"broker_url": "mqtt://x", "port": 1}, "no port"),
        ({"broker_url": "mqtt://x", "faults": ["hungry"]}, "wrong-serial"),
        ({"broker_url": "mqtt://x", "faults": ["blocked@9-3"]}, "duration"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            AmrVehicle(**more)  # type: ignore[arg-type]


def test_sensors_of_a_street() -> None:
    street = StreetSensors(4, sensors=3, period_s=60.0)
    day = [street.sample(1, index) for index in range(1_440)]
    assert street.sample(1, 700) == StreetSensors(4, sensors=3, period_s=60.0).sample(1, 700)
    taken = [bool(one["occupied"]) for one in day]
    assert 0.3 < sum(taken) / len(taken) < 0.9
    assert 20 < sum(a != b for a, b in pairwise(taken)) < 144, "a bay changes now and then, not each minute"
    assert all(35 < one["noise"] < 80 and one["water_level"] >= 0 for one in day)
    flooded = StreetSensors(4, [Fault("flood", "", 600, size=2)], sensors=3, period_s=60.0)
    assert flooded.sample(1, 9) == street.sample(1, 9)
    assert flooded.sample(1, 20)["water_level"] - street.sample(1, 20)["water_level"] == pytest.approx(600)
    assert (flooded.label(1, 9), flooded.label(1, 20)) == ("", "flood")
