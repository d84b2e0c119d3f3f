"""What the ledger knows of the messages of a pilot, and what is wrong with its data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

from collector.ledger.balance import Balance
from collector.ledger.ledger import Ledger
from collector.pilots.kpis.evaluate import PeriodValue
from collector.pilots.report.document import Custody, Finding
from collector.pilots.report.sources import InputsRead
from wire.pilot.plan import Plan
from wire.pilot.schedule import Period, time_zone

# of a period that does not count, or counts with less than all of its data
DATA_CODES = (
    "no-data",
    "data-lost",
    "data-missing",
    "data-waiting",
    "data-pruned",
    "data-damaged",
    "data-changed",
    "device-silent",
    "too-many",
    "condition-unknown",
    "clock-unset",
    "clock-stepped",
    "clock-off",
)


def custody(plan: Plan, ledger: Ledger, read: InputsRead, span_ms: tuple[int, int]) -> tuple[Custody, ...]:
    """The messages of each node, from the first to the last that the report read of each outbox.

    So messages of later times do not change the report.
    """
    first_day, last_day = (datetime.fromtimestamp(ms / 1000, UTC).date().isoformat() for ms in span_ms)
    found = []
    for node in plan.nodes:
        taken = stored = lost = missing = pruned = 0
        for known in ledger.known_of(node):
            pruned += sum(
                one.messages
                for one in known.pruned
                if one.first_day <= last_day and first_day <= one.last_day
            )
            reach = read.reach.get((node, known.account.ep))
            if reach is None:
                continue
            balance = Balance(known)
            taken += reach[1] - reach[0] + 1
            here = balance.stored.count_in(*reach)
            stored += here
            lost += balance.accounted.count_in(*reach) - here
            missing += balance.missing.count_in(*reach)
        found.append(
            Custody(
                node=node,
                taken=taken,
                stored=stored,
                lost=lost,
                missing=missing,
                waiting=taken - stored - lost - missing,
                pruned=pruned,
                damaged=len(read.holes.get(node, ())),
                clock_ms=read.clocks.get(node),
            )
        )
    return tuple(found)


def of_data(
    plan: Plan, periods: Sequence[Period], values: Mapping[str, Sequence[Sequence[PeriodValue]]]
) -> Iterator[Finding]:
    """What is wrong with the data, a finding for each code and reason; `values` are those of each KPI."""
    found: dict[tuple[str, str], tuple[set[int], set[str]]] = {}
    for kpi, several in values.items():
        for each in (value for machine in several for value in machine):
            if each.code in DATA_CODES:
                indices, kpis = found.setdefault((each.code, each.why), (set(), set()))
                indices.add(each.index)
                kpis.add(kpi)
    for (code, why), (indices, kpis) in sorted(found.items()):
        yield Finding(
            code=code,
            where=why,
            periods=tuple(sorted(indices)),
            args={"periods": len(indices), "kpis": ", ".join(sorted(kpis))},
        )
    yield from _missing_days(plan, periods, values)


def _missing_days(
    plan: Plan, periods: Sequence[Period], values: Mapping[str, Sequence[Sequence[PeriodValue]]]
) -> Iterator[Finding]:
    """The days on which a KPI has no data at all, joined where they follow each other."""
    zone = time_zone(plan.windows.tz)
    days: dict[date, list[int]] = {}
    for index, each in enumerate(periods):
        if each.end_ms - each.start_ms >= 3_600_000:  # days of a shorter unit are not whole
            days.setdefault(datetime.fromtimestamp(each.start_ms / 1000, zone).date(), []).append(index)
    for kpi, several in values.items():
        missing = {
            index
            for index in range(len(periods))
            if several and all(_is_missing(one, index) for one in several)
        }
        gone = [day for day, indices in days.items() if missing.issuperset(indices)]
        for run in _runs(gone):
            yield Finding(
                code="days-missing",
                where=kpi,
                periods=tuple(index for day in run for index in days[day]),
                args={"days": len(run), "first": run[0].isoformat(), "last": run[-1].isoformat()},
            )


def _is_missing(values: Sequence[PeriodValue], index: int) -> bool:
    return index < len(values) and values[index].status == "missing" and values[index].code != "no-value"


def _runs(days: Sequence[date]) -> Iterator[list[date]]:
    run: list[date] = []
    for day in days:
        if run and day - run[-1] > timedelta(days=1):
            yield run
            run = []
        run.append(day)
    if run:
        yield run
