"""The mistakes of a `pilot.yaml` whose keys are right one by one, and would fail together later."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from wire.config import KeyPath, Marks, Mistake
from wire.errors import WireError
from wire.pilot import expression
from wire.pilot.expression import SAME_UNIT, Aggregate, Number, Operation, Part
from wire.pilot.formulas import COUNTED, FORMULAS, GIVEN
from wire.pilot.frozen import MAX_SIGNED, FrozenPlan
from wire.pilot.plan import Kpi, Plan
from wire.pilot.schedule import Period, Schedule, counted, local_time, schedule, time_zone, utc_ms

LEAST_PAIRS = 6
_ANNOTATION = re.compile(r"\{[^{}]*\}")
# word of an expression that stands alone -> the units of its result
_UNITS = {"share": ("", "1"), "count": ("", "1"), "time": ("h",), "rate": ("/h", "1/h")}
_ODD = {"Cc", "Cf"}  # control characters, and those that turn the direction of a text
_SIGNATURES = 1_000  # bytes of an envelope with a few signatures
_HARMLESS = "\n\t\u00ad\u200c\u200d"


def contradictions(plan: Plan, _marks: Marks) -> Iterator[Mistake]:
    """Every mistake; `plan` has no placeholders and a schedule can be made."""
    yield from _texts(msgspec.to_builtins(plan), ())
    yield from _limits(plan)
    for at, kpi in enumerate(plan.kpis):
        yield from _kpi(("kpis", at), kpi)
    yield from _covariates(plan)
    yield from _machines(plan)
    found = schedule(plan)
    yield from _left(plan, found)
    size = len(FrozenPlan(plan=plan, schedule=found).payload) * 4 // 3 + _SIGNATURES
    if size > MAX_SIGNED:
        text = f"the signed plan has about {size:,} bytes, and one message takes {MAX_SIGNED:,}"
        yield ("design", "periods"), f"{text}: use fewer periods, nodes or texts"


def _texts(value: Any, path: KeyPath) -> Iterator[Mistake]:
    """Characters that would change how a report or a terminal shows a text."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _texts(each, (*path, key))
    elif isinstance(value, list | tuple):
        for at, each in enumerate(value):
            yield from _texts(each, (*path, at))
    elif isinstance(value, str):
        for each in value:
            if unicodedata.category(each) in _ODD and each not in _HARMLESS:
                yield path, f"has the character U+{ord(each):04X}, which is not visible: take it out"
                return


def _limits(plan: Plan) -> Iterator[Mistake]:
    for at, kpi in enumerate(plan.kpis):
        target, guardrail = kpi.target, kpi.guardrail
        if target is not None and target.scale == "relative" and kpi.sign < 0:
            for key, value in (("min", target.min), ("effect", target.effect or 0.0)):
                if value >= 1:
                    yield (
                        ("kpis", at, "target", key),
                        f"{value:g} is a decrease by {value:.0%}, and nothing decreases by 100 % or more",
                    )
        if (
            guardrail is not None
            and guardrail.scale == "relative"
            and kpi.sign > 0
            and guardrail.worse_than >= 1
        ):
            yield (
                ("kpis", at, "guardrail", "worse_than"),
                f"{guardrail.worse_than:g} is a decrease by {guardrail.worse_than:.0%}: it is never broken",
            )
    target, least = plan.primary.target, plan.sample.min_effect
    if target is not None and least is not None and least < target.min:
        yield ("sample", "min_effect"), f"is below the target, {target.min:g}: it can never be met"
    for at, word in enumerate(plan.analysis.sensitivity):
        if word in plan.analysis.sensitivity[:at]:
            yield ("analysis", "sensitivity", at), f"{word!r} stands there twice"


def _kpi(here: KeyPath, kpi: Kpi) -> Iterator[Mistake]:
    formula = FORMULAS.get(kpi.formula)
    if formula is None:
        part = expression.parse(kpi.formula)
        yield from _expression(here, kpi, part)
        if kpi.compared == "count" and not _is_count(_above(part)):
            yield (
                (*here, "estimand"),
                "count compares numbers of events: its upper part needs count(), delta() or sum()",
            )
        return
    for name, value in kpi.given.items():
        low, high = GIVEN.get(name, (-1e300, 1e300))
        if not low <= value <= high:
            yield (*here, "given", name), f"{value:g} is not within {low:g} and {high:g}"
    if kpi.compared == "count" and kpi.formula not in COUNTED:
        yield (
            (*here, "estimand"),
            f"{kpi.formula} is not a number of events: leave out `estimand`, or write ratio",
        )
    known: dict[tuple[str | None, str | None, str | None], str] = {}
    for name, each in kpi.inputs.items():
        same = known.setdefault((each.field, each.event, each.node), name)
        if same != name:
            yield (*here, "from", name), f"is the same as {same}: then {kpi.formula} is always equal"


def _expression(here: KeyPath, kpi: Kpi, part: Part) -> Iterator[Mistake]:
    units = _UNITS.get(part.word) if isinstance(part, Aggregate) else None
    if isinstance(part, Aggregate) and units and _ANNOTATION.sub("", kpi.unit) not in units:
        wanted = " or ".join(repr(each) for each in units if each)
        yield (*here, "unit"), f"{kpi.unit!r} is not the unit of {part.word}(), which is {wanted}"
    for each in _operations(part):
        if each.sign == "/" and _constant(each.right, kpi.given) == 0:
            yield (*here, "formula"), "divides by 0"
        if each.sign in "+-" and isinstance(each.left, Aggregate) and isinstance(each.right, Aggregate):
            left, right = (_unit(side, kpi) for side in (each.left, each.right))
            if left is not None and right is not None and left != right:
                yield (*here, "formula"), f"adds or subtracts the units {left!r} and {right!r}"


