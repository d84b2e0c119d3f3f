"""Compares the plan of a pilot with a running collector: streams, units, the baseline, other pilots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from edgebed.collector_api import CollectorApi
from wire.config import Check, KeyPath, Marks, Mistake, did_you_mean
from wire.errors import EdgebedError
from wire.pilot.checks import MIN_PHASE
from wire.pilot.plan import Input, Kpi, Plan
from wire.pilot.schedule import Period, schedule

_POINTS = 2_000  # of a series: a few for each period
Fields = dict[str, str | None]  # `device/stream/field` to its unit; None where only stored rows are known


def against(api: CollectorApi, now_ms: int, *, amends: bool = False) -> Check[Plan]:
    """The mistakes that only the collector's data show, as a check beside `wire.pilot.checks.check`.

    `amends`: the plan replaces one that is frozen, so that its trial may have begun.
    """

    def check(plan: Plan, _marks: Marks) -> Iterator[Mistake]:
        nodes = {}
        for at, address in enumerate(plan.nodes):
            try:
                nodes[address] = _Node(api, address)
            except EdgebedError as error:
                yield ("nodes", at), str(error)
        yield from _intervention(plan, nodes)
        for path, each in plan.inputs():
            yield from _input(path, each, nodes)
        yield from _machines(plan, nodes)
        yield from _others(plan, api)
        if not amends and schedule(plan).trial_ms[0] <= now_ms:
            yield ("windows", "trial", "from"), "has begun: a plan is frozen before its trial"
        yield from _baseline(plan, nodes, now_ms)

    return check


class _Node:
    """What a collector knows of a node."""

    def __init__(self, api: CollectorApi, address: str) -> None:
        self.address = address
        self._api = api
        birth: dict[str, Any] = api.ask(f"nodes/{address}")["birth"] or {}
        self.models: dict[str, dict[str, str]] = birth.get("models", {})
        self.devices = set(birth.get("devices", {}))
        self.fields: Fields = {}
        for device in api.ask(f"nodes/{address}/stored")["devices"]:
            self.devices.add(device["id"])
            self._take(device["id"], device, declared=False)
        for name, device in birth.get("devices", {}).items():
            self._take(name, device, declared=True)

    def _take(self, name: str, device: dict[str, Any], *, declared: bool) -> None:
        for stream, content in device.get("streams", {}).items():
            for field, facts in content.get("fields", {}).items():
                self.fields[f"{name}/{stream}/{field}"] = facts.get("unit", "") if declared else None

    def has_rows(self, path: str, periods: list[Period]) -> int:
        """In how many periods rows of a field are stored."""
        device, stream, field = path.split("/")
        found = self._api.ask(
            f"nodes/{self.address}/devices/{device}/series",
            {
                "stream": stream,
                "field": field,
                "from": str(periods[0].start_ms),
                "to": str(periods[-1].end_ms),
                "points": str(_POINTS),
            },
        )
        times = [ts for ts, n in zip(found["t"], found["n"], strict=True) if n]
        return sum(any(each.start_ms <= ts < each.end_ms for ts in times) for each in periods)


def _intervention(plan: Plan, nodes: dict[str, _Node]) -> Iterator[Mistake]:
    what = plan.intervention
    for node in nodes.values():
        if what.device is not None and what.device not in node.devices:
            yield ("intervention", "device"), f"{node.address} has no device {what.device!r}"
        if what.slot is None:
            continue
        if (model := node.models.get(what.slot)) is None:
            hint = did_you_mean(what.slot, node.models)
            yield ("intervention", "slot"), f"{node.address} has no slot {what.slot!r}{hint}"
        elif what.sha256 is not None and model["sha256"] != what.sha256:
            text = f"{node.address} runs {model['name']}@{model['ver']} with sha256 {model['sha256']}"
            yield ("intervention", "sha256"), text


def _input(path: KeyPath, each: Input, nodes: dict[str, _Node]) -> Iterator[Mistake]:
    asked = [node for node in nodes.values() if each.node in (None, node.address)]
    if not asked:
        return
    if each.event is not None:
        device = each.event.split("/")[0]
        if device != "_" and not any(device in node.devices for node in asked):
            yield (*path, "event"), f"no node of the plan has a device {device!r}"
        return
    if each.field is None:
        return
    having = [node for node in asked if each.field in node.fields]
    if not having:
        known = sorted({name for node in asked for name in node.fields})
        yield (*path, "field"), f"no node of the plan has {each.field!r}{did_you_mean(each.field, known)}"
    for node in having:
        unit = node.fields[each.field]
        if unit is not None and unit != each.unit:
            yield (*path, "unit"), f"{node.address} declares {each.field} in {unit!r}, not in {each.unit!r}"


def _machines(plan: Plan, nodes: dict[str, _Node]) -> Iterator[Mistake]:
    """Each machine is evaluated alone, so that each needs every field."""
    if plan.design.kind not in ("parallel", "paired") or plan.design.groups is None:
        return
    for at, machine in enumerate(plan.design.groups.machines):
        *address, device = machine.split("/") if machine.count("/") > 3 else (*machine.split("/"), "")
        node = nodes.get("/".join(address))
        for path in sorted({field for kpi in plan.kpis for field in _own_fields(kpi, device)}):
            if node is not None and path not in node.fields:
                yield ("design", "groups", "machines", at), f"{machine} has no {path!r}"


def _own_fields(kpi: Kpi, device: str) -> Iterator[str]:
    """The fields that a machine must have; `device` takes the place of that of an input."""
    for each in kpi.inputs.values():
        if each.field is not None and each.node is None:
            yield each.field if not device else f"{device}/{each.field.partition('/')[2]}"


def _others(plan: Plan, api: CollectorApi) -> Iterator[Mistake]:
    """Other pilots on the same nodes: a trial changes what a baseline or another trial measures."""
    made = schedule(plan)
    trial, baseline = made.trial_ms, made.baseline_ms
    sent = [each for each in api.ask("pilots/plans")["plans"] if _is_other(plan, each)]
    acted = {(each["hash"], node): span for each in sent for node, span in each.get("acted", {}).items()}
    in_use = set()
    for each in api.ask("pilots")["pilots"]:
        if not _is_other(plan, each) or each["node"] not in plan.nodes:
            continue
        in_use.add(key := (each["hash"], each["node"]))
        name = _name(plan, each, each["node"])
        if _meet(trial, each["trial"]):
            yield ("windows", "trial"), f"overlaps the trial of {name}"
        elif _meet(trial, each.get("baseline")):
            yield ("windows", "trial"), f"overlaps the baseline of {name}"
        if _meet(baseline, _changed(each, acted.get(key))):
            yield ("windows", "baseline"), f"overlaps the trial of {name}"
    # plans that were withdrawn, replaced or amended acted all the same, for as long as they did
    for each in sent:
        for node in plan.nodes:
            key = each["hash"], node
            if key not in in_use and _meet(baseline, acted.get(key)):
                text = f"overlaps the trial of {_name(plan, each, node)}, which has ended or was amended"
                yield ("windows", "baseline"), text


def _is_other(plan: Plan, each: dict[str, Any]) -> bool:
    return (each["owner"], each["pilot"]) != (plan.owner, plan.pilot)


def _name(plan: Plan, each: dict[str, Any], node: str) -> str:
    """A pilot as the owner of the plan may know it."""
    named = f"the pilot {each['pilot']}" if each["owner"] == plan.owner else "another pilot"
    return f"{named} on {node}"


def _changed(each: dict[str, Any], acted: Sequence[int] | None) -> Sequence[int] | None:
    """When the pilot of a node changes what is measured: its trial, or of one that is over what is known."""
    trial: Sequence[int] = each["trial"]
    if each["state"] != "over":
        return trial
    reported = each["reported"] or {}
    is_refused = reported.get("state") in ("rejected", "failed") and reported.get("active") != each["hash"]
    return acted or (None if is_refused and each["began"] is None else trial)


def _meet(mine: Sequence[int] | None, other: Sequence[int] | None) -> bool:
    return mine is not None and other is not None and mine[0] < other[1] and other[0] < mine[1]


def _baseline(plan: Plan, nodes: dict[str, _Node], now_ms: int) -> Iterator[Mistake]:
    """A baseline that is over must have rows, of every KPI that is compared with it."""
    periods = [each for each in schedule(plan).periods if each.phase == "baseline"]
    if not periods or periods[-1].end_ms > now_ms:
        return
    compares = plan.design.kind in ("before-after", "parallel")
    needed = MIN_PHASE if compares else 1
    asked = {
        (each.field, name): each
        for kpi in plan.kpis
        if compares or kpi.primary
        for name, each in kpi.inputs.items()
        if each.field is not None
    }
    for (field, name), each in asked.items():
        for node in nodes.values():
            if each.node not in (None, node.address) or field not in node.fields:
                continue
            if (found := node.has_rows(field, periods)) < needed:
                where = f" at {node.address}" if len(nodes) > 1 else ""
                text = f"{field} ({name}) has rows in {found} of {len(periods)} periods{where}"
                yield ("windows", "baseline"), f"{text}, and {needed} are needed"
