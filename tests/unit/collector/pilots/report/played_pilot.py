"""A pilot of ten-minute periods that was played: its frozen plan, and rows and events in a real store."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from collector.ledger.ledger import Ledger
from collector.mqtt.received import Received
from collector.pilots.report.assemble import assemble
from collector.pilots.report.document import Report
from collector.store.pruned import sums
from collector.store.sqlite_source import SqliteSource
from collector.store.store import peek
from tests.unit.collector.pilots.kpis.stored_rows import NODE, Plant
from wire.pilot.frozen import Opened, envelope, freeze, read_signed
from wire.pilot.plan import Plan, parse
from wire.pilot.schedule import Period

PERIOD_MS = 600_000
PLAN = """\
pilot: line-1
title: {en: Line 1, ko: 1호 라인}
owner: acme
testbed: hall 1
question: {en: "Is the level lower?", ko: "수준이 더 낮은가?"}
nodes: [acme/trial/hall/cell-01]
intervention:
  kind: threshold
  what: {en: a lower threshold, ko: 더 낮은 임계값}
  slot: anomaly
  parameter: threshold
  on: 0.4
  off: 0.8
design: {kind: switchback, unit: 10min, periods: 20, seed: 7, washout_s: 60, carry_over_s: 60}
windows:
  tz: Asia/Seoul
  trial: {from: 2026-11-23 06:00, to: 2026-11-23 09:20}
kpis:
  - id: level
    class: P
    formula: mean(level)
    from: {level: {field: cell/production/level}}
    unit: ""
    direction: decrease
    primary: true
    target: {min: 0.05}
"""
BASELINE = "  baseline: {from: 2026-11-22 23:00, to: 2026-11-23 06:00}\n"
# the intervention of PLAN, and a model instead of it
THRESHOLD = PLAN[PLAN.index("  kind: threshold") : PLAN.index("design:")]
MODEL = "  kind: model\n  what: {en: a, ko: 가}\n  slot: anomaly\n  model: joint@1.0.0\n"
MODEL += f"  sha256: {'ab' * 32}\n"
# a period of the schedule -> the columns of its rows, one value for each 10 s
Rows = Callable[[int, Period], dict[str, Sequence[Any]]]


def changed(*pairs: tuple[str, str], text: str = PLAN) -> str:
    """The plan with texts replaced; each must be there."""
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


def opened(plan: Plan | str, after: Opened | None = None, reason: str = "") -> Opened:
    """The plan as a signed version; no key made the signature."""
    found = parse(plan, "pilot.yaml") if isinstance(plan, str) else plan
    frozen = freeze(found, after=after, reason=reason)
    body = msgspec.json.encode(envelope(frozen.payload, (("ab" * 32, b"signature"),)))
    return read_signed(body)


def noise(index: int) -> float:
    """What differs from period to period by itself."""
    return 0.03 * math.sin(1.7 * index) + 0.02 * math.sin(0.31 * index)


def level(index: int, period: Period, effect: float = -0.2) -> dict[str, Sequence[Any]]:
    """A value around 10 that the intervention changes by a share."""
    acts = period.phase == "trial" and period.arm == "on"
    return {"level": [10 * math.exp(noise(index)) * (1 + effect * acts)] * 60}


class PlayedPilot:
    """Commits what the nodes of a plan send."""

    def __init__(self, plant: Plant, plan: Plan | str, *more: Opened) -> None:
        self.plant = plant
        self.versions = [opened(plan), *more]

    @property
    def newest(self) -> Opened:
        """The version in use."""
        return self.versions[-1]

    def freeze(self, at_ms: int | None = None, *, node: str = NODE, **detail: Any) -> Received:
        """The event `pilot` of a node, an hour before the first period unless the time is given."""
        plan = self.newest
        found = {
            "pilot": plan.plan.plan.pilot,
            "hash": plan.hash,
            "version": plan.plan.version,
            "previous": plan.plan.previous,
            "signed_by": ["acme"],
            "trial": list(plan.plan.schedule.trial_ms),
        }
        at = plan.plan.schedule.periods[0].start_ms - 3_600_000 if at_ms is None else at_ms
        return self.plant.event(at, "_/pilot", node=node, detail={**found, **detail})

    def switch(self, number: int, *, node: str = NODE, at_ms: int = 0, **detail: Any) -> Received:
        """The event `exposure` of a period of the trial, as it was planned unless `detail` says otherwise."""
        period = self.newest.plan.schedule.trial[number]
        at = at_ms or period.start_ms + 200
        more = {name: detail.pop(name) for name in ("why", "code", "args", "value") if name in detail}
        found = {
            "pilot": self.newest.plan.plan.pilot,
            "hash": self.newest.hash,
            "phase": "trial",
            "period": number,
            "planned": period.arm,
            "actual": period.arm,
            "from": at,
        }
        return self.plant.event(at, "_/exposure", node=node, detail={**found, **detail}, **more)

    def rows(
        self, index: int, rows: Rows = level, *, node: str = NODE, path: str = "cell/production"
    ) -> Received:
        """The rows of a period of the schedule, one each 10 s."""
        period = self.newest.plan.schedule.periods[index]
        return self.plant.data(period.start_ms, rows(index, period), node=node, path=path)

    def play(
        self, rows: Rows = level, *, nodes: Sequence[str] = (NODE,), path: str = "cell/production"
    ) -> None:
        """Everything as planned."""
        for node in nodes:
            self.plant.commit([self.freeze(node=node)])
            trial = 0
            for index, period in enumerate(self.newest.plan.schedule.periods):
                several = []
                if period.phase == "trial":
                    several.append(self.switch(trial, node=node, **self._planned(node, period)))
                    trial += 1
                self.plant.commit([*several, self.rows(index, rows, node=node, path=path)])

    def _planned(self, node: str, period: Period) -> dict[str, Any]:
        kind, treated = self.newest.plan.plan.design.kind, self.newest.plan.schedule.treated
        here = any(machine.startswith(node) for machine in treated)
        arm = "off" if kind == "paired" or (kind == "parallel" and not here) else period.arm
        return {"planned": arm, "actual": arm}

    def report(self, until_ms: int | None = None, ledger: Ledger | None = None) -> Report:
        """The report as of a moment, after the trial unless it is given."""
        return report_of(self.plant.folder, self.versions, until_ms, ledger or self.plant.ledger)


def report_of(
    folder: Path, versions: Sequence[Opened], until_ms: int | None = None, ledger: Ledger | None = None
) -> Report:
    """The report of the store in a folder."""
    if ledger is None:
        saved = peek(folder)
        ledger = Ledger(saved.marks, saved.states)
    ledger.note_pruned(sums(folder))
    until = versions[-1].plan.schedule.trial_ms[1] if until_ms is None else until_ms
    with closing(SqliteSource(folder)) as source:
        return assemble(versions, source, ledger, until)
