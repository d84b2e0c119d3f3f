"""What a later offer changes of what runs, and of an undo or a swap that has begun: nothing."""

from __future__ import annotations

import asyncio

import pytest

from agent.pipeline.model_runner import ModelRunner
from agent.slots.slot_state import Confirm
from tests.polling import until
from tests.unit.agent.slots.sites import QUICK, Site, running


def rise(site: Site) -> None:
    """From now on the input goes up to 500 from time to time."""
    with site.rows.open("a") as rows:
        rows.write("".join(f"{at / 50},500,0\n" for at in range(100, 110)))


@pytest.mark.slow
async def test_what_runs_is_watched_after_an_offer_that_was_refused(site: Site) -> None:
    digest = site.store.add(site.above(400.0, "fades"))
    async with running(site.write()) as agent:
        assert (await agent.offer(digest)).state == "confirmed"
        assert (await agent.offer("a" * 64)).state == "refused"
        rise(site)
        await until(lambda: agent.report().state == "rolled-back", "it is demoted")
        await agent.works("base")
        found = agent.report()
        assert (found.code, found.offered, found.attempt, found.digest) == ("slot-nan", digest, 1, "")


async def test_what_runs_is_watched_while_another_version_waits(site: Site) -> None:
    digest, other = site.store.add(site.above(400.0, "fades")), site.store.add(site.constant(2.0, "two"))
    async with running(site.write()) as agent:
        assert (await agent.offer(digest)).state == "confirmed"
        agent.app.slots.lock.hold("not yet")
        assert not (await agent.app.slots.offer("m", other, 1, QUICK)).why
        rise(site)
        await until(lambda: agent.runs() == "base", "it is demoted")
        await until(lambda: agent.report().state == "waiting", "the other one is not to blame")
        agent.app.slots.lock.release()
        await until(lambda: agent.report().state == "confirmed", "and runs")
        assert agent.report().digest == other


async def test_an_offer_does_not_end_an_undo(site: Site) -> None:
    digest = site.store.add(site.constant(1.0, "one"))
    async with running(site.write()) as agent:
        slots = agent.app.slots
        assert (await agent.offer(digest)).state == "confirmed"
        assert (await agent.offer("a" * 64)).state == "refused"
        assert not (await slots.undo("m", "somebody", digest)).why
        assert not (await slots.offer("m", "b" * 64, 1, QUICK)).why
        await until(lambda: agent.report().state == "refused", "the next one is refused")
        await agent.works("base")


async def test_an_offer_closes_the_candidate_before(site: Site) -> None:
    digest = site.store.add(site.constant(1.0, "one"))

    async def never(_slot: str, _digest: str) -> None:
        await asyncio.Event().wait()

    async with running(site.write()) as agent:
        agent.app.slots.lock.hold("not yet")
        assert not (await agent.app.slots.offer("m", digest, 1, QUICK)).why
        await until(lambda: agent.report().state == "waiting", "it is open")
        agent.app.slots.fetch = never
        assert not (await agent.app.slots.offer("m", "b" * 64, 1, QUICK)).why
        await until(lambda: not agent.app.pipeline.candidates, "it is closed, whatever follows")
        assert agent.report().state == "downloading"


async def test_an_undo_waits_for_a_swap(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = site.store.add(site.constant(1.0, "one"))
    answered, drained = asyncio.Event(), ModelRunner.drained

    async def slow(runner: ModelRunner, within_s: float) -> None:
        await answered.wait()
        await drained(runner, within_s)

    async with running(site.write()) as agent:
        await agent.works("base")
        monkeypatch.setattr(ModelRunner, "drained", slow)
        assert not (await agent.app.slots.offer("m", digest, 1, Confirm(results=1_000))).why
        await until(lambda: agent.report().state == "unconfirmed", "the swap begins")
        await until(lambda: not agent.app.pipeline.candidates, "the model before answers what it has")
        assert not (await agent.app.slots.undo("m", "somebody")).why
        answered.set()
        await agent.app.running.settled()
        await agent.works("base")
