"""The second models that nodes try in shadow, each with the package that could be promoted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from collector.fleet.fleet import Fleet
from collector.rollout.packages import Kept
from collector.rollout.promotion import Least, is_of, lack, tried
from wire.messages import Arm

MAX_LACKS = 20  # nodes that are named of one candidate
MAX_CANDIDATES = 100


def candidates(
    fleet: Fleet, sees: Callable[[str], bool], kept: Iterable[Kept], least: Least
) -> list[dict[str, Any]]:
    """What is in shadow on the nodes that are seen, and which of them lack evidence."""
    packages = list(kept)
    found: dict[tuple[str, str, str, str, str], list[str]] = defaultdict(list)
    for node in sorted(filter(sees, fleet.names())):
        for slot, model in fleet.models(node).items():
            if (evidence := tried(model)) is not None and (arm := evidence.b).sha256:
                key = (node.partition("/")[0], slot, f"{arm.name}@{arm.ver}", arm.sha256, arm.digest)
                found[key].append(node)
    shown = []
    for (tenant, slot, ref, onnx, digest), nodes in list(found.items())[:MAX_CANDIDATES]:
        arm = Arm(sha256=onnx, digest=digest)
        fit = [one for one in packages if (one.tenant, one.ref) == (tenant, ref) and is_of(arm, one)]
        package = fit[0] if len(fit) == 1 else None
        as_if = package or Kept(tenant, digest, ref, "", 0, False, onnx)
        reasons = [
            (node, lack(fleet.model(node, slot), as_if, least, online=fleet.is_online(node)))
            for node in nodes
        ]
        lacks = [(node, why) for node, why in reasons if why.why]
        shown.append(
            {
                "tenant": tenant, "slot": slot, "ref": ref, "onnx": onnx,
                "digest": package.digest if package else "", "nodes": nodes,
                "ready": len(nodes) - len(lacks),
                "lacks": [{"node": node, **why.fields()} for node, why in lacks[:MAX_LACKS]],
            }
        )  # fmt: skip
    return shown
