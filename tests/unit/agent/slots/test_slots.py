"""A running agent gets other versions of a model: swapped without loss, judged, undone by itself."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from msgspec import UNSET

from agent.outbox import Message
from agent.slots.model_store import ModelStore
from agent.slots.slot_state import Confirm, Slot
from tests.polling import until
from tests.unit.agent.slots.sites import CALM, INPUT, QUICK, Site, running
from wire.messages import Batch


async def test_a_version_with_enough_good_results_is_confirmed_and_stays(site: Site) -> None:
    site.constant(0.0, "base", input=CALM)
    digest = site.store.add(site.constant(1.0, "one", input=CALM))
    async with running(site.write()) as agent:
        await agent.works("base")
        dropped = agent.app.pipeline.runners["m"].counters["dropped"]
        found = await agent.offer(digest)
        assert (found.state, found.digest, found.offered, found.attempt) == ("confirmed", digest, digest, 1)
        assert found.results >= found.of == 5
        assert found.ran is not UNSET
        assert (found.ran.n >= 5, found.ran.nan, found.ran.p99_ms > 0) == (True, 0, True)
        await agent.works("one")
        assert agent.app.pipeline.runners["m"].counters["dropped"] == dropped
        birth = agent.app.description.birth()
        assert birth.models["m"].name == "one"
        next_one = site.store.add(site.constant(2.0, "two"))
        assert not (await agent.app.slots.offer("m", next_one, 1, Confirm(results=found.results + 1_000))).why
        await agent.works("two")
        assert agent.report().state == "unconfirmed", "results of the version before do not count"
        assert not (await agent.app.slots.undo("m", "somebody")).why
        await agent.works("one")
        assert (await agent.app.slots.offer("m", digest, 1, QUICK)).code == "slot-offer-repeated"
        assert (await agent.app.slots.offer("nope", digest, 1, QUICK)).code == "slot-unknown"
    kept = site.store.slot("m")
    assert (kept.state, kept.current, kept.previous, kept.code) == (
        "rolled-back",
        digest,
        "",
        "slot-undone",
    )
    async with running(site.path) as agent:
        await agent.works("one")
        assert agent.report().digest == digest


BAD: dict[str, tuple[Callable[[Site], Path], str, str]] = {
    "nan": (lambda site: site.constant(np.nan, "bad"), "refused", "model-output-nan"),
    "later nan": (lambda site: site.above(50.0, "bad"), "rolled-back", "slot-nan"),
    "another input": (
        lambda site: site.constant(1.0, "bad", input=INPUT | {"signals": ["a", "zz"]}),
        "refused", "model-input-mismatch",
    ),
    "budget": (lambda site: site.constant(1.0, "bad", budgets={"p99_ms": 1e-6}), "refused", "model-too-slow"),
}  # fmt: skip


SLOW = ("nan", "budget")


@pytest.mark.parametrize("bad", [pytest.param(b, marks=pytest.mark.slow) if b in SLOW else b for b in BAD])
async def test_a_bad_version_leaves_the_one_before(site: Site, bad: str) -> None:
    make, state, code = BAD[bad]
    digest = site.store.add(make(site))
    async with running(site.write()) as agent:
        await agent.works("base")
        found = await agent.offer(digest, confirm=Confirm(results=5_000, soak_s=60))
        assert (found.state, found.code) == (state, code)
        ran = [] if found.ran is UNSET else [found.ran.nan]
        assert (ran and ran[0] > 5) == (code == "slot-nan" or []), "what undid it is kept"
        await agent.works("base")
        assert agent.report().digest == ""
        assert agent.app.pipeline.candidates == agent.app.pipeline.spare == {}
        again = await agent.offer(digest, 2, Confirm(results=5_000, soak_s=60))
        assert (again.state, again.code, again.attempt) == (state, code, 2)


async def test_a_package_that_is_not_there_or_was_torn_is_refused(site: Site) -> None:
    digest = site.store.add(site.constant(1.0, "one"))
    os.truncate(site.store.path(digest) / "model.onnx", 40)
    async with running(site.write()) as agent:
        assert (await agent.offer("a" * 64)).code == "slot-not-stored"
        assert (await agent.offer(digest)).code == "slot-damaged"
        await agent.works("base")


async def test_the_soak_ends_without_enough_results(site: Site) -> None:
    digest = site.store.add(site.constant(1.0, "one"))
    async with running(site.write()) as agent:
        found = await agent.offer(digest, confirm=Confirm(results=1_000_000, soak_s=1))
        assert (found.state, found.code) == ("rolled-back", "slot-soak-over")
        assert found.args["of"] == 1_000_000
        await agent.works("base")


async def test_a_restart_before_the_confirmation_undoes_the_version(site: Site) -> None:
    digest = site.store.add(site.constant(1.0, "one"))
    async with running(site.write()) as agent:
        why = await agent.app.slots.offer("m", digest, 1, Confirm(results=1_000_000))
        assert not why.why
        await agent.works("one")
        assert agent.report().state == "unconfirmed"
        assert (await agent.app.slots.offer("m", "a" * 64, 1, QUICK)).code == "slot-busy"
    async with running(site.path) as agent:
        await agent.works("base")
        assert (agent.report().state, agent.report().code) == ("rolled-back", "slot-restarted")
        assert (await agent.app.slots.offer("m", digest, 1, QUICK)).code == "slot-offer-repeated"
        assert (await agent.offer(digest, 2)).state == "confirmed"


async def test_a_version_that_was_confirmed_is_demoted_when_it_goes_wrong(site: Site) -> None:
    digest = site.store.add(site.above(400.0, "fades"))
    async with running(site.write()) as agent:
        assert (await agent.offer(digest)).state == "confirmed"
        with site.rows.open("a") as rows:
            rows.write("".join(f"{at / 50},500,0\n" for at in range(100, 110)))
        await until(lambda: agent.report().state == "rolled-back", "it is demoted")
        assert agent.report().code == "slot-nan"
        await agent.works("base")
        assert (agent.report().state, agent.report().digest) == ("rolled-back", "")


@pytest.mark.slow
async def test_a_damaged_version_is_not_used_after_a_restart(site: Site) -> None:
    digest = site.store.add(site.constant(1.0, "one"))
    async with running(site.write()) as agent:
        assert (await agent.offer(digest)).state == "confirmed"
    (site.store.path(digest) / "manifest.yaml").write_text("name: other\n")
    async with running(site.path) as agent:
        await agent.works("base")
        assert (agent.report().state, agent.report().code) == ("rolled-back", "slot-damaged")


async def test_the_update_lock_holds_a_version_back(site: Site) -> None:
    digest = site.store.add(site.constant(1.0, "one"))
    async with running(site.write()) as agent:
        agent.app.slots.lock.hold("the patient is monitored")
        assert not (await agent.app.slots.offer("m", digest, 1, QUICK)).why
        await until(lambda: agent.report().code == "slot-held", "it is held")
        found = agent.report()
        assert (found.state, found.args["what"]) == ("waiting", "the patient is monitored")
        await agent.works("base")
        agent.app.slots.lock.release()
        await until(lambda: agent.report().state == "confirmed", "it runs")
        assert agent.report().why == ""


async def test_a_field_of_a_device_holds_a_version_back(site: Site) -> None:
    site.document["models"]["m"]["hold"] = "arm/rows/a"  # counts from 1
    digest = site.store.add(site.constant(1.0, "one"))
    async with running(site.write()) as agent:
        assert not (await agent.app.slots.offer("m", digest, 1, QUICK)).why
        await until(lambda: "arm/rows/a is " in agent.report().why, "it is held")
        assert not (await agent.app.slots.undo("m", "somebody")).why
        await until(lambda: agent.report().state == "refused", "it is given up")
        await agent.works("base")


@pytest.mark.slow
async def test_another_config_counts_more_than_what_was_offered(site: Site) -> None:
    digest = site.store.add(site.constant(1.0, "one"))
    async with running(site.write()) as agent:
        assert (await agent.offer(digest)).state == "confirmed"
        site.document["models"]["m"]["package"] = str(site.constant(2.0, "two"))
        site.write()
        agent.app.reload()
        await agent.works("two")
        assert agent.report().state == "idle"
        site.document["models"]["m"]["package"] = str(site.base)
        site.write()
        agent.app.reload()
        await agent.works("one")
        assert agent.report().digest == digest


@pytest.mark.slow
async def test_a_config_that_changes_while_a_version_is_on_its_way(site: Site) -> None:
    digest = site.store.add(site.constant(1.0, "one"))
    async with running(site.write()) as agent:
        agent.app.slots.lock.hold("not yet")
        assert not (await agent.app.slots.offer("m", digest, 1, QUICK)).why
        await until(lambda: agent.report().state == "waiting", "it waits")
        site.document["models"]["m"]["every"] = 2
        site.write()
        agent.app.reload()
        await until(lambda: agent.app.pipeline.runners["m"].settings.every == 2, "the config is used")
        agent.app.slots.lock.release()
        await until(lambda: agent.report().state == "confirmed", "it runs")
        assert agent.app.pipeline.runners["m"].settings.every == 2
        del site.document["models"]
        site.write()
        agent.app.reload()
        await until(lambda: not agent.app.pipeline.runners, "the slot is gone")


@pytest.mark.slow
async def test_a_full_disk_changes_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = site.store.add(site.constant(1.0, "one"))
    refuse = [0]
    keep = ModelStore.keep_slot

    def full(store: ModelStore, name: str, slot: Slot) -> None:
        refuse[0] -= 1
        if refuse[0] == 0:
            raise OSError(28, "No space left on device")
        keep(store, name, slot)

    async with running(site.write()) as agent:
        monkeypatch.setattr(ModelStore, "keep_slot", full)
        refuse[0] = 1
        assert (await agent.app.slots.offer("m", digest, 1, QUICK)).code == "disk-full"
        seen = []
        for at in range(2, 9):
            refuse[0] = at
            found = await agent.offer(digest, at)
            seen.append((found.state, found.code))
            await agent.works("one" if found.state == "confirmed" else "base")
            if found.state == "confirmed":
                break
        assert seen[:-1] == [("refused", "disk-full")] * (len(seen) - 1)
        assert seen[-1] == ("confirmed", "")
        assert len(seen) >= 4


def times(batch: Batch) -> list[int]:
    """The times of the rows of a batch, in its own unit."""
    if batch.dt is not UNSET:
        return [batch.t0 * (1_000 if batch.tu == "us" else 1) + each for each in batch.dt]
    assert batch.per is not UNSET
    assert batch.n is not UNSET
    return [batch.t0 * (1_000 if batch.tu == "us" else 1) + at * batch.per for at in range(batch.n)]


async def test_no_row_is_lost_or_doubled_by_swaps_under_load(site: Site) -> None:
    site.constant(0.0, "base", input=CALM)
    digests = [site.store.add(site.constant(float(at), f"v{at}", input=CALM)) for at in (1, 2, 3)]
    async with running(site.write()) as agent:
        await agent.works("base")
        ends: list[int] = []
        send = agent.app.pipeline._sinks.send

        def sent(message: Message) -> object:
            if message.name == "m" and isinstance(message.body, Batch):
                ends.extend(times(message.body))
            return send(message)

        object.__setattr__(agent.app.pipeline._sinks, "send", sent)
        for digest in digests:
            assert (await agent.offer(digest)).state == "confirmed"
        await agent.works("v3")
        agent.app.pipeline.flush()
        assert ends == sorted(ends)
        assert len(set(ends)) == len(ends) > 20
        assert agent.app.pipeline.runners["m"].counters["dropped"] == 0
        assert json.loads((site.store.folder / "slots" / "m.json").read_bytes())["current"] == digests[-1]