def _operations(part: Part) -> Iterator[Operation]:
    if isinstance(part, Operation):
        yield part
        yield from _operations(part.left)
        yield from _operations(part.right)


def _constant(part: Part, given: Mapping[str, float]) -> float | None:
    """The number of a part without inputs; None for others."""
    if any(expression.aggregates(part)):
        return None
    return expression.evaluate(part, given, lambda _word, _name: None)


def _unit(part: Aggregate, kpi: Kpi) -> str | None:
    return kpi.inputs[part.name].unit if part.word in SAME_UNIT else None


def _above(part: Part) -> Part:
    return part.left if isinstance(part, Operation) and part.sign == "/" else part


def _is_count(part: Part) -> bool:
    """Whether a part is a whole number, of counters and events."""
    if isinstance(part, Aggregate):
        return part.word in ("count", "delta", "sum")
    if isinstance(part, Number):
        return part.value % 1 == 0
    return (
        isinstance(part, Operation) and part.sign in "+-" and _is_count(part.left) and _is_count(part.right)
    )


def _covariates(plan: Plan) -> Iterator[Mistake]:
    own = {(each.field, each.event) for each in plan.primary.inputs.values()}
    for name, each in plan.adjust.covariates.items():
        if (each.field, each.event) in own:
            yield (
                ("adjust", "covariates", name),
                f"is an input of {plan.primary.id} itself: it would explain the effect that is looked for",
            )


def _machines(plan: Plan) -> Iterator[Mistake]:
    groups, here = plan.design.groups, ("design", "groups")
    if groups is None:
        return
    if plan.design.kind == "paired":
        for key, is_set in (("treated", groups.treated is not None), ("starts", bool(groups.starts))):
            if is_set:
                yield (*here, key), "does not belong to a paired design: model and rule run on every machine"
    seen: dict[str, str] = {}
    for at, machine in enumerate(groups.machines):
        node = "/".join(machine.split("/")[:4])
        other = seen.setdefault(node, machine)
        if other == machine:
            continue
        if plan.design.kind == "parallel":
            yield (
                (*here, "machines", at),
                f"is on the node of {other}: an agent switches its whole node, so name one machine a node",
            )
        elif node in (machine, other):
            yield (*here, "machines", at), f"{other} is there already: name the node, or its devices"
    inputs = [each for kpi in plan.kpis for each in kpi.inputs.values()]
    for at, node in enumerate(plan.nodes):
        if node not in seen and not any(each.node == node for each in inputs):
            yield ("nodes", at), f"{node} has no machine in design.groups, and no input names it"
    if all(each.node is not None for each in plan.primary.inputs.values()):
        for name in plan.primary.inputs:
            at = next(at for at, kpi in enumerate(plan.kpis) if kpi.primary)
            text = "names a node, as all inputs do: then every machine has the same value"
            yield ("kpis", at, "from", name, "node"), text
            break
    yield from _starts(plan)


def _starts(plan: Plan) -> Iterator[Mistake]:
    groups = plan.design.groups
    if groups is None or plan.design.kind != "parallel":
        return
    zone = time_zone(plan.windows.tz)
    begun = {each.start_ms for each in schedule(plan).trial}
    for at, text in enumerate(groups.starts):
        path: KeyPath = ("design", "groups", "starts", at)
        if text in groups.starts[:at]:
            yield path, f"{text!r} stands there twice"
        elif utc_ms(local_time(text), zone) not in begun:
            yield path, f"{text} is not the start of a period of {plan.design.unit}"


def _left(plan: Plan, found: Schedule) -> Iterator[Mistake]:
    """What is cut and left out must leave as many periods as the design needs."""
    zone, design = time_zone(plan.windows.tz), plan.design
    try:
        times = [(utc_ms(each.start, zone), utc_ms(each.end, zone)) for each in plan.exclude.times]
    except WireError:
        return

    def counts(period: Period) -> bool:
        start, end = counted(period, plan, found.trial_ms[0])
        return start < end and not any(first < end and start < last for first, last in times)

    blamed: KeyPath = ("exclude", "times") if times else ("design", "settle_s")
    if design.kind == "switchback":
        trial = found.trial
        pairs = sum(
            counts(first) and counts(second) for first, second in zip(trial[::2], trial[1::2], strict=True)
        )
        if pairs < LEAST_PAIRS:
            yield blamed, f"leaves {pairs} whole pairs of the trial: a switchback needs {LEAST_PAIRS}"
        elif plan.analysis.alpha * 2**pairs < 2:
            needed = next(many for many in range(1, 30) if plan.analysis.alpha * 2**many >= 2)
            text = (
                f"{pairs} pairs give no interval with alpha {plan.analysis.alpha:g}: it needs {needed} pairs"
            )
            yield ("analysis", "alpha"), text
        return
    least = 20 if design.kind == "before-after" else 1
    for phase in ("baseline", "trial"):
        several = [each for each in found.periods if each.phase == phase]
        left = sum(map(counts, several))
        if several and left < least:
            yield blamed, f"leaves {left} periods of the {phase}: a {design.kind} design needs {least}"
