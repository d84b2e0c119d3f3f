"""A collector evaluates a plan that is not frozen yet, within limits, for users who see all its nodes."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from collector.web import plan_values
from edgebed.cli import command
from tests.unit.collector.web.serving import NODE, fill, serving, until_stored
from tests.unit.wire.pilot.plans import changed

PATH = "/api/v1/pilots/values"
KPI = "formula: downtime\n    from: {running: {field: cell/production/running}}\n    unit: min"


def plan(now_ms: int, *pairs: tuple[str, str]) -> str:
    """A plan for the node of `fill`: a baseline of 24 s that is over in 2 s, the trial tomorrow."""
    now = datetime.fromtimestamp(now_ms // 1_000, UTC)
    past, over, trial = now - timedelta(seconds=22), now + timedelta(seconds=2), now + timedelta(days=1)
    return changed(
        ("[acme/p1/s1/n1, acme/p1/s1/n2]", f"[{NODE}]"),
        ("unit: 8h", "unit: 1s"),
        ("washout_s: 60, carry_over_s: 60", "washout_s: 0"),
        ("tz: Asia/Seoul", "tz: UTC"),
        ("from: 2027-02-01, to: 2027-03-01", f"from: {past:%F %T}, to: {over:%F %T}"),
        (
            "2027-03-01 06:00, to: 2027-03-07 22:00",
            f"{trial:%F %T}, to: {trial + timedelta(seconds=20):%F %T}",
        ),
        (KPI, "formula: mean(a)\n    from: {a: {field: arm/joints/j1, unit: rad}}\n    unit: rad"),
        ("target: {min: 0.1}", "target: {min: 0.1, effect: 0.5}"),
        *pairs,
    )


async def test_a_plan_is_evaluated_by_a_running_collector(tmp_path: Path) -> None:
    async with serving(tmp_path) as (collector, get):
        fill(collector)
        await until_stored(collector, 32)
        text = plan(collector.clock.now_ms())
        answer = await get(PATH, "POST", {"plan": text})
        assert answer.status == 200, answer.body
        found: dict[str, Any] = answer.json()
        values = found["kpis"]["stops"][""]
        assert len(values) + found["to_come"] == 24
        assert {each["phase"] for each in values} == {"baseline"}
        (tmp_path / "pilot.yaml").write_text(text)
        url = f"http://127.0.0.1:{collector.socket.getsockname()[1]}"
        words = ["pilot", "plan", str(tmp_path / "pilot.yaml"), "--url", url]
        done = await asyncio.to_thread(CliRunner().invoke, command, words)
        assert "periods with data in the baseline; a plan needs 20" in str(done.exception)


async def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tmp_path) as (collector, get):
        fill(collector)
        await until_stored(collector, 32)
        text = plan(collector.clock.now_ms())

        async def refused(text: str) -> tuple[int, str]:
            answer = await get(PATH, "POST", {"plan": text})
            return answer.status, answer.json()["error"]

        status, why = await refused("pilot: [")
        assert (status, why.startswith("pilot.yaml:1:")) == (400, True)
        status, why = await refused(text.replace("min: 0.1", "min: x"))
        assert status == 400
        assert "kpis.0.target.min: expected a number" in why
        assert await refused(text.replace(NODE, "acme/trial/hall/cobot-99")) == (
            404, "the node 0 of the plan is not here: `pilot check` names it",
        )  # fmt: skip
        status, why = await refused("x" * 300_000)
        assert (status, "length" in why) == (400, True)
        monkeypatch.setattr(plan_values, "MAX_VALUES", 23)
        assert (await refused(text))[0] == 413
