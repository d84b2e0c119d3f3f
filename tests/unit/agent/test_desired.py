"""Which configuration a daemon starts with, whatever the last one left on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapters.replay.adapter import Replay
from agent.config import AgentPlan, load
from agent.desired import DesiredConfig
from agent.remote.desired import MAX_STARTS, DesiredFile, Document, Kept
from tests.running_agent import replay, write_rows
from wire.clock import Clock

Write = Callable[..., AgentPlan]


@pytest.fixture
def base(tmp_path: Path) -> Write:
    """Writes the operator's file with the device `arm`, and reads it."""
    write_rows(tmp_path / "rows.csv", 5)
    (tmp_path / "state").mkdir()

    def make(**remote: Any) -> AgentPlan:
        document = {
            "node": "t/p/s/n",
            "broker": {"url": "mqtt://127.0.0.1"},
            "state": "state",
            "remote": {"config": True, "files": ["."], **remote},
            "devices": {"arm": replay()},
        }
        path = tmp_path / "agent.yaml"
        path.write_text(yaml.safe_dump(document))
        return load(path, Clock())

    return make


def document(ver: int, **devices: Any) -> Document:
    return Document(ver=ver, ts=1, digest=f"digest-{ver}", doc={"devices": devices})


def started(plan: AgentPlan, kept: Kept) -> tuple[list[str], bool, DesiredConfig]:
    """The devices of the start, whether they are on trial, and what is kept then."""
    DesiredFile(plan.config.state).save(kept)
    desired = DesiredConfig(plan, Clock())
    start = desired.start(plan)
    return list(start.plan.devices), start.before is not None, desired


ONE, TWO = document(1, leg=replay()), document(2, eye=replay())


def test_every_state_on_disk_is_a_whole_configuration(base: Write) -> None:
    plan = base()
    assert started(plan, Kept())[:2] == (["arm"], False)
    assert started(plan, Kept(used=ONE))[:2] == (["leg"], False)
    for state in ("pending", "soaking"):
        devices, on_trial, desired = started(plan, Kept(used=ONE, trial=TWO, state=state))
        assert (devices, on_trial) == (["eye"], True)
        assert DesiredFile(plan.config.state).load().starts == 1
        assert desired.kept.state == "soaking"


def test_a_trial_that_ends_the_daemon_again_and_again_is_given_up(base: Write) -> None:
    plan = base()
    devices, on_trial, desired = started(plan, Kept(used=ONE, trial=TWO, state="soaking", starts=MAX_STARTS))
    assert (devices, on_trial) == (["leg"], False)
    kept = DesiredFile(plan.config.state).load()
    assert (kept.used, kept.trial) == (ONE, None)
    assert kept.report is not None
    assert (kept.report.state, kept.report.code) == ("rolled_back", "config-crashed")
    assert desired.is_done(TWO), "it is not tried again"


def test_a_stop_on_request_is_no_failed_start(base: Write) -> None:
    plan = base()
    desired = started(plan, Kept(trial=TWO, state="soaking", starts=1))[2]
    desired.stopped()
    assert DesiredFile(plan.config.state).load().starts == 0


def test_what_no_longer_works_over_the_file_is_kept_and_reported(base: Write) -> None:
    plan = base(files=[])
    devices, on_trial, desired = started(plan, Kept(used=document(1, leg=replay(file="/etc/rows.csv"))))
    assert (devices, on_trial) == (["arm"], False)
    reported = desired.reported()
    assert reported is not None
    assert (reported.ver, reported.state, reported.code, reported.active) == (
        1,
        "failed",
        "config-not-allowed",
        "",
    )
    assert desired.kept.used is not None, "it wins until it is withdrawn"
    desired.forget_note()
    assert desired.problem.code == "config-not-allowed"


def test_a_trial_that_is_not_valid_any_more_ends(base: Write) -> None:
    plan = base()
    devices, on_trial, desired = started(plan, Kept(used=ONE, trial=document(3, leg={"adapter": "gone"})))
    assert (devices, on_trial) == (["leg"], False)
    assert desired.problem.code == "config-invalid"


def test_an_agent_that_takes_no_documents_reads_and_reports_none(base: Write) -> None:
    plan = base(config=False)
    devices, on_trial, desired = started(plan, Kept(used=ONE))
    assert (devices, on_trial, desired.reported()) == (["arm"], False, None)
    assert DesiredFile(plan.config.state).load().used == ONE


def test_a_full_disk_applies_nothing(base: Write) -> None:
    plan = base()
    desired = started(plan, Kept(used=ONE))[2]
    (plan.config.state / "desired.new").mkdir()  # a file cannot be made there
    with pytest.raises(OSError, match="directory"):
        desired.begin_trial(TWO, frozenset())
    assert desired.kept == DesiredFile(plan.config.state).load()
    with pytest.raises(OSError, match="directory"):
        desired.use(TWO)
    assert desired.kept.used == ONE


def test_an_adapter_that_raises_anything_costs_its_document(
    base: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = base()

    def fails(self: Replay) -> None:
        raise ZeroDivisionError("of a package")

    monkeypatch.setattr(Replay, "streams", fails)
    devices, on_trial, desired = started(plan, Kept(trial=ONE))
    assert (devices, on_trial) == (["arm"], False)
    assert desired.problem.code == "config-invalid"
    assert "ZeroDivisionError: of a package" in desired.problem.why
