"""The tables of an export beside its streams: events, periods, exposure, and the KPIs of each period."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

import msgspec

from collector.pilots.export.parquet import Batch, Column, objects
from collector.pilots.kpis import events
from collector.pilots.kpis.absences import Absence
from collector.pilots.kpis.steps import Span
from collector.store.source import ALL, Source, newest_first
from wire.messages import ClockState
from wire.pilot.frozen import FrozenPlan
from wire.pilot.schedule import counted
from wire.topics import ID, NODE_ITSELF

EVENTS = 20_000  # that are sorted at once
_FAR_MS = 2**53  # a time in us has 64 bits

EVENT_COLUMNS = (
    Column("node", "text", "tenant/pilot/site/node", is_always=True),
    Column("device", "text", "the device, _ for the node itself", is_always=True),
    Column("time", "time", "when it happened, by the clock of the node"),
    Column("received", "time", "when the collector received it"),
    Column("type", "text", "what happened", is_always=True),
    Column("severity", "small", "0 to 4"),
    Column("model", "text", "the model that found it"),
    Column("slot", "text", "the slot of the model"),
    Column("value", "float", "its number"),
    Column("code", "text", "the reason, for programs"),
    Column("why", "text", "the reason, in words"),
    Column("clock", "small", "the clock of the node: 0 not synchronised, 1 NTP, 2 PTP; null: not known"),
    Column("detail", "text", "its detail", more={"encoding": "json"}),
    Column("more", "text", "all its other fields", more={"encoding": "json"}),
)
EXPOSURE_COLUMNS = (
    Column("node", "text", "tenant/pilot/site/node", is_always=True),
    Column("time", "time", "when the agent looked, by the clock of the node"),
    Column("plan", "text", "SHA-256 of the frozen plan"),
    Column("phase", "text", "baseline, trial, outside or over"),
    Column("period", "int", "of the trial, from 0; -1 is outside of it"),
    Column("planned", "text", "on or off"),
    Column("actual", "text", "on, off or other"),
    Column("from", "time", "from when on that is the case"),
    Column("value", "float", "the number in use, of a threshold or a set-point"),
    Column("restart", "bool", "the first one of a run of the agent", is_always=True),
    Column("code", "text", "why something else was the case than planned, for programs"),
    Column("why", "text", "the same, in words"),
)
PERIOD_COLUMNS = (
    Column("period", "int", "number in the schedule, from 0", is_always=True),
    Column("phase", "text", "baseline or trial", is_always=True),
    Column("arm", "text", "on or off; in a parallel design, on is for the treated machines", is_always=True),
    Column("start", "time", "the first moment", is_always=True),
    Column("end", "time", "the first moment after it", is_always=True),
    Column("counted_from", "time", "the first moment that counts, after the wash-out", is_always=True),
    Column("counted_to", "time", "the first moment that does not count", is_always=True),
)
KPI_COLUMNS = (
    Column("kpi", "text", "its id in the plan", is_always=True),
    Column("unit", "text", "UCUM code of its value", is_always=True),
    Column("machine", "text", "of a parallel or paired design"),
    Column("period", "int", "number in the schedule, from 0", is_always=True),
    Column("phase", "text", "baseline or trial", is_always=True),
    Column("arm", "text", "on or off", is_always=True),
    Column("start", "time", "the first moment that counts", is_always=True),
    Column("end", "time", "the first moment that does not count", is_always=True),
    Column("status", "text", "used, or why it does not count", is_always=True),
    Column("code", "text", "what is absent, for programs"),
    Column("why", "text", "the same, in words"),
    Column("value", "float", "the KPI"),
    Column("numerator", "float", "of the KPI"),
    Column("denominator", "float", "of the KPI"),
    Column("rows", "int", "rows and events that were used", is_always=True),
    Column("left_out", "int", "rows that are flagged, and values that are not numbers", is_always=True),
    Column("completeness", "float", "share of the time in which the inputs are known", is_always=True),
    Column("clock_ms", "int", "the largest error of a clock that is known", "ms"),
)


def batch(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> Batch:
    """Rows as columns; what a row lacks is null."""
    return {each.name: objects([row.get(each.name) for row in rows]) for each in columns}


def changed_events(source: Source, nodes: Iterable[str], span: Span) -> Iterator[Absence]:
    """The events of a span that are not as they were stored."""
    for node, device in _devices(source, nodes):
        kinds = source.event_counts(node, device, 0, ALL, ALL)
        for kind in sorted(each for each in kinds if isinstance(each, str)):  # damage gives other ones
            for each in events.changed_events(source, node, f"{device}/{kind}", span):
                if each.start_us < span[1] and each.end_us > span[0]:
                    yield each


def event_batches(source: Source, nodes: Iterable[str], span: Span) -> Iterator[Batch]:
    """The events of a span by node, device and time."""
    for node, device in _devices(source, nodes):
        for found in _by_time(source, node, device, (span[0] // 1000, -(-span[1] // 1000))):
            yield batch(EVENT_COLUMNS, [_event(node, each) for each in found])


def _devices(source: Source, nodes: Iterable[str]) -> Iterator[tuple[str, str]]:
    for node in nodes:
        for device in sorted({NODE_ITSELF, *source.streams(node)}):
            if device == NODE_ITSELF or ID.fullmatch(device):
                yield node, device


def _by_time(
    source: Source, node: str, device: str, span_ms: Span, kind: str = ""
) -> Iterator[list[dict[str, Any]]]:
    """The events of a device in the order of time, some at a time."""
    waiting = [span_ms]
    while waiting:
        start, end = waiting.pop()
        counts = source.event_counts(node, device, start, end, end - start)
        number = sum(n for each, steps in counts.items() if kind in ("", each) for n in steps.values())
        if number > EVENTS and end - start > 1:
            middle = (start + end) // 2
            waiting += [(middle, end), (start, middle)]
        elif number:
            yield _within(newest_first(source, node, device, end, kind), start)


def _within(events: Iterable[dict[str, Any]], start_ms: int) -> list[dict[str, Any]]:
    """Events that come newest first, from a moment on, in the order of time."""
    return list(takewhile(lambda event: event["ts"] >= start_ms, events))[::-1]


_TEXTS = ("model", "slot", "code", "why")
_OF_EVENT = {*_TEXTS, "ts", "recv", "device", "type", "sev", "ep", "seq", "value", "clk", "detail"}


def _event(node: str, event: Mapping[str, Any]) -> dict[str, Any]:
    detail, clock, severity = event.get("detail"), event.get("clk"), event.get("sev")
    more = {name: event[name] for name in sorted(event.keys() - _OF_EVENT)}
    return {
        "node": node,
        "device": event["device"],
        "time": _us(event["ts"]),
        "received": _us(event.get("recv")),
        "type": _text(event["type"]) or "",
        "severity": severity if type(severity) is int and severity in range(5) else None,
        "value": _number(event.get("value")),
        "clock": clock if type(clock) is int and clock in tuple(ClockState) else None,
        "detail": _json(detail) if detail else None,
        "more": _json(more) if more else None,
        **{name: _text(event.get(name)) for name in _TEXTS},
    }


def exposure_batches(source: Source, plan: FrozenPlan, end_ms: int) -> Iterator[Batch]:
    """The switches of the pilot by node and time, also those before the baseline."""
    for node in plan.plan.nodes:
        for several in _by_time(source, node, NODE_ITSELF, (0, end_ms), "exposure"):
            rows = [
                _exposure(node, event, detail)
                for event in several
                if isinstance(detail := event.get("detail"), dict) and detail.get("pilot") == plan.plan.pilot
            ]
            if rows:
                yield batch(EXPOSURE_COLUMNS, rows)


def _exposure(node: str, event: Mapping[str, Any], detail: Mapping[str, Any]) -> dict[str, Any]:
    period = detail.get("period")
    return {
        "node": node,
        "time": _us(event["ts"]),
        "plan": _text(detail.get("hash")),
        "from": _us(detail.get("from")),
        "period": period if type(period) is int and abs(period) < 2**31 else None,
        "value": _number(detail.get("value")),
        "restart": detail.get("restart") is True,
        **{name: _text(detail.get(name)) for name in ("phase", "planned", "actual")},
        **{name: _text(event.get(name)) or _text(detail.get(name)) for name in ("code", "why")},
    }


def period_rows(plan: FrozenPlan) -> list[dict[str, Any]]:
    """The schedule, with what counts of each period."""
    trial_ms, rows = plan.schedule.trial_ms[0], []
    for number, each in enumerate(plan.schedule.periods):
        start, end = counted(each, plan.plan, trial_ms)
        times = {"start": each.start_ms, "end": each.end_ms, "counted_from": start, "counted_to": end}
        rows.append(
            {"period": number, "phase": each.phase, "arm": each.arm}
            | {name: at * 1000 for name, at in times.items()}
        )
    return rows


def kpi_row(kpi: str, unit: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """A KPI in one period; `found` has the fields of `PeriodFound`."""
    return {
        **found,
        "kpi": kpi,
        "unit": unit,
        "machine": found["machine"] or None,
        "period": found["index"],
        "start": found["start_ms"] * 1000,
        "end": found["end_ms"] * 1000,
        "code": found["code"] or None,
        "why": found["why"] or None,
    }


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _us(ms: Any) -> int | None:
    return ms * 1000 if type(ms) is int and abs(ms) < _FAR_MS else None


def _json(value: Any) -> str:
    return msgspec.json.encode(value, order="sorted").decode()
