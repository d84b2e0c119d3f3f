"""What is wrong with a node: each problem with its limit, the worst first."""

from __future__ import annotations

from typing import Any

import pytest

from collector.fleet import problems
from collector.fleet.node_view import NodeView, Problem
from collector.fleet.problems import CODES, find
from collector.ledger.balance import Totals
from wire.reasons import Reason, because, no_ack_from

NOW = 1_795_356_000_000
REFUSED = because("too many", "share-values", share="shares.node.values_per_s")


def view(**changes: Any) -> NodeView:
    sound: dict[str, Any] = {
        "node": "acme/trial/hall/cobot-01", "state": "online", "since": NOW, "last_seen": NOW,
        "agent": "0.1.0", "clk": 1, "skew_ms": 5, "uncertainty_ms": 1, "health": {}, "devices": [],
        "models": [], "outbox": {"depth": 0, "oldest_s": 0, "bytes": 0}, "ledger": Totals(), "problems": [],
    }  # fmt: skip
    return NodeView(**{**sound, **changes})


def found(seen: NodeView, **more: Any) -> list[Problem]:
    facts: dict[str, Any] = {"why": Reason(""), "now": NOW, "missing_since": None, "quarantined": 0, **more}
    return find(seen, **facts)


def test_a_sound_node_has_none() -> None:
    assert found(view()) == []


def test_the_worst_comes_first_and_every_code_is_listed() -> None:
    devices, uncoded = (("arm", "degraded"), ("leg", "ok")), {"code": "", "args": {}}
    seen = view(
        state="lost",
        clk=0,
        outbox={"depth": 3, "oldest_s": 90.0, "bytes": 9},
        devices=[{"id": name, "state": state, "why": "", **uncoded} for name, state in devices],
        models=[
            {"slot": "anomaly", "device": "arm", "state": "failed", "why": "wrong shape", **uncoded},
            {
                "slot": "wear",
                "device": "arm",
                "state": "degraded",
                "why": "x",
                "code": "model-input-drift",
                "args": {},
            },
        ],
        ledger=Totals(missing_count=7),
    )
    problem = found(
        seen,
        missing_since=0,
        quarantined=NOW - 1,
        doubt="its key is not accepted",
        refused=REFUSED,
        behind=no_ack_from("collector-2", 312),
        fenced=Reason("it sends at most 20 kB/s: fence.uplink_kb_per_s; the rest waits", "fence-uplink"),
    )
    assert [one.sev for one in problem] == sorted((one.sev for one in problem), reverse=True)
    assert {one.code: one.why for one in problem} == {
        "node-lost": "its connection ended without a disconnect message",
        "missing": "7 messages are missing",
        "device-degraded": "no readings",
        "model-failed": "anomaly: wrong shape",
        "model-input": "wear: x",
        "custody": "a signed statement of it was refused: its key is not accepted",
        "backlog": "3 messages wait, the oldest for 90 s",
        "fence": "it sends at most 20 kB/s: fence.uplink_kb_per_s; the rest waits",
        "clock-unsynced": "its clock was never synchronised",
        "quarantine": "messages of it were quarantined: see the quarantine",
        "refused": "messages of it are refused and wait in its outbox: too many",
        "copies": "collector-2 has acknowledged nothing for 5 min: its messages wait in the outbox",
    }
    assert {one.code for one in problem} | {"node-silent", "config"} == set(CODES)
    assert next(one for one in problem if one.code == "device-degraded").device == "arm"


@pytest.mark.parametrize(
    ("since", "expected"),
    [(None, False), (0, True), (NOW - problems.MISSING_MS, False), (NOW - problems.MISSING_MS - 1, True)],
)
def test_missing_messages_are_an_alarm_after_their_time(since: int | None, expected: bool) -> None:
    codes = [one.code for one in found(view(ledger=Totals(missing_count=1)), missing_since=since)]
    assert (codes == ["missing"]) is expected


@pytest.mark.parametrize(
    ("outbox", "expected"),
    [
        ({"depth": 5, "oldest_s": problems.BACKLOG_S}, []),
        ({"depth": 5, "oldest_s": problems.BACKLOG_S + 1}, ["backlog"]),
        ({"depth": 0, "oldest_s": 500.0}, []),
        ({"depth": None, "oldest_s": None}, []),
    ],
)
def test_a_backlog_is_one_that_does_not_drain(outbox: dict[str, Any], expected: list[str]) -> None:
    assert [one.code for one in found(view(outbox=outbox))] == expected


@pytest.mark.parametrize(
    ("clk", "skew", "why"),
    [
        (1, problems.SKEW_MS, None),
        (1, problems.SKEW_MS + 100, "its clock is 5.1 s behind"),
        (1, -6_000, "its clock is 6.0 s ahead"),
        (0, 90_000, "its clock was never synchronised"),
        (None, None, None),
    ],
)
def test_a_clock_that_is_off(clk: int | None, skew: int | None, why: str | None) -> None:
    assert [one.why for one in found(view(clk=clk, skew_ms=skew))] == ([] if why is None else [why])


def test_a_silent_node_and_an_old_quarantine() -> None:
    silent = Reason("no sign of life for 50 s")
    assert [(one.code, one.why) for one in found(view(state="unknown"), why=silent)] == [
        ("node-silent", "no sign of life for 50 s")
    ]
    assert found(view(), quarantined=NOW - problems.QUARANTINE_MS) == []


def test_a_configuration_that_is_not_in_use_is_a_problem_of_a_node_that_is_online() -> None:
    why = because("restart the agent to change broker", "config-needs-restart", keys="broker")
    one = found(view(state="online"), why=why)[0]
    assert (one.code, one.sev, one.why) == ("config", 2, why.why)
    assert one.reason == {"code": "config-needs-restart", "args": {"keys": "broker"}}
    assert found(view(state="offline"), why=why) == []
    others = {"quarantined": NOW - 1, "doubt": "its key is not accepted", "missing_since": 0}
    assert "config" not in {each.code for each in found(view(clk=0), **others)}, (
        "they have reasons of their own"
    )


def test_a_model_that_its_fence_slows_is_a_note() -> None:
    model = {
        "slot": "anomaly",
        "device": "arm",
        "state": "ok",
        "why": "runs 3 of 30 inferences/s: fence.cpu_pct",
    }
    slowed = {**model, "code": "fence-cpu", "args": {"done": 3.0, "of": 30.0}}
    (problem,) = found(view(models=[slowed, {**model, "slot": "other", "why": "", "code": "", "args": {}}]))
    assert (problem.code, problem.sev, problem.slot) == ("fence", 1, "anomaly")
    assert problem.why == "anomaly: runs 3 of 30 inferences/s: fence.cpu_pct"
    assert problem.reason == {"code": "fence-cpu", "args": {"done": 3.0, "of": 30.0}}
