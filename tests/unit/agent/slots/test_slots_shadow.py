"""A version that is offered with shadow runs sees what the slot's model answered, and leaves evidence."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec import UNSET

from agent.inference.signing import signature
from agent.outbox import Message
from agent.slots.slot_state import Confirm
from tests.polling import until
from tests.unit.agent.slots.sites import INPUT, QUICK, Running, Site, SteppedClock, running
from wire.clock import Clock
from wire.messages import Batch, Evidence

TEN = Confirm(results=5, shadow=10)


def evidence(agent: Running) -> Evidence:
    found = agent.report().evidence
    assert found is not UNSET
    return found


def beside(agent: Running) -> str:
    """The package of the second model of the slot, by the name of its folder."""
    found = agent.app.pipeline.runners["m"].shadow
    return "" if found is None or found.model is None else found.settings.package.name


async def test_shadow_runs_leave_evidence_that_stays(site: Site) -> None:
    same, other = site.store.add(site.constant(0.0, "same")), site.store.add(site.constant(1.0, "other"))
    site.document["models"]["m"]["shadow"] = {"package": str(site.constant(3.0, "plain"))}
    async with running(site.write()) as agent:
        await until(lambda: beside(agent) == "plain", "the second model of the config is open")
        rows: list[Batch] = []
        send = agent.app.pipeline._sinks.send

        def sent(message: Message) -> object:
            if message.name == "m-shadow" and isinstance(message.body, Batch):
                rows.append(message.body)
            return send(message)

        object.__setattr__(agent.app.pipeline._sinks, "send", sent)
        agent.app.slots.lock.hold("not yet")
        assert not (await agent.app.slots.offer("m", same, 1, Confirm(shadow=1_000_000))).why
        await until(lambda: beside(agent) == same, "the candidate is compared")
        shown = agent.app.pipeline.runners["m"].shown.evidence
        assert shown is not UNSET
        assert shown.b.digest == same, "the status shows it as it shows one of the config"
        await until(lambda: bool(rows), "a row about both comes each 10 s")
        assert agent.runs() == "base"
        assert agent.report().state == "shadow"
        assert not (await agent.app.slots.offer("m", other, 1, TEN)).why
        await until(lambda: agent.report().state == "waiting", "the shadow has ended")
        found = evidence(agent)
        assert (found.mode, found.a.name, found.b.name) == ("shadow", "base", "other")
        assert found.a.digest == signature.package_digest(site.base)
        assert found.b.digest == other
        assert found.n >= 10
        assert found.agreed == 0
        assert found.blocks >= 1
        assert found.low == 0
        assert found.b.cpu_s > 0
        assert found.b.p99_ms > 0
        await until(lambda: beside(agent) == "plain", "that of the config is open again")
        assert evidence(agent) == found
        agent.app.slots.lock.release()
        await until(lambda: agent.report().state == "confirmed", "it runs")
        assert evidence(agent) == found
        await until(lambda: beside(agent) == "plain", "that of the config is open beside the new version")
    async with running(site.path) as agent:
        assert evidence(agent) == found, "also after a restart"
        assert (await agent.offer(same, 2)).state == "confirmed"
        assert agent.report().evidence is UNSET


async def test_what_cannot_be_compared_is_refused(site: Site) -> None:
    digest = site.store.add(site.constant(1.0, "wider", input=INPUT | {"hop": 2}))
    async with running(site.write()) as agent:
        found = await agent.offer(digest, confirm=TEN)
        assert (found.state, found.code) == ("refused", "shadow-mismatch")
        assert found.why.endswith(
            "its input.hop is 2, that of the slot's model is 1: offer it without shadow runs"
        )
        await agent.works("base")
        assert agent.app.pipeline.runners["m"].shadow is None
        assert (await agent.offer(digest, 2, QUICK)).state == "confirmed", "without shadow runs it may run"


async def test_bad_results_of_a_shadow_refuse_it(site: Site) -> None:
    digest = site.store.add(site.above(30.0, "bad"))
    async with running(site.write()) as agent:
        many = Confirm(results=5, shadow=1_000)  # the large input comes within them, wherever they begin
        found = await agent.offer(digest, confirm=many)
        assert (found.state, found.code) == ("refused", "slot-nan")
        await agent.works("base")
        assert "failed" not in agent.app.pipeline.runners["m"].counters


@pytest.mark.slow
async def test_a_slot_without_a_model_has_nothing_to_compare(site: Site) -> None:
    site.base.joinpath("model.onnx").write_bytes(b"not a model")
    digest = site.store.add(site.constant(1.0, "one"))
    async with running(site.write()) as agent:
        found = await agent.offer(digest, confirm=TEN)
        assert (found.state, found.code) == ("refused", "shadow-alone")
        assert (await agent.offer(digest, 2, QUICK)).state == "confirmed"


class Ahead(Clock):
    """A clock whose monotonic time goes on by `ahead_s` at once."""

    ahead_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s


@pytest.mark.parametrize(
    ("confirm", "limit_s"),
    [({}, 7_200.0), pytest.param({"shadow_s": 90_000.0}, 90_000.0, marks=pytest.mark.slow)],
)
async def test_shadow_runs_have_an_end(site: Site, confirm: dict[str, Any], limit_s: float) -> None:
    digest, clock = site.store.add(site.constant(0.0, "same")), Ahead()
    async with running(site.write()) as agent:
        agent.app.slots._clock = clock
        offered = Confirm(shadow=1_000_000, **confirm)
        assert not (await agent.app.slots.offer("m", digest, 1, offered)).why
        await until(lambda: agent.report().state == "shadow", "it is in shadow")
        await until(lambda: (ran := agent.report().ran) is not UNSET and ran.n > 3, "it gives results")
        clock.ahead_s = limit_s - 600  # a busy machine takes less
        await asyncio.sleep(1)
        assert agent.report().state == "shadow"
        clock.ahead_s = limit_s
        await until(lambda: agent.report().state == "refused", "it is over")
        found = agent.report()
        assert (found.code, found.args["of"], found.args["seconds"]) == (
            "slot-shadow-over",
            1_000_000,
            limit_s,
        )
        assert 3 < found.args["results"] < 1_000_000
        await agent.works("base")
        await until(lambda: not agent.app.pipeline.candidates, "its process ends")


@pytest.mark.slow
async def test_a_clock_that_is_set_by_hours_changes_no_duration(site: Site) -> None:
    clock = SteppedClock()
    same, last = site.store.add(site.constant(0.0, "same")), site.store.add(site.constant(0.0, "last"))
    async with running(site.write(), clock) as agent:
        agent.app.slots.lock.hold("not yet")
        assert not (
            await agent.app.slots.offer("m", same, 1, Confirm(results=500, shadow=50, soak_s=3_600))
        ).why
        for state in ("shadow", "waiting", "unconfirmed"):
            if state == "unconfirmed":
                agent.app.slots.lock.release()
            await until(lambda state=state: agent.report().state == state, f"it is {state}")
            for hours in (5, -5, 0):
                clock.step_s = hours * 3_600
                await asyncio.sleep(1)
                if agent.report().state == "waiting":
                    assert agent.report().args["seconds"] < 3_600
                assert agent.report().state in ("shadow", "waiting", "unconfirmed", "confirmed")
        await until(lambda: agent.report().state == "confirmed", "it is confirmed")
        assert evidence(agent).blocks < 30
        found = await agent.offer(last, confirm=Confirm(results=1_000_000, soak_s=2))
        assert (found.state, found.code) == ("rolled-back", "slot-soak-over")
