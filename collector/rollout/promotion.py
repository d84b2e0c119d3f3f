"""Whether a second model that was tried in shadow may be promoted: what each of its nodes must show."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Struct

from collector.rollout.packages import Kept
from wire.messages import Arm, Evidence, ModelState
from wire.reasons import NO_REASON, Reason, because


class Least(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the evidence of every node must show: inputs that both models answered, and how far they agree."""

    min_n: Annotated[int, Meta(ge=1, le=1_000_000_000)] = 1_000
    min_agreement: Annotated[float, Meta(ge=0, le=1)] = 0.95  # the lower end of the 95 % interval


def tried(model: ModelState | None) -> Evidence | None:
    """The evidence of the second model that the config has in shadow; None where there is none."""
    found = UNSET if model is None else model.evidence
    return None if found is UNSET or found.mode != "shadow" else found


def offered(model: ModelState | None) -> Evidence | None:
    """The evidence of a version that was offered with shadow runs."""
    slot = UNSET if model is None else model.slot
    return None if slot is UNSET or slot.evidence is UNSET else slot.evidence


def is_of(arm: Arm, kept: Kept) -> bool:
    """Whether a model is that of a package; an agent of an earlier release names its ONNX file alone."""
    return bool(kept.onnx) and arm.sha256 == kept.onnx and arm.digest in ("", kept.digest)


def lack(model: ModelState | None, kept: Kept, least: Least, *, online: bool) -> Reason:
    """Why a node does not allow to promote a package; `NO_REASON` where it does."""
    if not online:
        return because("it is offline, so what it reported may be old", "promote-offline")
    shown = [each for each in (tried(model), offered(model)) if each is not None]
    if not shown:
        return because("no second model is in shadow there", "promote-none")
    found = next((each for each in shown if is_of(each.b, kept)), None)
    if found is None:
        other = f"{shown[0].b.name}@{shown[0].b.ver}"
        text = f"{other} is in shadow there, with other files than the package"
        return because(text, "promote-other", model=other)
    return _unproven(found, least)


def _unproven(found: Evidence, least: Least) -> Reason:
    """Why evidence of the right model is not enough."""
    if found.state != "ok":
        text = f"its second model is {found.state}{': ' if found.why else ''}{found.why}"
        return because(text, "promote-state", detail=found.why or found.state)
    if found.n < least.min_n:
        text = f"both models answered {found.n:,} inputs, and {least.min_n:,} are needed"
        return because(text, "promote-few", got=found.n, of=least.min_n)
    if found.low < least.min_agreement:
        text = f"the agreement is at least {found.low:.4g}, and {least.min_agreement:.4g} is needed"
        return because(text, "promote-agreement", low=found.low, least=least.min_agreement)
    return NO_REASON
