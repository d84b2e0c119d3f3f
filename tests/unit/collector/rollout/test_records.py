"""Rollouts in a state.db: which nodes one has for itself, and steps of several that are open."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from collector.rollout.engine import Device, Rollout
from collector.rollout.records import RolloutRecords, SlotBusy
from collector.state.audit import AuditEntry
from collector.state.state_file import StateFile

ENTRY = AuditEntry(0, "kim", "rollout", "m", "test", "done", "acme/*")
A, B = "acme/p/s/a", "acme/p/s/b"


def made(identity: str, digest: str, *nodes: str) -> Rollout:
    return Rollout(
        id=identity, tenant="acme", slot="s", digest=digest, ref="m@1", by="kim", ts=0, stages=[len(nodes)],
        devices={node: Device("offered") for node in nodes},
    )  # fmt: skip


def test_a_node_that_died_in_a_rollout_that_ended_blocks_no_other_one(tmp_path: Path) -> None:
    with closing(StateFile(tmp_path, owns_store=True)) as state:
        records = RolloutRecords(state)
        first = records.add(made("1", "a" * 64, A, B), ENTRY)
        with pytest.raises(SlotBusy, match="of acme/p/s/a is in rollout 1 of m@1"):
            records.add(made("2", "b" * 64, A, B), ENTRY)
        dead = {A: Device("undone"), B: Device("undoing", offline=True)}
        ended = replace(first, state="aborted", devices=dead)
        records.save(ended)
        with pytest.raises(SlotBusy, match="of acme/p/s/b is in rollout 1 of m@1: wait until"):
            records.add(made("3", "a" * 64, A, B), ENTRY)
        second = records.add(made("2", "b" * 64, A, B), ENTRY)
        for one in (ended, second):
            records.save(one)  # a step of one does not stop at the other
        assert [one.id for one in records.open()] == ["1", "2"]
        records.save(
            replace(second, state="aborted", devices={A: Device("confirmed"), B: Device("confirmed")})
        )
        third = records.add(made("4", "c" * 64, A), ENTRY)
        back = {A: Device("undoing"), B: Device("confirmed")}
        with pytest.raises(SlotBusy, match="is in rollout 4"):
            records.save(replace(second, state="rolling-back", devices=back))
        records.save(replace(third, state="done", devices={A: Device("confirmed")}))
        records.save(replace(second, state="rolling-back", devices=back))
