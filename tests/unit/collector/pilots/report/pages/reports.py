"""Reports to show: plans, values of periods drawn by a seed, and effects by the real rules."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from typing import Literal

import msgspec
import numpy as np

from collector.pilots.effects import Effect, Result, before_after, counts, placebo, switchback, verdict
from collector.pilots.report.document import (
    Custody,
    EffectFound,
    Finding,
    Flow,
    KpiReport,
    ModelRan,
    PeriodFound,
    PlaceboDates,
    PlanVersion,
    Ran,
    Refusal,
    Report,
    Side,
    State,
    Switch,
    Variant,
)
from wire.pilot.plan import Intervention, Text
from wire.pilot.schedule import Arm, Phase
from wire.pilot.schedule import switchback as drawn

HOUR = 3_600_000
START = 1_803_848_400_000  # 2027-02-28 21:00 UTC: 06:00 in Seoul
NODE = "acme/cobot-trial/hall-1/cobot-01"
SEED = 20270301


def switchback_report(state: State = "over", periods: int = 30, kpis: int = 4, noise: float = 0.1) -> Report:
    """A switchback of shifts: downtime decides; defects, energy per part and stops beside it."""
    arms = drawn(SEED, periods)
    until = START + (periods if state == "over" else periods // 3) * 8 * HOUR
    made = [_switchback_kpi(number, arms, until, noise) for number in range(kpis)]
    primary = made[0]
    return Report(
        **_common(
            state, "switchback", until, (START - 42 * 8 * HOUR, START), (START, START + periods * 8 * HOUR)
        ),
        word=primary.word or "not-shown",
        reason=primary.reason,
        kpis=tuple(made),
        ran=tuple(
            Ran(
                period=at,
                start_ms=START + at * 8 * HOUR,
                end_ms=START + (at + 1) * 8 * HOUR,
                planned=arm,
                on=(0.9 if at == 8 else 1.0) * (arm == "on"),
                off=1.0 * (arm == "off"),
                other=0.1 if at == 8 and arm == "on" else 0.0,
                late_ms=400 + 10 * at,
            )
            for at, arm in enumerate(arms)
            if START + (at + 1) * 8 * HOUR <= until
        ),
        switches=tuple(
            Switch(
                node=NODE,
                ts=START + at * 8 * HOUR + 400,
                period=at,
                phase="trial",
                planned=arm,
                actual=arm,
                restart=at == 5,
                code="pilot-model-missing" if at == 8 else "",
            )
            for at, arm in enumerate(arms)
            if START + at * 8 * HOUR < until
        ),
        limits=("carry-over", "one-primary"),
    )


def before_after_report(periods: int = 28, step: float = -0.3) -> Report:
    """Baseline and trial of days, with drift; the value is a share."""
    rng = np.random.default_rng(7)
    noise = np.zeros(2 * periods)
    for at in range(1, 2 * periods):
        noise[at] = 0.4 * noise[at - 1] + rng.normal(0, 0.08)
    on = np.arange(2 * periods) >= periods
    values = 0.05 * np.exp(noise + math.log1p(step) * on)
    start = START - periods * 24 * HOUR
    found = [
        _period(
            at,
            "trial" if on[at] else "baseline",
            "on" if on[at] else "off",
            start + at * 24 * HOUR,
            24,
            value,
        )
        for at, value in enumerate(values)
    ]
    found[3] = msgspec.structs.replace(found[3], status="incomplete", code="data-lost", why="outbox 7f3a")
    found[40 % len(found)] = msgspec.structs.replace(
        found[40 % len(found)], status="missing", code="no-data", value=None
    )
    column = [each.value if each.status == "used" else None for each in found]
    result = before_after.effect(column, list(on), relative=True)
    fake = placebo.placebo(column[:periods], relative=True)
    kpi = _kpi(
        "defect-rate",
        Text(en="Defects", ko="불량"),
        "Q",
        "defect-rate",
        "1",
        result,
        found,
        ("baseline", "trial"),
    )
    effect, refusal = stated(result)
    kpi = msgspec.structs.replace(
        kpi,
        primary=True,
        placebo=PlaceboDates(dates=fake.dates, shown=fake.shown),
        sensitivity=(
            Variant(name="trend", effect=effect, refusal=refusal, word="not-shown"),
            Variant(name="scale", refusal=Refusal(code="not-applicable", sentence="No."), word="not-shown"),
        ),
    )
    window = (START, START + periods * 24 * HOUR)
    return Report(
        **_common("over", "before-after", window[1], (start, START), window),
        word=kpi.word or "not-shown",
        reason=kpi.reason,
        kpis=(kpi,),
        ran=(),
        switches=(),
        limits=("other-changes", "slow-build-up", "noise-change"),
    )


def stated(result: Result) -> tuple[EffectFound | None, Refusal | None]:
    """An effect or a refusal as a report has it."""
    extras = dict(result.extras)
    if not isinstance(result, Effect):
        return None, Refusal(code=result.code, sentence=result.sentence, extras=extras)
    parts = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in dataclasses.asdict(result).items()
    }
    return EffectFound(**{**parts, "extras": extras}), None


def _switchback_kpi(number: int, arms: list[Arm], until: int, noise: float) -> KpiReport:
    rng = np.random.default_rng(number)
    names = [
        ("downtime", Text(en="Downtime of the cell", ko="셀 정지 시간"), "P", "downtime", "min"),
        ("defect-rate", Text(en="Defects", ko="불량"), "Q", "defect-rate", "1"),
        (
            "energy-per-part",
            Text(en="Energy per part", ko="개당 전력량"),
            "C",
            "energy-per-part",
            "kW.h/{part}",
        ),
        ("stops", Text(en="Stops", ko="정지 횟수"), "A", "stops", "1"),
    ]
    name, title, kpi_class, formula, unit = names[number % 4]
    levels, effects = (1234.5, 0.031, 0.42, 6.0), (-0.25, 0.04, -0.02, -0.3)
    level, effect = levels[number % 4], effects[number % 4]
    before: list[Arm] = ["off"] * 42
    found = []
    for at, arm in enumerate([*before, *arms]):
        start = START + (at - 42) * 8 * HOUR
        value = level * (1 + effect * (arm == "on")) * math.exp(rng.normal(0, noise))
        phase: Phase = "trial" if at >= 42 else "baseline"
        if name == "stops":
            value = float(round(value))
        each = _period(at, phase, arm, start, 8, value, cut=1_800_000 if phase == "trial" else 0)
        if each.end_ms > until:
            each = msgspec.structs.replace(each, status="to-come", value=None)
        found.append(each)
    found[50] = msgspec.structs.replace(found[50], status="incomplete", code="device-silent")
    found[51] = msgspec.structs.replace(found[51], status="missing", code="no-data", value=None)
    trial = [each for each in found if each.phase == "trial"]
    by_arm = {
        arm: [
            each.value if each.status == "used" else None
            for pair in zip(trial[::2], trial[1::2], strict=False)
            for each in pair
            if each.arm == arm
        ]
        for arm in ("on", "off")
    }
    result: Result
    if name == "stops":
        result = counts.pairs(by_arm["on"], by_arm["off"])
    else:
        result = switchback.effect(by_arm["on"], by_arm["off"], seed=SEED, relative=True)
    kpi = _kpi(
        name,
        title,
        kpi_class,
        formula,
        unit,
        result,
        found,
        ("baseline", "on", "off"),
    )
    if number:
        return msgspec.structs.replace(
            kpi,
            target=None,
            word=None,
            reason=None,
            guardrail=0.2,
            guarded="kept" if number != 1 else "not-shown",
        )
    return msgspec.structs.replace(kpi, primary=True)


def _period(
    index: int, phase: Phase, arm: Arm, start: int, hours: int, value: float, cut: int = 0
) -> PeriodFound:
    return PeriodFound(
        index=index,
        phase=phase,
        arm=arm,
        start_ms=start + cut,
        end_ms=start + hours * HOUR,
        status="used",
        value=float(value),
        rows=28_800,
        completeness=1.0,
        clock_ms=12,
    )


def _kpi(
    name: str,
    title: Text,
    kpi_class: Literal["P", "Q", "C", "D", "E", "S", "A"],
    formula: str,
    unit: str,
    result: Result,
    periods: list[PeriodFound],
    sides: tuple[Literal["baseline", "trial", "on", "off"], ...],
) -> KpiReport:
    effect, refusal = stated(result)
    judged = verdict.judge(result, target=0.1, sign=-1)
    by_side: dict[str, list[PeriodFound]] = {side: [] for side in sides}
    for each in periods:
        side = "baseline" if each.phase == "baseline" else each.arm if "on" in sides else "trial"
        by_side[side].append(each)
    used = {
        side: [each.value or 0.0 for each in several if each.status == "used"]
        for side, several in by_side.items()
    }
    return KpiReport(
        id=name,
        title=title,
        kpi_class=kpi_class,
        formula=formula,
        unit=unit,
        direction="decrease",
        estimand="mean",
        primary=False,
        sides=tuple(
            Side(
                name=side,
                periods=len(used[side]),
                mean=math.fsum(used[side]) / len(used[side]) if used[side] else None,
            )
            for side in sides
        ),
        flow=tuple(
            Flow(
                name=side,
                planned=len(by_side[side]),
                to_come=sum(each.status == "to-come" for each in by_side[side]),
                used=len(used[side]),
                left_out=dict(Counter(each.code for each in by_side[side] if each.code)),
            )
            for side in sides
        ),
        effect=effect,
        refusal=refusal,
        target=0.1,
        word=judged.word,
        reason=judged.reason,
        periods=tuple(periods),
    )


def _common(
    state: State, design: str, until: int, baseline: tuple[int, int], trial: tuple[int, int]
) -> dict[str, object]:
    digest = "3f" * 32
    return {
        "software": "0.1.0",
        "pilot": "joint-maintenance",
        "owner": "acme",
        "testbed": "robot cell, hall 1",
        "title": Text(en="Maintenance by joint", ko="관절별 예지 정비"),
        "question": Text(en="Does the model shorten the stops?", ko="모델이 정지 시간을 줄이는가?"),
        "intervention": Intervention(
            kind="model",
            what=Text(en="the alarms reach the shift", ko="경보가 작업조에 전달된다"),
            slot="anomaly",
            model="joint-anomaly@1.0.0",
            sha256="1a" * 32,
        ),
        "design": design,
        "unit": "shift" if design == "switchback" else "day",
        "seed": SEED,
        "washout_s": 1800.0 if design == "switchback" else 0.0,
        "settle_s": 0.0,
        "carry_over_s": 0.0,
        "tz": "Asia/Seoul",
        "baseline_ms": baseline,
        "trial_ms": trial,
        "nodes": (NODE,),
        "alpha": 0.05,
        "min_complete": 0.95,
        "clock_max_ms": 1000.0,
        "state": state,
        "until_ms": until,
        "plan_hash": digest,
        "versions": (
            PlanVersion(
                version=1,
                hash=digest,
                keys=("ab" * 32,),
                first_ms=trial[0] - 30 * HOUR,
                nodes={NODE: trial[0] - 30 * HOUR},
                in_time=True,
            ),
        ),
        "models": (
            ModelRan(
                node=NODE,
                slot="anomaly",
                model="joint-anomaly@1.0.0",
                sha256="1a" * 32,
                provider="CPU",
                from_ms=trial[0],
            ),
        ),
        "off_schedule": 0.0042,
        "custody": (
            Custody(
                node=NODE,
                taken=1_234_567,
                stored=1_234_560,
                lost=7,
                missing=0,
                waiting=0,
                pruned=0,
                clock_ms=12,
            ),
        ),
        "findings": (
            Finding(
                code="data-lost",
                where="outbox 7f3a",
                periods=(3, 4, 5, 9),
                args={"periods": 4, "kpis": "downtime"},
            ),
            Finding(
                code="model-swapped",
                where=NODE,
                args={"model": "joint-anomaly@0.9.0", "planned": "joint-anomaly@1.0.0"},
            ),
        ),
        "sources": {"2027-03-01.sqlite arm/joints": "0c" * 32},
    }
