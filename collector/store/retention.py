"""How long what is stored is kept: the rules of the config by tenant, pilot and class."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Literal

from msgspec import Meta, Struct

from wire.clock import Clock
from wire.config import Mistake

Class = Literal["data", "event", "quarantine"]
CLASSES: tuple[Class, ...] = ("data", "event", "quarantine")
MAX_DAYS = 36_500
_ID = r"[a-z0-9][a-z0-9-]{0,31}"
_NODES = re.compile(rf"\*|{_ID}/\*|{_ID}/{_ID}")


class RetentionRule(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, rename={"cls": "class"}):
    """How long something is kept."""

    nodes: Annotated[str, Meta(description="Whose: `tenant/pilot`, `tenant/*`, or `*`.")]
    cls: Annotated[
        Class | None, Meta(description="What: `data` (rows), `event` or `quarantine`; without it, all three.")
    ] = None
    keep_days: Annotated[int, Meta(ge=0, le=MAX_DAYS, description="Days of receipt to keep; 0 keeps all.")]

    @property
    def what(self) -> str:
        """What it is about, for people."""
        return f"{self.nodes} {self.cls or 'of all classes'}"

    def rank(self, node: str, cls: str) -> int:
        """How exactly the rule names this, 0 when it does not apply."""
        tenant, _, pilot = self.nodes.partition("/")
        names = node.split("/", 2)
        if self.cls not in (None, cls) or tenant not in ("*", names[0]):
            return 0
        if pilot not in ("", "*", names[1] if len(names) > 1 else ""):
            return 0
        exact = 0 if tenant == "*" else 1 if pilot == "*" else 2
        return 1 + 2 * exact + (self.cls is not None)


class Quota(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How much one tenant may keep on disk."""

    tenant: Annotated[str, Meta(min_length=1, max_length=32, description="The tenant.")]
    gb: Annotated[float, Meta(gt=0, le=10**6, description="What is stored of it, in GB on disk.")]
    when_full: Annotated[
        Literal["refuse", "prune"],
        Meta(description="Refuse its messages, which wait in its nodes; or remove its oldest days."),
    ] = "refuse"


class Retention:
    """The rules together: the one that names node and class most exactly applies, else `default_days`."""

    def __init__(self, default_days: int = 0, rules: Sequence[RetentionRule] = ()) -> None:
        self.default_days = default_days
        self.rules = tuple(rules)

    def keep_days(self, node: str, cls: str) -> int:
        """How many days this is kept; 0 is without end."""
        ranked = [(rank, rule.keep_days) for rule in self.rules if (rank := rule.rank(node, cls))]
        return max(ranked, key=lambda one: one[0])[1] if ranked else self.default_days

    def longest(self) -> int:
        """After how many days nothing of a day file is kept; 0 is never."""
        days = [self.default_days, *(rule.keep_days for rule in self.rules)]
        return 0 if 0 in days else max(days)

    def unmatched(self, nodes: Iterable[str]) -> list[RetentionRule]:
        """The rules that apply to none of the known nodes."""
        known = {"/".join(node.split("/")[:2]) for node in nodes}
        return [
            rule for rule in self.rules if not any(rule.rank(pilot, rule.cls or "data") for pilot in known)
        ]


def today_of(ended: Sequence[date], clock: Clock) -> date:
    """The day from which the age of day files is counted; `ended` are the days of those that ended, in order.

    It is at most a day after the last: a clock that is wrong for a minute must not remove all files.
    """
    today = datetime.fromtimestamp(clock.now_ns() / 1e9, UTC).date()
    return min(today, ended[-1] + timedelta(days=1)) if ended else today


def mistakes(rules: Sequence[RetentionRule], quotas: Sequence[Quota]) -> Iterator[Mistake]:
    """What types do not detect, as `(path of keys, sentence)`."""
    seen: dict[tuple[str, str | None], int] = {}
    for at, rule in enumerate(rules):
        if not _NODES.fullmatch(rule.nodes):
            yield (
                ("retention", at, "nodes"),
                f"{rule.nodes!r} names no nodes: write `tenant/pilot`, `tenant/*` or `*`",
            )
        first = seen.setdefault((rule.nodes, rule.cls), at)
        if first != at:
            yield (
                ("retention", at),
                f"there is a rule for {rule.what} already, the {_nth(first)}: leave one of them out",
            )
    tenants: set[str] = set()
    for at, quota in enumerate(quotas):
        if not re.fullmatch(_ID, quota.tenant):
            yield ("quotas", at, "tenant"), f"{quota.tenant!r} is not the name of a tenant"
        if quota.tenant in tenants:
            yield ("quotas", at), f"there is a quota of {quota.tenant} already: leave one of them out"
        tenants.add(quota.tenant)


def _nth(at: int) -> str:
    return f"{at + 1}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(at + 1, 'th') }"
