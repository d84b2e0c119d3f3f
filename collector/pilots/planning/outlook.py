"""The outlook of a plan: what it can show in how many periods or machines, as numbers and sentences."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from collector.pilots.effects.parallel import ALONE
from collector.pilots.effects.phases import LEAST_PERIODS
from collector.pilots.effects.planning import ASKED_PERIODS, ASKED_POWER, LEAST_POWER, Noise
from collector.pilots.kpis.evaluate import PeriodValue
from collector.pilots.planning.analyses import NotPlannable, analysis
from collector.pilots.planning.baseline import BaselineValues, Values
from collector.pilots.planning.power import OfCounts, Power, kept_pairs
from wire.errors import EdgebedError
from wire.pilot.plan import MAX_PERIODS, Kpi, Plan, Target
from wire.pilot.schedule import time_zone

Role = Literal["primary", "target", "guardrail"]


class KpiOutlook(Struct, frozen=True, kw_only=True):
    """One KPI: the periods of its baseline, and how often pilots show it; `why` is what is missing.

    `power` is the share of pilots that show the expected effect, or that a guardrail is kept when nothing
    changes. `needed` is the size for the power that is asked for; None is more than can be planned.
    """

    id: str
    role: Role
    compared: str
    over: int
    used: int
    left_out: dict[str, int]
    mean: float | None = None
    sd: float | None = None
    correlation: float | None = None
    power: float | None = None
    needed: int | None = None
    smallest: float | None = None
    events: float | None = None
    why: str = ""


class Outlook(Struct, frozen=True, kw_only=True):
    """The answer of `edgebed pilot plan`. A refused plan is not worth its time."""

    pilot: str
    design: str
    of: Literal["periods", "machines"]  # what `planned` and `needed` count
    planned: int
    to_come: int
    effect: float
    target: float
    scale: str
    asked: float
    kpis: tuple[KpiOutlook, ...]
    switchback_periods: int | None = None
    sentences: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def power(self) -> float:
        """Of the primary KPI."""
        return self.kpis[0].power or 0.0

    @property
    def is_refused(self) -> bool:
        """Whether it shows the effect less often than a coin."""
        return self.power < LEAST_POWER


def outlook(plan: Plan, values: BaselineValues) -> Outlook:
    """What the plan can show, with noise like that of the baseline.

    Raises:
        EdgebedError: the plan or the baseline gives no answer; the sentence says why.
    """
    target, effect = _expected(plan)
    made = [
        _outlook(plan, kpi, values, effect if kpi.primary else None)
        for kpi in sorted(plan.kpis, key=lambda kpi: not kpi.primary)
        if kpi.id in values.kpis
    ]
    if made[0].why:
        raise NotPlannable(made[0].why)
    beside = None
    if plan.design.kind == "before-after":
        beside = _switchback(plan, values, effect)
    found = Outlook(
        pilot=plan.pilot,
        design=plan.design.kind,
        of="machines" if plan.design.groups is not None else "periods",
        planned=_size(plan),
        to_come=values.to_come,
        effect=effect,
        target=target.min,
        scale=target.scale,
        asked=plan.sample.power,
        kpis=tuple(made),
        switchback_periods=beside,
    )
    sentences, notes = _sentences(plan, values, found), _notes(plan, values, found)
    return replace(found, sentences=tuple(sentences), notes=tuple(notes))


def _expected(plan: Plan) -> tuple[Target, float]:
    """The target of the primary KPI, and the effect that is expected."""
    kpi = plan.primary
    target = kpi.target
    effect = plan.sample.min_effect or (target.effect if target else None)
    if target is None or effect is None or effect <= target.min:
        raise EdgebedError(
            f"write which effect of {kpi.id} you expect, target.effect or sample.min_effect, above "
            "target.min: one at the target itself is shown by chance only"
        )
    if target.scale == "relative" and kpi.sign < 0 and effect >= 1:
        raise EdgebedError("nothing decreases by 100 % or more: state the target as an absolute one")
    return target, effect


def _size(plan: Plan) -> int:
    groups = plan.design.groups
    return plan.design.periods if groups is None else len(groups.machines)


def _outlook(plan: Plan, kpi: Kpi, values: BaselineValues, effect: float | None) -> KpiOutlook:
    several = values.kpis[kpi.id]
    every = [each for found in several.values() for each in found]
    used = [each for each in every if each.status == "used"]
    role: Role = "primary" if kpi.primary else "guardrail" if kpi.target is None else "target"
    known = [each.value for each in used if each.value is not None]
    facts = KpiOutlook(
        id=kpi.id,
        role=role,
        compared=kpi.compared,
        over=len(every),
        used=len(used),
        left_out=dict(Counter(_reason(each) for each in every if each.status != "used").most_common()),
        mean=_level(kpi, used),
        sd=_sd(known),
    )
    try:
        _require_enough(plan, values, several)
        made, noise = analysis(plan, kpi, several, values.covariates)
    except NotPlannable as error:
        text = str(error)
        return replace(facts, why=text if text.startswith(f"{kpi.id}: ") else f"{kpi.id}: {text}")
    true, least = _asked(kpi, effect)
    return _with_power(facts, plan, made, noise, true, least)


def _asked(kpi: Kpi, effect: float | None) -> tuple[float, float]:
    """The true improvement, and the least one that the interval must leave behind."""
    if kpi.target is not None:
        return effect or kpi.target.effect or 2 * kpi.target.min, kpi.target.min
    return 0.0, -(kpi.guardrail.worse_than if kpi.guardrail else 0.0)


def _with_power(
    facts: KpiOutlook, plan: Plan, made: Power, noise: Noise | None, true: float, least: float
) -> KpiOutlook:
    size, asked = _size(plan), plan.sample.power
    power = made.of(size, true, least)
    return replace(
        facts,
        correlation=None if noise is None else noise.correlation,
        power=power,
        needed=None if power >= asked else made.needed(true, least, asked),
        smallest=made.smallest(size, least, asked) if facts.role != "guardrail" else None,
        events=made.events(size, true) if isinstance(made, OfCounts) else None,
    )


def _require_enough(plan: Plan, values: BaselineValues, several: dict[str, Values]) -> None:
    """Raise for a baseline that has too few periods that count, with what is missing."""
    if plan.design.kind == "paired":
        return
    for machine, found in several.items():
        used = sum(each.status == "used" for each in found)
        if used >= LEAST_PERIODS:
            continue
        lost = Counter(_reason(each) for each in found if each.status != "used")
        text = f"{machine}: " if machine else ""
        text += f"{used} periods with data in the baseline; a plan needs {LEAST_PERIODS}"
        text += f", {LEAST_PERIODS - used} more"
        text += f"; left out: {_listed(lost)}" if lost else ""
        if values.to_come:
            last = datetime.fromtimestamp(values.last_ms / 1_000, time_zone(plan.windows.tz))
            text += f"; {values.to_come} are to come until {last:%Y-%m-%d %H:%M}: ask again then"
        else:
            text += "; make the baseline longer, or repair what leaves periods out"
        raise NotPlannable(text)


def _switchback(plan: Plan, values: BaselineValues, effect: float) -> int | None:
    """The periods of a switchback that shows the same; None if there is no such number."""
    other = replace(plan, design=replace(plan.design, kind="switchback"))
    try:
        made, _ = analysis(other, plan.primary, values.kpis[plan.primary.id])
    except NotPlannable:
        return None
    needed = made.needed(*_asked(plan.primary, effect), plan.sample.power)
    return None if needed is None else max(ASKED_PERIODS, needed)


def _sentences(plan: Plan, values: BaselineValues, found: Outlook) -> Iterator[str]:
    kpi, first = plan.primary, found.kpis[0]
    yield from (_counted(each, values) for each in found.kpis)
    shown = _size_of_effect(found.effect, found.scale, kpi)
    about = [] if first.mean is None else [f"mean {first.mean:.4g} {_unit(kpi)}".rstrip()]
    about += [] if first.correlation is None else [f"correlation of neighbours {first.correlation:.2f}"]
    if about:
        yield f"{kpi.id}: {', '.join(about)}"
    yield f"{_planned(plan)} show an effect of {shown} in {first.power or 0:.0%} of pilots"
    if first.power is not None and first.power < found.asked:
        yield f"with your baseline you need {_needed(plan, first)} to show it in {found.asked:.0%} of pilots"
    if first.smallest is not None:
        least = _size_of_effect(first.smallest, found.scale, kpi)
        yield f"the smallest effect that they show in {found.asked:.0%} of pilots is about {least}"
    if first.events is not None:
        yield f"about {first.events:.0f} events are expected in both arms together; 20 are the least"
    left = kept_pairs(found.planned, first.used / first.over) if first.over else 0
    if found.design == "switchback" and left < found.planned // 2:
        yield f"with as many periods left out as in the baseline, {left} of {found.planned // 2} pairs remain"
    if found.design == "before-after":
        periods = found.switchback_periods
        yield (
            f"no switchback of up to {MAX_PERIODS} periods shows it"
            if periods is None
            else f"a switchback shows it in {periods} periods, where the change can be switched"
        )
    yield from (_other(plan, each, found) for each in found.kpis[1:])


def _counted(each: KpiOutlook, values: BaselineValues) -> str:
    text = f"{each.id}: {each.used} of {each.over} periods of the baseline count"
    text += f"; left out: {_listed(each.left_out)}" if each.left_out else ""
    return text + (f"; {values.to_come} are to come" if values.to_come else "")


def _other(plan: Plan, each: KpiOutlook, found: Outlook) -> str:
    if each.why:
        return f"{each.role} {each.why}"
    asked = f"{found.asked:.0%}"
    text = (
        f"guardrail {each.id}: if nothing changes, {each.power or 0:.0%} of pilots show that it is kept"
        if each.role == "guardrail"
        else f"{each.id}: {each.power or 0:.0%} of pilots show its expected effect"
    )
    return text if (each.power or 0) >= found.asked else f"{text}; {asked} need {_needed(plan, each)}"


def _notes(plan: Plan, values: BaselineValues, found: Outlook) -> Iterator[str]:
    """What weakens a plan that is not refused."""
    first, asked = found.kpis[0], max(found.asked, ASKED_POWER)
    if found.power < asked:
        yield f"the power is below {asked:.0%}"
    if first.over and 1 - first.used / first.over > plan.exclude.max_share:
        yield (
            f"{1 - first.used / first.over:.0%} of the baseline's periods do not count, above "
            f"exclude.max_share {plan.exclude.max_share:.0%}: in such a trial the verdict is held back"
        )
    if found.to_come:
        yield f"the baseline is not over: {found.to_come} periods are to come, so plan again at its end"
    if unknown := _not_adjusted(plan, values):
        yield f"{' and '.join(unknown)} of adjust are not in a file of values: plan with --store or --url"
    groups = plan.design.groups
    treated = None if groups is None else groups.treated
    if groups is not None and treated and min(treated, len(groups.machines) - treated) < ALONE:
        yield f"ask for {ALONE} + {ALONE} machines: with fewer the interval assumes that they are alike"
    for each in found.kpis[1:]:
        if each.why:
            yield f"{each.role} {each.id} cannot be planned"
        elif each.role == "guardrail" and (each.power or 0) < LEAST_POWER:
            yield f"guardrail {each.id}: most pilots of this plan cannot show that it is kept"


def _not_adjusted(plan: Plan, values: BaselineValues) -> list[str]:
    """What the report allows for, and the power does not."""
    if plan.design.kind != "before-after":
        return []
    dated = any(each.start_ms for found in values.kpis.values() for one in found.values() for each in one)
    found = ["the covariates"] if plan.adjust.covariates.keys() - values.covariates.keys() else []
    return [*found, "the weekdays"] if plan.adjust.weekday and not dated else found


def _planned(plan: Plan) -> str:
    groups = plan.design.groups
    if groups is None:
        return f"{plan.design.periods} periods"
    if groups.treated is None:
        return f"{len(groups.machines)} machines"
    return f"{groups.treated} + {len(groups.machines) - groups.treated} machines"


def _needed(plan: Plan, each: KpiOutlook) -> str:
    if each.needed is None:
        return (
            "more than can be planned"
            if plan.design.groups is not None
            else "more periods than can be planned"
        )
    if plan.design.kind == "parallel":
        return f"{each.needed // 2} + {each.needed // 2} machines"
    if plan.design.groups is not None:
        return f"{each.needed} machines"
    return f"{max(each.needed, ASKED_PERIODS)} periods"


def _size_of_effect(size: float, scale: str, kpi: Kpi) -> str:
    return f"{size:.1%}" if scale == "relative" else f"{size:.3g} {_unit(kpi)}".rstrip()


def _unit(kpi: Kpi) -> str:
    return "" if kpi.unit == "1" else kpi.unit


def _level(kpi: Kpi, used: list[PeriodValue]) -> float | None:
    if kpi.compared != "mean":
        below = math.fsum(each.denominator or 0.0 for each in used)
        return math.fsum(each.numerator or 0.0 for each in used) / below if below else None
    known = [each.value for each in used if each.value is not None]
    return math.fsum(known) / len(known) if known else None


def _sd(known: list[float]) -> float | None:
    if len(known) < 2:
        return None
    centre = math.fsum(known) / len(known)
    return math.sqrt(math.fsum((each - centre) ** 2 for each in known) / (len(known) - 1))


def _reason(each: PeriodValue) -> str:
    return (
        f"{each.code} {each.why}".strip()
        if each.code in ("condition", "left-out")
        else each.code or each.status
    )


def _listed(left_out: dict[str, int] | Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in left_out.items())
