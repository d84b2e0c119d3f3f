"""Read the collector's store after a scenario, and the simulators' truth for each stored row."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import UNSET

from agent.app import App
from agent.inference.inputs import WindowInput
from collector.store.reader import read_rows
from collector.store.source import ALL, Source
from collector.store.sqlite_source import SqliteSource
from collector.store.table import Table
from edgebed.scenario import pilot_reports
from edgebed.scenario.document import Happening, Scenario
from edgebed.scenario.installation import PlayedAgent, ScenarioInstallation
from edgebed.scenario.pilot_evidence import PilotEvidence, read_pilot
from edgebed.scenario.play import Run
from wire.clock import NS_PER_MS, NS_PER_S
from wire.messages import Scalar, Stream
from wire.ranges import Ranges

MEASURED = ("infer_ms",)  # depends on the machine, not on the seed: left out of the hash
COUNTED = ("frame",)  # counts from the moment when the device was opened

Truth = Mapping[str, Scalar]


@dataclass
class StreamEvidence:
    """The stored rows of one stream between T0 and the end, and the truth at each of their times."""

    name: str  # device/stream
    node: str
    declared: Stream  # as the node declared it
    configured: Stream | None  # as its agent has it from config and models
    table: Table
    truth: list[Truth]
    expected: int | None  # number of rows, where the rate defines it
    slack: int = 0  # the number of rows may differ by this much

    @property
    def sha256(self) -> str:
        """The hash of times, values and quality in order: the same for the same seed at any pace."""
        digest = hashlib.sha256()
        first: dict[str, Scalar] = {}
        for at_us, values, quality in self.table:
            digest.update(msgspec.json.encode((at_us, sorted(_payload(values, first).items()), quality)))
        return digest.hexdigest()

    @property
    def compared(self) -> list[str]:
        """The fields for which the simulator gives the truth."""
        known = {name for truth in self.truth for name in truth}
        return [name for name in self.table.fields if name in known]

    def error(self, name: str) -> tuple[float, float] | None:
        """Return the mean and the largest absolute error of a field; None where there is no truth.

        A missing value has an infinite error.
        """
        found = []
        for (_, values, _), truth in zip(self.table, self.truth, strict=True):
            real, stored = truth.get(name), values.get(name)
            if isinstance(real, (int, float)):
                found.append(abs(stored - real) if isinstance(stored, (int, float)) else math.inf)
            elif real is not None:
                found.append(0.0 if stored == real else math.inf)
        return (sum(found) / len(found), max(found)) if found else None

    def tolerance(self, name: str) -> float:
        """Return the largest rounding error of the decimals that are transmitted."""
        info = self.declared.fields.get(name)
        return 0.0 if info is None or info.dec is UNSET else 0.5 * 10.0**-info.dec

    def mean(self, name: str) -> tuple[float, float]:
        """Return the stored and the true mean of a field, NaN without values."""
        stored = [_number(values.get(name)) for _, values, _ in self.table]
        return _mean(stored), _mean([_number(truth.get(name)) for truth in self.truth])


@dataclass
class Evidence:
    """All data that the assertions and the report use."""

    run: Run
    streams: dict[str, StreamEvidence] = field(default_factory=dict)  # by device/stream
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # by device, oldest first
    totals: dict[str, int] = field(default_factory=dict)  # of the ledger
    twice: int = 0  # how many messages are stored more than once
    left_out: dict[str, str] = field(default_factory=dict)  # agent -> why it did not take part
    absent: dict[str, str] = field(default_factory=dict)  # device -> its agent that was left out
    pilots: dict[str, PilotEvidence] = field(default_factory=dict)  # by name in the scenario
    # a fault of the timeline -> when its plant began it, in seconds since T0; None where it never did
    began: dict[str, float | None] = field(default_factory=dict)


def gather(installation: ScenarioInstallation, run: Run) -> Evidence:
    """Read the store of a collector that has ended, and write the reports of its pilots. Blocks."""
    evidence = Evidence(run, totals=run.totals)
    store = installation.folder / "store"
    with closing(SqliteSource(store)) as source:
        for agent in installation.agents.values():
            if agent.left_out:
                evidence.left_out[agent.name] = agent.left_out
                evidence.absent |= dict.fromkeys(agent.settings.devices, agent.name)
            else:
                _add_agent(evidence, source, installation, agent, run.apps[agent.name])
        evidence.twice = _twice(source)
        for each in installation.scenario.timeline:
            if each.fault and each.device not in evidence.absent:
                evidence.began[each.id] = _began(installation, run, each)
        for name, opened in run.pilots.items():
            played = installation.scenario.pilots[name]
            plant = installation.agent_of(played.plant).simulators[played.plant]
            evidence.pilots[name] = read_pilot(source, store, run.ledger, opened, plant)
        pilot_reports.write(installation.folder, source, run, installation.clock.now_ms())
    return evidence


def _add_agent(
    evidence: Evidence, source: Source, installation: ScenarioInstallation, agent: PlayedAgent, app: App
) -> None:
    node, run, scenario = str(app.plan.address), evidence.run, installation.scenario
    start_ms, end_ms = run.t0_ns // NS_PER_MS, run.end_ns // NS_PER_MS
    declared = run.births[node].devices if node in run.births else {}
    for device in agent.settings.devices:
        for stream, info in declared[device].streams.items() if device in declared else ():
            if info.kind == "frame":
                continue
            table = read_rows(source, (node, device, stream), start_ms=start_ms, end_ms=end_ms)
            simulator = agent.simulators[device]
            truth = [simulator.truth(at_us * 1000) for at_us, _, _ in table]
            configured = app.pipeline.streams(device).get(stream)
            expected, slack = _expected(app, stream, info, simulator, scenario)
            name = f"{device}/{stream}"
            evidence.streams[name] = StreamEvidence(
                name, node, info, configured, table, truth, expected, slack
            )
        rows = source.events(node, device, limit=10_000, before=(ALL, "", 0))
        evidence.events[device] = [event for _, event in reversed(rows)]


def _began(installation: ScenarioInstallation, run: Run, happening: Happening) -> float | None:
    """Return when the plant began what a fault asked for, in seconds since T0."""
    simulator = next(
        agent.simulators[happening.device]
        for agent in installation.agents.values()
        if happening.device in agent.simulators
    )
    if (began := getattr(simulator, "began", None)) is None:
        return happening.at_s
    at_ns: int | None = began(happening.fault, run.t0_ns + round(happening.at_s * NS_PER_S), run.end_ns)
    return None if at_ns is None else (at_ns - run.t0_ns) / NS_PER_S


def _expected(
    app: App, stream: str, info: Stream, simulator: Any, scenario: Scenario
) -> tuple[int | None, int]:
    """Return the expected number of rows, and the allowed difference at the edges."""
    rate = info.rate_hz or 0.0
    slot, slack = app.pipeline.runners.get(stream), 0
    if slot is not None and slot.manifest is not None:
        declared = slot.manifest.input
        if isinstance(declared, WindowInput):
            rate, slack = declared.rate_hz / declared.hop, 1
        else:
            rate = getattr(simulator, "fps", 0.0)
        rate /= slot.settings.every
    return (round(rate * scenario.duration_s), slack) if rate else (None, 0)


def _twice(source: Source) -> int:
    seen: dict[tuple[str, str], Ranges] = {}
    twice = 0
    for node, ep, numbers, _ in source.all_chunks():
        ranges = seen.setdefault((node, ep), Ranges())
        for number in numbers:
            twice += number in ranges
            ranges.add(number)
    return twice


def _payload(values: Mapping[str, Scalar], first: dict[str, Scalar]) -> dict[str, Scalar]:
    kept = {name: value for name, value in values.items() if name not in MEASURED}
    for name in COUNTED:
        if isinstance(value := kept.get(name), int):
            base = first.setdefault(name, value)
            kept[name] = value - base if isinstance(base, int) else value
    return kept


def _number(value: Scalar) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
