"""For each KPI: its charts, what the interval rests on, and the periods that were left out."""

from __future__ import annotations

from collector.pilots.report.document import EffectFound, KpiReport
from collector.pilots.report.pages import figures, interval_chart, period_chart
from collector.pilots.report.pages.markup import Markup, join, tag
from collector.pilots.report.pages.view import View


def section(view: View) -> Markup:
    """A part for each KPI, the primary one first."""
    kpis = sorted(view.report.kpis, key=lambda kpi: not kpi.primary)
    return tag(
        "section", tag("h2", view.texts("heading.charts")), *(_part(view, kpi) for kpi in kpis), id="charts"
    )


def _part(view: View, kpi: KpiReport) -> Markup:
    notes = [*_basis(view, kpi), *_placebo(view, kpi)]
    left = period_chart.left_out(view, kpi)
    if left:
        lines = join(left[0], *(join("; ", line) for line in left[1:]))
        notes.append(view.texts("left-out.title", lines=lines))
    return tag(
        "article",
        tag("h3", view.name(kpi), tag("small", f" {kpi.id}")),
        tag(
            "div",
            period_chart.chart(view, kpi),
            interval_chart.chart(view, kpi) or _refusal(view, kpi),
            class_="charts",
        ),
        tag("ul", *(tag("li", note) for note in notes)) if notes else None,
        class_="kpi",
        data_kpi=kpi.id,
    )


def _refusal(view: View, kpi: KpiReport) -> Markup:
    code = kpi.refusal.code if kpi.refusal else kpi.reason
    return tag("div", tag("p", tag("b", view.texts("no-interval")), " ", view.reason(code)), class_="refusal")


def _basis(view: View, kpi: KpiReport) -> list[Markup]:
    """The method, and for baseline and trial what allows for drift."""
    found = kpi.effect
    if found is None:
        return []
    notes = [view.texts.code("method", found.method)]
    if found.method.startswith("before-after"):
        notes.append(_drift(view, kpi, found))
        notes.append(view.texts("coverage"))
        notes += _with_trend(view, kpi, found)
    if found.extras.get("assumes") == "machines-alike":
        notes.append(view.texts("assumes.machines-alike"))
    return notes


def _drift(view: View, kpi: KpiReport, found: EffectFound) -> Markup:
    shown = view.effect(kpi, found)
    means = found.difference_of_means
    half = None if found.low is None or found.high is None else (found.high - found.low) / 2
    return view.texts(
        "drift",
        estimate=f"{shown.estimate}{shown.unit}",
        means=figures.DASH
        if means is None
        else view.change(kpi, means, relative=found.relative, beside=found),
        half=figures.DASH
        if half is None
        else view.change(kpi, half, relative=found.relative, beside=found).lstrip("+"),
        correlation=figures.DASH if found.correlation is None else figures.number(found.correlation, 2),
        noise=view.percent(found.noise_share, 0),
    )


def _with_trend(view: View, kpi: KpiReport, found: EffectFound) -> list[Markup]:
    low, high = found.extras.get("trend_low"), found.extras.get("trend_high")
    if not isinstance(low, float | int) or not isinstance(high, float | int):
        return []
    shown = (view.change(kpi, each, relative=found.relative, beside=found) for each in (low, high))
    return [view.texts("with-trend", low=next(shown), high=next(shown))]


def _placebo(view: View, kpi: KpiReport) -> list[Markup]:
    if kpi.placebo is None or not kpi.placebo.dates:
        return []
    return [view.texts("placebo", shown=kpi.placebo.shown, dates=kpi.placebo.dates)]
