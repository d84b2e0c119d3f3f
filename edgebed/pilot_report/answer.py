"""States a report in plain text."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from collector.pilots.report.codes import FINDINGS, REASONS
from collector.pilots.report.document import Finding, KpiReport, Report
from wire.pilot.schedule import time_zone

_WORDS = {"met": "met", "not-met": "not met", "not-shown": "not shown", "kept": "kept", "broken": "broken"}


def lines(report: Report) -> Iterator[str]:
    """The question, the answer, each KPI, and what a reader must know, a line each."""
    kpis = sorted(report.kpis, key=lambda kpi: not kpi.primary)
    reason = f": {_reason(report.reason)}" if report.reason else ""
    yield f"{report.pilot}: {report.question.en}"
    yield f"{_WORDS[report.word]}{reason}"
    for kpi in kpis:
        yield f"  {kpi.id}: {_kpi(kpi)}"
    zone = time_zone(report.tz)
    at = datetime.fromtimestamp(report.until_ms / 1000, zone)
    yield f"as of {at:%Y-%m-%d %H:%M:%S} {report.tz}, plan {report.plan_hash[:12]}, {report.state}"
    if report.off_schedule:
        yield f"{report.off_schedule:.1%} of the counted time had something else than planned"
    for finding in report.findings:
        yield f"! {sentence(finding)}"


def sentence(finding: Finding) -> str:
    """A finding in English."""
    args = {**finding.args, "where": finding.where}
    try:
        return FINDINGS[finding.code].format_map(args).strip()
    except KeyError:  # of another release
        return f"{finding.code}: {', '.join(f'{name} {value}' for name, value in args.items())}"


def _reason(code: str | None) -> str:
    return REASONS.get(code or "", code or "")


def _kpi(kpi: KpiReport) -> str:
    sides = ", ".join(
        f"{side.name} {'-' if side.mean is None else f'{side.mean:.6g}'}{f' {kpi.unit}' if kpi.unit else ''}"
        f" ({side.periods})"
        for side in kpi.sides
    )
    parts = [sides]
    if kpi.effect is not None:
        effect = kpi.effect
        form = "{:+.1%}" if effect.relative else "{:+.4g}"
        low, high = ("no limit" if each is None else form.format(each) for each in (effect.low, effect.high))
        estimate = "-" if effect.estimate is None else form.format(effect.estimate)
        parts.append(f"effect {estimate} [{low}, {high}]")
    elif kpi.refusal is not None:
        parts.append(_reason(kpi.refusal.code))
    if kpi.target is not None and kpi.word is not None:
        parts.append(f"target {_limit(kpi, kpi.target, kpi.target_scale)}: {_WORDS[kpi.word]}")
    if kpi.guardrail is not None and kpi.guarded is not None:
        worse = f"{kpi.guardrail:.4g}" if kpi.guardrail_scale == "absolute" else f"{kpi.guardrail:.1%}"
        parts.append(f"at most {worse} worse: {_WORDS[kpi.guarded]}")
    return "; ".join(parts)


def _limit(kpi: KpiReport, size: float, scale: str) -> str:
    sign = "+" if kpi.direction == "increase" else "-"
    return f"{sign}{size:.4g}" if scale == "absolute" else f"{sign}{size:.1%}"
