"""The values of a baseline for `edgebed pilot plan`: from a file, a store or a running collector."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import msgspec

from collector.pilots.kpis.evaluate import PeriodValue
from collector.pilots.planning.baseline import BaselineValues
from edgebed.collector_api import LONG_S, CollectorApi
from wire.errors import ConfigError, EdgebedError
from wire.pilot.plan import Plan
from wire.pilot.schedule import local_text, time_zone

_MOST_BYTES = 1_000_000
_MOST_LINES = 20
_MISSING = ("-", "nan", "null")


def of_file(plan: Plan, file: Path) -> BaselineValues:
    """The primary KPI of each period, one a line: its value, or the two sums of a ratio.

    `-` is a period without a value.

    Raises:
        ConfigError: the file cannot be read, or a line has another form.
    """
    if plan.design.groups is not None:
        raise EdgebedError(
            f"a {plan.design.kind} design is planned from the values of its machines: use --store"
        )
    try:
        with file.open("rb") as opened:
            lines = opened.read(_MOST_BYTES).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    found: list[PeriodValue] = []
    mistakes = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(_period(len(found), line.lower().split()))
        except ValueError:
            mistakes.append(f"{file}:{number}: {line.strip()[:40]!r} is not a number")
    if mistakes:
        raise ConfigError(*mistakes)
    return BaselineValues(now_ms=0, to_come=0, last_ms=0, kpis={plan.primary.id: {"": tuple(found)}})


def _period(index: int, words: list[str]) -> PeriodValue:
    empty = PeriodValue(index, "baseline", "off", 0, 0, "missing", "no-value")
    if not words or words[0] in _MISSING:
        return empty
    above, below = float(words[0]), float(words[1]) if len(words) > 1 else 1.0
    if len(words) > 2 or not (math.isfinite(above) and math.isfinite(below)):
        raise ValueError(words)
    value = above / below if below else None
    return PeriodValue(
        index, "baseline", "off", 0, 0, "used", value=value, numerator=above, denominator=below
    )


def of_collector(text: str, api: CollectorApi) -> BaselineValues:
    """The values from a running collector, which evaluates the plan of this text.

    Raises:
        EdgebedError: it refuses; the sentence says why.
    """
    answer = api.change("POST", "pilots/values", {"plan": text}, LONG_S)
    try:
        return msgspec.convert(answer, BaselineValues)
    except msgspec.ValidationError as error:
        raise EdgebedError(f"{api.url} gives other values: use the release of the collector") from error


def left_out(plan: Plan, values: BaselineValues) -> Iterator[str]:
    """A line for each period that does not count for the primary KPI, the first ones."""
    zone = time_zone(plan.windows.tz)
    for machine, found in values.kpis[plan.primary.id].items():
        lines = [
            f"{machine} {local_text(each.start_ms, zone)} {each.status}: {each.code} {each.why}".strip()
            for each in found
            if each.status != "used" and each.end_ms
        ]
        yield from lines[:_MOST_LINES]
        if len(lines) > _MOST_LINES:
            yield f"{machine} and {len(lines) - _MOST_LINES} more; --json prints every period".strip()
