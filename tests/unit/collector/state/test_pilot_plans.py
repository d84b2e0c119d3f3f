"""Plans that were sent stay, each version once, also those that an earlier schema had."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from collector.state import pilot_plans
from collector.state.desired import DesiredDocuments
from collector.state.migrations import STEPS
from collector.state.pilot_plans import PilotPlans, TooManyPlans
from collector.state.state_file import STATE, StateFile
from tests.unit.wire.pilot.plans import signed_plan
from wire.pilot.frozen import read_signed

NODE, OTHER = "acme/p1/s1/n1", "hanbit/p1/s1/n1"


def test_a_version_is_kept_once_with_its_newest_signatures_also_after_a_withdrawal(tmp_path: Path) -> None:
    first, second = signed_plan(), signed_plan(("min: 0.1", "min: 0.2"))
    more = {**first, "signatures": [*first["signatures"], {"keyid": "cd" * 32, "sig": "bGFi"}]}
    with closing(StateFile(tmp_path, owns_store=True)) as state:
        documents, plans = DesiredDocuments(state), PilotPlans(state)
        for at_ms, doc in enumerate([first, second, more, {}], 1):
            documents.put(NODE, doc, by="kim", at_ms=at_ms, what="pilot")
        documents.put(OTHER, first, by="lee", at_ms=9, what="pilot")
        assert [(each.tenant, each.at_ms, each.by) for each in plans.all()] == [
            ("hanbit", 9, "lee"), ("acme", 2, "kim"), ("acme", 1, "kim"),
        ]  # fmt: skip
        newest, oldest = plans.of("acme", "trial-1")
        assert oldest.hash == read_signed(msgspec.json.encode(first)).hash != newest.hash
        assert [key for key, _ in read_signed(oldest.doc).signatures] == ["ab" * 32, "cd" * 32]
        assert plans.of("acme", "trial-2") == plans.of("hanbit", "trial-2") == []


def test_no_plan_makes_room_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pilot_plans, "MAX_OF_TENANT", 1)
    with closing(StateFile(tmp_path, owns_store=True)) as state:
        documents = DesiredDocuments(state)
        documents.put(NODE, signed_plan(), by="kim", at_ms=1, what="pilot")
        documents.put(NODE, signed_plan(), by="kim", at_ms=2, what="pilot")
        with pytest.raises(TooManyPlans, match="acme has 1 plans"):
            documents.put(NODE, signed_plan(("seed: 7", "seed: 8")), by="kim", at_ms=3, what="pilot")
        found = documents.get(NODE, "pilot")
        assert found is not None
        assert found.at_ms == 2, "a plan that is not kept is not sent"


def test_the_plan_that_a_node_has_before_the_upgrade_is_kept(tmp_path: Path) -> None:
    with closing(StateFile(tmp_path, owns_store=True, steps=STEPS[:6])) as state:
        state.check()
    rows = [(NODE, json.dumps(signed_plan())), ("acme/p1/s1/n2", "{}"), (OTHER, '{"payload": "x"}')]
    with closing(sqlite3.connect(tmp_path / STATE)) as db:
        for node, doc in rows:
            db.execute("INSERT INTO desired VALUES (?, 'pilot', 1, 5, 'kim', ?)", (node, doc))
        db.commit()
    with closing(StateFile(tmp_path, owns_store=True)) as state:
        (kept,) = PilotPlans(state).all()
        assert (kept.tenant, kept.pilot, kept.version, kept.at_ms) == ("acme", "trial-1", 1, 5)
        assert kept.hash == read_signed(kept.doc).hash
