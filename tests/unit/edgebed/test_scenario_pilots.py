"""Pilots of scenarios: mistakes have their line, and each thing that went wrong fails its own assertion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.inference.signing.signature import new_key
from agent.pilots.signatures import sign
from collector.pilots.kpis.evaluate import PeriodValue
from collector.pilots.report.analysis import Measured
from collector.pilots.report.document import KpiReport
from collector.pilots.report.kpi_report import Trial, judged
from edgebed.scenario.document import ScenarioPilot
from edgebed.scenario.document import load as load_scenario
from edgebed.scenario.judge_pilot import judge_pilot
from edgebed.scenario.pilot_evidence import PilotEvidence
from edgebed.scenario.pilots import plan_of
from simulators.plants.trial import TrialRun
from simulators.plants.trial_plants import Crossing
from wire.clock import NS_PER_S
from wire.errors import ConfigError
from wire.pilot.frozen import Opened, envelope, freeze, read_signed
from wire.pilot.plan import load
from wire.pilot.schedule import counted

ROOT = Path(__file__).parents[3]
PLAN = ROOT / "configs/pilots/crossing-safety.yaml"
START_NS = 1_801_440_000 * NS_PER_S  # 2027-02-01
PRIVATE, _ = new_key()
GOOD = """\
start: 2027-02-01T00:00:00Z
duration_s: 600
agents:
  signal-01:
    config: signal-01.yaml
    devices:
      signal: {simulator: signal}
pilots:
  crossing: {plan: crossing.yaml, plant: signal}
assert:
  - {pilot: crossing}
