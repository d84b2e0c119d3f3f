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
    notes = [*_basis(view, kpi), *_events(view, kpi), *_energy(view, kpi), *_placebo(view, kpi)]
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


def _extras(kpi: KpiReport, *names: str) -> list[float] | None:
    """Numbers beside the effect or the refusal; None unless all are there."""
    found = kpi.effect or kpi.refusal
    values = [found.extras.get(name) if found else None for name in names]
    numbers = [float(each) for each in values if isinstance(each, float | int)]
    return numbers if len(numbers) == len(names) else None


def _events(view: View, kpi: KpiReport) -> list[Markup]:
    """The counts of a KPI of events: with few of them they are all that there is to say."""
    counts = _extras(kpi, "events_on", "events_off", "exposure_on", "exposure_off")
    if counts is None:
        return []
    on, off = (view.count(each) for each in counts[:2])
    on_per, off_per = (figures.number(each, figures.decimals_of(each)) for each in counts[2:])
    return [view.texts("events", on=on, off=off, on_per=on_per, off_per=off_per)]


def _energy(view: View, kpi: KpiReport) -> list[Markup]:
    """The labels of ASHRAE Guideline 14."""
    found = _extras(kpi, "cv_rmse", "nmbe", "ashrae_n")
    label = kpi.effect.extras.get("ashrae") if kpi.effect else None
    if found is None or not label:
        return []
    cv_rmse, nmbe, many = found
    return [
        view.texts(
            "ashrae",
            cv=view.percent(cv_rmse),
            nmbe=view.percent(nmbe),
            n=figures.number(many, 1),
            label=view.texts.code("ashrae", str(label)),
        )
    ]


def _placebo(view: View, kpi: KpiReport) -> list[Markup]:
    if kpi.placebo is None or not kpi.placebo.dates:
        return []
    return [view.texts("placebo", shown=kpi.placebo.shown, dates=kpi.placebo.dates)]
