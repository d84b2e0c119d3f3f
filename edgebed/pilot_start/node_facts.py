"""What a running collector knows of the nodes of a draft: fields, models, and which periods have rows."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgebed.collector_api import CollectorApi
from edgebed.pilot_start.windows import Grid
from wire.config import did_you_mean
from wire.errors import EdgebedError
from wire.pilot.plan import MAX_PERIODS

_PLAIN = re.compile(r"[a-z0-9/_-]*[a-z][a-z0-9/_-]*")
_POINTS = 2_000  # of a series: a few for each period


def quoted(text: str) -> str:
    """A text of a node as YAML, on one line whatever it is: a digest can look like a number."""
    return json.dumps(text)


@dataclass(frozen=True, slots=True)
class Found:
    """One field that a node declares: its path, its unit, and its type."""

    path: str
    unit: str
    type: str

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    @property
    def text(self) -> str:
        """As an input of a KPI."""
        path = self.path if _PLAIN.fullmatch(self.path) else quoted(self.path)
        return f"{{field: {path}, unit: {quoted(self.unit)}}}" if self.unit else f"{{field: {path}}}"


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """The first node of a draft, and the addresses of all."""

    nodes: tuple[str, ...]
    fields: tuple[Found, ...]  # numbers and flags
    models: dict[str, dict[str, str]]  # slot -> name, ver, sha256

    @property
    def owner(self) -> str:
        """The company of the nodes."""
        return self.nodes[0].split("/")[0]


def choose_nodes(api: CollectorApi, asked: Sequence[str], preferred: Sequence[str]) -> tuple[str, ...]:
    """The nodes of a draft: those asked for, else the preferred ones if they are there, else the only one.

    Raises:
        EdgebedError: there is none, or it is not clear which one.
    """
    known = sorted(each["node"] for each in api.ask("fleet")["nodes"])
    if not known:
        raise EdgebedError(f"{api.url} has not heard of any node yet: start an agent, then try again")
    for each in asked:
        if each not in known:
            raise EdgebedError(f"{api.url} knows no node {each!r}{did_you_mean(each, known)}")
    if asked:
        return tuple(asked)
    if preferred and all(each in known for each in preferred):
        return tuple(preferred)
    if len(known) > 1:
        raise EdgebedError(f"choose the nodes of the pilot with --node: {', '.join(known[:20])}")
    return tuple(known)


def read(api: CollectorApi, nodes: tuple[str, ...]) -> NodeFacts:
    """What the first node declares.

    Raises:
        EdgebedError: it has not described itself yet.
    """
    birth = api.ask(f"nodes/{nodes[0]}")["birth"]
    if not birth:
        raise EdgebedError(f"{nodes[0]} has not described its devices yet: is its agent running?")
    fields = tuple(
        Found(f"{device}/{stream}/{name}", facts.get("unit", ""), facts.get("t", "f64"))
        for device, declared in sorted(birth.get("devices", {}).items())
        for stream, content in sorted(declared.get("streams", {}).items())
        for name, facts in content.get("fields", {}).items()
        if facts.get("t", "f64") not in ("str", "json")
    )
    return NodeFacts(nodes, fields, birth.get("models", {}))


def whole_periods(api: CollectorApi, node: str, field: str, grid: Grid, now_ms: int) -> list[int]:
    """The whole periods before now in which rows of a field are stored."""
    device, stream, name = field.split("/")
    present = grid.number(now_ms)
    first = present - MAX_PERIODS
    asked = {"stream": stream, "field": name, "points": str(_POINTS)}
    asked |= {"from": str(grid.start_ms(first)), "to": str(grid.start_ms(present))}
    found = api.ask(f"nodes/{node}/devices/{device}/series", asked)
    numbers = {grid.number(ts) for ts, n in zip(found["t"], found["n"], strict=True) if n}
    having = sorted(each for each in numbers if each < present)  # a row can be at the very end
    return having if having and having[0] == first else having[1:]  # the rows began within the first
