"""What every section needs: the report, its language, and how its KPIs and effects are written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from collector.pilots.kpis.library import LIBRARY
from collector.pilots.report.document import EffectFound, KpiReport, PeriodFound, Report, Side
from collector.pilots.report.pages import figures
from collector.pilots.report.pages.figures import DASH, Lang, Times
from collector.pilots.report.pages.markup import Markup, fill, join
from collector.pilots.report.pages.texts import Texts
from wire.pilot.plan import Text

SideName = Literal["baseline", "off", "on", "trial"]
CLASSES = ("P", "Q", "C", "D", "E", "S", "A")
SIDES: tuple[SideName, ...] = ("baseline", "off", "on", "trial")


@dataclass(frozen=True, slots=True)
class Between:
    """Numbers of an effect as texts of one unit: an interval, and each part of it."""

    estimate: str
    unit: str
    interval: Markup  # both limits with the unit


class View:
    """A report in one language."""

    def __init__(self, report: Report, lang: Lang) -> None:
        self.report = report
        self.lang: Lang = lang
        self.texts = Texts(lang)
        self.times = Times(report.tz)
        self.is_over = report.state == "over"
        self.primary = next((kpi for kpi in report.kpis if kpi.primary), None)

    def words(self, text: Text) -> str:
        """A text of the plan in the language of the page."""
        return (text.ko if self.lang == "ko" else text.en).strip()

    def name(self, kpi: KpiReport) -> str:
        """The title of a KPI."""
        return self.words(kpi.title)

    def standard(self, kpi: KpiReport) -> str:
        """The name of its formula in the library; empty for an expression."""
        entry = LIBRARY.get(kpi.formula)
        return "" if entry is None else (entry.ko if self.lang == "ko" else entry.en)

    def unit(self, kpi: KpiReport) -> str:
        """The unit in which the values of a KPI are shown."""
        return "%" if figures.is_share(kpi.unit, kpi.formula) else figures.unit_text(kpi.unit, self.lang)

    def values(self, kpi: KpiReport, *values: float | None) -> list[str]:
        """Values of a KPI with equal decimals, without the unit."""
        scale = 100.0 if figures.is_share(kpi.unit, kpi.formula) else 1.0
        scaled = [None if value is None else scale * value for value in values]
        decimals = figures.decimals_of(*scaled)
        return [DASH if value is None else figures.number(value, decimals) for value in scaled]

    def effect(self, kpi: KpiReport, found: EffectFound) -> Between:
        """An effect with its interval as text."""
        estimate, low, high = self._numbers(kpi, found)
        decimals = self._decimals(kpi, found)
        shown = [
            DASH if each is None else figures.number(each, decimals, signed=True)
            for each in (estimate, low, high)
        ]
        unit = self.change_unit(kpi, relative=found.relative)
        if found.low is not None and found.high is None:  # the data give no upper limit
            interval = self.texts("interval.no-high", low=f"{shown[1]}{unit}")
        else:
            interval = self.texts("interval", low=shown[1], high=f"{shown[2]}{unit}")
        return Between(shown[0], unit, interval)

    def _numbers(self, kpi: KpiReport, found: EffectFound) -> list[float | None]:
        return [
            None if each is None else self.scaled(kpi, each, relative=found.relative)
            for each in (found.estimate, found.low, found.high)
        ]

    def _decimals(self, kpi: KpiReport, found: EffectFound) -> int:
        return figures.decimals_of_interval(*self._numbers(kpi, found))

    def change(
        self, kpi: KpiReport, value: float, *, relative: bool, beside: EffectFound | None = None
    ) -> str:
        """A difference of a KPI, such as its target, with sign and unit; with the decimals of an effect."""
        scaled = self.scaled(kpi, value, relative=relative)
        decimals = figures.decimals_of(scaled, digits=2)
        if beside is not None:
            decimals = self._decimals(kpi, beside)
        shown = figures.number(scaled, decimals, signed=True)
        return shown + self.change_unit(kpi, relative=relative)

    def scaled(self, kpi: KpiReport, value: float, *, relative: bool) -> float:
        """A difference in the unit that is shown: shares in percent."""
        return 100 * value if relative or figures.is_share(kpi.unit, kpi.formula) else value

    def change_unit(self, kpi: KpiReport, *, relative: bool) -> str:
        """The unit of a difference; that of a percentage is percentage points, unless it is relative."""
        if relative:
            return figures.suffix("%", self.lang)
        unit = self.unit(kpi)
        if unit == "%":
            return "%p" if self.lang == "ko" else figures.suffix("percentage points", self.lang)
        return figures.suffix(unit, self.lang)

    def target(self, kpi: KpiReport) -> float | None:
        """The target as a change of the KPI: below 0 where less is better."""
        return None if kpi.target is None else sign(kpi) * kpi.target

    def guardrail(self, kpi: KpiReport) -> float | None:
        """The guardrail as a change of the KPI: below 0 where more is better."""
        return None if kpi.guardrail is None else -sign(kpi) * kpi.guardrail

    def side(self, kpi: KpiReport, name: str) -> Side | None:
        """One side of a KPI."""
        return next((side for side in kpi.sides if side.name == name), None)

    def compared(self, kpi: KpiReport) -> str:
        """How the periods are compared, as a short name of the unit of the effect."""
        effect = kpi.effect
        relative = effect.relative if effect else kpi.target_scale == "relative"
        return self.texts("relative" if relative else "absolute")

    def percent(self, share: float | None, decimals: int = 1) -> str:
        """A share as a percentage."""
        return figures.percent(share, self.lang, decimals)

    def count(self, number: float) -> str:
        """A whole number with thousands separators."""
        return figures.number(number, 0)

    def column(self, key: str) -> Markup:
        """The head of a column."""
        return self.texts(f"column.{key}", level=self.percent(1 - self.report.alpha, 0))

    def verdict(self, kpi: KpiReport) -> Markup:
        """The verdict word of a KPI; while the trial runs there is none."""
        if not self.is_over:
            return self.texts("verdict.none-yet")
        return DASH_MARKUP if kpi.word is None else self.texts(f"verdict.{kpi.word}")

    def reason(self, code: str | None, **parts: object) -> Markup:
        """Why something is not shown, and what to do next."""
        if not code:
            return Markup()
        next_step = self.texts.code("next", code) if self.texts.has(f"next.{code}") else Markup()
        return fill("{why} {then}", why=self.texts.code("reason", code, **parts), then=next_step)

    def span(self, seconds: float) -> str:
        """A length of time."""
        return figures.span_text(seconds, self.lang)


DASH_MARKUP = join(DASH)


def sign(kpi: KpiReport) -> int:
    """+1 where more is better, else -1."""
    return 1 if kpi.direction == "increase" else -1


def is_counted(period: PeriodFound) -> bool:
    """Whether a period is used and has a number."""
    return period.status == "used" and period.value is not None and math.isfinite(period.value)


def ranges(numbers: list[int]) -> str:
    """Numbers of periods, from 1, as ranges: 1, 4-6."""
    found: list[list[int]] = []
    for each in sorted(set(numbers)):
        if found and found[-1][1] == each - 1:
            found[-1][1] = each
        else:
            found.append([each, each])
    return ", ".join(f"{a + 1}" if a == b else f"{a + 1}{DASH}{b + 1}" for a, b in found)
