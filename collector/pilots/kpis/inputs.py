"""The inputs of a KPI within one period: rows and events of every node, and what formulas make of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from msgspec import UNSET

from collector.pilots.kpis import steps
from collector.pilots.kpis.absences import DATA_CHANGED, Absence
from collector.pilots.kpis.events import Occurred
from collector.pilots.kpis.rows import CLOCK_STEPPED, FieldRows
from collector.pilots.kpis.steps import Floats, Span, Steps
from collector.pilots.kpis.stored import Stored
from wire.pilot.plan import Input

SILENT = "device-silent"
PAIRED_US = 30 * 86_400_000_000  # how long before a period a start is looked for
_CLOCK_STEP_US = 86_400_000_000
HOUR_US = 3_600_000_000
_RANKS = {"min": 1e-9, "median": 0.5, "p95": 0.95, "max": 1.0}  # the nearest rank


@dataclass(slots=True)
class Facts:
    """What was found on the way: rows and events used, rows left out, what is absent, the clocks."""

    used: int = 0
    left_out: int = 0
    found: int = 0  # rows and events, also those left out
    known: dict[str, float] = field(default_factory=dict)  # input -> the share of the span that is known
    absences: set[Absence] = field(default_factory=set)
    clock_ms: int | None = None
    clock: str = ""
    changed: str = ""  # an event that somebody changed


class Inputs:
    """The inputs of a KPI or of a condition within the counted span of a period, in us."""

    def __init__(
        self, stored: Stored, inputs: Mapping[str, Input], given: Mapping[str, float], span: Span
    ) -> None:
        self.given = given
        self.span = span
        self.facts = Facts()
        self._stored = stored
        self._inputs = inputs
        self._rows: dict[str, list[tuple[FieldRows, Steps]]] = {}
        self._stepped: set[str] = set()
        self._changed: dict[str, list[Absence]] = {}  # events that were changed, also around the span

    def has(self, name: str) -> bool:
        """Whether the KPI has this optional input."""
        return name in self._inputs

    def unit(self, name: str) -> str:
        """The unit of an input."""
        return self._inputs[name].unit

    @property
    def hours(self) -> float:
        """The length of the span, for all nodes of one input."""
        return (self.span[1] - self.span[0]) / HOUR_US

    def rows(self, name: str, *, continuous: bool = True) -> list[tuple[FieldRows, Steps]]:
        """The rows of a field at each node, and its values over time, also before the span.

        `continuous`: time without a value lowers the completeness.
        """
        if name not in self._rows:
            self._rows[name] = [self._read(name, node) for node in self._nodes(name)]
            self._account(name, continuous=continuous)
        return self._rows[name]

    def _nodes(self, name: str) -> list[str]:
        return self._stored.nodes(self._inputs[name])

    def _read(self, name: str, node: str) -> tuple[FieldRows, Steps]:
        hold_s = self._inputs[name].hold_s
        longest = steps.MOST_HOLD_US if hold_s is UNSET else round(hold_s * 1_000_000)
        rows = self._stored.rows(node, self._inputs[name], self.span, longest)
        holds = steps.hold_us(rows.times) if hold_s is UNSET else longest
        lost = [(each.start_us, each.end_us) for each in rows.absences]
        held = steps.without(steps.held(rows.times, rows.values, self.span[1], holds), lost)
        self._note_clock(node, rows)
        return rows, held

    def _account(self, name: str, *, continuous: bool) -> None:
        facts, length, known = self.facts, self.span[1] - self.span[0], 0
        nodes = self._nodes(name)
        for node, (rows, held) in zip(nodes, self._rows[name], strict=True):
            facts.used += rows.used
            facts.left_out += rows.left_out
            facts.found += rows.used + rows.left_out
            facts.absences |= {each for each in rows.absences if _meets(each, self.span)}
            lost = [(each.start_us, each.end_us) for each in rows.absences]
            mine = (
                held.between(*self.span).time_us if continuous else length - steps.length_us(lost, self.span)
            )
            device, stream, _ = self._stored.path(self._inputs[name]).split("/")
            if rate := self._stored.reading.rates.get((node, device, stream)):
                mine = min(mine, round((rows.used + rows.left_out) / rate * 1_000_000))
            known += mine
        facts.known[name] = known / (length * len(nodes)) if nodes else 0.0

    def _note_clock(self, node: str, rows: FieldRows) -> None:
        facts = self.facts
        if rows.clock_ms is not None:
            facts.clock_ms = max(rows.clock_ms, facts.clock_ms or 0)
        facts.clock = facts.clock or rows.clock
        self._note_steps(node)

    def _note_steps(self, node: str) -> None:
        """Look once a node whether its clock was set by more than is allowed."""
        if node in self._stepped:
            return
        self._stepped.add(node)
        start, end = self.span
        around = start - _CLOCK_STEP_US, end + _CLOCK_STEP_US
        several, changed = self._stored.reading.clock_steps(node, self.span, around)
        self._doubt(changed)
        for at_us, moved_s in several:
            moved_us = round(moved_s * 1_000_000)
            if abs(moved_us) <= self._stored.reading.clock_max_ms * 1000:
                continue
            # set back: times come twice up to the old one; set forward: from the old one they do not come
            moments = (at_us, at_us - moved_us)
            if (moved_us < 0 and at_us < end and moments[1] >= start) or any(
                start <= at < end for at in moments
            ):
                self.facts.clock = CLOCK_STEPPED

    def events(self, name: str, *, before_us: int = 0, after_us: int = 0) -> list[Occurred]:
        """The events of all nodes, sorted by time, within the span and around it."""
        each, found, damaged = self._inputs[name], list[Occurred](), dict[str, list[Absence]]()
        around = self.span[0] - before_us, self.span[1] + after_us
        for node in self._nodes(name):
            path = self._stored.path(each)
            mine, damaged[node] = self._stored.reading.events(node, path, self.span, around)
            found += mine
        if name not in self.facts.known:
            within = len(self.inside(found))
            self.facts.used += within
            self.facts.found += within
            # an alarm within the span may belong to an event beside it
            self._account_events(name, damaged, around if after_us else self.span)
        return sorted(found)

    def _account_events(self, name: str, damaged: Mapping[str, list[Absence]], reach: Span) -> None:
        """Note for which share of the span events could be seen, and whether one in `reach` was changed."""
        facts, length, known = self.facts, self.span[1] - self.span[0], 0
        for node, absent in damaged.items():
            changed = [one for one in absent if one.code == DATA_CHANGED]
            self._changed.setdefault(name, []).extend(changed)
            self._doubt([one for one in changed if _meets(one, reach)])
            all_absences = (*absent, *self._stored.reading.absent_events(node))
            absences = [one for one in all_absences if _meets(one, self.span)]
            facts.absences.update(absences)
            if not self._stored.is_silent(node, self._inputs[name], self.span):
                lost = [(one.start_us, one.end_us) for one in absences]
                known += length - steps.length_us(lost, self.span)
            self._note_steps(node)
        facts.known[name] = known / (length * len(damaged)) if damaged else 0.0

    def _doubt(self, changed: Sequence[Absence]) -> None:
        whys = {self.facts.changed, *(one.why for one in changed)} - {""}
        self.facts.changed = min(whys, default="")

    def doubt_pairs(self, name: str) -> None:
        """Note that an event of an input is missing, which may be one that was changed before the span."""
        self._doubt(self._changed.get(name, ()))

    def inside(self, several: list[Occurred]) -> list[int]:
        """The times of those within the span."""
        return [one.at_us for one in several if self.span[0] <= one.at_us < self.span[1]]

    def known_hours(self, name: str) -> float:
        """For how long events of an input could be seen, over all its nodes."""
        if name not in self.facts.known:
            self.events(name)
        return self.facts.known[name] * self.hours * len(self._nodes(name))

    def moved(self, name: str) -> float | None:
        """How far a counter moved, over all nodes."""
        found = [steps.moved(rows.times, rows.values, *self.span) for rows, _ in self.rows(name)]
        return None if not found or None in found else steps.total(np.array(found, np.float64))

    def together(self, name: str, beside: str) -> Iterator[tuple[Steps, Floats]]:
        """A flag and one beside it at each node, where both are known; an input that is not there is true."""
        mine = self.rows(name)
        others = [held for _, held in self.rows(beside)] if self.has(beside) else []
        for at, (_, held) in enumerate(mine):
            if not self.has(beside):
                yield held, np.ones(len(held.values))
            else:
                yield steps.both(held, others[at if len(others) == len(mine) else 0])

    def value(self, word: str, name: str) -> float | None:
        """An aggregate of `wire.pilot.expression.AGGREGATES`."""
        if self._inputs[name].event is not None:
            count = len(self.inside(self.events(name)))
            hours = self.known_hours(name)
            return float(count) if word == "count" else count / hours if hours else None
        return self._of_field(word, name)

    def _of_field(self, word: str, name: str) -> float | None:
        if word == "delta":
            return self.moved(name)
        several = self.rows(name, continuous=word not in ("sum", "count"))
        if word in ("mean", "share", "time"):
            return _over_time(word, [held.between(*self.span) for _, held in several])
        values = np.concatenate([self._within(rows) for rows, _ in several])
        if word == "count":
            return float(len(values))
        if not len(values):
            return None
        if word == "sum":
            return steps.total(values)
        values.sort()
        return float(values[math.ceil(len(values) * _RANKS[word]) - 1])

    def _within(self, rows: FieldRows) -> Floats:
        chosen = (rows.times >= self.span[0]) & ~np.isnan(rows.values)
        return rows.values[chosen]


def _over_time(word: str, several: list[Steps]) -> float | None:
    known = sum(each.time_us for each in several)
    if not known:
        return None
    if word == "mean":
        return steps.total(np.concatenate([each.weighted() for each in several])) / known
    true_us = sum(each.where(each.values != 0).time_us for each in several)
    return true_us / known if word == "share" else true_us / HOUR_US


def _meets(each: Absence, span: Span) -> bool:
    return each.start_us < span[1] and each.end_us > span[0]
