"""The draft of a plan for a node that a collector knows: valid, with the names and units of the node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from collector.app import Collector
from collector.mqtt.received import Received
from edgebed.cli import command
from edgebed.pilot_start.command import PILOTS
from edgebed.pilot_start.draft import ready_plans
from edgebed.pilot_start.site import DEMOS
from tests.unit.collector.web.serving import EP, fill, serving, until_stored
from wire.codec import encode
from wire.errors import ConfigError, EdgebedError
from wire.messages import AgentInfo, Batch, Birth, Device, Field, ModelRef, Stream
from wire.pilot.plan import Plan, load
from wire.pilot.schedule import schedule

COBOT, CAR = "acme/cobot-trial/hall-1/cobot-01", "acme/ev-trial/garage/car-01"
SHA = "7" * 64
CELL = {
    "running": Field(t="bool"),
    "planned": Field(t="bool"),
    "rejects": Field(t="i64", unit="{part}"),
    "parts": Field(t="i64", unit="{part}"),
    "energy": Field(unit="kW.h"),
    "note": Field(t="str"),
}
TRIP = {"speed": Field(unit="km/h"), "temperature": Field(unit="Cel")}


@pytest.fixture
async def collector(tmp_path: Path) -> AsyncIterator[Collector]:
    """A collector that has heard of a cobot cell with a model, and of a car with two numbers."""
    async with serving(tmp_path) as (made, _):
        now = made.clock.now_ms()

        def receive(node: str, tail: str, body: Any) -> None:
            made.ingest.receive(Received(f"tb1/{node}/{tail}", encode(body), now, False, None))

        model = ModelRef(name="joint-anomaly", ver="9.0.0", sha256=SHA)
        for node, device, fields, models in (
            (COBOT, "cell", CELL, {"anomaly": model}),
            (CAR, "trip", TRIP, {}),
        ):
            streams = {"production": Stream(rate_hz=1.0, fields=fields)}
            described: dict[str, Any] = {
                "boot": "deadbeef",
                "sess": 1,
                "ep": EP,
                "agent": AgentInfo(ver="0.1.0"),
            }
            devices = {device: Device(type="x", streams=streams)}
            receive(node, "birth", Birth(ts=now, devices=devices, models=models, **described))
            column = {name: [1.0] * 40 for name, each in fields.items() if each.t != "str"}
            rows = Batch(ep=EP, seq=1, t0=now - 40_000, per=1_000, n=40, f=column)
            receive(node, f"data/{device}/production", rows)
        await until_stored(made, 2)
        yield made


async def draft(collector: Collector, *words: object) -> Result:
    url = f"http://127.0.0.1:{collector.socket.getsockname()[1]}"
    line = ["pilot", "draft", "--url", url, *map(str, words)]
    return await asyncio.to_thread(CliRunner().invoke, command, line)


async def drafted(collector: Collector, path: Path, *words: object) -> Plan:
    done = await draft(collector, "--unit", "2s", "-o", path, *words)
    assert done.exit_code == 0, (done.output, done.exception)
    return load(path)


async def test_a_ready_plan_gets_nodes_model_and_windows_of_now(collector: Collector, tmp_path: Path) -> None:
    path, clock = tmp_path / "pilot.yaml", collector.clock
    words = ("--like", "joint-maintenance", "--periods", 20, "--washout", 0.5, "--lead", "30s", "--seed", 5)
    made = await drafted(collector, path, *words)
    ready = load(ready_plans()["joint-maintenance"])
    assert (made.kpis, made.question, made.exclude) == (ready.kpis, ready.question, ready.exclude)
    assert made.nodes == (COBOT,)
    assert made.intervention.model == "joint-anomaly@9.0.0"
    assert made.intervention.sha256 == SHA
    assert (made.design.unit, made.design.periods, made.design.seed) == ("2s", 20, 5)
    assert made.design.washout_s == made.design.carry_over_s == 0.5
    assert made.windows.tz == "Asia/Seoul"
    periods = schedule(made).periods
    start, end = schedule(made).trial_ms
    baseline = [each for each in periods if each.phase == "baseline"]
    assert len(baseline) == 20, "40 s of rows hold 19 or 20 whole periods"
    assert baseline[-1].end_ms <= clock.now_ms() + 4_000
    assert start >= baseline[-1].end_ms + 30_000
    assert end - start == 40_000
    assert (await draft(collector, "--unit", "2s", "-o", path, *words)).exit_code != 0, (
        "it is not overwritten"
    )
    assert (await draft(collector, "--unit", "2s", "--force", "-o", path, *words)).exit_code == 0
    again = await drafted(collector, tmp_path / "next.yaml", "--like", path)
    assert again.kpis == made.kpis, "a draft can follow a plan of its own"


async def test_the_library_proposes_kpis_that_the_node_can_feed(collector: Collector, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    made = await drafted(collector, path, "--node", COBOT)
    found = {kpi.id: (kpi.kpi_class, kpi.unit, sorted(kpi.inputs)) for kpi in made.kpis}
    assert found == {
        "downtime": ("P", "min", ["planned", "running"]),
        "units-per-hour": ("P", "{part}/h", ["parts", "planned"]),
        "defect-rate": ("Q", "%", ["parts", "rejects"]),
        "energy-per-part": ("C", "kW.h/{part}", ["energy", "parts"]),
    }
    assert made.primary.id == "downtime"
    assert made.kpis[0].inputs["running"].field == "cell/production/running"
    assert made.kpis[2].inputs["rejects"].field == "cell/production/rejects"
    assert made.intervention.slot == "anomaly"
    assert made.intervention.sha256 == SHA
    assert "note" not in path.read_text(), "a text is not an input of a KPI"


async def test_without_a_formula_that_fits_the_mean_of_a_number_is_proposed(
    collector: Collector, tmp_path: Path
) -> None:
    made = await drafted(collector, tmp_path / "own.yaml", "--node", CAR)
    assert [(kpi.formula, kpi.unit) for kpi in made.kpis] == [("mean(speed)", "km/h")]
    assert made.intervention.kind == "set-point"
    assert "temperature" in (tmp_path / "own.yaml").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "choose the nodes of the pilot with --node: acme/cobot-trial/hall-1/cobot-01, "),
        (("--node", COBOT + "0"), f"did you mean '{COBOT}'?"),
        (("--like", "joint-maintenanse"), "did you mean 'joint-maintenance'?"),
        (("--like", "eco-driving"), "give one for periods of 2s with --washout"),
        (("--node", COBOT, "--unit", "1h"), "no whole period with rows of this node is stored"),
        (("--node", COBOT, "--unit", "shift"), "needs the starts of the shifts"),
        (("--node", COBOT, "--tz", "Asia/Soul"), "the time zone 'Asia/Soul' is not known"),
        (("--node", COBOT, "--unit", "2 s"), "the unit '2 s' is not day, shift, or a time such as 8h"),
        (("--node", COBOT, "--periods", "21"), "21 is odd"),
        (("--node", COBOT, "--washout", "3"), "leaves nothing of a period of 2 s"),
    ],
)
async def test_what_is_not_clear_is_said(
    collector: Collector, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    done = await draft(collector, "--unit", "2s", "-o", tmp_path / "pilot.yaml", *words)
    assert isinstance(done.exception, EdgebedError | ConfigError), done.output
    assert said in str(done.exception)
    assert not (tmp_path / "pilot.yaml").exists()


async def test_a_lead_is_a_time(collector: Collector) -> None:
    done = await draft(collector, "--node", COBOT, "--lead", "soon")
    assert done.exit_code == 2
    assert "is not a time such as 2min" in done.output


async def test_a_collector_without_nodes_is_named(tmp_path: Path) -> None:
    async with serving(tmp_path) as (made, _):
        assert "has not heard of any node yet" in str((await draft(made)).exception)
        fill(made)
        await until_stored(made, 32)
        done = await draft(made, "--unit", "1s", "-o", tmp_path / "p.yaml")
        assert done.exit_code == 0, done.exception


def test_each_ready_plan_has_a_site() -> None:
    assert set(PILOTS) == set(DEMOS) == set(ready_plans())
