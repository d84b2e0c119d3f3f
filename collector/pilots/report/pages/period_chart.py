"""The chart of a KPI over time: a mark for every period, the shades of the schedule, means as lines."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from collector.pilots.report.document import KpiReport, PeriodFound
from collector.pilots.report.pages import axes, figures
from collector.pilots.report.pages.axes import TimeAxis, ValueAxis, share
from collector.pilots.report.pages.markup import Markup, join, tag
from collector.pilots.report.pages.view import SIDES, View, is_counted, ranges

TO_COME = "to-come"  # the status of a period that is not over
HEIGHT, TOP, BELOW = 190, 10, 24  # of the plot, above it, and for the labels below it
LEFT = 56
MARK_TITLES = 300  # a chart with more marks has titles on those that are left out alone
# presentation attributes beside classes: some renderers of PDF do not apply the page's CSS within SVG
GREY = "#6b7785"
FILLS = {"baseline": "#6b7785", "off": "#8a5a00", "on": "#0b6fb8", "trial": "#0b6fb8"}
SHADES = {"baseline": "#eef0f3", "off": "#faf3e3", "on": "#e3f0fb"}


@dataclass(frozen=True, slots=True)
class Mark:
    """The mean of a KPI in one period, over the machines of one arm."""

    index: int
    side: str
    start_ms: int
    end_ms: int
    value: float | None
    counts: bool
    code: str
    machines: int


def chart(view: View, kpi: KpiReport) -> Markup:
    """The chart with its legend."""
    marks = list(_marks(kpi))
    times = axes.time_axis(view.report)
    scale = 100.0 if view.unit(kpi) == "%" and kpi.unit == "1" else 1.0
    shown = [scale * mark.value for mark in marks if mark.value is not None]
    shown += [scale * side.mean for side in kpi.sides if side.mean is not None]
    values = axes.value_axis(shown, HEIGHT)
    area = axes.canvas(
        view.texts("chart.title", kpi=view.name(kpi)),
        TOP + HEIGHT + BELOW,
        _shades(view, times),
        _grid(values),
        _lines(view, kpi, times, values, scale),
        _until(view, times),
        _dots(view, kpi, marks, times, values, scale),
        axes.time_labels(times, view.times, TOP + HEIGHT),
    )
    unit = view.unit(kpi)
    return tag(
        "figure",
        tag("div", unit, class_="unit") if unit else None,
        tag("div", _labels(values, shown=bool(shown)), area, class_="plot"),
        tag("figcaption", *_legend(view, marks)),
        class_="periods",
    )


def _marks(kpi: KpiReport) -> Iterator[Mark]:
    groups: dict[tuple[str, int, str], list[PeriodFound]] = defaultdict(list)
    for period in kpi.periods:
        if period.status == TO_COME:
            continue
        groups[period.phase, period.index, period.arm].append(period)
    by_arm = {side.name for side in kpi.sides} & {"on", "off"}
    for (phase, index, arm), periods in groups.items():
        used = [period for period in periods if is_counted(period)]
        known = used or [each for each in periods if each.value is not None and math.isfinite(each.value)]
        side = "baseline" if phase == "baseline" else arm if by_arm else "trial"
        first = periods[0]
        yield Mark(
            index,
            side,
            first.start_ms,
            first.end_ms,
            math.fsum(each.value or 0.0 for each in known) / len(known) if known else None,
            bool(used),
            first.code,
            len(periods),
        )


def _shades(view: View, times: TimeAxis) -> Markup:
    made = []
    for spell in axes.spells(view.report):
        left, right = times.at(spell.start_ms), times.at(spell.end_ms)
        made.append(
            tag(
                "rect",
                class_=f"shade {spell.arm}",
                x=share(left),
                y=TOP,
                width=share(right - left),
                height=HEIGHT,
                fill=SHADES[spell.arm],
            )
        )
    return tag("g", *made)


def _grid(values: ValueAxis) -> Markup:
    lines = [
        tag("line", x1="0%", x2="100%", y1=TOP + values.at(tick), y2=TOP + values.at(tick))
        for tick in values.ticks
    ]
    return tag("g", *lines, class_="grid", stroke="#d3d9df", stroke_width=1)


def _labels(values: ValueAxis, *, shown: bool) -> Markup:
    """The labels of the values; none where no period has one."""
    decimals = max(map(decimals_of_tick, values.ticks))
    texts = [
        tag(
            "text", figures.number(tick, decimals), x=LEFT - 6, y=TOP + values.at(tick) + 4, text_anchor="end"
        )
        for tick in (values.ticks if shown else ())
    ]
    height = TOP + HEIGHT + BELOW
    return tag("svg", *texts, class_="axis", width=LEFT, height=height, aria_hidden="true", **axes.TEXT)


def decimals_of_tick(tick: float) -> int:
    """The decimals that a label of an axis needs."""
    written = f"{tick:.6f}".rstrip("0")
    return len(written) - written.index(".") - 1


def _lines(view: View, kpi: KpiReport, times: TimeAxis, values: ValueAxis, scale: float) -> Markup:
    """The mean of each side over its window."""
    made = []
    for side in kpi.sides:
        window = view.report.baseline_ms if side.name == "baseline" else view.report.trial_ms
        if side.mean is None or window is None:
            continue
        end_ms = min(window[1], max(view.report.until_ms, window[0]))
        y = TOP + values.at(scale * side.mean)
        line = tag("line", x1=share(times.at(window[0])), x2=share(times.at(end_ms)), y1=y, y2=y)
        dashes = None if side.name in {"on", "trial"} else "6 4"
        made.append(
            tag("g", line, class_=f"mean {side.name}", stroke=FILLS[side.name], stroke_dasharray=dashes)
        )
    return tag("g", *made, stroke_width=2)


def _until(view: View, times: TimeAxis) -> Markup | None:
    """A line where the data end, while the trial runs."""
    if view.is_over:
        return None
    x = times.at(view.report.until_ms)
    line = tag("line", x1=share(x), x2=share(x), y1=TOP, y2=TOP + HEIGHT, stroke="#c0272d")
    anchor = "end" if x > 0.5 else "start"
    label = tag("text", view.texts("chart.until"), x=share(x), y=TOP + HEIGHT - 4, text_anchor=anchor)
    return tag("g", line, label, class_="until")


def _dots(
    view: View, kpi: KpiReport, marks: list[Mark], times: TimeAxis, values: ValueAxis, scale: float
) -> Markup:
    made: dict[tuple[str, bool], list[Markup]] = defaultdict(list)
    for mark in marks:
        x = share(times.at((mark.start_ms + mark.end_ms) / 2))
        y = TOP + (HEIGHT if mark.value is None else values.at(scale * mark.value))
        title = _title(view, kpi, mark) if len(marks) <= MARK_TITLES or not mark.counts else None
        made[mark.side, mark.counts].append(
            tag("circle", title, cx=x, cy=y, r=3.4 if len(marks) <= MARK_TITLES else 2.2)
        )
    groups = []
    for side, counts in sorted(made, key=lambda each: (SIDES.index(each[0]), each[1])):
        fill = FILLS[side] if counts else "none"
        class_ = f"marks {side}{'' if counts else ' left-out'}"
        groups.append(tag("g", *made[side, counts], class_=class_, fill=fill, stroke=FILLS[side]))
    return tag("g", *groups, stroke_width=1.4)


def _title(view: View, kpi: KpiReport, mark: Mark) -> Markup:
    value = view.values(kpi, mark.value)[0]
    key = "chart.mark" if mark.counts else "chart.left-out"
    return tag(
        "title",
        view.texts(
            key,
            period=mark.index + 1,
            side=view.texts(f"side.{mark.side}"),
            at=view.times.at(mark.start_ms),
            value=f"{value}{figures.suffix(view.unit(kpi), view.lang)}",
            why=view.texts.code("left-out", mark.code) if mark.code else "",
        ),
    )


def _legend(view: View, marks: list[Mark]) -> list[Markup]:
    made = []
    for side in sorted({mark.side for mark in marks}, key=SIDES.index):
        dot = tag("circle", cx=7, cy=7, r=4)
        made.append(_key(view, dot, side, f"chart.key.{side}", fill=FILLS[side], stroke=FILLS[side]))
    if any(not mark.counts for mark in marks):
        ring = tag("circle", cx=7, cy=7, r=4)
        made.append(_key(view, ring, "left-out", "chart.key.left-out", fill="none", stroke=GREY))
    line = tag("line", x1=0, x2=14, y1=7, y2=7, stroke_width=2)
    made.append(_key(view, line, "baseline", "chart.key.mean", stroke=GREY))
    return made


def _key(view: View, sign: Markup, side: str, key: str, **colours: str) -> Markup:
    drawn = tag("g", sign, class_=f"marks {side}", **colours)
    drawn = tag("svg", drawn, width=14, height=14, aria_hidden="true")
    return join(tag("span", drawn, " ", view.texts(key), class_="key"), " ")


def left_out(view: View, kpi: KpiReport) -> list[Markup]:
    """The periods that do not count, by their reason: a line each."""
    by_code: dict[tuple[str, str], list[int]] = defaultdict(list)
    for period in kpi.periods:
        if not is_counted(period) and period.status != TO_COME:
            by_code[period.code or period.status, period.why].append(period.index)
    return [
        view.texts(
            "left-out.line",
            why=view.texts.code("left-out", code),
            detail=f", {why}" if why else "",
            periods=ranges(indexes),
        )
        for (code, why), indexes in sorted(by_code.items())
    ]
