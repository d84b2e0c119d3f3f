"""The fleet: states that decay, problems first, and no state from a stale message."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from msgspec import UNSET

from collector.fleet import fleet as module
from collector.fleet import node_state, problems
from collector.fleet.fleet import Fleet
from collector.fleet.node_state import SILENT_MS, NodeState
from collector.fleet.problems import CODES
from collector.ledger.ledger import Draft, Ledger
from collector.store.marks import Claim
from wire.messages import (
    AgentInfo,
    Birth,
    Device,
    DeviceState,
    Field,
    ModelRef,
    ModelState,
    Snapshot,
    Status,
    Stream,
)
from wire.reasons import because
from wire.topics import parse

NODE, EP, T0 = "acme/trial/hall/cobot-01", "00112233aabbccdd", 1_795_356_000_000
BEAT = parse(f"tb1/{NODE}/live/_/agent")


def status(state: Any = "online", sess: int = 1, **more: Any) -> Status:
    return Status(state=state, ts=T0, boot="deadbeef", sess=sess, agent="0.1.0", **more)


def birth(sess: int = 1) -> Birth:
    streams = {"joints": Stream(rate_hz=50.0, fields={"j1": Field(unit="deg")})}
    return Birth(
        ts=T0, boot="deadbeef", sess=sess, ep=EP, agent=AgentInfo(ver="0.1.0"),
        devices={"arm": Device(type="cobot", streams=streams)},
        models={"anomaly": ModelRef(name="joint-anomaly", ver="1.0.0", sha256="ab")},
    )  # fmt: skip


@pytest.fixture
def fleet(clock: Any) -> Fleet:
    return Fleet(clock, Ledger())


def view(fleet: Fleet) -> Any:
    (found,) = fleet.views(NODE)
    return found


def test_a_model_with_bad_input_is_degraded_and_an_older_agent_sends_none(fleet: Fleet) -> None:
    why = {"why": "its pictures are dark", "code": "model-input-dark"}
    models = {
        "a": ModelState(state="ok", degraded=True, device="cam", **why),
        "b": ModelState(state="failed", degraded=True, device="cam", **why),
        "c": ModelState(state="ok", device="cam"),
    }
    fleet.on_status(NODE, status(models=models), T0, retained=False)
    fleet.on_live(BEAT, {"ts": T0}, T0, retained=False)
    found = view(fleet)
    assert [model["state"] for model in found.models] == ["degraded", "failed", "ok"]
    problems = [(one.code, one.slot, one.sev) for one in found.problems if one.slot]
    assert problems == [("model-failed", "b", 3), ("model-input", "a", 2)]
    fleet.on_status(NODE, status("lost", models=models), T0, retained=False)
    assert {model["state"] for model in view(fleet).models} == {"unknown"}


def test_the_number_that_a_pilot_has_set_is_shown_with_its_model(fleet: Fleet) -> None:
    models = {"a": ModelState(state="ok", tuned={"threshold": 0.4}), "b": ModelState(state="ok")}
    fleet.on_status(NODE, status(models=models), T0, retained=False)
    assert [model["tuned"] for model in view(fleet).models] == [{"threshold": 0.4}, {}]


def test_the_verdict_of_a_model_is_shown_while_its_node_is_online(fleet: Fleet) -> None:
    said = ModelState(state="ok", name="ecg-rhythm", ver="1.0.0", device="arm")
    fleet.on_status(NODE, status(models={"rhythm": said}), T0, retained=False)
    fleet.on_live(BEAT, {"ts": T0}, T0, retained=False)
    assert view(fleet).models[0]["verdict"] == {}
    topic = parse(f"tb1/{NODE}/live/arm/rhythm")
    for sent, expected in (
        ({"label": "AF", "alarm": True, "score": 0.9}, {"label": "AF", "alarm": True}),
        ({"label": "x" * 1000}, {"label": "x" * 64}),
        ({"label": 7, "alarm": "yes"}, {}),
        ({"label": "N", "alarm": False}, {"label": "N", "alarm": False}),
    ):
        fleet.on_live(topic, {"ts": T0, **sent}, T0, retained=False)
        assert view(fleet).models[0]["verdict"] == expected
    fleet.on_status(NODE, status("lost", models={"rhythm": said}), T0, retained=False)
    assert view(fleet).models[0]["verdict"] == {}


def codes(fleet: Fleet) -> list[str]:
    found = [one.code for one in view(fleet).problems]
    assert set(found) <= set(CODES)
    return found


def test_online_decays_by_itself(fleet: Fleet, clock: Any) -> None:
    fleet.on_status(NODE, status(devices={"arm": DeviceState(state="ok")}), T0, retained=False)
    assert (view(fleet).state, view(fleet).devices[0]["state"]) == ("online", "ok")
    clock.ms += SILENT_MS + 1
    assert view(fleet).state == "unknown"
    assert view(fleet).devices[0]["state"] == "unknown", "its state is unknown too"
    assert codes(fleet) == ["node-silent"]
    fleet.on_live(BEAT, {"ts": clock.ms}, clock.ms, retained=False)
    assert (view(fleet).state, codes(fleet)) == ("online", [])


def test_a_node_whose_status_arrives_and_none_of_its_data(fleet: Fleet, clock: Any) -> None:
    fleet.on_status(NODE, status(), T0, retained=False)
    clock.ms += 30_000
    assert fleet.without_data(T0) == []
    clock.ms += 30_001
    assert fleet.without_data(T0) == [NODE], "neither a heartbeat nor data: its status alone gets through"
    fleet.on_live(BEAT, {"ts": clock.ms, "oldest_s": 0}, clock.ms, retained=False)
    assert fleet.without_data(T0) == [], "it has nothing to send"
    fleet.on_live(BEAT, {"ts": clock.ms, "oldest_s": 61}, clock.ms, retained=False)
    assert fleet.without_data(T0) == [NODE]
    fleet.on_data(NODE, clock.ms)
    assert fleet.without_data(T0) == []
    clock.ms += 600_000
    fleet.on_live(BEAT, {"ts": clock.ms, "oldest_s": 661}, clock.ms, retained=False)
    assert fleet.without_data(T0) == [], "it sends again within ten minutes"
    clock.ms += 60_001
    fleet.on_live(BEAT, {"ts": clock.ms, "oldest_s": 722}, clock.ms, retained=False)
    assert fleet.without_data(T0) == [NODE]
    fleet.on_status(NODE, status("lost"), clock.ms, retained=False)
    assert fleet.without_data(T0) == []


def test_a_node_that_waits_after_a_refusal_is_not_held_back_by_the_broker(fleet: Fleet, clock: Any) -> None:
    """The collector was started again with a larger share; the node still waits as before."""
    fleet.on_status(NODE, status(), T0, retained=True)
    refused = {"refused": "it exceeds shares.node.messages_per_s", "refused_code": "share-messages"}
    for seconds in (0, 61, 300, 655):
        clock.ms = T0 + 1000 * seconds
        said = {"ts": clock.ms, "oldest_s": 1000 + seconds, **refused}
        fleet.on_live(BEAT, said, clock.ms, retained=False)
        assert fleet.without_data(T0) == []
        assert fleet.waiting() == [NODE]
    (problem,) = [one for one in view(fleet).problems if one.code == "refused"]
    assert problem.reason == {"code": "waits-after-refusal", "args": {"n": 1, "node": NODE}}
    assert "again within ten minutes" in problem.why
    assert "are refused" not in problem.why
    fleet.on_data(NODE, clock.ms)
    assert fleet.waiting() == []
    clock.ms += node_state.RESENT_MS
    fleet.on_live(BEAT, {"ts": clock.ms, "oldest_s": 2000, **refused}, clock.ms, retained=False)
    assert fleet.without_data(T0) == [NODE], "it would have sent again: something holds it back"
    fleet.on_live(BEAT, {"ts": clock.ms, "oldest_s": 2000, "refused_code": 7}, clock.ms, retained=False)
    assert fleet.waiting() == []


def test_a_node_names_the_collector_that_acknowledges_nothing(fleet: Fleet, clock: Any) -> None:
    fleet.on_status(NODE, status(), clock.ms, retained=False)
    for behind in ({}, {"behind": 7, "behind_s": 300}, {"behind": "A B", "behind_s": 1}, {"behind": "c"}):
        fleet.on_live(BEAT, {"ts": clock.ms, **behind}, clock.ms, retained=False)
        assert "copies" not in codes(fleet)
    fleet.on_live(BEAT, {"ts": clock.ms, "behind": "copy-2", "behind_s": 300}, clock.ms, retained=False)
    (problem,) = [one for one in view(fleet).problems if one.code == "copies"]
    assert problem.reason == {"code": "no-ack-from", "args": {"by": "copy-2", "seconds": 300}}
    fleet.on_data(NODE, clock.ms)
    clock.ms += node_state.RESENT_MS
    fleet.on_live(
        BEAT, {"ts": clock.ms, "oldest_s": 900, "behind": "copy-2", "behind_s": 900}, clock.ms, retained=False
    )
    assert fleet.without_data(T0) == [], "what waits is stored here"
    clock.ms += 60_000
    assert "copies" not in codes(fleet), "the heartbeat is old"


def test_a_node_known_by_a_retained_status_alone_is_not_silent_since_1970(fleet: Fleet, clock: Any) -> None:
    fleet.on_status(NODE, status(), T0, retained=True)
    for _ in range(2):
        shown = view(fleet)
        assert (shown.state, shown.since, codes(fleet)) == ("unknown", T0, ["node-silent"])
        assert shown.problems[0].reason == {"code": "only-retained", "args": {}}
        clock.ms += 3_600_000
    fleet.saw(NODE, clock.ms)
    assert view(fleet).state == "online"


def test_retained_statuses_of_nodes_that_are_gone_prove_nothing(fleet: Fleet, clock: Any) -> None:
    fleet.on_status(NODE, status(), T0, retained=True)
    fleet.on_live(BEAT, {"ts": T0, "oldest_s": 500}, T0, retained=True)
    clock.ms += 3_600_000
    assert fleet.without_data(T0) == []


def test_what_devices_and_models_count_is_shown_and_a_state_is_as_old_as_it_was(fleet: Fleet) -> None:
    for later, dropped in ((0, 0), (60_000, 7)):
        said = status(
            devices={
                "camera": DeviceState(state="ok", counters={"readings": 600, "frames_dropped": dropped})
            },
            models={"detector": ModelState(state="ok", device="camera", counters={"dropped": dropped})},
        )
        said.ts += later
        assert fleet.on_status(NODE, said, T0 + later, retained=False)
    seen = view(fleet)
    assert seen.devices[0]["counters"] == {"readings": 600, "frames_dropped": 7}
    assert seen.models[0]["counters"] == {"dropped": 7}
    assert (seen.state, seen.since) == ("online", T0)
    fleet.on_status(NODE, status(sess=2), T0, retained=False)
    assert view(fleet).devices == []


def test_retained_messages_are_not_a_sign_of_life(fleet: Fleet, clock: Any) -> None:
    clock.ms += 600_000
    fleet.on_status(NODE, status(), clock.ms, retained=True)
    fleet.on_live(BEAT, {"ts": T0}, clock.ms, retained=True)
    assert (view(fleet).state, view(fleet).last_seen) == ("unknown", T0)
    assert view(fleet).skew_ms is None, "the time that a broker kept it is not a clock offset"


def test_an_older_session_does_not_speak_for_the_node(fleet: Fleet) -> None:
    assert fleet.on_status(NODE, status(sess=7), T0, retained=False)
    assert not fleet.on_status(NODE, status("lost", sess=6), T0, retained=False)
    assert view(fleet).state == "online"
    assert fleet.on_status(NODE, status("lost", sess=7), T0, retained=False)
    assert (view(fleet).state, codes(fleet)) == ("lost", ["node-lost"])
    assert fleet.on_birth(NODE, birth(7))
    assert not fleet.on_birth(NODE, birth(6))


def test_skew_is_the_smallest_delay_of_five_minutes(fleet: Fleet, clock: Any) -> None:
    for delay in (900, 120, 4000):
        clock.ms += 15_000
        fleet.on_live(BEAT, {"ts": clock.ms - 60_000 - delay}, clock.ms, retained=False)
    assert fleet.offset(NODE).skew_ms == 60_120
    fleet.on_status(NODE, status(), clock.ms, retained=False)
    assert codes(fleet) == ["clock-unsynced"]
    clock.ms += 301_000
    assert fleet.offset(NODE).skew_ms is None


def test_problems_of_every_kind_are_found_and_sorted(fleet: Fleet, clock: Any) -> None:
    fleet.on_birth(NODE, birth())
    fleet.on_status(
        NODE,
        status(
            devices={"arm": DeviceState(state="degraded", since=T0, why="no answer")},
            models={"anomaly": ModelState(state="failed", why="wrong shape", device="arm")},
        ),
        T0,
        retained=False,
    )
    beat = {"ts": T0, "ep": EP, "head": 100, "depth": 0, "clk": 0}
    fleet.on_live(BEAT, {**beat, "depth": 40, "oldest_s": 90.0}, T0, retained=False)
    assert codes(fleet) == ["device-degraded", "model-failed", "backlog", "clock-unsynced", "missing"][:4]
    clock.ms += 15_000
    fleet.on_live(BEAT, {**beat, "ts": clock.ms, "clk": 1}, clock.ms, retained=False)
    assert "missing" not in codes(fleet), "the next heartbeat may show where it is"
    clock.ms += 25_000
    fleet.on_quarantine(NODE, clock.ms)
    assert codes(fleet) == ["missing", "device-degraded", "model-failed", "quarantine"]
    assert next(one for one in view(fleet).problems if one.code == "device-degraded").device == "arm"


@pytest.fixture
def holed(numbers: Any) -> Ledger:
    """A ledger in which numbers 2 and 3 of 5 are missing, the number before them stored at T0 + 1 ms."""
    ledger: Ledger = numbers([1, 4, 5])
    ledger.claim(NODE, EP, Claim(head=5, acked=5, at_ms=T0 + 5))
    return ledger


def test_a_node_known_only_by_the_ledger_gets_the_missing_alarm(clock: Any, holed: Ledger) -> None:
    clock.ms += problems.MISSING_MS + 2
    found = view(Fleet(clock, holed))
    assert [(one.code, one.why) for one in found.problems if one.code == "missing"] == [
        ("missing", "2 messages are missing")
    ]


def test_the_missing_alarm_needs_no_page(fleet: Fleet, clock: Any) -> None:
    """A page that is opened now shows the same as one that was open all the time."""
    fleet.on_status(NODE, status(), T0, retained=False)
    beat = {"ts": T0, "ep": EP, "head": 3, "depth": 0}
    fleet.on_live(BEAT, beat, T0, retained=False)
    clock.ms += problems.MISSING_MS + 1
    fleet.on_live(BEAT, {**beat, "ts": clock.ms}, clock.ms, retained=False)
    assert codes(fleet) == ["missing"]


def test_reading_the_views_changes_nothing(clock: Any, holed: Ledger) -> None:
    def facts() -> Any:
        names = [name for name in NodeState.__slots__ if name not in ("skew", "streams")]
        nodes = {node: [getattr(state, name) for name in names] for node, state in fleet._nodes.items()}
        return copy.deepcopy((nodes, fleet._accounts._missing, fleet._accounts._judged_ms, fleet._unsaved))

    fleet = Fleet(clock, holed)
    fleet.judge()
    fleet.on_status("acme/trial/hall/cobot-02", status(), T0, retained=False)
    before = facts()
    for _ in range(3):
        clock.ms += problems.MISSING_MS
        fleet.views()
        assert facts() == before


def test_what_was_not_missing_at_the_last_judgement_is_missing_since_then(clock: Any, holed: Ledger) -> None:
    """A node goes on with a new outbox: messages of the old one are missing from now on."""
    ledger, other = holed, "acme/trial/hall/cobot-02"
    draft = Draft(ledger)
    draft.add(other, EP, 1, 10, T0)
    ledger.accept(draft.accounts.values())
    ledger.claim(other, EP, Claim(head=3, depth=2, at_ms=T0))
    fleet = Fleet(clock, ledger)
    fleet.judge()
    clock.ms += 3_600_000
    fleet.judge()
    ledger.claim(other, "ffffffff00000000", Claim(head=1, depth=1, at_ms=clock.ms))
    for later, expected in ((0, False), (problems.MISSING_MS, False), (1, True)):
        clock.ms += later
        fleet.judge()
        (found,) = fleet.views(other)
        assert ("missing" in {one.code for one in found.problems}) is expected
    assert "missing" in codes(fleet), "the other node has its alarm all the time"


def test_the_alarm_ends_when_the_messages_arrive(clock: Any, holed: Ledger) -> None:
    fleet = Fleet(clock, holed)
    fleet.judge()
    clock.ms += problems.MISSING_MS + 10
    assert "missing" in codes(fleet)
    draft = Draft(holed)
    for seq in (2, 3):
        draft.add(NODE, EP, seq, 10, clock.ms)
    holed.accept(draft.accounts.values())
    assert "missing" not in codes(fleet)
    fleet.judge()
    assert fleet._accounts._missing == {}


def test_a_clock_that_is_set_back_delays_the_alarm_by_no_more_than_a_judgement(
    clock: Any, holed: Ledger
) -> None:
    fleet = Fleet(clock, holed)
    fleet.judge()
    clock.ms -= 3_600_000
    fleet.judge()
    clock.ms += problems.MISSING_MS + 1
    assert "missing" in codes(fleet)


def test_nodes_with_problems_come_first(fleet: Fleet) -> None:
    for name, state in (("a", "online"), ("b", "lost"), ("c", "online")):
        fleet.on_status(f"t/p/s/{name}", status(state), T0, retained=False)
    assert [found.node[-1] for found in fleet.views()] == ["b", "a", "c"]


def test_devices_and_models_join_birth_and_status(fleet: Fleet) -> None:
    fleet.on_birth(NODE, birth())
    fleet.on_status(
        NODE,
        status(models={"anomaly": ModelState(state="ok", name="joint-anomaly", ver="1.0.1", provider="CPU")}),
        T0,
        retained=False,
    )
    (device,), (model,) = view(fleet).devices, view(fleet).models
    assert device["streams"]["joints"]["fields"]["j1"]["unit"] == "deg"
    assert (device["streams"]["joints"]["kind"], device["state"]) == ("signal", "unknown")
    assert (model["ver"], model["provider"], model["state"]) == ("1.0.1", "CPU", "ok")
    assert fleet.unit(NODE, "arm", "joints", "j1") == "deg"
    assert fleet.unit(NODE, "arm", "joints", "nope") == fleet.unit("a/b/c/d", "x", "y", "z") == ""


def test_a_restart_brings_the_fleet_back(fleet: Fleet, clock: Any) -> None:
    fleet.on_birth(NODE, birth())
    fleet.on_status(NODE, status(), T0, retained=False)
    fleet.on_live(BEAT, {"ts": T0, "ep": EP, "head": 3, "depth": 3, "rss_mb": 40.5}, T0, retained=False)
    states = fleet.take_unsaved()
    assert fleet.take_unsaved() == {}
    again = Fleet(clock, Ledger())
    again.restore({**states, f"status/{NODE}/x": b"garbage", "odd": b"{}", f"reported/{NODE}/config": b"{}"})
    assert NODE in {found.node for found in again.views()}
    assert not any("reported" in found.node or "config" in found.node for found in again.views())
    before, after = view(fleet), view(again)
    assert (after.state, after.health, after.devices) == (before.state, before.health, before.devices)
    assert after.last_seen == before.last_seen


def test_states_that_did_not_reach_the_disk_are_offered_again(fleet: Fleet) -> None:
    fleet.on_status(NODE, status(sess=1), T0, retained=False)
    lost = fleet.take_unsaved()
    fleet.on_status(NODE, status(sess=2), T0, retained=False)
    fleet.give_back(lost)
    (body,) = fleet.take_unsaved().values()
    assert b'"sess":2' in body


def test_a_node_known_only_by_its_data_is_listed(clock: Any) -> None:
    ledger = Ledger()
    draft = Draft(ledger)
    draft.add(NODE, EP, 1, 5, T0)
    ledger.accept(draft.accounts.values())
    found = view(Fleet(clock, ledger))
    assert (found.state, found.ledger.stored) == ("unknown", 1)


@pytest.mark.parametrize(
    "beat",
    [
        {"ep": 7}, {"ep": "XYZ", "head": 5}, {"ep": EP, "head": "many", "depth": None},
        {"ep": EP, "head": -5, "depth": -1}, {"ep": EP, "head": True}, {"rss_mb": "big"},
    ],
)  # fmt: skip
def test_nonsense_in_a_heartbeat_breaks_nothing(fleet: Fleet, beat: dict[str, Any]) -> None:
    fleet.on_live(BEAT, {"ts": T0, **beat}, T0, retained=False)
    found = view(fleet)
    assert (found.ledger.taken, found.ledger.missing_count) == (0, 0)


def test_everything_is_bounded(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SNAPSHOTS", 2)
    snapshot = Snapshot(ts=T0, w=1, h=1, sha256="ab", jpeg=b"\xff\xd8")
    for number in range(4):
        fleet.on_snapshot(parse(f"tb1/{NODE}/snap/arm/s{number}"), snapshot, T0)
    assert [fleet.snapshot(NODE, "arm", f"s{n}") is not None for n in range(4)] == [False, False, True, True]


def test_the_pictures_of_one_node_displace_its_own(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SNAPSHOTS", 10)
    snapshot = Snapshot(ts=T0, w=1, h=1, sha256="ab", jpeg=b"\xff\xd8")
    fleet.on_snapshot(parse("tb1/other/t/h/n/snap/cam/s"), snapshot, T0)
    for number in range(50):
        fleet.on_snapshot(parse(f"tb1/{NODE}/snap/arm/s{number}"), snapshot, T0)
    assert fleet.snapshot("other/t/h/n", "cam", "s") is not None
    assert sum(fleet.snapshot(NODE, "arm", f"s{n}") is not None for n in range(50)) == 9


def test_a_refusal_is_a_problem_of_its_node_until_it_ends(fleet: Fleet, clock: Any) -> None:
    why = because(
        "it exceeds shares.node.streams of the collector", "share-streams", share="shares.node.streams"
    )
    fleet.on_refused("never/seen/h/n", why, clock.ms + 5_000, clock.ms)
    assert fleet.names() == set()
    fleet.saw(NODE, T0)
    fleet.on_refused(NODE, why, clock.ms + 5_000, clock.ms)
    (problem,) = [one for one in view(fleet).problems if one.code == "refused"]
    assert problem.reason == {"code": "share-streams", "args": {"share": "shares.node.streams"}}
    clock.ms += 5_000 + node_state.REFUSED_MS - 1
    assert "refused" in {one.code for one in view(fleet).problems}
    clock.ms += 1
    assert "refused" not in {one.code for one in view(fleet).problems}


def test_a_problem_has_the_code_and_args_of_its_reason(fleet: Fleet, clock: Any) -> None:
    silent = DeviceState(state="degraded", why="silent", code="device-silent", args={"seconds": 5.0})
    budget = {"p99_ms": 9.0, "budget_ms": 5.0}
    slow = ModelState(state="failed", device="arm", why="slow", code="model-too-slow", args=budget)
    older = DeviceState(state="degraded", why="the text of an older agent")
    devices = {"arm": silent, "cam": older, "lidar": DeviceState(state="degraded")}
    fleet.on_status(NODE, status(devices=devices, models={"m": slow}), T0, retained=False)
    beat = {"ts": T0, "clk": 1, "depth": 40, "oldest_s": 90.5, "bytes": 1}
    fleet.on_live(BEAT, beat, T0, retained=False)
    seen = view(fleet)
    arm, cam, _ = seen.devices
    assert (arm["why"], arm["code"], arm["args"]) == ("silent", "device-silent", {"seconds": 5.0})
    assert (cam["why"], cam["code"], cam["args"]) == ("the text of an older agent", "", {})
    found = {(one.code, one.device or "", one.slot or ""): one.reason for one in seen.problems}
    assert found == {
        ("device-degraded", "arm", ""): {"code": "device-silent", "args": {"seconds": 5.0}},
        ("device-degraded", "cam", ""): UNSET,
        ("device-degraded", "lidar", ""): {"code": "no-readings", "args": {}},
        ("model-failed", "arm", "m"): {"code": "model-too-slow", "args": budget},
        ("backlog", "", ""): {"code": "backlog", "args": {"n": 40, "oldest_s": 90.5}},
    }
    clock.ms += SILENT_MS + 1_500
    (silent_node, _) = view(fleet).problems
    assert silent_node.reason == {"code": "node-silent", "args": {"seconds": 46}}
    fleet.on_status(NODE, status("lost"), T0, retained=False)
    assert view(fleet).problems[0].reason == {"code": "connection-lost", "args": {}}


def test_a_node_shows_what_it_used_and_the_limit_it_has_reached(fleet: Fleet, clock: Any) -> None:
    fleet.on_status(NODE, status(), clock.ms, retained=False)
    for nonsense in (
        {}, {"day": 7, "fence_code": ["fence-uplink"]}, {"day": "../..", "fence_code": "fence-uplink"},
        {"day": "2026-11-22x", "fence": 5, "fence_code": "fence-memory", "fence_cpu_pct": "much"},
    ):  # fmt: skip
        fleet.on_live(BEAT, {"ts": clock.ms, **nonsense}, clock.ms, retained=False)
        found = view(fleet)
        assert (found.usage, found.fence) == ({}, {})
        assert "fence" not in codes(fleet)
    beat = {
        "ts": clock.ms, "rss_mb": 130.0, "day": "2026-11-22", "day_cpu_s": 8.5, "day_sent_bytes": 900,
        "day_inferences": True, "fence_memory_mb": 100, "fence_code": "fence-memory",
        "fence": "the agent has 130 MB, 100 MB are allowed: fence.memory_mb",
    }  # fmt: skip
    fleet.on_live(BEAT, beat, clock.ms, retained=False)
    found = view(fleet)
    assert {name: used for name, used in found.usage.items() if used is not None} == {
        "day": "2026-11-22", "cpu_s": 8.5, "sent_bytes": 900,
    }  # fmt: skip
    assert found.fence == {"memory_mb": 100}
    (problem,) = [one for one in found.problems if one.code == "fence"]
    assert problem.reason == {"code": "fence-memory", "args": {"rss_mb": 130.0, "limit_mb": 100}}
    clock.ms += node_state.SILENT_MS
    assert "fence" not in codes(fleet), "the heartbeat is old"
