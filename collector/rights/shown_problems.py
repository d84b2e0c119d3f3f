"""Selects the problems of the collector that a user may see, without a name or text of other tenants."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import UNSET

from collector.health import CollectorProblem, problem
from collector.rights.user import Action, User, may
from wire.reasons import because
from wire.topics import ROOT

# they concern all nodes; their details have paths, addresses and files of the collector
GENERAL = {
    "broker-offline",
    "catching-up",
    "day-file-damaged",
    "overloaded",
    "rows-unreadable",
    "state-unusable",
    "store-blocked",
    "store-copy-failed",
    "store-file-removed",
    "store-not-packed",
    "store-not-pruned",
    "store-unchecked",
}
# they name one node in their args, and count others
_NAMING = {"data-not-received", "messages-gone", "waits-after-refusal"}


def shown_problems(user: User, problems: Sequence[CollectorProblem]) -> list[CollectorProblem]:
    """What a user may see of the problems; who sees everything gets them as they are."""
    return list(problems) if user.sees_all else list(_shown(user, problems))


def _shown(user: User, problems: Iterable[CollectorProblem]) -> Iterable[CollectorProblem]:
    general: set[str] = set()
    for one in problems:
        if one.code in GENERAL and one.code not in general:
            general.add(one.code)
            text = f"the collector is degraded ({one.code}): its administrators see the details"
            yield problem(because(text, "collector-degraded", what=one.code), one.since, one.code)
        elif one.code == "messages-refused" and one.part is not UNSET:
            node = one.part.removeprefix(f"{ROOT}/")
            if one.part != node and may(user, Action.VIEW, node if "/" in node else f"{node}/*"):
                yield one
        elif one.code in _NAMING and one.args.get("n") == 1 and may(user, Action.VIEW, one.args["node"]):
            yield one
