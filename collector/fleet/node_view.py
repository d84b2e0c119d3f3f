"""What the API shows of a node, and one problem of it."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType, field

from collector.ledger.balance import Totals

Rank = tuple[int, int, str]  # of a node in the order of the page: without alarm, less severe, its name


class Problem(Struct, omit_defaults=True):
    """One thing that is wrong; `sev` from 1 (note) to 4 (critical)."""

    code: str
    sev: int
    why: str
    device: str | UnsetType = UNSET
    slot: str | UnsetType = UNSET
    reason: dict[str, Any] | UnsetType = UNSET  # `code` and `args` of `why`


class NodeView(Struct):
    """One node as the API shows it."""

    node: str
    state: str
    since: int
    last_seen: int
    agent: str
    clk: int | None
    skew_ms: int | None
    uncertainty_ms: int | None
    outbox: dict[str, float | None]
    health: dict[str, float | None]
    devices: list[dict[str, Any]]
    models: list[dict[str, Any]]
    ledger: Totals
    problems: list[Problem] = field(name="trouble")
    usage: dict[str, Any] = {}
    fence: dict[str, float] = {}
    fence_by: str = ""  # what keeps the limits: "agent" or "cgroup"

    @property
    def rank(self) -> Rank:
        """Its place in the order of the page."""
        return (not self.has_alarm) + 0, -max((one.sev for one in self.problems), default=0), self.node

    @property
    def has_alarm(self) -> bool:
        """Whether a model raises an alarm now."""
        return any(model["verdict"].get("alarm") is True for model in self.models)
