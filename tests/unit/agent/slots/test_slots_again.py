"""What runs again after a version was undone is watched, and a slot does not go to and fro."""

from __future__ import annotations

import pytest

from tests.polling import until
from tests.unit.agent.slots.sites import Running, Site, running


def runs(agent: Running) -> int:
    return agent.app.pipeline.runners["m"].counters["runs"]


async def undone(agent: Running, site: Site) -> None:
    found = await agent.offer(site.store.add(site.above(1.0, "bad")))
    assert (found.state, found.code) == ("rolled-back", "slot-nan")
    await until(lambda: agent.runs() == "base", "the one before runs")


async def test_a_slot_whose_version_before_fails_too_ends(site: Site) -> None:
    """The rows go from 1 to 100 again and again: 80 % of the results of `base` are NaN."""
    site.base = site.above(20.0, "base")
    async with running(site.write()) as agent:
        await undone(agent, site)
        await until(lambda: not agent.app.pipeline.runners["m"].at_work, "it ends")
        state = agent.app.pipeline.runners["m"].state
        assert (state.state, state.code, agent.runs()) == ("failed", "slot-ended", "base")
        assert "results are not numbers: offer another version or restart" in state.why
        assert (agent.report().state, agent.report().code) == ("rolled-back", "slot-nan")
        arm = agent.app.running.sources["arm"]
        readings = arm.readings
        await until(lambda: arm.readings > readings, "rows go on")
        assert (await agent.offer(site.store.add(site.constant(3.0, "good")))).state == "confirmed"
        await agent.works("good")


@pytest.mark.slow
async def test_a_version_before_that_fails_now_and_then_stays_and_a_restart_begins_anew(site: Site) -> None:
    site.base = site.above(70.0, "base")
    async with running(site.write()) as agent:
        await undone(agent, site)
        before = runs(agent)
        await until(lambda: runs(agent) > before + 120, "more than the newest count")
        assert agent.app.pipeline.runners["m"].at_work
    async with running(site.write()) as agent:
        await agent.works("base")
        assert agent.report().state == "rolled-back"
