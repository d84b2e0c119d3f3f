"""Scales of the charts: periods on a time axis of one or two windows, and values on round steps."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from collector.pilots.report.document import Report
from collector.pilots.report.pages import figures
from collector.pilots.report.pages.markup import Markup, join, tag

# the text of a chart; as attributes, because WeasyPrint does not apply the page's CSS within SVG
TEXT = {
    "font_size": 11,
    "font_family": "Noto Sans KR, Noto Sans CJK KR, NanumGothic, sans-serif",
    "fill": "#56616e",
}
GAP = 0.03  # of the width, between windows that do not follow each other
LARGEST = 1e300  # of a value on an axis: sums of two stay finite
SMALLEST = 1e-200  # a length of an axis: a smaller one has no steps that are floats
Window = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Spell:
    """A part of the schedule with one arm: `baseline`, `on` or `off`."""

    start_ms: int
    end_ms: int
    arm: str


class TimeAxis:
    """Moments as shares of the width; windows with a break between them stand side by side."""

    def __init__(self, windows: list[Window]) -> None:
        joined: list[Window] = []
        for start, end in sorted(window for window in windows if window[1] > window[0]):
            if joined and start <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
            else:
                joined.append((start, end))
        self.windows = joined or [(0, 1)]
        self._length = sum(end - start for start, end in self.windows)
        self._width = 1 - GAP * (len(self.windows) - 1)

    def at(self, ms: float) -> float:
        """Where a moment is, from 0 to 1."""
        before = 0.0
        for start, end in self.windows:
            if ms <= end:
                return before + self._width * max(ms - start, 0) / self._length
            before += self._width * (end - start) / self._length + GAP
        return 1.0

    def ticks(self, many: int = 4) -> list[int]:
        """Moments to label: the start of each window, and some between."""
        step = self._length / many
        return [
            round(start + step * at)
            for start, end in self.windows
            for at in range(max(1, round((end - start) / step)))
        ]


@dataclass(frozen=True, slots=True)
class ValueAxis:
    """Values on a length of `size` pixels, from low to high."""

    low: float
    high: float
    ticks: tuple[float, ...]
    size: float

    def at(self, value: float) -> float:
        """The pixel of a value from the top; a value beyond the axis is at its end."""
        inside = min(max(value, self.low), self.high)
        return round(self.size * (1 - (inside - self.low) / (self.high - self.low)), 1)


def value_axis(values: Iterable[float], size: float) -> ValueAxis:
    """An axis with 3 to 6 round steps that holds all values."""
    finite = [min(max(value, -LARGEST), LARGEST) for value in values if not math.isnan(value)] or [0.0]
    low, high = min(finite), max(finite)
    if high - low <= max(1e-9 * max(abs(low), abs(high)), SMALLEST):
        room = abs(high) * 0.1 if abs(high) > SMALLEST else 0.5
        low, high = low - room, high + room
    raw = (high - low) / 4
    exponent = math.floor(math.log10(raw))
    step = next(
        factor * 10.0**exponent for factor in (1, 2, 2.5, 5, 10) if factor * 10.0**exponent >= raw * 0.999
    )
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(step * at, 3 - exponent) for at in range(first, last + 1))
    return ValueAxis(step * first, step * last, ticks, size)


def share(value: float) -> str:
    """A share of the width as SVG writes it."""
    return f"{100 * min(max(value, 0.0), 1.0):.3f}%"


def spells(report: Report) -> list[Spell]:
    """The schedule of a report: its baseline, and the trial by arm; neighbours with one arm are one spell."""
    found = [] if report.baseline_ms is None else [Spell(*report.baseline_ms, "baseline")]
    ends: dict[int, tuple[int, bool]] = {}
    for each in report.kpis[0].periods if report.kpis else ():
        if each.phase == "trial":  # `on` for some machines shades the period
            before = ends.get(each.index, (0, False))[1]
            ends[each.index] = (each.end_ms, before or each.arm == "on")
    start_ms = report.trial_ms[
        0
    ]  # a period starts where the one before ends; its own start is that which counts
    for _, (end_ms, is_on) in sorted(ends.items()):
        arm = "on" if is_on else "off"
        if found and found[-1].arm == arm and found[-1].end_ms == start_ms:
            found[-1] = Spell(found[-1].start_ms, end_ms, arm)
        else:
            found.append(Spell(start_ms, end_ms, arm))
        start_ms = end_ms
    return found


def time_axis(report: Report) -> TimeAxis:
    """The axis of a report: its baseline and its trial."""
    windows = [report.trial_ms]
    if report.baseline_ms is not None:
        windows.append(report.baseline_ms)
    return TimeAxis(windows)


def time_labels(axis: TimeAxis, times: figures.Times, top: int) -> Markup:
    """The labels below a time axis, and a line where a break is."""
    length = sum(end - start for start, end in axis.windows)
    form = "%m-%d" if length > 4 * 86_400_000 else "%m-%d %H:%M" if length > 3_600_000 else "%H:%M:%S"
    made: list[Markup] = []
    for ms in axis.ticks():
        at = axis.at(ms)
        made.append(tag("line", x1=share(at), x2=share(at), y1=top, y2=top + 4, stroke="#8a94a0"))
        # `start` at the left edge: a middle would be cut there
        anchor = "start" if at < 0.04 else "end" if at > 0.96 else "middle"
        made.append(tag("text", times.at(ms, form), x=share(at), y=top + 16, text_anchor=anchor))
    return join(*made)


def canvas(title: Markup, height: int, *children: Markup | None) -> Markup:
    """A chart that is as wide as its place: lengths across it are percent, so that texts keep their size."""
    return tag(
        "svg",
        tag("title", title),
        *children,
        class_="area",
        role="img",
        width="100%",
        height=height,
        **TEXT,
    )
