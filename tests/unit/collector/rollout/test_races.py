"""Acts that meet: starts and ends at the same moment, and offers that are under way at the end."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from collector.app import Collector
from collector.rollout.engine import Device, Report, Rollout, abort, pause, resume, roll_back, step
from collector.rollout.packages import Packages
from tests.polling import until
from tests.unit.collector.rollout.test_packages import push
from tests.unit.collector.rollout.test_rollouts import NODES, fill, start
from tests.unit.collector.web.serving import serving
from wire.messages import ModelSlot
from wire.model_offer import OFFER, UNDO
from wire.reasons import because

DIGEST, OTHER, NODE = "a" * 64, "b" * 64, "acme/p/s/n"
OLD = ModelSlot(state="idle")
HAS = ModelSlot(state="unconfirmed", digest=DIGEST, offered=DIGEST, attempt=1)


class Steps:
    """One rollout over one node, whose reports a test states."""

    def __init__(self, slot: ModelSlot = OLD) -> None:
        ids = map(str, itertools.count(1))
        self.new_id = lambda: next(ids)
        self.rollout = Rollout(
            n=1, id="r", tenant="acme", slot="s", digest=DIGEST, ref="m@2", by="kim", ts=0, stages=[1],
            devices={NODE: Device()},
        )  # fmt: skip
        assert self.step(slot=slot) == [OFFER]

    @property
    def device(self) -> Device:
        return self.rollout.devices[NODE]

    def step(self, now: int = 60_000, **report: Any) -> list[str]:
        """Take one step; returns the names of the commands that are due."""
        seen = {NODE: Report(online=True, **report)}
        self.rollout, requests = step(self.rollout, seen, now, self.new_id)
        return [one.name for one in requests]


@pytest.mark.parametrize("act", [abort, roll_back])
def test_an_offer_that_is_under_way_is_taken_back_when_it_has_arrived(act: Any) -> None:
    steps = Steps()
    steps.rollout = act(steps.rollout, "kim", 60_000, steps.new_id)
    assert steps.step(slot=OLD, offer="open") == [], "the undo must not overtake it"
    assert steps.device.state == "undoing"
    assert steps.step(slot=OLD, offer="over") == [UNDO], "its report may be from before the offer"
    assert steps.step(slot=HAS, offer="over", answer="done") == [UNDO]
    assert steps.device.state == "undoing"
    gone = replace(HAS, state="rolled-back", digest="")
    steps.step(slot=gone, offer="over", answer="done")
    assert (steps.device.state, steps.rollout.is_open) == ("undone", False)


def test_an_undo_that_was_lost_is_requested_again() -> None:
    steps = Steps()
    steps.rollout = abort(steps.rollout, "kim", 60_000, steps.new_id)
    first = steps.device.command
    steps.step(120_000, slot=OLD, offer="over", answer="lost")
    assert (steps.device.state, steps.device.command != first) == ("undoing", True)
    why = because("does not run there", "slot-unknown")
    steps.step(120_000, slot=OLD, offer="over", answer="refused", why=why)
    assert steps.device.state == "undone"


def test_an_offer_that_never_left_needs_no_undo() -> None:
    steps = Steps()
    steps.rollout = abort(steps.rollout, "kim", 60_000, steps.new_id)
    steps.step(slot=OLD)
    assert (steps.device.state, steps.rollout.is_open) == ("undone", False)


def test_a_pause_keeps_back_what_was_not_sent() -> None:
    steps = Steps()
    steps.rollout = pause(steps.rollout, "kim", 60_000)
    assert steps.step(slot=OLD, answer="none") == []
    assert steps.device == Device(attempt=1), "it waits"
    assert steps.step(slot=OLD) == []
    steps.rollout = resume(steps.rollout, "kim", 60_000)
    assert steps.step(slot=OLD) == [OFFER]
    assert steps.device.attempt == 2


def test_a_pause_requests_no_offer_again() -> None:
    steps = Steps()
    steps.rollout = pause(steps.rollout, "kim", 60_000)
    first = steps.device.command
    steps.step(600_000, slot=OLD, answer="lost")
    assert steps.device.command == first
    steps.rollout = resume(steps.rollout, "kim", 60_000)
    steps.step(600_000, slot=OLD, answer="lost")
    assert steps.device.command != first


def test_a_node_that_was_offered_another_version_has_its_reason() -> None:
    before = ModelSlot(state="confirmed", digest=OTHER, offered=OTHER, attempt=3)
    steps = Steps(before)
    steps.step(slot=before, answer="done")
    assert steps.device.state == "offered", "that is what it reported before the offer"
    steps.step(slot=ModelSlot(state="downloading", offered="c" * 64, attempt=1), answer="done")
    assert (steps.device.state, steps.device.code) == ("failed", "rollout-other")
    assert "another version, cccccccccccc, was offered to it meanwhile" in steps.rollout.why


async def test_of_starts_at_once_one_wins(tmp_path: Path) -> None:
    async with serving(tmp_path) as (collector, get):
        await fill(collector)
        push(Packages(tmp_path / "store", 10_000))
        wanted = ("acme/*", "acme/trial/*", [NODES[0]])  # more would take every thread of this process
        found = await asyncio.gather(*(start(get, nodes=nodes) for nodes in wanted))
        assert Counter(status for status, _ in found) == {201: 1, 409: 2}
        (won,) = (answer["id"] for status, answer in found if status == 201)
        for status, answer in found:
            if status == 409:
                assert answer["error"].endswith(f" is in rollout {won} of m@1.0.0: end it first")
        assert [one.id for one in collector.rollouts.records.open()] == [won]


async def test_of_acts_at_once_each_is_done_or_refused_whole(tmp_path: Path) -> None:
    async with serving(tmp_path) as (collector, get):
        await fill(collector)
        push(Packages(tmp_path / "store", 10_000))
        _, made = await start(get)
        path = f"/api/v1/rollouts/acme/{made['id']}"
        acts = ("abort", "pause", "abort")
        found = await asyncio.gather(*(get(f"{path}/{act}", "POST", {}) for act in acts))
        assert sum(one.status == 200 for one, act in zip(found, acts, strict=True) if act == "abort") == 1
        for one in found:
            if one.status != 200:
                assert one.status == 409
                assert one.json()["error"].startswith("the rollout is ")
        kept = collector.rollouts.records.get("acme", made["id"])
        assert kept is not None
        assert kept.state == "aborted"


def commands(collector: Collector) -> list[tuple[str, str, str]]:
    found = (collector.rollouts._commands.newest(node, 10) for node in NODES)
    return [(one.node, one.name, one.state) for some in found for one in some]


async def test_what_was_not_sent_is_withdrawn_at_the_end(tmp_path: Path) -> None:
    """There is no broker: the offer waits in the queue of the collector."""
    async with serving(tmp_path) as (collector, get):
        await fill(collector)
        push(Packages(tmp_path / "store", 10_000))
        for act in ("pause", "abort"):
            _, made = await start(get, stages="1")
            offered = (NODES[0], OFFER, "queued")
            await until(lambda offered=offered: offered in commands(collector), "it is offered")
            path = f"/api/v1/rollouts/acme/{made['id']}"
            assert (await get(f"{path}/{act}", "POST", {})).status == 200
            await until(lambda offered=offered: offered not in commands(collector), "it is withdrawn")
            assert {state for _, _, state in commands(collector)} == {"withdrawn"}
            if act == "pause":
                assert (await get(f"{path}/abort", "POST", {})).status == 200
        assert UNDO not in [name for _, name, _ in commands(collector)], "the node never had it"
        await until(lambda: not collector.rollouts.records.open(), "both have ended")
