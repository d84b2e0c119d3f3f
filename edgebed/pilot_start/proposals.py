"""KPIs of the library that the fields of a node can feed, as text of a plan."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgebed.pilot_start.node_facts import Found, NodeFacts, quoted
from wire.pilot.formulas import FORMULAS

# name of an input -> what the name of its field contains; a field of another type or unit does not count
_NAMES = {
    "running": re.compile(r"run|active|operating|producing"),
    "planned": re.compile(r"planned|scheduled"),
    "parts": re.compile(r"part|piece|produced|output|count"),
    "rejects": re.compile(r"reject|scrap|defect|nok"),
    "energy": re.compile(r""),
    "distance": re.compile(r"dist|odo|mileage"),
}
_FLAGS = ("running", "planned")
_COUNTED = ("{part}", "{piece}")


@dataclass(frozen=True, slots=True)
class _Kind:
    """A formula that a draft may propose."""

    formula: str
    kpi_class: str
    en: str
    ko: str
    direction: str
    unit: str  # {energy} and {distance} are the units of these inputs


# in the order in which the first one becomes the primary KPI
_KINDS = (
    _Kind("downtime", "P", "unplanned down time", "비계획 정지 시간", "decrease", "min"),
    _Kind("units-per-hour", "P", "parts per hour", "시간당 생산량(UPH)", "increase", "{{part}}/h"),
    _Kind("defect-rate", "Q", "defect rate", "불량률", "decrease", "%"),
    _Kind("energy-per-part", "C", "energy per part", "개당 에너지(원단위)", "decrease", "{energy}/{{part}}"),
    _Kind(
        *("energy-per-distance", "E", "energy per distance", "거리당 에너지", "decrease"),
        "{energy}/{distance}",
    ),
    _Kind("energy", "E", "energy", "에너지 사용량", "decrease", "{energy}"),
)
_ROOM = 40  # fields that a draft lists beside


def kpis(facts: NodeFacts) -> str:
    """The block `kpis`: the first proposal is primary, the others are guardrails."""
    proposed = [each for each in map(_proposal, _KINDS, [facts.fields] * len(_KINDS)) if each]
    ids = {words[0] for words in proposed}
    if "energy-per-part" in ids or "energy-per-distance" in ids:
        proposed = [each for each in proposed if each[0] != "energy"]
    if not proposed:
        proposed = list(_mean(facts.fields))
    lines = ["kpis:"]
    for at, (_, *words) in enumerate(proposed):
        lines += words
        if at:
            lines.append("    guardrail: {worse_than: 0.05}   # it must not get worse by more than 5 %")
        else:
            lines.append("    primary: true                   # this one decides")
            lines.append(
                "    target: {min: 0.05, effect: 0.15}  # 5 % better counts as success; 15 % is expected"
            )
    return "\n".join([*lines, *_others(facts.fields)]) + "\n"


def _proposal(kind: _Kind, fields: Sequence[Found]) -> list[str]:
    """The id of a proposal and its lines; empty where an input is not there."""
    formula = FORMULAS[kind.formula]
    inputs = {}
    for name, units in formula.inputs.items():
        found = _field(name, units or (), fields)
        if found is None:
            return []
        inputs[name] = found
    for name, units in formula.optional.items():
        if (found := _field(name, units or (), fields)) is not None:
            inputs[name] = found
    unit = kind.unit.format(**{name: each.unit for name, each in inputs.items()})
    return list(_lines(kind, inputs, unit))


def _lines(kind: _Kind, inputs: dict[str, Found], unit: str) -> Iterator[str]:
    yield kind.formula
    yield f"  - id: {kind.formula}"
    yield f"    title: {{en: {kind.en}, ko: {kind.ko}}}"
    yield f"    class: {kind.kpi_class}"
    yield f"    formula: {kind.formula}"
    yield "    from:"
    for name, each in inputs.items():
        yield f"      {name}: {each.text}"
    yield f"    unit: {quoted(unit)}"
    yield f"    direction: {kind.direction}"


def _field(name: str, units: tuple[str, ...], fields: Sequence[Found]) -> Found | None:
    """The field for an input: a right unit, and a name that says it."""
    for each in fields:
        fits = each.unit in units and (each.type == "bool") is (name in _FLAGS)
        named = bool(_NAMES[name].search(each.name))
        if name == "parts":
            named = (named or each.unit in _COUNTED) and not _NAMES["rejects"].search(each.name)
        if fits and named:
            return each
    return None


def _mean(fields: Sequence[Found]) -> Iterator[list[str]]:
    """The mean of the first number, where no formula of the library fits."""
    for each in fields:
        if each.type == "bool":
            continue
        name = each.name
        yield [
            "mean",
            f"  - id: mean-{name.replace('_', '-')[:24]}",
            f"    title: {{en: mean {name}, ko: 평균 {name}}}",
            "    class: P                        # P, Q, C, D, E, S or A",
            f"    formula: mean({name})",
            "    from:",
            f"      {name}: {each.text}",
            f"    unit: {quoted(each.unit)}",
            "    direction: decrease             # or increase: which way is better",
        ]
        return


def _others(fields: Sequence[Found]) -> Iterator[str]:
    """All fields, to choose others: mean(x), delta(x) of a counter, share(x) of a flag."""
    yield "# The fields of the node, for KPIs of your own (formulas and words: docs/pilots.md#kpis):"
    for each in fields[:_ROOM]:
        yield f"#   {each.text}"
    if len(fields) > _ROOM:
        yield f"#   and {len(fields) - _ROOM} more"
