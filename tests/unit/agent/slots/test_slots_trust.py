"""Keys that are revoked while a version waits, is on trial, is confirmed, or is the one to go back to."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agent import app
from agent.inference.signing import signature
from agent.slots.slot_state import Confirm
from tests.polling import until
from tests.unit.agent.slots.sites import QUICK, Running, Site, running

LONG = Confirm(results=1_000_000)


class Keys:
    """Two keys that a site trusts, `ours` and `theirs`."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site, self.folder = site, folder / "keys"
        self.folder.mkdir()
        self.private = {}
        for name in ("ours", "theirs"):
            self.private[name], public = signature.new_key()
            (self.folder / f"{name}.pem").write_bytes(public)
        site.document["trust"] = {"keys": [str(self.folder)]}

    def signed(self, name: str, by: str) -> str:
        """The digest of a package in the store that a key signed."""
        package = self.site.constant(float(len(name)), name)
        signature.sign(package, self.private[by])
        return self.site.store.add(package)

    def revoke(self, name: str) -> None:
        (self.folder / f"{name}.pem").rename(self.folder / f"{name}.revoked")


@pytest.fixture
def keys(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keys:
    monkeypatch.setattr(app, "KEYS_S", 0.2)
    return Keys(site, tmp_path)


def nothing_is_left(agent: Running) -> None:
    pipeline = agent.app.pipeline
    assert pipeline.candidates == pipeline.spare == {}
    of_slot = [task for task in asyncio.all_tasks() if task.get_name() in ("candidate-m", "slot-m")]
    assert of_slot == [pipeline.runners["m"].task]


STATES = {
    "downloading": QUICK,
    "shadow": Confirm(shadow=1_000_000),
    "waiting": QUICK,
    "unconfirmed": LONG,
    "confirmed": QUICK,
}


SLOW = ("downloading", "unconfirmed", "confirmed", "shadow")


@pytest.mark.parametrize(
    "state",
    [pytest.param(s, marks=pytest.mark.slow) if s in SLOW else s for s in STATES],
)
async def test_a_key_that_is_revoked_ends_its_version_in_every_state(
    site: Site, keys: Keys, state: str
) -> None:
    base, theirs = keys.signed("base1", "ours"), keys.signed("other", "theirs")
    go_on = asyncio.Event()

    async def fetch(slot: str, digest: str) -> None:
        await go_on.wait()

    async with running(site.write()) as agent:
        assert (await agent.offer(base)).state == "confirmed"
        if state == "waiting":
            agent.app.slots.lock.hold("not yet")
        if state == "downloading":
            there = site.store.path(theirs)
            there.rename(there.parent / "away")
            agent.app.slots.fetch = fetch
        assert not (await agent.app.slots.offer("m", theirs, 1, STATES[state])).why
        await until(lambda: agent.report().state == state, f"it is {state}")
        candidate = agent.app.pipeline.candidates.get("m")
        keys.revoke("theirs")
        if state == "downloading":
            await until(lambda: "theirs" in agent.app.pipeline._models.trust.revoked.values(), "it is known")
            (there.parent / "away").rename(there)
            go_on.set()
        ended = "rolled-back" if state in ("unconfirmed", "confirmed") else "refused"
        await until(lambda: agent.report().state == ended, f"it is {ended}")
        assert (agent.report().code, agent.report().args) == ("model-key-revoked", {"key": "theirs"})
        await agent.works("base1")
        await until(lambda: agent.app.pipeline.candidates == agent.app.pipeline.spare == {}, "it is closed")
        nothing_is_left(agent)
        assert candidate is None or candidate.task is None or candidate.task.done()


async def test_a_slot_never_goes_back_to_a_version_whose_key_is_revoked(site: Site, keys: Keys) -> None:
    one, two = keys.signed("one", "ours"), keys.signed("two", "theirs")
    async with running(site.write()) as agent:
        for digest in (one, two):
            assert (await agent.offer(digest)).state == "confirmed"
        keys.revoke("ours")
        await until(lambda: "ours" in agent.app.pipeline._models.trust.revoked.values(), "it is known")
        why = await agent.app.slots.undo("m", "somebody", two)
        assert why.code == "model-key-revoked"
        assert why.why.startswith(f"{one[:12]}, which ran before, cannot run again: ")
        await agent.works("two")
        keys.revoke("theirs")
        await until(lambda: agent.report().state == "rolled-back", "it is undone")
        await agent.works("base")
        assert agent.report().digest == ""


@pytest.mark.slow
async def test_a_key_that_is_revoked_while_its_version_is_opened(site: Site, keys: Keys) -> None:
    theirs = keys.signed("other", "theirs")
    async with running(site.write()) as agent:
        pipeline = agent.app.pipeline
        opening = asyncio.create_task(pipeline.candidate("m", site.store.path(theirs)))
        await until(lambda: "m" in pipeline.candidates, "it is being opened")
        keys.revoke("theirs")
        made = await opening
        await until(lambda: not made.at_work, "it is closed")
        await pipeline.drop_candidate("m")
        await agent.works("base")
        nothing_is_left(agent)


async def test_versions_are_taken_back_one_after_the_other(site: Site) -> None:
    one, two, bad = (
        site.store.add(site.constant(each, name)) for each, name in ((1.0, "one"), (2.0, "two"), (3.0, "bad"))
    )
    async with running(site.write()) as agent:
        for digest in (one, two):
            assert (await agent.offer(digest)).state == "confirmed"
        assert (await agent.offer(bad, confirm=Confirm(results=1_000_000, soak_s=0.1))).state == "rolled-back"
        await agent.works("two")
        assert (await agent.app.slots.undo("m", "somebody", bad)).code == "slot-unknown"
        assert not (await agent.app.slots.undo("m", "somebody", two)).why
        await agent.works("one")
        assert agent.report().digest == one
    async with running(site.path) as agent:
        assert not (await agent.app.slots.undo("m", "somebody", one)).why
        await agent.works("base")
        assert (await agent.app.slots.undo("m", "somebody")).code == "slot-unknown"
