"""The mistakes of a `pilot.yaml` that types cannot express, each with the keys that lead to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from msgspec import UNSET

from wire.config import KeyPath, Marks, Mistake, did_you_mean
from wire.errors import WireError
from wire.pilot import expression
from wire.pilot.formulas import FORMULAS, Formula
from wire.pilot.plan import Condition, Groups, Input, Intervention, Kpi, Plan, Window
from wire.pilot.schedule import local_time, schedule, spans, time_zone
from wire.topics import ROOT

MIN_SWITCHBACK = 12  # periods: six whole pairs are the fewest that can show anything
ASK_SWITCHBACK = 20
MIN_PHASE = 20  # periods of the baseline and of the trial, each, where time is compared
MIN_CLUSTERS = 7
MIN_MACHINES = 4

# kind -> (keys that it needs, other keys that it may have)
_INTERVENTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "model": (("slot", "model", "sha256"), ()),
    "threshold": (("slot", "parameter", "on", "off"), ()),
    "set-point": (("device", "on", "off", "min", "max", "safe"), ("register", "topic")),
}
_CUTS = (("design",), ("design", "unit"), ("design", "shifts"))  # what cuts a window into periods
_OF_A_KIND = {key for needed, may in _INTERVENTIONS.values() for key in needed + may}


def check(plan: Plan, marks: Marks) -> Iterator[Mistake]:
    """Every mistake that can be found without the data."""
    # a word that could not be read is replaced by another: what follows from that is not the user's mistake
    wrong = {found.path for found in marks.found}
    if ("owner",) not in wrong:
        yield from _owned(plan)
    if ("intervention", "kind") not in wrong:
        yield from _intervention(plan.intervention)
    if ("design", "kind") not in wrong:
        yield from _design(plan, marks)
        yield from _windows(plan, has_unit=not any(path[:2] in _CUTS for path in wrong))
    yield from _kpis(plan)
    for name, each in plan.adjust.covariates.items():
        yield from _input(("adjust", "covariates", name), each, plan)
    if plan.adjust.trend == "none" and not plan.adjust.reason:
        yield ("adjust", "trend"), "none needs a reason: write adjust.reason, or leave trend at check"
    for at, condition in enumerate(plan.exclude.when):
        yield from _condition(("exclude", "when", at), condition, plan)
    yield from _twice(("exclude", "when"), [each.id for each in plan.exclude.when])


def doubts(plan: Plan) -> Iterator[str]:
    """What weakens a plan that may be frozen, a sentence each."""
    design = plan.design
    if design.kind == "switchback" and design.periods < ASK_SWITCHBACK:
        yield f"{design.periods} periods leave no room for missing ones: plan {ASK_SWITCHBACK} or more"
    if design.kind == "switchback" and design.washout_s < design.carry_over_s:
        yield (
            f"the wash-out of {design.washout_s:g} s is shorter than the carry-over of "
            f"{design.carry_over_s:g} s: the effect looks smaller than it is, and is never judged 'not met'"
        )
    if design.kind == "before-after":
        yield "other changes on the same date look the same: prefer a switchback where it is possible"
    groups = design.groups
    if design.kind == "parallel" and groups is not None and groups.treated is not None:
        others = len(groups.machines) - groups.treated
        if min(groups.treated, others) < MIN_MACHINES:
            yield f"{groups.treated} + {others} machines: the interval assumes that the machines are alike"
    if design.kind == "paired" and groups is None:
        yield "each period counts as a place of its own: name 7 machines or more in design.groups instead"
    yield from _unused(plan)
    if plan.windows.baseline is None:
        yield "there is no baseline: nothing can be planned from it, and there are no placebo dates"


def _unused(plan: Plan) -> Iterator[str]:
    """What a plan has without an effect, or with a larger one than it seems."""
    adjust, trial = plan.adjust, schedule(plan).trial
    if plan.design.kind != "before-after" and (adjust.weekday or adjust.trend == "linear"):
        yield f"adjust.weekday and adjust.trend are not used by a {plan.design.kind} design"
    period_s = min(each.end_ms - each.start_ms for each in trial) / 1_000
    if plan.design.washout_s > period_s / 2:
        yield f"the wash-out of {plan.design.washout_s:g} s cuts most of a period of {period_s:g} s"
    windows = [each for each in (plan.windows.baseline, plan.windows.trial) if each is not None]
    for each in plan.exclude.times:
        first, last = local_time(each.start), local_time(each.end)
        if not any(first < local_time(of.end) and local_time(of.start) < last for of in windows):
            yield f"exclude.times from {each.start} is outside of the baseline and the trial"


def needs(what: Intervention) -> Iterator[str]:
    """What each node must have for a valid plan, beside `remote.pilot`; a sentence each."""
    if what.kind == "threshold":
        yield f"on each node the model in {what.slot} must have the number {what.parameter} in its `output`"
    elif what.kind == "set-point":
        name = f"register: {what.register}" if what.topic is None else f"topic: {what.topic}"
        yield (
            f"the own file of each node needs, in the options of {what.device}: allow_write: true, and "
            f"write: {{{name}, min: {what.min:g}, max: {what.max:g}, safe: {what.safe:g}}}"
        )


def _owned(plan: Plan) -> Iterator[Mistake]:
    for at, node in enumerate(plan.nodes):
        if node.split("/")[0] != plan.owner:
            yield ("nodes", at), f"{node} does not belong to the owner {plan.owner}"
    yield from _twice(("nodes",), list(plan.nodes))


def _intervention(what: Intervention) -> Iterator[Mistake]:
    here: KeyPath = ("intervention",)
    needed, may = _INTERVENTIONS[what.kind]
    for key in sorted(_OF_A_KIND):
        is_set = getattr(what, key) is not None
        if key in needed and not is_set:
            yield (*here, key), f"is missing: an intervention of the kind {what.kind} needs it"
        elif is_set and key not in needed + may:
            yield (*here, key), f"does not belong to an intervention of the kind {what.kind}"
    if what.on is not None and what.on == what.off:
        yield (*here, "off"), "is the same as on: then nothing is switched"
    if what.kind != "set-point":
        return
    topic = what.topic or ""
    if set(topic) & set("+#$") or topic.split("/")[0] == ROOT:
        yield (*here, "topic"), f"{topic!r} is not one topic of a device"
    if (what.register is None) is (what.topic is None):
        yield (*here, "register"), "name one register (modbus) or one topic (mqtt)"
    if what.min is None or what.max is None:
        return
    if what.min >= what.max:
        yield (*here, "max"), f"{what.max:g} is not above min, {what.min:g}"
        return
    for key in ("on", "off", "safe"):
        value = getattr(what, key)
        if value is not None and not what.min <= value <= what.max:
            yield (*here, key), f"{value:g} is not within min and max, {what.min:g} to {what.max:g}"


def _design(plan: Plan, marks: Marks) -> Iterator[Mistake]:
    design, here = plan.design, "design"
    if (design.unit == "shift") is not marks.has(here, "shifts"):
        yield (here, "shifts"), "write the starts of the shifts, and `unit: shift`, or neither"
    yield from _twice((here, "shifts"), list(design.shifts))
    if design.kind == "switchback":
        if design.periods % 2:
            yield (here, "periods"), f"{design.periods} is odd: a switchback needs whole pairs of periods"
        if design.periods < MIN_SWITCHBACK:
            text = f"{design.periods} periods can show nothing: a switchback needs {MIN_SWITCHBACK} at least"
            yield (here, "periods"), f"{text}, and {ASK_SWITCHBACK} to have some left over"
    elif design.kind in ("before-after", "parallel") and design.periods < MIN_PHASE:
        yield (
            (here, "periods"),
            f"{design.periods} periods are too few: this design needs {MIN_PHASE} of them",
        )
    if design.kind in ("switchback", "parallel") and not marks.has(here, "seed"):
        yield (here, "seed"), "is missing: the draw needs a number that is fixed before the trial"
    if design.groups is not None and design.kind in ("switchback", "before-after"):
        yield (here, "groups"), f"does not belong to a {design.kind} design"
    elif design.groups is not None:
        yield from _groups(design.groups, plan)
    elif design.kind == "parallel":
        yield (here, "groups"), "is missing: name the machines, and how many of them are treated"
    if design.kind == "paired" and plan.intervention.kind != "model":
        yield (
            (here, "kind"),
            "paired compares a model with a rule on the same input: the intervention must be a model",
        )
    yield from _clusters(plan)


def _clusters(plan: Plan) -> Iterator[Mistake]:
    if plan.design.kind != "paired":
        return
    groups = plan.design.groups
    count, what = (plan.design.periods, "periods") if groups is None else (len(groups.machines), "machines")
    if count < MIN_CLUSTERS:
        path: KeyPath = ("design", "periods") if groups is None else ("design", "groups", "machines")
        yield path, f"{count} {what} are too few: model against rule needs {MIN_CLUSTERS} of them"


def _groups(groups: Groups, plan: Plan) -> Iterator[Mistake]:
    here: KeyPath = ("design", "groups")
    for at, machine in enumerate(groups.machines):
        if "/".join(machine.split("/")[:4]) not in plan.nodes:
            yield (*here, "machines", at), f"{machine} is not on a node of the plan"
    yield from _twice((*here, "machines"), list(groups.machines))
    if plan.design.kind == "paired":
        return
    if len(groups.machines) < MIN_MACHINES:
        yield (*here, "machines"), f"{len(groups.machines)} machines are too few: {MIN_MACHINES} are needed"
    if groups.treated is None:
        yield (*here, "treated"), "is missing: how many of the machines are drawn to get the change"
    elif groups.treated >= len(groups.machines):
        yield (*here, "treated"), "leaves no machine without the change to compare with"
    for at, text in enumerate(groups.starts):
        try:
            moment, window = local_time(text), plan.windows.trial
            if not local_time(window.start) <= moment < local_time(window.end):
                yield (*here, "starts", at), f"{text} is not within the trial"
        except WireError as error:
            yield (*here, "starts", at), str(error)


def _windows(plan: Plan, *, has_unit: bool) -> Iterator[Mistake]:
    windows, here = plan.windows, "windows"
    has_unit = has_unit and (plan.design.unit == "shift") is bool(plan.design.shifts)
    try:
        zone = time_zone(windows.tz)
    except WireError as error:
        yield (here, "tz"), str(error)
        return
    counts: dict[str, int] = {}
    for name, window in (("baseline", windows.baseline), ("trial", windows.trial)):
        if window is None:
            continue
        wrong = list(_times((here, name), window))
        yield from wrong
        if not wrong and has_unit:
            try:
                counts[name] = len(spans(window, plan.design, zone))
            except WireError as error:
                yield (here, name), str(error)
    for at, each in enumerate(plan.exclude.times):
        yield from _times(("exclude", "times", at), each)
    if "trial" in counts:
        yield from _counts(plan, counts)


def _times(here: KeyPath, window: Window) -> Iterator[Mistake]:
    moments = []
    for key, text in (("from", window.start), ("to", window.end)):
        try:
            moments.append(local_time(text))
        except WireError as error:
            yield (*here, key), str(error)
    if len(moments) == 2 and moments[0] >= moments[1]:
        yield (*here, "to"), f"{window.end} is not after {window.start}"


def _counts(plan: Plan, counts: Mapping[str, int]) -> Iterator[Mistake]:
    design, windows = plan.design, plan.windows
    if counts["trial"] != design.periods:
        text = f"{design.periods}, and the trial has {counts['trial']} periods of {design.unit}"
        yield ("design", "periods"), text
    if windows.baseline is None:
        if design.kind in ("before-after", "parallel"):
            yield ("windows", "baseline"), f"is missing: a {design.kind} design compares the trial with it"
    elif "baseline" in counts:
        if design.kind in ("before-after", "parallel") and counts["baseline"] < MIN_PHASE:
            text = f"has {counts['baseline']} periods of {design.unit}: it needs {MIN_PHASE}"
            yield ("windows", "baseline"), text
        if local_time(windows.baseline.end) > local_time(windows.trial.start):
            yield ("windows", "baseline", "to"), "is after the start of the trial"
    if counts["trial"] == design.periods and (windows.baseline is None or "baseline" in counts):
        yield from _cuts(plan)


def _cuts(plan: Plan) -> Iterator[Mistake]:
    """What is cut must leave something of every period."""
    trial = schedule(plan).trial
    shortest_s = min(each.end_ms - each.start_ms for each in trial) / 1000
    if plan.design.washout_s >= shortest_s:
        yield ("design", "washout_s"), f"leaves nothing of a period of {shortest_s:g} s"
    if plan.design.settle_s * 1000 >= trial[-1].end_ms - trial[0].start_ms:
        yield ("design", "settle_s"), "leaves nothing of the trial"


def _kpis(plan: Plan) -> Iterator[Mistake]:
    yield from _twice(("kpis",), [kpi.id for kpi in plan.kpis], "id")
    primary = [at for at, kpi in enumerate(plan.kpis) if kpi.primary]
    if not primary:
        yield ("kpis",), "none is primary: set `primary: true` at the one that decides"
    for at in primary[1:]:
        yield ("kpis", at, "primary"), f"{plan.kpis[primary[0]].id} is primary already: one KPI decides"
    for at, kpi in enumerate(plan.kpis):
        here: KeyPath = ("kpis", at)
        if kpi.primary and kpi.target is None:
            yield (*here, "target"), "is missing: the primary KPI needs one"
        if kpi.target is not None and kpi.guardrail is not None:
            yield (*here, "guardrail"), "a KPI has a target or is a guardrail, not both"
        if kpi.target is not None and kpi.target.effect is not None and kpi.target.effect < kpi.target.min:
            yield (*here, "target", "effect"), f"is below the target, {kpi.target.min:g}: it can never be met"
        for name, each in kpi.inputs.items():
            yield from _input((*here, "from", name), each, plan)
        if expression.is_expression(kpi.formula):
            yield from _expression(here, "formula", kpi, compares=False)
            yield from _same_unit(here, kpi)
        elif (formula := FORMULAS.get(kpi.formula)) is None:
            yield (*here, "formula"), f"{kpi.formula!r} is not known{did_you_mean(kpi.formula, FORMULAS)}"
        else:
            yield from _formula(here, kpi, formula)


def _formula(here: KeyPath, kpi: Kpi, formula: Formula) -> Iterator[Mistake]:
    known = {**formula.inputs, **formula.optional}
    for name in formula.inputs.keys() - kpi.inputs.keys():
        yield (*here, "from", name), f"is missing: {kpi.formula} needs it"
    for name, each in kpi.inputs.items():
        path = (*here, "from", name)
        if name not in known:
            yield path, f"is not an input of {kpi.formula}{did_you_mean(name, known)}"
        elif (units := known[name]) is None:
            if each.event is None:
                yield path, f"{kpi.formula} needs an event here: event: device/name"
        elif each.field is None:
            yield path, f"{kpi.formula} needs a field here: field: device/stream/field"
        elif units and each.unit not in units:
            yield (*path, "unit"), f"{each.unit!r} is not one of {', '.join(filter(None, units))}"
    for name in set(formula.given) - kpi.given.keys():
        yield (*here, "given", name), f"is missing: {kpi.formula} needs this number"
    for name in kpi.given.keys() - set(formula.given):
        yield (*here, "given", name), f"{kpi.formula} does not use it"
    if formula.units and kpi.unit not in formula.units:
        yield (*here, "unit"), f"{kpi.unit!r} is not a unit of {kpi.formula}: {', '.join(formula.units)}"


def _same_unit(here: KeyPath, kpi: Kpi) -> Iterator[Mistake]:
    """The unit of an expression of one aggregate is that of its input."""
    try:
        part = expression.parse(kpi.formula)
    except WireError:
        return
    if not isinstance(part, expression.Aggregate) or part.name not in kpi.inputs:
        return
    unit = kpi.inputs[part.name].unit
    if part.word in expression.SAME_UNIT and unit != kpi.unit:
        yield (*here, "unit"), f"{kpi.unit!r} is not the unit of {kpi.formula}, {unit!r}"


def _condition(here: KeyPath, condition: Condition, plan: Plan) -> Iterator[Mistake]:
    for name, each in condition.inputs.items():
        yield from _input((*here, "from", name), each, plan)
    yield from _expression(here, "when", condition, compares=True)


def _expression(here: KeyPath, key: str, of: Kpi | Condition, *, compares: bool) -> Iterator[Mistake]:
    text = of.formula if isinstance(of, Kpi) else of.when
    try:
        part = expression.parse(text, compares=compares)
    except WireError as error:
        yield (*here, key), str(error)
        return
    used = list(expression.aggregates(part))
    for each in used:
        if (source := of.inputs.get(each.name)) is None:
            yield (*here, key), f"{each.name!r} is not in `from`{did_you_mean(each.name, of.inputs)}"
        elif source.event is not None and each.word not in ("count", "rate"):
            yield (*here, key), f"{each.word}({each.name}) needs a field, and {each.name} is an event"
        elif source.event is None and each.word == "rate":
            yield (*here, key), f"rate({each.name}) needs an event, and {each.name} is a field"
    if not used:
        yield (*here, key), f"{text!r} uses no input"
    for name in expression.names(part) - of.given.keys():
        yield (
            (*here, key),
            f"{name!r} is not a number of `given`, and an input needs a word such as mean({name})",
        )
    for name in of.inputs.keys() - {each.name for each in used}:
        yield (*here, "from", name), f"{text!r} does not use it"
    for name in of.given.keys() - expression.names(part):
        yield (*here, "given", name), f"{text!r} does not use it"


def _input(here: KeyPath, each: Input, plan: Plan) -> Iterator[Mistake]:
    if (each.field is None) is (each.event is None):
        yield here, "name a field (device/stream/field) or an event (device/name)"
    elif each.event is not None and each.unit:
        yield (*here, "unit"), "an event has no unit"
    elif each.event is not None and each.hold_s is not UNSET:
        yield (*here, "hold_s"), "an event does not hold"
    if each.node is not None and each.node not in plan.nodes:
        yield (*here, "node"), f"{each.node} is not a node of the plan{did_you_mean(each.node, plan.nodes)}"


def _twice(here: KeyPath, names: list[str], *key: str) -> Iterator[Mistake]:
    counts = Counter(names)
    for at, name in enumerate(names):
        if counts[name] > 1 and names.index(name) < at:
            yield (*here, at, *key), f"{name!r} stands there twice"
