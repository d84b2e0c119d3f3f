"""Writes the draft of a `pilot.yaml` for a running node: from a plan that there is, or from its fields."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgebed.collector_api import CollectorApi
from edgebed.pilot_progress import length
from edgebed.pilot_start import node_facts, proposals, windows
from edgebed.pilot_start.node_facts import NodeFacts, quoted
from edgebed.pilot_start.windows import Grid, Windows
from wire.config import did_you_mean
from wire.errors import EdgebedError
from wire.pilot.checks import MIN_PHASE
from wire.pilot.plan import Plan, load, parse
from wire.pilot.schedule import time_zone
from wire.shipped import folder

_KEY = re.compile(r"^([a-z_]+):", re.MULTILINE)
_OWN_UNIT, _OWN_PERIODS = "8h", 24


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user chose; None is the default."""

    like: str | None
    nodes: tuple[str, ...]
    unit: str | None
    periods: int | None
    baseline: int | None
    washout_s: float | None
    lead_s: int
    tz: str | None
    seed: int


@dataclass(frozen=True, slots=True)
class Draft:
    """The text of a plan, and what to say about its times."""

    text: str
    lines: tuple[str, ...]


def ready_plans() -> dict[str, Path]:
    """The ready plans by name."""
    return {path.stem: path for path in sorted((folder("configs") / "pilots").glob("*.yaml"))}


def write(api: CollectorApi, asked: Asked, now_ms: int, name: str) -> Draft:
    """The draft of a plan for a running node.

    Raises:
        ConfigError: the plan that it follows has mistakes.
        EdgebedError: there are no rows yet, or it is not clear what is meant.
    """
    path = None if asked.like is None else _plan_file(asked.like)
    like = None if path is None else load(path)
    if like is not None and like.design.kind != "switchback":
        raise EdgebedError(f"{asked.like} is a {like.design.kind} plan: copy it and change its windows")
    nodes = node_facts.choose_nodes(api, asked.nodes, () if like is None else like.nodes)
    facts = node_facts.read(api, nodes)
    if not facts.fields:
        raise EdgebedError(f"{nodes[0]} declares no field of a stream that a KPI could be made of")
    made = _times(api, facts, asked, like, now_ms)
    if path is not None and like is not None:
        text = _like(path.read_text(encoding="utf-8"), facts, like, made)
    else:
        text = _own(facts, made)
    head = f"# A draft for {nodes[0]}. Read each line and change it until it is your question.\n"
    text = f"{head}# It is not fixed until you freeze it: see docs/pilot-guide.md\n{text}"
    parse(text, name)  # a draft never has a mistake
    return Draft(text, made.lines)


def _plan_file(like: str) -> Path:
    ready = ready_plans()
    if like in ready:
        return ready[like]
    if Path(like).is_file():
        return Path(like)
    raise EdgebedError(f"{like!r} is neither a ready plan nor a file{did_you_mean(like, ready)}")


@dataclass(frozen=True, slots=True)
class _Times:
    design: str
    windows: str
    lines: tuple[str, ...]


def _times(api: CollectorApi, facts: NodeFacts, asked: Asked, like: Plan | None, now_ms: int) -> _Times:
    unit = asked.unit or (_OWN_UNIT if like is None else like.design.unit)
    if unit not in ("day", "shift") and (windows.seconds(unit) is None or unit.endswith("d")):
        raise EdgebedError(f"the unit {unit!r} is not day, shift, or a time such as 8h")
    shifts = () if like is None or unit != "shift" else like.design.shifts
    if unit == "shift" and not shifts:
        raise EdgebedError("the unit `shift` needs the starts of the shifts: take it from a plan with --like")
    periods = asked.periods or (_OWN_PERIODS if like is None else like.design.periods)
    baseline = asked.baseline or max(MIN_PHASE, periods)
    washout_s, carry_over_s = _washout(asked, like, unit)
    tz = asked.tz or ("UTC" if like is None else like.windows.tz)
    zone = time_zone(tz)
    grid = Grid(unit, zone, windows.midnight_ms(now_ms, zone), shifts)
    field = _stored_field(facts, like)
    having = node_facts.whole_periods(api, facts.nodes[0], field, grid, now_ms)
    chosen = windows.choose(grid, having, now_ms, baseline=baseline, periods=periods, lead_s=asked.lead_s)
    design = _design(unit, shifts, periods, asked.seed, washout_s, carry_over_s)
    return _Times(design, _windows(tz, grid, chosen), _said(tz, grid, chosen, unit, now_ms))


def _washout(asked: Asked, like: Plan | None, unit: str) -> tuple[float, float]:
    """Wash-out and carry-over in seconds: those of the other plan count for its own unit alone."""
    if asked.washout_s is not None:
        return asked.washout_s, asked.washout_s
    if like is None:
        return 0.0, 0.0
    if unit != like.design.unit:
        raise EdgebedError(
            f"the wash-out of the plan is for periods of {like.design.unit}: "
            f"give one for periods of {unit} with --washout"
        )
    return like.design.washout_s, like.design.carry_over_s


def _stored_field(facts: NodeFacts, like: Plan | None) -> str:
    """The field whose rows show which periods are stored."""
    fields = [] if like is None else [each.field for each in like.primary.inputs.values()]
    declared = {each.path for each in facts.fields}
    return next((each for each in fields if each in declared), facts.fields[0].path)