"""


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("plant: signal", "plant: sign", "9:42: pilots.crossing.plant: there is no device 'sign'"),
        ("duration_s: 600", "duration_s: 579", "pilots.crossing.periods: ends at 580 s, after the end"),
        ("plant: signal", "plant: signal, periods: 13", "periods: 13 is odd: periods are drawn in pairs"),
        ("plant: signal", "plant: signal, washout_s: 20", "washout_s: leaves nothing of a period"),
        ("plant: signal", "plant: signal, period_s: 9", "period_s"),
        (
            "{pilot: crossing}",
            "{pilot: crosing}",
            "assert.0.pilot: there is no pilot 'crosing'; did you mean",
        ),
        ("{pilot: crossing}", "{pilot: crossing, lost: 0}", "needs exactly one of"),
    ],
)
def test_a_mistake_has_its_line(tmp_path: Path, before: str, after: str, said: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(GOOD)
    assert load_scenario(path).pilots["crossing"].periods == 28
    path.write_text(GOOD.replace(before, after, 1))
    with pytest.raises(ConfigError) as found:
        load_scenario(path)
    assert said in str(found.value)


def opened(seed: int) -> Opened:
    plan = plan_of(load(PLAN), ScenarioPilot(plan=PLAN, plant="signal"), START_NS, seed)
    payload = freeze(plan).payload
    return read_signed(msgspec.json.encode(envelope(payload, (sign(payload, PRIVATE),))))


def played(seed: int = 7) -> PilotEvidence:
    """A pilot that ran as its plan has it."""
    signed = opened(seed)
    schedule, plan, plant = signed.plan.schedule, signed.plan.plan, Crossing(seed)
    start_ms, _ = schedule.trial_ms
    spans = [counted(each, plan, start_ms) for each in schedule.trial]
    steps = [[(ms - start_ms) // 1000 for ms in span] for span in spans]
    run = TrialRun(plant, 0)
    run.advance(steps[-1][1], lambda index: schedule.trial[index // 20].arm == "on")
    compared = [run.compare(*each) for each in steps]
    values = {
        kpi: [
            PeriodValue(
                at,
                "trial",
                period.arm,
                *span,
                "used",
                value=sums.actual[name],
                numerator=sums.actual[name],
                denominator=1.0,
            )
            for at, (period, span, sums) in enumerate(zip(schedule.trial, spans, compared, strict=True))
        ]
        for kpi, name in (("near-misses", "conflicts"), ("flow", "vehicles"))
    }
    stated = [
        {"detail": {"period": at, "planned": each.arm, "actual": each.arm, "from": each.start_ms}}
        for at, each in enumerate(schedule.trial)
    ]
    frozen = {"ts": start_ms - 5_000, "detail": {"hash": signed.hash}}
    kpis = reported(signed, values)
    return PilotEvidence(signed, [frozen], stated, kpis, b"report", b"report", compared)


def reported(signed: Opened, values: dict[str, list[PeriodValue]]) -> tuple[KpiReport, ...]:
    """The KPIs as the report has them."""
    plan, schedule = signed.plan.plan, signed.plan.schedule
    trial = Trial(plan, schedule, schedule.trial_ms[1], 0.0)
    return tuple(judged(trial, Measured(kpi, {"": values[kpi.id]}), {}).report for kpi in plan.kpis)


def change(found: PilotEvidence, kpi: str, at: int, **more: Any) -> None:
    """Change one period of a KPI in the report."""

    def of(one: KpiReport) -> KpiReport:
        periods = list(one.periods)
        periods[at] = msgspec.structs.replace(periods[at], **more)
        return msgspec.structs.replace(one, periods=tuple(periods))

    found.kpis = tuple(of(each) if each.id == kpi else each for each in found.kpis)


def failed(found: PilotEvidence) -> list[str]:
    return [name for holds, name, _, _ in judge_pilot("it", found) if not holds]


def test_a_pilot_as_planned_holds_everything() -> None:
    found = played()
    assert failed(found) == []
    assert found.true_effect == pytest.approx(-Crossing.EFFECT, abs=0.12)
    text = judge_pilot("it", found)[-1][3]
    assert text.startswith("flow kept; near-misses -")
    assert text.endswith(f"true {found.true_effect:+.1%}")


def other_plan(found: PilotEvidence) -> None:
    found.frozen.append({"ts": 0, "detail": {"hash": "0" * 64}})


def frozen_late(found: PilotEvidence) -> None:
    found.frozen[0]["ts"] += 5_000


def no_event(found: PilotEvidence) -> None:
    del found.exposures[3]


def late(found: PilotEvidence) -> None:
    found.exposures[3]["detail"]["from"] += 2_001  # the wash-out ends after two seconds


def other_arm(found: PilotEvidence) -> None:
    detail = found.exposures[3]["detail"]
    detail["actual"] = {"on": "off", "off": "on"}[detail["actual"]]


def broke_off(found: PilotEvidence) -> None:
    found.exposures.append({"detail": {**found.exposures[27]["detail"], "actual": None}})


def incomplete(found: PilotEvidence) -> None:
    change(found, "flow", 2, status="incomplete")


def other_value(found: PilotEvidence) -> None:
    change(found, "near-misses", 0, value=(found.primary.periods[0].value or 0) + 1)


def no_value(found: PilotEvidence) -> None:
    change(found, "near-misses", 0, value=None)


def computed_otherwise(found: PilotEvidence) -> None:
    found.again += b" "


def fewer_vehicles(found: PilotEvidence) -> None:
    found.kpis = tuple(
        msgspec.structs.replace(each, guarded="broken") if each.id == "flow" else each for each in found.kpis
    )


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (other_plan, "it: the plan was frozen before the trial"),
        (frozen_late, "it: the plan was frozen before the trial"),
        (no_event, "it: each period ran as it was drawn"),
        (late, "it: each period ran as it was drawn"),
        (other_arm, "it: each period ran as it was drawn"),
        (broke_off, "it: each period ran as it was drawn"),
        (incomplete, "it: the data of each period count"),
        (other_value, "it: near-misses is that of the plant"),
        (no_value, "it: near-misses is that of the plant"),
        (computed_otherwise, "it: the report, recomputed, is equal"),
        (fewer_vehicles, "it: no guardrail is broken"),
    ],
)
def test_what_went_wrong_fails_its_own_assertion(change: Callable[[PilotEvidence], None], name: str) -> None:
    found = played()
    change(found)
    assert failed(found) == [name]


def test_a_set_point_may_need_a_moment() -> None:
    found = played()
    detail: dict[str, Any] = found.exposures[3]["detail"]
    found.exposures.insert(3, {"detail": {**detail, "actual": None}})
    detail["from"] += 2_000
    assert failed(found) == []
