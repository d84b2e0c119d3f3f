"""The gates of a stage: the worst values of its own nodes, as they are or were when a node was decided."""

from __future__ import annotations

from collector.rollout.engine import Device, Rollout
from collector.rollout.gates import StageGates, slot_of, stage_gates
from wire.messages import Arm, ModelSlot

DIGEST = "a" * 64


def slot(results: int, ran: Arm | None = None, offered: str = DIGEST) -> ModelSlot:
    found = ModelSlot(state="unconfirmed", offered=offered, results=results, of=100)
    if ran is not None:
        found.ran = ran
    return found


def rollout(*devices: Device, stages: list[int]) -> Rollout:
    return Rollout(
        id="r", tenant="acme", slot="s", digest=DIGEST, ref="m@2", by="kim", ts=0, stages=stages,
        devices={f"n{number}": device for number, device in enumerate(devices)},
    )  # fmt: skip


def test_the_worst_value_of_the_new_nodes_of_each_stage() -> None:
    made = rollout(
        Device(state="confirmed"),
        Device(state="offered", since=1_000),
        Device(state="offered", since=5_000),
        Device(state="offered", since=0, offline=True),
        Device(),
        stages=[1, 4, 5],
    )
    slots = {
        "n0": slot(900, Arm(n=900, p99_ms=9.0)),
        "n1": slot(40, Arm(n=50, nan=10, failed=50, p99_ms=3.0)),
        "n2": slot(70, Arm(n=70, p99_ms=7.0)),
        "n3": slot(99, Arm()),
        "n4": slot(1, offered="b" * 64),
    }
    assert stage_gates(made, slots, 11_000) == [
        StageGates(1, {"confirmed": 1}, 900, 0.0, 0.0, 9.0, None),
        StageGates(3, {"offered": 3}, 40, 0.2, 0.5, 7.0, 10.0),
        StageGates(1, {"waiting": 1}, None, None, None, None, None),
    ]


def test_nodes_that_are_not_seen_count_in_no_stage() -> None:
    made = rollout(Device(state="failed"), Device(state="confirmed"), stages=[2])
    (only,) = stage_gates(made, {"n1": slot(7)}, 0)
    assert (only.nodes, only.counts, only.results, only.nan) == (1, {"confirmed": 1}, 7, None)


def test_a_node_that_failed_shows_what_undid_it() -> None:
    then, now = slot(3, Arm(n=10, nan=7)), slot(0)
    failed = Device(state="failed", slot=then)
    made = rollout(failed, stages=[1])
    assert slot_of(made, failed, now) is then
    assert slot_of(made, Device(state="confirmed", slot=then), now) is now
    assert slot_of(made, Device(state="confirmed", slot=then), slot(1, offered="b" * 64)) is then
    assert slot_of(made, Device(state="confirmed"), None) is None
