"""Numbers, units and times as a reader of English or Korean expects them."""

from __future__ import annotations

import math
from datetime import UTC, datetime, tzinfo
from typing import Literal

from collector.pilots.report.pages.markup import SPACE
from wire.errors import WireError
from wire.pilot.formulas import FORMULAS, SHARE
from wire.pilot.schedule import time_zone

Lang = Literal["en", "ko"]
MINUS, DASH = "\u2212", "\u2013"
LARGEST_DIGITS = 6
TOO_LARGE, TOO_SMALL = 1e12, 1e-5  # beyond these numbers have an exponent
_KO_UNITS = {
    "h": "시간",
    "min": "분",
    "s": "초",
    "d": "일",
    "{part}": "개",
    "{piece}": "개",
    "{conflict}": "건",
}
_EN_UNITS = {"d": "day", "{part}": "part", "{piece}": "piece", "{conflict}": "conflict"}
_SIGNS = {"Cel": "°C", "kW.h": "kWh", "W.h": "Wh", "1": "", "deg": "°", "um": "µm", "us": "µs"}


def unit_text(unit: str, lang: Lang) -> str:
    """A UCUM unit as people write it: `kW.h/{part}` is kWh/part."""
    words = _KO_UNITS if lang == "ko" else _EN_UNITS
    first, *per = unit.split("/")
    # a number of things is per 시간; km/h and L/min are written like this in Korean, too
    kept = () if first in ("", "1") or first.startswith("{") else ("h", "min", "s")
    plain = {**_SIGNS, **words}
    shown = [plain.get(first, first.strip("{}"))]
    shown += [part if part in kept else plain.get(part, part.strip("{}")) for part in per]
    return "/".join(shown)


def is_share(unit: str, formula: str) -> bool:
    """Whether a value in the unit 1 is a share, which is shown in percent."""
    known = FORMULAS.get(formula)
    return unit == "1" and known is not None and known.units == SHARE


def number(value: float, decimals: int, *, signed: bool = False) -> str:
    """A number with thousands separators and a true minus sign."""
    if abs(value) >= TOO_LARGE or (decimals >= LARGEST_DIGITS and 0 < abs(value) < TOO_SMALL):
        return f"{value:{'+' if signed else ''}.3g}".replace("-", MINUS)
    shown = f"{round(value, decimals) + 0.0:{'+' if signed else ''},.{max(decimals, 0)}f}"
    if float(shown.replace(",", "")) == 0:
        shown = shown.lstrip("+-")
    return shown.replace("-", MINUS)


def decimals_of(*values: float | None, digits: int = 3) -> int:
    """The decimals that give the largest of some values `digits` digits."""
    sizes = [abs(value) for value in values if value is not None and math.isfinite(value) and value != 0]
    if not sizes:
        return 0
    return min(max(digits - 1 - math.floor(math.log10(max(sizes))), 0), LARGEST_DIGITS)


def decimals_of_interval(estimate: float | None, low: float | None, high: float | None) -> int:
    """The decimals of an effect: two digits of the half-width of its interval."""
    if low is None or high is None or high <= low:
        return decimals_of(estimate, low, high)
    return decimals_of((high - low) / 2, digits=2)


def suffix(unit: str, lang: Lang) -> str:
    """A unit behind a number, with the space that the language needs."""
    if not unit:
        return ""
    joined = lang == "ko" and (unit == "%" or unit in _KO_UNITS.values())
    return unit if joined else f"{SPACE}{unit}"


def percent(share: float | None, lang: Lang, decimals: int = 1) -> str:
    """A share as a percentage."""
    return DASH if share is None else number(100 * share, decimals) + suffix("%", lang)


def share_of_time(share: float, lang: Lang) -> str:
    """A share of time: 0 and all of it without decimals, and never rounded to one of them."""
    if share in {0.0, 1.0}:
        return percent(share, lang, 0)
    return percent(min(max(share, 0.001), 0.999), lang)


def span_text(seconds: float, lang: Lang) -> str:
    """A length of time in the largest unit that fits."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return number(seconds / size, 0 if seconds % size == 0 else 1) + suffix(
                unit_text(unit, lang), lang
            )
    if seconds and seconds < 1:
        return number(1000 * seconds, 0) + suffix("ms", lang)
    return number(seconds, 0 if seconds == int(seconds) else 1) + suffix(unit_text("s", lang), lang)


class Times:
    """Times of UTC in the zone of the plan; `name` is UTC where this machine does not know that zone."""

    def __init__(self, name: str) -> None:
        self.zone: tzinfo
        try:
            self.zone, self.name = time_zone(name), name
        except WireError:
            self.zone, self.name = UTC, "UTC"

    def at(self, ms: int, form: str = "%Y-%m-%d %H:%M") -> str:
        """A moment; seconds are shown where they are not 0."""
        try:
            moment = datetime.fromtimestamp(ms / 1000, self.zone)
        except (OverflowError, OSError, ValueError):
            return DASH
        return moment.strftime(form + (":%S" if form.endswith("%M") and ms % 60_000 >= 1000 else ""))
