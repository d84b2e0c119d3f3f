"""A state.db that is older than what its rollouts have done since: found, held, compared with the nodes."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from collector.fleet.commands import CommandDispatch
from collector.fleet.fleet import Fleet
from collector.ledger.ledger import Ledger
from collector.rollout.driver import Rollouts, Standing
from collector.rollout.engine import Device, NotNow, Report, Rollout, abort, restored, resume, roll_back, step
from collector.rollout.packages import Packages
from collector.rollout.records import RolloutRecords
from collector.rollout.restored import FILE
from collector.state.audit import Audit
from collector.state.commands import CommandRecords
from collector.state.state_file import STATE, StateFile
from tests.polling import until
from tests.unit.collector.rollout.test_packages import push
from tests.unit.collector.rollout.test_records import ENTRY, made
from tests.unit.collector.rollout.test_rollouts import NODES, fill, start
from tests.unit.collector.web.serving import serving
from wire.clock import Clock
from wire.messages import ModelSlot

DIGEST, OTHER, NODE = "a" * 64, "b" * 64, "acme/p/s/a"
OTHER_NODE = "acme/p/s/b"


def after(folder: Path, do: Callable[[RolloutRecords], object]) -> bool:
    """Do something with the records of a folder; returns whether they are behind at the next start."""
    with closing(StateFile(folder, owns_store=True)) as state:
        do(RolloutRecords(state))
    with closing(StateFile(folder, owns_store=True)) as state:
        return RolloutRecords(state).is_behind()


def test_an_older_copy_is_found_and_a_restart_or_a_kill_is_not_one(tmp_path: Path) -> None:
    state, number = tmp_path / STATE, tmp_path / FILE
    first = made("1", DIGEST, NODE)
    assert not after(tmp_path, lambda records: records.add(first, ENTRY))
    shutil.copy(state, tmp_path / "older")
    number.unlink()
    assert not after(tmp_path, lambda records: None), "killed before it was noted"
    assert not after(tmp_path, lambda records: records.save(first))
    noted = number.read_bytes()
    assert not after(tmp_path, lambda records: records.save(first))
    number.write_bytes(noted)
    assert not after(tmp_path, lambda records: None), "killed before the newest was noted"
    newest = state.read_bytes()
    number.unlink()
    assert after(tmp_path, lambda records: None), "a whole store from a backup has no such file"
    number.write_bytes(noted)
    shutil.copy(tmp_path / "older", state)
    assert after(tmp_path, lambda records: None), "a state.db that was put back alone is older"
    assert not after(tmp_path, lambda records: records.save(first)), "it was looked at, and goes on"
    state.write_bytes(newest)
    number.write_bytes(b"\xff nonsense")
    assert after(tmp_path, lambda records: None)


def driver(state: StateFile) -> Rollouts:
    """The driver of a collector that has no nodes."""
    clock, commands = Clock(), CommandRecords(state)
    fleet = Fleet(clock, Ledger())
    dispatch = CommandDispatch(commands, fleet, clock, lambda *_: None, lambda _: None)
    standing = Standing(lambda *_: True, lambda _: False)
    return Rollouts(RolloutRecords(state), commands, dispatch, fleet, clock, standing)


def older(folder: Path) -> None:
    """Leave a state.db with two rollouts that run, which is older than the number beside it."""
    with closing(StateFile(folder, owns_store=True)) as state:
        records = RolloutRecords(state)
        for number, node in enumerate((NODE, OTHER_NODE)):
            records.add(made(str(number), DIGEST, node), ENTRY)
    (folder / FILE).write_text("9\n")


def test_a_save_that_fails_holds_none_and_the_next_start_holds_all(tmp_path: Path) -> None:
    older(tmp_path)
    fails = "BEFORE UPDATE ON rollout WHEN NEW.id = '1' BEGIN SELECT RAISE(ABORT, 'no room'); END"
    with closing(StateFile(tmp_path, owns_store=True)) as state:
        rollouts = driver(state)
        with state.transaction() as db:
            db.execute(f"CREATE TRIGGER fails {fails}")
        with pytest.raises(sqlite3.IntegrityError, match="no room"):
            rollouts.step()
        with pytest.raises(sqlite3.IntegrityError, match="no room"):
            rollouts.start(made("2", DIGEST, NODE), ENTRY)
        assert [one.state for one in rollouts.records.open()] == ["running", "running"]
        assert {one.result for one in Audit(state).newest(9)} == {"done"}
        with state.transaction() as db:
            db.execute("DROP TRIGGER fails")
    with closing(StateFile(tmp_path, owns_store=True)) as state:
        rollouts = driver(state)
        assert rollouts.records.is_behind()
        for _ in range(2):
            rollouts.step()
        assert [(one.state, one.is_restored) for one in rollouts.records.open()] == [("paused", True)] * 2
        assert [one.result for one in Audit(state).newest(9)].count("done") == 2, "each is held once"
        assert len(Audit(state).newest(9)) == 4
    with closing(StateFile(tmp_path, owns_store=True)) as state:
        assert not RolloutRecords(state).is_behind()


@pytest.mark.parametrize("act", ["start", "abort"])
def test_what_an_operator_does_before_the_first_step_hides_no_older_copy(tmp_path: Path, act: str) -> None:
    older(tmp_path)
    with closing(StateFile(tmp_path, owns_store=True)) as state:
        rollouts = driver(state)
        if act == "start":
            rollouts.start(made("2", DIGEST, "acme/p/s/c"), ENTRY)
        else:
            rollouts.change("acme", "0", lambda one: abort(one, "kim", 7, lambda: "u"), ENTRY)
        found = {one.id: one.is_restored for one in rollouts.records.open()}
        assert found == ({"0": True, "1": True, "2": False} if act == "start" else {"0": False, "1": True})


def of(device: Device, state: Any = "running") -> Rollout:
    return Rollout(
        n=1, id="r", tenant="acme", slot="s", digest=DIGEST, ref="m@2", by="kim", ts=0, stages=[1],
        state=state, devices={NODE: device},
    )  # fmt: skip


def slot(state: Any, **more: Any) -> ModelSlot:
    return ModelSlot(state=state, attempt=4, **more)


CONFIRMED = slot("confirmed", digest=DIGEST, offered=DIGEST)
BACK = slot("rolled-back", offered=DIGEST, why="an operator took the version back", code="slot-undone")
NEWER = slot("confirmed", digest=OTHER, offered=OTHER)
ON_TRIAL = slot("unconfirmed", digest=DIGEST, offered=DIGEST)


@pytest.mark.parametrize(
    ("before", "now", "state", "code"),
    [
        ("waiting", CONFIRMED, "confirmed", ""),
        ("waiting", ON_TRIAL, "offered", ""),
        ("waiting", BACK, "failed", "slot-undone"),
        ("waiting", NEWER, "waiting", ""),
        ("offered", CONFIRMED, "confirmed", ""),
        ("offered", BACK, "failed", "slot-undone"),
        ("offered", slot("idle"), "waiting", ""),
        ("confirmed", CONFIRMED, "confirmed", ""),
        ("confirmed", BACK, "failed", "slot-undone"),
        ("confirmed", NEWER, "failed", "rollout-other"),
        ("undoing", CONFIRMED, "confirmed", ""),
        ("undoing", BACK, "undone", ""),
        ("offered", None, "offered", ""),
        ("undoing", None, "undoing", ""),
    ],
)
def test_an_older_copy_takes_what_its_nodes_report_and_requests_nothing(
    before: Any, now: ModelSlot | None, state: str, code: str
) -> None:
    rollout = restored(of(Device(before, attempt=1, command="c")), 5)
    for _ in range(3):
        rollout, requests = step(rollout, {NODE: Report(True, slot=now, answer="lost")}, 10**9, str)
        assert requests == []
    found = rollout.devices[NODE]
    assert (rollout.state, rollout.code) == ("paused", "rollout-restored")
    assert (found.state, found.code) == (state, code)


@pytest.mark.parametrize("state", ["running", "paused", "rolling-back", "aborted"])
def test_an_operator_decides_what_becomes_of_it(state: Any) -> None:
    held = restored(of(Device("undoing" if state in ("rolling-back", "aborted") else "waiting"), state), 5)
    held, _ = step(held, {NODE: Report(True, slot=ON_TRIAL)}, 6, str)
    for act in (abort, roll_back):
        ended, requests = step(act(held, "kim", 7, lambda: "u"), {NODE: Report(True, slot=ON_TRIAL)}, 8, str)
        assert [one.name for one in requests] == ["model-undo"], act
        assert ended.devices[NODE].state == "undoing"
    if state in ("rolling-back", "aborted"):
        assert held.why.startswith(f"it was {state} in an older copy of the state: ")
        assert held.why.endswith(", then abort or rollback")
        with pytest.raises(NotNow, match=f"was {state} in an older copy, .*: abort it or roll it back, and"):
            resume(held, "kim", 7)
        return
    went_on, _ = step(resume(held, "kim", 7), {NODE: Report(True, slot=CONFIRMED)}, 8, str)
    assert (went_on.state, went_on.is_restored) == ("done", False)


async def test_a_collector_on_an_older_copy_holds_its_rollouts(tmp_path: Path) -> None:
    store = tmp_path / "store"
    async with serving(tmp_path) as (collector, get):
        await fill(collector)
        push(Packages(store, 10_000))
        _, begun = await start(get, stages="1")
        records = collector.rollouts.records

        def device(node: str) -> Device:
            kept = records.get("acme", begun["id"])
            assert kept is not None
            return kept.devices[node]

        await until(lambda: device(NODES[0]).state == "offered", "it is offered")
        collector.state.close()
        shutil.copy(store / STATE, tmp_path / "older")
        assert (await get(f"/api/v1/rollouts/acme/{begun['id']}/abort", "POST", {})).status == 200
        await until(lambda: not records.open(), "it is over")
    shutil.copy(tmp_path / "older", store / STATE)
    (store / STATE).chmod(0o600)
    for suffix in ("-wal", "-shm"):
        (store / f"{STATE}{suffix}").unlink(missing_ok=True)
    async with serving(tmp_path) as (collector, get):
        await fill(collector)
        records = collector.rollouts.records
        await until(lambda: [one.code for one in records.open()] == ["rollout-restored"], "it is held")
        assert (await start(get))[0] == 409, "its nodes are not free"
        (held,) = records.open()
        assert replace(held.devices[NODES[1]], offline=False) == Device()
        assert (await get(f"/api/v1/rollouts/acme/{held.id}/abort", "POST", {})).status == 200
        await until(lambda: not records.open(), "it is over")
