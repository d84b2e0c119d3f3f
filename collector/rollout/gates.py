"""What a rollout shows of the gates of its stages: the worst values of their nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from msgspec import UNSET, Struct

from collector.rollout.engine import Device, Rollout
from wire.messages import ModelSlot


class StageGates(Struct, frozen=True):
    """One stage: its new nodes by state, and the worst value of each gate; None where no node gave one.

    The limits are those of the rollout: `confirm`, `max_failed` and `timeout_ms`.
    """

    nodes: int
    counts: dict[str, int]
    results: int | None  # the fewest good ones
    nan: float | None  # the largest share
    errors: float | None
    p99_ms: float | None
    waited_s: float | None  # the longest time of a node that has the offer


def stage_gates(rollout: Rollout, slots: Mapping[str, ModelSlot | None], now: int) -> list[StageGates]:
    """The stages with the nodes of `slots` alone, which has what each reports now."""
    names, first, found = list(rollout.devices), 0, []
    for last in rollout.stages:
        fresh = [(rollout.devices[node], slots[node]) for node in names[first:last] if node in slots]
        found.append(_stage(rollout, fresh, now))
        first = last
    return found


def slot_of(rollout: Rollout, device: Device, slot: ModelSlot | None) -> ModelSlot | None:
    """What is known of the version on a node: as it was where it failed or was undone, else as it is now."""
    is_over = device.state in ("failed", "undone")
    for each in (device.slot, slot) if is_over else (slot, device.slot):
        if each is not None and each.offered == rollout.digest:
            return each
    return None


def _stage(rollout: Rollout, fresh: list[tuple[Device, ModelSlot | None]], now: int) -> StageGates:
    slots = [each for device, slot in fresh if (each := slot_of(rollout, device, slot)) is not None]
    ran = [slot.ran for slot in slots if slot.ran is not UNSET]
    waited = [now - one.since for one, _ in fresh if one.state == "offered" and not one.offline]
    return StageGates(
        nodes=len(fresh),
        counts=dict(Counter(device.state for device, _ in fresh)),
        results=min((_good(slot) for slot in slots), default=None),
        nan=max((one.nan / one.n for one in ran if one.n), default=None),
        errors=max((one.failed / (one.n + one.failed) for one in ran if one.n + one.failed), default=None),
        p99_ms=max((one.p99_ms for one in ran if one.n), default=None),
        waited_s=max(waited) / 1000 if waited else None,
    )


def _good(slot: ModelSlot) -> int:
    """The good results of a version; a slot reports none for one that was undone, and what it ran."""
    return slot.results if slot.ran is UNSET else max(slot.results, slot.ran.n - slot.ran.nan)
