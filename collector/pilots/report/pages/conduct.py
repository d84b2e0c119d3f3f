"""How the trial ran: the schedule against what was applied, the models, and the list of all switches."""

from __future__ import annotations

from collector.pilots.report.document import ModelRan, Ran, Switch
from collector.pilots.report.pages import axes, figures
from collector.pilots.report.pages.axes import share
from collector.pilots.report.pages.markup import Child, Markup, join, tag
from collector.pilots.report.pages.tables import section as titled
from collector.pilots.report.pages.tables import table
from collector.pilots.report.pages.view import View

FOLLOWED = 0.999  # of a period: from here on it ran as planned
BAR = 18
COLOURS = {"on": "#0b6fb8", "off": "#e0b95a", "other": "#c0272d"}


def section(view: View) -> Markup:
    """Shares, a strip of planned and actual, what deviated, and the models."""
    report = view.report
    late = [each.late_ms for each in report.ran if each.late_ms is not None]
    lines = [
        view.texts(
            "ran.off-schedule", share=view.percent(report.off_schedule, 2 if report.off_schedule else 0)
        )
    ]
    if late:
        lines.append(
            view.texts(
                "ran.late",
                median=view.span(sorted(late)[len(late) // 2] / 1000),
                most=view.span(max(late) / 1000),
            )
        )
    counted = [each for each in report.ran if each.on + each.off + each.other > 0]  # not all of it was cut
    deviating = [each for each in counted if getattr(each, each.planned) < FOLLOWED]
    if counted and not deviating:
        lines.append(view.texts("ran.all-followed", n=len(counted)))
    return titled(
        view,
        "ran",
        tag("ul", *(tag("li", line) for line in lines)),
        _strip(view) if report.ran else None,
        _deviations(view, deviating) if deviating else None,
        _models(view),
    )


def _strip(view: View) -> Markup:
    """Two bars over the trial: what was planned, and what was applied."""
    axis = axes.TimeAxis([view.report.trial_ms])
    planned, actual = [], []
    for each in view.report.ran:
        left, right = axis.at(each.start_ms), axis.at(each.end_ms)
        planned.append(_block(left, right, 16, each.planned))
        at = left
        for arm in ("on", "off", "other"):
            width = (right - left) * getattr(each, arm)
            if width > 0:
                actual.append(_block(at, at + width, 20 + 2 * BAR, arm))
                at += width
    drawn = axes.canvas(
        view.texts("chart.ran"),
        42 + 3 * BAR,
        tag("text", view.texts("ran.planned"), x=0, y=11),
        tag("g", *planned, class_="planned"),
        tag("text", view.texts("ran.applied"), x=0, y=15 + 2 * BAR),
        tag("g", *actual, class_="applied"),
        axes.time_labels(axis, view.times, 20 + 3 * BAR),
    )
    keys = [_key(view, arm) for arm in COLOURS]
    return tag("figure", drawn, tag("figcaption", *keys), class_="strip")


def _block(left: float, right: float, y: int, arm: str) -> Markup:
    return tag(
        "rect", class_=arm, x=share(left), y=y, width=share(right - left), height=BAR, fill=COLOURS[arm]
    )


def _key(view: View, arm: str) -> Markup:
    drawn = tag(
        "svg",
        tag("rect", class_=arm, x=0, y=1, width=12, height=12, fill=COLOURS[arm]),
        width=14,
        height=14,
        aria_hidden="true",
    )
    return join(tag("span", drawn, " ", view.texts(f"arm.{arm}"), class_="key"), " ")


def _deviations(view: View, ran: list[Ran]) -> Markup:
    rows: list[tuple[Child, ...]] = [
        (
            each.period + 1,
            view.times.at(each.start_ms),
            view.texts(f"arm.{each.planned}"),
            *(figures.share_of_time(getattr(each, arm), view.lang) for arm in ("on", "off", "other")),
            figures.DASH if each.late_ms is None else view.span(each.late_ms / 1000),
        )
        for each in ran
    ]
    columns = ("period", "from", "planned", "on", "off", "other", "late")
    return join(tag("h3", view.texts("ran.deviations")), table(view, columns, rows))


def _models(view: View) -> Markup | None:
    if not view.report.models:
        return None
    rows = [_model(view, each) for each in view.report.models]
    columns = ("node", "slot", "model", "digest", "provider", "from", "as-planned")
    return join(tag("h3", view.texts("ran.models")), table(view, columns, rows))


def _model(view: View, each: ModelRan) -> tuple[str | Markup, ...]:
    return (
        each.node,
        each.slot,
        each.model,
        tag("code", each.sha256[:16], title=each.sha256),
        each.provider or figures.DASH,
        view.times.at(each.from_ms) if each.from_ms else figures.DASH,
        view.texts("yes" if each.is_planned else "no"),
    )


def switches(view: View) -> Markup | None:
    """The appendix: every switch of every node."""
    if not view.report.switches:
        return None
    several = len({each.node for each in view.report.switches}) > 1
    columns = ("at", *(("node",) if several else ()), "period", "planned", "applied", "value", "notes")
    rows = [_switch(view, each, several) for each in view.report.switches]
    return titled(
        view, "switches", tag("p", view.texts("switches.note")), table(view, columns, rows, "dense")
    )


def _switch(view: View, each: Switch, several: bool) -> tuple[str | int | Markup, ...]:
    notes = [view.texts("switch.restart")] if each.restart else []
    if each.code or each.why:
        notes.append(view.texts.code("exposure", each.code) if each.code else join(each.why))
    return (
        view.times.at(each.ts, "%m-%d %H:%M:%S"),
        *((each.node,) if several else ()),
        each.period + 1 if each.period >= 0 else view.texts("switch.outside"),
        view.texts(f"arm.{each.planned}") if each.planned else figures.DASH,
        view.texts(f"arm.{each.actual}"),
        figures.DASH if each.value is None else f"{each.value:,g}",
        join(*(join(note, " ") for note in notes)) if notes else "",
    )
