"""Twice as much arrives as a slow collector stores: it states it, refuses fairly, and has all in the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.overload import FLEET, Case, measure
from edgebed.broker import Kind
from edgebed.fleet.plan import FleetPlan


def test_an_overload_is_stated_and_everything_arrives(require: Callable[[str], str], tmp_path: Path) -> None:
    require("mosquitto")
    seen = measure(Case(nodes=60, rate=5, seconds=12, faster=3), tmp_path)
    assert {"overloaded"} <= seen.codes() <= {"overloaded", "catching-up"}
    # the first rates may hold a pause of a busy machine; later ones have twice as much as is stored
    assert max(each["overload"]["factor"] for each in seen.health) > 1.2
    assert "slower than what arrives: " in seen.log
    assert seen.first_s("refusing") is not None
    assert seen.nodes.get("share-overload"), "a node names it too"
    assert "waits-after-refusal" not in seen.nodes
    assert seen.figures["offered"] == seen.figures["acknowledged"] == seen.stored
    assert (seen.doubled, seen.figures["wrongly_acknowledged"]) == (0, 0)
    assert seen.health[-1]["overload"]["state"] == "none"


@pytest.mark.slow
@pytest.mark.parametrize("broker", ["mosquitto", "nats"])
def test_a_flood_is_refused_and_the_others_are_not(
    require: Callable[[str], str], tmp_path: Path, broker: Kind
) -> None:
    if broker == "mosquitto":
        require("mosquitto")
    seen = measure(Case(broker=broker, nodes=100, rate=1, factor=0.4, flood=0.12, seconds=40), tmp_path)
    assert "overloaded" in seen.codes()
    # the broker is slow too and may end a connection; what must not be said is that nodes send no data
    assert seen.codes() <= {"overloaded", "catching-up", "broker-offline"}
    plan = FleetPlan(nodes=100, rate=1, flood=0.12)
    flooding = {f"{FLEET}/node-{number:05}" for number, fault in plan.faults.items() if fault == "flood"}
    # on a busy machine a quiet node sends what waited at once, and is above its part for a moment too
    assert flooding <= seen.nodes["share-overload"], "every node that sends 20 times as much is refused"
    quiet, everyone = (seen.figures[f"publish_to_ack_ms{of}"] for of in ("_without_fault", ""))
    assert quiet["p90"] < everyone["p90"], "the others wait for less"
    assert seen.oldest_s < 30
    assert seen.figures["offered"] == seen.figures["acknowledged"] == seen.stored
    assert seen.doubled == 0
