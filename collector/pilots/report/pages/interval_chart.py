"""The chart of an effect: its interval, the target, the guardrail and 0 on one line."""

from __future__ import annotations

from collector.pilots.report.document import KpiReport
from collector.pilots.report.pages import axes, figures
from collector.pilots.report.pages.axes import ValueAxis, share
from collector.pilots.report.pages.markup import Markup, join, tag
from collector.pilots.report.pages.period_chart import decimals_of_tick
from collector.pilots.report.pages.view import View

HEIGHT, TOP = 140, 46
BAR, SIZE = 80, 1_000.0
BLUE, GREEN, RED, GREY = "#0b6fb8", "#1a7a46", "#c0272d", "#6b7785"


def chart(view: View, kpi: KpiReport) -> Markup | None:
    """The chart; None where there is no interval."""
    found = kpi.effect
    if found is None or found.low is None or found.estimate is None:
        return None

    def scaled(value: float) -> float:
        return view.scaled(kpi, value, relative=found.relative)

    lines = {
        "zero": 0.0,
        "target": _limit(view.target(kpi), kpi.target_scale, found.relative),
        "guardrail": _limit(view.guardrail(kpi), kpi.guardrail_scale, found.relative),
    }
    known = [found.low, found.estimate, *(each for each in lines.values() if each is not None)]
    if found.high is None:  # room for an arrow
        known.append(max(known) + (max(known) - min(known)) * 0.25)
    else:
        known.append(found.high)
    axis = axes.value_axis([scaled(each) for each in known], SIZE)
    at = {name: _x(axis, scaled(value)) for name, value in lines.items() if value is not None}
    low, estimate = _x(axis, scaled(found.low)), _x(axis, scaled(found.estimate))
    high = 1.0 if found.high is None else _x(axis, scaled(found.high))
    drawn = axes.canvas(
        view.texts("chart.interval", kpi=view.name(kpi)),
        HEIGHT,
        _goal(kpi, at.get("target")),
        _ticks(axis),
        *(_line(view, name, x) for name, x in at.items()),
        _bar(low, estimate, high, unlimited=found.high is None),
    )
    unit = view.change_unit(kpi, relative=found.relative).strip()
    return tag(
        "figure",
        tag("div", join(view.texts("chart.effect"), f" ({unit})" if unit else "", ", ", view.compared(kpi))),
        drawn,
        tag("figcaption", view.texts(f"better.{kpi.direction}")),
        class_="interval",
    )


def _limit(value: float | None, scale: str, relative: bool) -> float | None:
    """A target on the axis of the effect; None where the two have different scales."""
    return value if (scale == "relative") == relative else None


def _x(axis: ValueAxis, value: float) -> float:
    """A value as a share of the width, with a margin on both sides."""
    return 0.04 + 0.92 * (1 - axis.at(value) / SIZE)


def _goal(kpi: KpiReport, target: float | None) -> Markup | None:
    """The shade of all effects that reach the target."""
    if target is None:
        return None
    left, right = (target, 1.0) if kpi.direction == "increase" else (0.0, target)
    return tag(
        "rect",
        class_="shade goal",
        x=share(left),
        y=TOP,
        width=share(right - left),
        height=HEIGHT - TOP - 24,
        fill="#e9f6ef",
    )


def _ticks(axis: ValueAxis) -> Markup:
    decimals = max(decimals_of_tick(tick) for tick in axis.ticks)
    made = []
    for tick in axis.ticks[:: 2 if len(axis.ticks) > 5 else 1]:
        x = share(_x(axis, tick))
        made.append(tag("line", x1=x, x2=x, y1=HEIGHT - 24, y2=HEIGHT - 20, stroke="#8a94a0"))
        made.append(
            tag("text", figures.number(tick, decimals, signed=True), x=x, y=HEIGHT - 6, text_anchor="middle")
        )
    return join(*made)


def _line(view: View, name: str, x: float) -> Markup:
    colour = {"zero": GREY, "target": GREEN, "guardrail": RED}[name]
    line = tag(
        "line",
        x1=share(x),
        x2=share(x),
        y1=TOP - 4,
        y2=HEIGHT - 24,
        stroke=colour,
        stroke_width=1.5,
        stroke_dasharray=None if name == "zero" else "5 3",
    )
    anchor = "start" if x < 0.25 else "end" if x > 0.75 else "middle"
    y = {"target": 11, "zero": 24, "guardrail": 37}[name]  # a row for each, so that none overlaps another
    return tag(
        "g",
        line,
        tag("text", view.texts(f"chart.{name}"), x=share(x), y=y, text_anchor=anchor, fill=colour),
        class_=name,
    )


def _bar(low: float, estimate: float, high: float, *, unlimited: bool) -> Markup:
    ends = [(low, "low")] if unlimited else [(low, "low"), (high, "high")]
    whiskers = [
        tag("line", class_=name, x1=share(x), x2=share(x), y1=BAR - 8, y2=BAR + 8) for x, name in ends
    ]
    return tag(
        "g",
        tag("line", x1=share(low), x2=share(high), y1=BAR, y2=BAR),
        *whiskers,
        tag("circle", cx=share(estimate), cy=BAR, r=5, fill=BLUE),
        class_="effect",
        stroke=BLUE,
        stroke_width=3,
    )