def _design(
    unit: str, shifts: tuple[str, ...], periods: int, seed: int, washout_s: float, carry_over_s: float
) -> str:
    quoted = ", ".join(f'"{each}"' for each in shifts)
    starts = f"  shifts: [{quoted}]\n" if shifts else ""
    return (
        "design:\n"
        "  kind: switchback             # on and off in turn, in an order that is drawn\n"
        f"  unit: {unit:<22} # the length of a period\n{starts}"
        f"  periods: {periods:<19} # an even number; 20 and more leave room for lost ones\n"
        f"  seed: {seed:<22} # was drawn for this draft; the order of on and off follows from it\n"
        f"  washout_s: {washout_s:<17g} # cut from the start of each period: until the change acts\n"
        f"  carry_over_s: {carry_over_s:<14g} # how long a period is still affected by the one before\n"
    )


def _windows(tz: str, grid: Grid, chosen: Windows) -> str:
    baseline, trial = (
        f"{{from: {grid.text(first)}, to: {grid.text(end)}}}"
        for first, end in (chosen.baseline, chosen.trial)
    )
    return (
        f"windows:\n  tz: {tz}\n"
        f"  baseline: {baseline}  # nothing is switched\n"
        f"  trial: {trial}     # freeze the plan before it begins\n"
    )


def _said(tz: str, grid: Grid, chosen: Windows, unit: str, now_ms: int) -> tuple[str, ...]:
    first, end = chosen.baseline
    start, over = chosen.trial
    stored = f"{chosen.stored} of its {end - first} periods of {unit} are stored"
    left = grid.start_ms(end) - now_ms
    full = f", it is full in {length(left)}" if left > 0 else ""
    begins = f"it begins in {length(grid.start_ms(start) - now_ms)}; freeze the plan before"
    return (
        f"baseline {grid.text(first)} to {grid.text(end)} {tz}: {stored}{full}",
        f"trial    {grid.text(start)} to {grid.text(over)} {tz}: {begins}",
    )


def _like(text: str, facts: NodeFacts, like: Plan, made: _Times) -> str:
    """The text of another plan with the nodes, the model, the design and the windows of this draft."""
    blocks = _blocks(text)
    blocks["owner"] = f"owner: {facts.owner}\n"
    blocks["nodes"] = _nodes(facts)
    model = facts.models.get(like.intervention.slot or "")
    if model and like.intervention.kind == "model":
        lines = {"model": quoted(f"{model['name']}@{model['ver']}"), "sha256": quoted(model["sha256"])}
        blocks["intervention"] = re.sub(
            r"(?m)^(\s+)(model|sha256):.*$",
            lambda found: f"{found[1]}{found[2]}: {lines[found[2]]}",
            blocks["intervention"],
        )
    blocks["design"], blocks["windows"] = made.design + "\n", made.windows + "\n"
    return "".join(blocks.values())


def _blocks(text: str) -> dict[str, str]:
    """The text of each key at the left margin, with the lines that follow it."""
    starts = list(_KEY.finditer(text))
    ends = [*(each.start() for each in starts[1:]), len(text)]
    return {each[1]: text[each.start() : end] for each, end in zip(starts, ends, strict=True)}


def _nodes(facts: NodeFacts) -> str:
    return f"nodes: [{', '.join(facts.nodes)}]\n\n"


def _own(facts: NodeFacts, made: _Times) -> str:
    """A plan whose KPIs and model are those of the node."""
    name = facts.nodes[0].rpartition("/")[2]
    return (
        f"pilot: {quoted(f'{name[:26]}-trial')}\n"
        f"title: {{en: Trial on {name}, ko: {name} 실증}}\n"
        f"owner: {facts.owner}\n"
        f"testbed: {'/'.join(facts.nodes[0].split('/')[1:3])}   # in words: which equipment, where\n"
        "question:\n"
        "  en: Does the change improve the primary KPI?\n"
        "  ko: 변경하면 주 지표가 나아지는가?\n"
        f"{_nodes(facts)}"
        f"{_intervention(facts)}\n{made.design}\n{made.windows}\n{proposals.kpis(facts)}\n"
        "analysis: {sensitivity: [trend]}\n"
        "sample: {power: 0.8, min_effect: 0.15}\n"
    )


def _intervention(facts: NodeFacts) -> str:
    for slot, model in facts.models.items():
        return (
            "intervention:\n"
            "  kind: model                  # acts while it is on, runs in shadow while it is off\n"
            "  what: {en: the results of the model are acted on, ko: 모델의 결과에 따라 조치한다}\n"
            f"  slot: {quoted(slot)}\n"
            f"  model: {quoted(model['name'] + '@' + model['ver'])}\n"
            f"  sha256: {quoted(model['sha256'])}\n"
        )
    device = facts.fields[0].path.split("/")[0]
    return (
        "# The node runs no model: write which number of a device is switched (docs/pilots.md#set-points)\n"
        "intervention:\n"
        "  kind: set-point\n"
        "  what: {en: a number of the device, ko: 장치의 설정값}\n"
        f"  device: {quoted(device)}\n"
        "  topic: write/its/topic        # or register: NAME for modbus\n"
        "  on: 1\n  off: 0\n  min: 0\n  max: 1\n"
        "  safe: 0                      # what the device gets when the agent stops\n"
    )
