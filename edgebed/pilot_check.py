"""Compares the plan of a pilot with a running collector: streams, units, the baseline, other pilots."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgebed.collector_api import CollectorApi
from wire.config import Check, KeyPath, Marks, Mistake, did_you_mean
from wire.errors import EdgebedError, WireError
from wire.pilot.checks import MIN_PHASE
from wire.pilot.plan import Input, Plan
from wire.pilot.schedule import Period, schedule

_POINTS = 2_000  # of a series: a few for each period
Fields = dict[str, str | None]  # `device/stream/field` to its unit; None where only stored rows are known


def against(api: CollectorApi, now_ms: int) -> Check[Plan]:
    """The mistakes that only the collector's data show, as a check beside `wire.pilot.checks.check`."""

    def check(plan: Plan, _marks: Marks) -> Iterator[Mistake]:
        nodes = {}
        for at, address in enumerate(plan.nodes):
            try:
                nodes[address] = _Node(api, address)
            except EdgebedError as error:
                yield ("nodes", at), str(error)
        yield from _intervention(plan, nodes)
        for path, each in _inputs(plan):
            yield from _input(path, each, nodes)
        yield from _others(plan, api)
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


def _inputs(plan: Plan) -> Iterator[tuple[KeyPath, Input]]:
    for at, kpi in enumerate(plan.kpis):
        for name, each in kpi.inputs.items():
            yield ("kpis", at, "from", name), each
    for name, each in plan.adjust.covariates.items():
        yield ("adjust", "covariates", name), each
    for at, condition in enumerate(plan.exclude.when):
        for name, each in condition.inputs.items():
            yield ("exclude", "when", at, "from", name), each


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


def _others(plan: Plan, api: CollectorApi) -> Iterator[Mistake]:
    """Other pilots on the same nodes at the same time."""
    start, end = schedule(plan).trial_ms
    for each in api.ask("pilots")["pilots"]:
        first, last = each["trial"]
        if each["pilot"] != plan.pilot and each["node"] in plan.nodes and start < last and first < end:
            yield ("windows", "trial"), f"overlaps the trial of the pilot {each['pilot']} on {each['node']}"


def _baseline(plan: Plan, nodes: dict[str, _Node], now_ms: int) -> Iterator[Mistake]:
    """A baseline that is over must have rows of the primary KPI."""
    try:
        periods = [each for each in schedule(plan).periods if each.phase == "baseline"]
    except WireError:
        return
    if not periods or periods[-1].end_ms > now_ms:
        return
    needed = MIN_PHASE if plan.design.kind in ("before-after", "parallel") else 1
    for name, each in plan.primary.inputs.items():
        having = [node for node in nodes.values() if each.field in node.fields]
        if each.field is None or not having:
            continue
        best = max(node.has_rows(each.field, periods) for node in having)
        if best < needed:
            text = (
                f"{each.field} ({name}) has rows in {best} of {len(periods)} periods, and {needed} are needed"
            )
            yield ("windows", "baseline"), text
