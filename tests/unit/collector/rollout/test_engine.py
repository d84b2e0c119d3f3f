"""The engine of rollouts, with a simulated clock and simulated nodes."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from collector.rollout.engine import (
    AGAIN_MS,
    Device,
    NotNow,
    Report,
    Rollout,
    abort,
    pause,
    resume,
    roll_back,
    step,
)
from collector.rollout.stages import read_stages
from wire.errors import WireError
from wire.messages import ModelSlot
from wire.model_offer import OFFER, Confirm, read_confirm
from wire.reasons import NO_REASON, Reason, because

DIGEST, OTHER = "a" * 64, "b" * 64
MINUTE = 60_000


@dataclass
class Node:
    """A simulated node: takes a command once by its id, and confirms or undoes a version after a while."""

    verdict: str = "confirmed"
    online: bool = True
    able: bool = True
    takes: int = 3  # steps until the verdict
    slot: ModelSlot | None = None
    answers: dict[str, tuple[str, Reason]] = field(default_factory=dict)
    offers: int = 0
    newest: int = 0  # attempt of the version that was offered before, and forgotten by the collector
    _left: int = 0

    def take(self, identity: str, name: str, attempt: int) -> None:
        if not self.online or identity in self.answers:
            return
        self.answers[identity] = ("done", NO_REASON)
        if name != OFFER:
            if self.slot is not None and self.slot.state != "rolled-back":
                self.slot = replace(
                    self.slot, digest="", state="rolled-back", why="undone", code="slot-undone"
                )
        elif attempt <= self.newest:
            self.answers[identity] = ("refused", because("again", "slot-offer-repeated", attempt=self.newest))
        else:
            self.offers += 1
            self.newest = attempt
            self._left = self.takes
            self.slot = ModelSlot(state="downloading", offered=DIGEST, attempt=attempt)

    def turn(self) -> None:
        if self.slot is None or self.slot.state not in ("downloading", "unconfirmed"):
            return
        self._left -= 1
        if self._left == 1:
            self.slot = replace(self.slot, state="unconfirmed", digest=DIGEST)
        elif self._left <= 0 and self.verdict != "never":
            good = self.verdict == "confirmed"
            why = "" if good else "3 of 3 results are not numbers"
            self.slot = replace(
                self.slot,
                state=self.verdict,
                digest=DIGEST if good else "",
                why=why,
                code="" if good else "slot-nan",
            )

    def report(self, identity: str) -> Report:
        answer, why = self.answers.get(identity, ("none", NO_REASON))
        slot = self.slot if self.online else None
        return Report(online=self.online, able=self.able, slot=slot, answer=answer, why=why)


class World:
    """Nodes, a rollout, and a clock; every step can be lost before it is kept, or before its commands go."""

    def __init__(self, nodes: dict[str, Node], stages: str = "1,25%,100%", **more: int) -> None:
        self.nodes, self.now = nodes, 0
        self._ids = map(str, itertools.count(1))
        self.rollout = Rollout(
            n=1, id="r", tenant="acme", slot="s", digest=DIGEST, ref="m@2", by="kim", ts=0,
            stages=read_stages(stages, len(nodes)), timeout_ms=60 * MINUTE,
            devices={name: Device() for name in nodes}, **more,
        )  # fmt: skip

    def id(self) -> str:
        return next(self._ids)

    def step(self, *, keeps: bool = True, sends: bool = True, ms: int = MINUTE) -> None:
        self.now += ms
        for node in self.nodes.values():
            node.turn()
        reports = {name: node.report(self.rollout.devices[name].command) for name, node in self.nodes.items()}
        after, requests = step(self.rollout, reports, self.now, self.id)
        if not keeps:
            return
        self.rollout = after
        for one in requests if sends else ():
            self.nodes[one.node].take(one.id, one.name, one.args.get("attempt", 0))

    def run(self, steps: int = 40) -> None:
        for _ in range(steps):
            self.step()

    def states(self) -> list[str]:
        return [device.state for device in self.rollout.devices.values()]


def fleet(count: int, **more: object) -> dict[str, Node]:
    return {f"acme/p/s/n{number}": Node(**more) for number in range(count)}  # type: ignore[arg-type]


def test_a_good_version_goes_through_all_stages() -> None:
    world, seen = World(fleet(8)), []
    while world.rollout.is_open:
        world.step()
        seen.append(sum(node.offers for node in world.nodes.values()))
    assert sorted(set(seen)) == [1, 2, 8], "one node, then a quarter, then all"
    assert world.states() == ["confirmed"] * 8
    assert (world.rollout.state, world.rollout.stage) == ("done", 2)


def test_a_bad_version_stops_at_the_first_stage() -> None:
    world = World(fleet(8, verdict="rolled-back"))
    world.run()
    assert world.rollout.state == "paused"
    assert (world.rollout.code, "not numbers" in world.rollout.why) == ("rollout-failed", True)
    assert sum(node.offers for node in world.nodes.values()) == 1
    assert all(node.slot is None or node.slot.digest == "" for node in world.nodes.values())


def test_it_may_be_offered_again_with_a_higher_attempt() -> None:
    world = World(fleet(2, verdict="rolled-back"))
    world.run()
    first = world.rollout.devices["acme/p/s/n0"].attempt
    for node in world.nodes.values():
        node.verdict = "confirmed"
    world.rollout = resume(world.rollout, "kim", world.now)
    world.run()
    assert world.rollout.state == "done"
    assert world.rollout.devices["acme/p/s/n0"].attempt == first + 1


def test_a_state_that_is_lost_finds_a_free_attempt() -> None:
    nodes = fleet(1)
    nodes["acme/p/s/n0"].slot = ModelSlot(state="rolled-back", offered=DIGEST, attempt=7)
    world = World(nodes)
    world.run()
    assert (world.rollout.state, world.rollout.devices["acme/p/s/n0"].attempt) == ("done", 8)


def test_an_attempt_that_only_the_node_knows_is_found_at_once() -> None:
    nodes = fleet(1)
    nodes["acme/p/s/n0"].newest = 400
    nodes["acme/p/s/n0"].slot = ModelSlot(state="confirmed", offered=OTHER, digest=OTHER, attempt=401)
    world = World(nodes)
    world.run(12)
    assert (world.rollout.state, world.rollout.devices["acme/p/s/n0"].attempt) == ("done", 401)


@pytest.mark.parametrize("newest", [2**53, 2**62, -5, True, "7", None, math.nan])
def test_a_node_that_lies_about_attempts_has_its_own_trouble_only(newest: Any) -> None:
    world = World(fleet(1))
    world.step()
    why = because("again", "slot-offer-repeated", attempt=newest)
    device = world.rollout.devices["acme/p/s/n0"]
    after, _ = step(world.rollout, {"acme/p/s/n0": Report(True, answer="refused", why=why)}, 10**6, world.id)
    assert after.devices["acme/p/s/n0"].attempt == device.attempt + 1


def test_what_a_node_states_takes_little_of_the_document() -> None:
    world = World(fleet(1))
    world.step()
    args: dict[str, Any] = {f"{at:0>120}": "x" * 2_000 for at in range(16)}
    slot = ModelSlot(state="refused", offered=DIGEST, attempt=1, why="y" * 2_000, code="slot-nan", args=args)
    after, _ = step(world.rollout, {"acme/p/s/n0": Report(True, slot=slot)}, 10**6, world.id)
    device = after.devices["acme/p/s/n0"]
    assert (device.state, device.why, device.code, device.args) == ("failed", "y" * 500, "", {})
    assert len(msgspec.json.encode(after)) < 3_000
    why = because("no", "slot-nan", nan=1, of=2)
    slot = replace(slot, **why.fields())
    after, _ = step(world.rollout, {"acme/p/s/n0": Report(True, slot=slot)}, 10**6, world.id)
    assert after.devices["acme/p/s/n0"].args == {"nan": 1, "of": 2}


@pytest.mark.parametrize("act", [abort, roll_back])
def test_a_version_that_is_late_on_a_node_is_given_up_too(act: Any) -> None:
    world = World(fleet(2, verdict="never"))
    world.run(100)
    assert world.states() == ["failed", "waiting"]
    world.rollout = act(world.rollout, "kim", world.now, world.id)
    world.run(3)
    assert world.states() == ["undone", "waiting"]
    assert world.nodes["acme/p/s/n0"].slot is not None
    assert world.nodes["acme/p/s/n0"].slot.state == "rolled-back", "it cannot begin to run later"


def test_a_node_that_never_comes_back_is_free_for_another_version() -> None:
    world = World(fleet(2, verdict="never"), "100%")
    world.run(3)
    world.nodes["acme/p/s/n1"].online = False
    world.step()
    assert world.rollout.holds("acme/p/s/n1", OTHER), "until the rollout has ended"
    world.rollout = abort(world.rollout, "kim", world.now, world.id)
    assert world.rollout.holds("acme/p/s/n0", OTHER)
    world.run(3)
    assert (world.states(), world.rollout.is_open) == (["undone", "undoing"], True)
    held = [world.rollout.holds(f"acme/p/s/n{at}", digest) for at in (0, 1) for digest in (OTHER, DIGEST)]
    assert held == [False, False, False, True], "the undo would end an offer of the same version"


def test_what_runs_already_is_not_offered() -> None:
    nodes = fleet(2)
    for node in nodes.values():
        node.slot = ModelSlot(state="confirmed", offered=DIGEST, digest=DIGEST, attempt=1)
    world = World(nodes)
    world.run(3)
    assert (world.rollout.state, sum(node.offers for node in nodes.values())) == ("done", 0)


def test_offline_nodes_count_for_nothing_and_catch_up() -> None:
    nodes = fleet(4)
    nodes["acme/p/s/n1"].online = nodes["acme/p/s/n3"].online = False
    world = World(nodes)
    world.run(5_000)  # longer than the time of a node
    assert world.rollout.state == "running"
    assert world.states() == ["confirmed", "waiting", "confirmed", "waiting"]
    nodes["acme/p/s/n1"].online = nodes["acme/p/s/n3"].online = True
    world.run()
    assert world.rollout.state == "done"


def test_a_stage_whose_nodes_are_offline_waits() -> None:
    nodes = fleet(4)
    nodes["acme/p/s/n1"].online = False
    world = World(nodes, "1,2,4")
    world.run(200)
    assert (world.rollout.stage, world.states()) == (1, ["confirmed", "waiting", "waiting", "waiting"])


def test_the_time_of_a_node_begins_again_after_it_was_offline() -> None:
    nodes = fleet(1, verdict="never")
    world = World(nodes)
    world.run(50)
    nodes["acme/p/s/n0"].online = False
    world.run(500)
    nodes["acme/p/s/n0"].online = True
    world.run(50)
    assert world.states() == ["offered"]
    world.run(20)
    device = world.rollout.devices["acme/p/s/n0"]
    assert (device.state, device.code, world.rollout.state) == ("failed", "rollout-timeout", "paused")


@pytest.mark.parametrize(("most", "state"), [(0, "paused"), (1, "paused"), (2, "done")])
def test_so_many_may_fail(most: int, state: str) -> None:
    nodes = fleet(6)
    for name in ("acme/p/s/n3", "acme/p/s/n4"):
        nodes[name].verdict = "refused"
    world = World(nodes, max_failed=most)
    world.run()
    assert world.rollout.state == state


def test_a_stage_where_all_failed_pauses() -> None:
    nodes = fleet(4)
    nodes["acme/p/s/n0"].verdict = "refused"
    world = World(nodes, max_failed=3)
    world.run()
    assert (world.rollout.state, sum(node.offers for node in nodes.values())) == ("paused", 1)


def test_a_version_that_is_demoted_later_stops_the_rollout() -> None:
    nodes = fleet(4, takes=3)
    nodes["acme/p/s/n2"].takes = 30
    world = World(nodes, "2,4")
    world.run(12)
    first = nodes["acme/p/s/n0"]
    assert first.slot is not None
    first.slot = replace(first.slot, state="rolled-back", digest="", why="drift", code="slot-nan")
    world.run(2)
    assert (world.rollout.state, world.rollout.devices["acme/p/s/n0"].state) == ("paused", "failed")


def test_an_agent_without_the_commands_fails() -> None:
    world = World(fleet(1, able=False))
    world.run(2)
    assert world.rollout.devices["acme/p/s/n0"].code == "rollout-not-able"


def test_pause_resume_abort_and_roll_back() -> None:
    world = World(fleet(8))
    world.run(1)
    world.rollout = pause(world.rollout, "kim", world.now)
    world.run(10)
    assert world.states().count("confirmed") == 1, "what was offered goes on"
    assert sum(node.offers for node in world.nodes.values()) == 1
    with pytest.raises(NotNow):
        pause(world.rollout, "kim", world.now)
    world.rollout = resume(world.rollout, "kim", world.now)
    world.run(1)
    world.run(2)
    world.rollout = abort(world.rollout, "kim", world.now, world.id)
    world.run(10)
    assert (world.rollout.state, world.rollout.is_open) == ("aborted", False)
    assert set(world.states()) <= {"confirmed", "undone", "waiting"}
    world.rollout = roll_back(world.rollout, "kim", world.now, world.id)
    world.run(10)
    assert (world.rollout.state, world.rollout.of_state("confirmed")) == ("rolled-back", [])
    assert all(node.slot is None or node.slot.digest == "" for node in world.nodes.values())
    with pytest.raises(NotNow):
        resume(world.rollout, "kim", world.now)


def test_an_offline_node_is_rolled_back_when_it_comes() -> None:
    world = World(fleet(2))
    world.run()
    node = world.nodes["acme/p/s/n1"]
    node.online = False
    world.rollout = roll_back(world.rollout, "kim", world.now, world.id)
    world.run(100)
    assert world.rollout.state == "rolling-back"
    node.online = True
    world.run(3)
    assert world.rollout.state == "rolled-back"
    assert node.slot is not None
    assert node.slot.digest == ""


def test_a_node_that_keeps_it_is_named() -> None:
    world = World(fleet(2))
    world.run()
    world.rollout = roll_back(world.rollout, "kim", world.now, world.id)
    device = world.rollout.devices["acme/p/s/n1"]
    world.nodes["acme/p/s/n1"].answers[device.command] = ("refused", because("not last", "slot-unknown"))
    world.run(3)
    assert (world.rollout.state, world.rollout.code) == ("rolled-back", "rollout-not-undone")
    assert "acme/p/s/n1 keeps it" in world.rollout.why


@pytest.mark.parametrize("answer", ["lost", "refused"])
def test_a_command_that_was_lost_is_requested_again(answer: str) -> None:
    world = World(fleet(1))
    world.step(sends=False)
    node, device = world.nodes["acme/p/s/n0"], world.rollout.devices["acme/p/s/n0"]
    why = because("busy", "slot-busy") if answer == "refused" else NO_REASON
    node.answers[device.command] = (answer, why)
    world.step(ms=AGAIN_MS - 1)
    assert world.rollout.devices["acme/p/s/n0"].command == device.command
    world.step(ms=1)
    assert world.rollout.devices["acme/p/s/n0"].command != device.command
    world.run()
    assert world.rollout.state == "done"


@pytest.mark.parametrize("seed", range(60))
def test_it_converges_whatever_is_lost(seed: int) -> None:
    """Steps that were not kept, commands that were not sent, nodes that come and go: the end is the same."""
    chance = random.Random(seed)
    nodes = fleet(chance.randint(1, 9))
    is_bad = chance.random() < 0.5
    for node in nodes.values():
        node.takes = chance.randint(1, 6)
        node.verdict = chance.choice(["rolled-back", "refused"]) if is_bad else "confirmed"
    world = World(nodes, chance.choice(["1,25%,100%", "1,2,3,100%", "50%", "100%"]))
    for _ in range(60):
        chance.choice(list(nodes.values())).online = chance.random() < 0.6
        world.step(keeps=chance.random() < 0.7, sends=chance.random() < 0.7)
        allowed = world.rollout.stages[world.rollout.stage]
        assert sum(node.offers > 0 for node in nodes.values()) <= allowed
        for device, node in zip(world.rollout.devices.values(), nodes.values(), strict=True):
            assert node.offers <= 1, "nothing is offered twice"
            if device.state == "confirmed":
                assert node.slot is not None
                assert node.slot.digest == DIGEST
    for node in nodes.values():
        node.online = True
    world.run(60)
    assert world.rollout.state == ("paused" if is_bad else "done")
    if not is_bad:
        assert set(world.states()) == {"confirmed"}


@pytest.mark.parametrize(
    ("confirm", "minutes", "sent"),
    [
        (Confirm(), 60, {}),
        (Confirm(shadow=10), 60, {"shadow_s": 3_600.0}),
        (Confirm(shadow=10), 120, {}),  # what an agent takes without it, and an earlier one refuses
        (Confirm(shadow=10, shadow_s=5.0), 60, {"shadow_s": 5.0}),
    ],
)
def test_shadow_runs_have_the_time_of_a_node(confirm: Confirm, minutes: int, sent: dict[str, float]) -> None:
    world = World(fleet(1))
    rollout = replace(world.rollout, confirm=confirm, timeout_ms=minutes * MINUTE)
    _, (request,) = step(rollout, {"acme/p/s/n0": Report(online=True)}, MINUTE, world.id)
    assert {key: value for key, value in request.args.items() if key == "shadow_s"} == sent


def test_a_node_that_is_late_has_its_state_in_the_reason() -> None:
    world = World(fleet(1, verdict="never"))
    world.run(70)
    assert world.rollout.why == "it failed on acme/p/s/n0: not confirmed within 3,600 s: it is unconfirmed"


def test_gates_are_read() -> None:
    assert read_confirm("results>=5, nan<0.01,p99_ms<45") == Confirm(results=5, nan=0.01, p99_ms=45)
    assert read_confirm("shadow=3,shadow_s<86400") == Confirm(shadow=3, shadow_s=86_400.0)
    assert read_confirm("nan<=1e-3,results >= 1e3") == Confirm(nan=0.001, results=1_000)
    assert isinstance(read_confirm("results>=1e3").results, int)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "gate 1 is empty"),
        ("results>=5,", "gate 2 is empty"),
        ("results>=5,,nan<1", "gate 2 is empty"),
        ("results>=5,results>=6", "gate 2, 'results>=6', names results a second time"),
        ("results>=5,nan>0.1", "gate 2, 'nan>0.1', has the wrong sign: write nan<0.1"),
        ("results<5", "gate 1, 'results<5', has the wrong sign: write results>=5"),
        ("results>5", "gate 1, 'results>5', has the wrong sign: write results>=5"),
        ("shadow<=5", "gate 1, 'shadow<=5', has the wrong sign: write shadow>=5"),
        ("p99_ms>=45", "gate 1, 'p99_ms>=45', has the wrong sign: write p99_ms<45"),
        ("p99_ms<0", "gate 1, 'p99_ms<0', holds for no result"),
        ("results>=0", "gate 1, 'results>=0', has a wrong number: expected a whole number >= 1"),
        ("results>=1.5", "gate 1, 'results>=1.5', has a wrong number: expected a whole number"),
        ("results>=1e9", "gate 1, 'results>=1e9', has a wrong number: expected a whole number <= 1000000"),
        ("nan<2", "gate 1, 'nan<2', has a wrong number: expected a number <= 1.0"),
        ("soak_s<0", "gate 1, 'soak_s<0', has a wrong number: expected a number > 0.0"),
        *(
            (f"nan<1,{gate}", f"gate 2, '{gate}', is not a gate such as")
            for gate in ("a>1", "results", "results>=", ">=5", "results>=.", "results>=1.2.3",
                         "results>=-5", "results>=٥", "results≥5", "results=>5", "results==5", "results:5",
                         "NAN<1", "nan<nan",
                         "nan<1%", "nan<1_0", "results>=5 nan<1", "results>=5;nan<1", "__class__<1")
        ),
        ("nan<1,\x1b[2J", r"gate 2, '\\x1b[2J', is not a gate"),
        ("n" * 5_000, "gate 1, 'nnnn"),
        ("p99_ms<45ms", "gate 1, 'p99_ms<45ms', has a unit: write a number alone, such as p99_ms<45"),
        ("shadow_s< 2 h", "gate 1, 'shadow_s< 2 h', has a unit: write a number alone, such as shadow_s<2"),
        ("shadow_s<0", "gate 1, 'shadow_s<0', has a wrong number: expected a number"),
        ("shadow_s>=9", "gate 1, 'shadow_s>=9', has the wrong sign: write shadow_s<9"),
    ],
)  # fmt: skip
def test_other_gates_are_refused(text: str, why: str) -> None:
    with pytest.raises(WireError) as caught:
        read_confirm(text)
    assert str(caught.value).startswith(why), caught.value
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200
