"""A rollout of a version of a model: pure functions from its state and what nodes report to the next one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from msgspec import UNSET, Struct, to_builtins
from msgspec.json import encode
from msgspec.structs import replace

from wire.messages import ModelSlot
from wire.model_offer import MAX_ATTEMPT, OFFER, SHADOW_S, UNDO, Confirm
from wire.reasons import NO_REASON, Args, Reason, because

_GOES_ON = ("running", "paused")
AGAIN_MS = 30_000  # before a command whose answer never came is requested once more
_MOST_WHY, _MOST_ARGS = 500, 1_000  # characters and bytes of a reason that is kept

DeviceState = Literal["waiting", "offered", "confirmed", "failed", "undoing", "undone", "left-out"]
RolloutState = Literal["running", "paused", "rolling-back", "rolled-back", "aborted", "done"]


class Device(Struct, frozen=True):
    """One node of a rollout. While it is offline nothing counts, and its time begins again afterwards."""

    state: DeviceState = "waiting"
    attempt: int = 0
    command: str = ""  # id of the newest command
    offer: str = ""  # id of the offer that `command` takes back
    before: str | None = None  # what was offered to the slot before; None in documents that lack it
    asked: int = 0  # when it was requested
    since: int = 0
    offline: bool = False
    slot: ModelSlot | None = None  # as it was when the node was judged
    signed_by: str = ""
    why: str = ""
    code: str = ""
    args: Args = {}


class Rollout(Struct, frozen=True, kw_only=True):
    """What an operator started. `stages` are numbers of nodes, each with those before, the last one all."""

    n: int = 0  # a later rollout has a greater one
    id: str
    tenant: str
    slot: str
    digest: str
    ref: str
    by: str
    ts: int
    stages: list[int]
    confirm: Confirm = Confirm()
    timeout_ms: int = 7_200_000
    max_failed: int = 0  # nodes; more of them pause it
    state: RolloutState = "running"
    since: int = 0
    stage: int = 0
    why: str = ""
    code: str = ""
    args: Args = {}
    is_restored: bool = False  # it is of an older copy: its nodes are looked at, and no command is requested
    was: RolloutState = "running"  # its state in the older copy
    devices: dict[str, Device]

    @property
    def is_open(self) -> bool:
        """Whether something of it may still happen."""
        if self.state in ("running", "paused", "rolling-back"):
            return True
        return any(device.state == "undoing" for device in self.devices.values())

    def holds(self, node: str, digest: str) -> bool:
        """Whether a rollout of `digest` must leave the slot of a node alone.

        Once this one has ended, only while the node gives its version up. One that is offline may never come:
        it is free for another version.
        """
        device = self.devices[node]
        if self.state in ("running", "paused"):
            return True
        return device.state == "undoing" and (not device.offline or digest == self.digest)

    def of_state(self, *states: DeviceState) -> list[str]:
        """The nodes in one of the states."""
        return [node for node, device in self.devices.items() if device.state in states]


@dataclass(frozen=True, slots=True)
class Report:
    """What is known of a node now. `answer` is what became of the newest command of the rollout for it.

    `offer` is what became of the offer that this command takes back.
    """

    online: bool = False
    able: bool = True  # its agent has the commands
    is_removed: bool = False  # from the site: it cannot connect any more
    slot: ModelSlot | None = None
    signed_by: str = ""
    answer: Literal["none", "open", "done", "lost", "refused"] = "none"
    offer: Literal["none", "open", "over"] = "none"
    why: Reason = NO_REASON


@dataclass(frozen=True, slots=True)
class Request:
    """A command to request; the same id is never run twice."""

    node: str
    id: str
    name: str
    args: dict[str, Any]


class NotNow(ValueError):
    """The rollout is in another state than the act needs."""


def step(
    rollout: Rollout, reports: Mapping[str, Report], now: int, new_id: Callable[[], str]
) -> tuple[Rollout, list[Request]]:
    """The next state, which must be on disk before the commands are requested.

    A step that was not kept, or whose commands were not requested, may be taken again.
    """
    if not rollout.is_open:
        return rollout, []
    if rollout.is_restored:
        seen = {
            node: _seen(rollout, device, reports.get(node, Report()), now)
            for node, device in rollout.devices.items()
        }
        return replace(rollout, devices=seen), []
    placed = {
        node: _placed(device, reports.get(node, Report()), now) for node, device in rollout.devices.items()
    }
    devices = {
        node: _judged(rollout, device, reports.get(node, Report()), now, new_id)
        for node, device in placed.items()
    }
    after = replace(rollout, devices=devices)
    if after.state == "running":
        after = _staged(after, reports, now, new_id)
    elif after.state == "rolling-back" and not after.of_state("undoing"):
        kept = [node for node in after.of_state("failed") if _has(rollout, reports.get(node, Report()).slot)]
        text = f"{kept[0]} keeps it: {devices[kept[0]].why}" if kept else ""
        why = because(text, "rollout-not-undone", node=kept[0]) if kept else NO_REASON
        after = _in(after, "rolled-back", now, why)
    return after, list(_requests(after, reports))


def restored(rollout: Rollout, now: int) -> Rollout:
    """Pause what an older copy of `state.db` has, whatever it did: an operator compares it with its nodes."""
    was = rollout.state
    acts = "resume, abort or rollback" if was in _GOES_ON else "abort or rollback"
    text = f"it was {was} in an older copy of the state: see `edgebed rollout evidence`, then {acts}"
    why = because(text, "rollout-restored", was=was)
    return _in(replace(rollout, is_restored=True, was=was), "paused", now, why)


def pause(rollout: Rollout, by: str, now: int) -> Rollout:
    """Offer it to no more nodes for now. Raises NotNow."""
    _require(rollout, "running")
    return _in(rollout, "paused", now, because(f"{by} paused it", "rollout-paused", by=by))


def withheld(rollout: Rollout, node: str, now: int) -> Rollout:
    """Pause what a user started that may not configure one of its nodes any more."""
    text = f"{rollout.by} may not configure {node} any more: an operator who may can resume it"
    return _in(rollout, "paused", now, because(text, "rollout-not-allowed", by=rollout.by, node=node))


def resume(rollout: Rollout, by: str, now: int) -> Rollout:
    """Go on, for who resumes it; it is offered once more to nodes where it failed. Raises NotNow."""
    _require(rollout, "paused")
    if rollout.is_restored and rollout.was not in _GOES_ON:
        raise NotNow(
            f"the rollout was {rollout.was} in an older copy, and would offer the version again: "
            "abort it or roll it back, and start another one for the version"
        )
    again = {
        node: Device(attempt=device.attempt) if device.state == "failed" else device
        for node, device in rollout.devices.items()
    }
    return _in(replace(rollout, by=by, devices=again, is_restored=False), "running", now, NO_REASON)


def abort(rollout: Rollout, by: str, now: int, new_id: Callable[[], str]) -> Rollout:
    """End it: nodes that have not confirmed it give it up, the others keep it. Raises NotNow."""
    _require(rollout, "running", "paused")
    ended = _undone(rollout, ("offered",), now, new_id)
    return _in(ended, "aborted", now, because(f"{by} aborted it", "rollout-aborted", by=by))


def roll_back(rollout: Rollout, by: str, now: int, new_id: Callable[[], str]) -> Rollout:
    """Have every node that has it go back to what it had before. Raises NotNow."""
    _require(rollout, "running", "paused", "done", "aborted")
    ended = _undone(rollout, ("offered", "confirmed"), now, new_id)
    return _in(ended, "rolling-back", now, because(f"{by} rolled it back", "rollout-undone", by=by))


def _require(rollout: Rollout, *states: RolloutState) -> None:
    if rollout.state not in states:
        raise NotNow(f"the rollout is {rollout.state}: this needs one that is {' or '.join(states)}")


def _in(rollout: Rollout, state: RolloutState, now: int, why: Reason) -> Rollout:
    return replace(rollout, state=state, since=now, **why.fields())


def _undone(
    rollout: Rollout, states: tuple[DeviceState, ...], now: int, new_id: Callable[[], str]
) -> Rollout:
    devices = {
        node: replace(device, state="undoing", command=new_id(), offer=device.command, asked=now, since=now)
        if device.state in states or (device.state, device.code) == _TOO_LATE
        else device
        for node, device in rollout.devices.items()
    }
    return replace(rollout, devices=devices, is_restored=False)


# -- one node ----------------------------------------------------------------------------------------------


def _placed(device: Device, report: Report, now: int) -> Device:
    """A node that the site has removed is left out, until it is enrolled again."""
    if report.is_removed and device.state in ("waiting", "offered", "undoing"):
        why = because("it was removed from the site", "rollout-removed")
        return _ended(device, "left-out", report, now, why)
    return device if report.is_removed or device.state != "left-out" else Device(attempt=device.attempt)


def _judged(rollout: Rollout, device: Device, report: Report, now: int, new_id: Callable[[], str]) -> Device:
    if device.state not in ("offered", "confirmed", "undoing"):
        return device
    if not report.online:
        return device if device.offline else replace(device, offline=True)
    if device.offline:
        device = replace(device, offline=False, since=now if device.state == "offered" else device.since)
    if device.state == "offered":
        return _offered(rollout, device, report, now, new_id)
    if device.state == "undoing":
        return _undoing(rollout, device, report, now, new_id)
    slot = report.slot
    if slot is not None and slot.offered == rollout.digest and slot.state == "rolled-back":
        return _ended(device, "failed", report, now, Reason(slot.why, slot.code, slot.args))
    return device


def _seen(rollout: Rollout, device: Device, report: Report, now: int) -> Device:
    """A node of an older copy, as the node itself reports the version now."""
    slot = report.slot
    if not report.online or slot is None:
        return device
    if _has(rollout, slot):
        state: DeviceState = "confirmed" if _runs(rollout, slot) else "offered"
        fresh = Device(attempt=slot.attempt, command=device.command, asked=now)
        return device if device.state == state else _ended(fresh, state, report, now)
    if device.state in ("failed", "undone", "undoing"):
        return _ended(device, "undone", report, now) if device.state == "undoing" else device
    if slot.offered == rollout.digest:
        return _ended(device, "failed", report, now, Reason(slot.why, slot.code, slot.args))
    if device.state == "confirmed":
        return _ended(device, "failed", report, now, _other(slot))
    return Device(attempt=device.attempt)


def _offered(rollout: Rollout, device: Device, report: Report, now: int, new_id: Callable[[], str]) -> Device:
    if _runs(rollout, report.slot):
        return _ended(device, "confirmed", report, now)
    if rollout.state == "paused" and report.answer == "none":  # it was never sent, or withdrawn
        return Device(attempt=device.attempt)
    if (why := _failure(rollout, device, report, now)) is not None:
        return _ended(device, "failed", report, now, why)
    is_refused = report.answer == "refused" and not _is_ours(rollout, device, report.slot)
    if is_refused and report.why.code == _REPEATED:
        newest = report.why.args.get("attempt")
        least = newest if isinstance(newest, int) and newest < MAX_ATTEMPT else 0
        device = replace(device, attempt=max(device.attempt, least) + 1)
    is_lost = report.answer == "lost" or is_refused
    return _again(device, now, new_id) if is_lost and rollout.state == "running" else device


def _failure(rollout: Rollout, device: Device, report: Report, now: int) -> Reason | None:
    """Why a node that has the offer will not confirm it; None where it still may."""
    slot, why = report.slot, report.why
    is_ours = _is_ours(rollout, device, slot)
    if is_ours and slot is not None and slot.state in ("refused", "rolled-back"):
        return Reason(slot.why, slot.code, slot.args)
    if report.answer == "refused" and not is_ours and why.code not in (_REPEATED, "slot-busy"):
        return why
    if report.answer == "done" and slot is not None and _is_other(rollout, device, slot):
        return _other(slot)
    if now - device.since < rollout.timeout_ms:
        return None
    seconds = rollout.timeout_ms // 1000
    where = f": it is {slot.state}" if is_ours and slot is not None else ""
    return because(f"not confirmed within {seconds:,} s{where}", "rollout-timeout", seconds=seconds)


def _is_ours(rollout: Rollout, device: Device, slot: ModelSlot | None) -> bool:
    return slot is not None and (slot.offered, slot.attempt) == (rollout.digest, device.attempt)


def _is_other(rollout: Rollout, device: Device, slot: ModelSlot) -> bool:
    """Whether a command, or another collector, has offered the node another version since."""
    if device.before is None or slot.offered in ("", rollout.digest):
        return False
    return _mark(slot) != device.before


def _other(slot: ModelSlot) -> Reason:
    which = slot.offered[:12] or "that of its config"
    text = f"another version, {which}, was offered to it meanwhile, not by this rollout"
    return because(text, "rollout-other", digest=which)


def _mark(slot: ModelSlot | None) -> str:
    return "" if slot is None else f"{slot.offered} {slot.attempt}"


def _undoing(rollout: Rollout, device: Device, report: Report, now: int, new_id: Callable[[], str]) -> Device:
    if report.offer == "open" or report.answer == "open":
        return device
    has = _has(rollout, report.slot)
    if report.answer == "none" and report.offer == "over":
        return device  # it may have taken the offer since its last report: its answer decides
    if not has and report.answer != "lost":
        return _ended(device, "undone", report, now)
    if report.answer == "refused":
        return _ended(device, "failed", report, now, report.why)
    return _again(device, now, new_id) if report.answer == "lost" else device


def _has(rollout: Rollout, slot: ModelSlot | None) -> bool:
    """Whether a node runs the version, or is on the way to it."""
    if slot is None:
        return False
    is_over = slot.state in ("refused", "rolled-back", "idle")
    return slot.digest == rollout.digest or (slot.offered == rollout.digest and not is_over)


def _runs(rollout: Rollout, slot: ModelSlot | None) -> bool:
    return slot is not None and slot.digest == rollout.digest and slot.state == "confirmed"


def _ended(device: Device, state: DeviceState, report: Report, now: int, why: Reason = NO_REASON) -> Device:
    slot = report.slot
    if slot is not None:
        slot = replace(slot, **_short(Reason(slot.why, slot.code, slot.args)).fields())
    seen = replace(device, slot=slot, signed_by=report.signed_by)
    return replace(seen, state=state, since=now, **_short(why).fields())


def _short(why: Reason) -> Reason:
    """A reason as it is kept: thousands of nodes, some of them hostile, share one document."""
    if len(encode(why.args)) > _MOST_ARGS:
        return Reason(why.why[:_MOST_WHY], "", {})
    return Reason(why.why[:_MOST_WHY], why.code, why.args)


def _again(device: Device, now: int, new_id: Callable[[], str]) -> Device:
    if now - device.asked < AGAIN_MS:
        return device
    return replace(device, command=new_id(), asked=now)


# -- the stages --------------------------------------------------------------------------------------------


def _staged(rollout: Rollout, reports: Mapping[str, Report], now: int, new_id: Callable[[], str]) -> Rollout:
    names = list(rollout.devices)[: rollout.stages[rollout.stage]]
    fresh = names[rollout.stages[rollout.stage - 1] if rollout.stage else 0 :]
    fresh = [node for node in fresh if rollout.devices[node].state != "left-out"]
    if len(failed := rollout.of_state("failed")) > rollout.max_failed:
        return _failed(rollout, failed, now)
    devices = dict(rollout.devices)
    for node in names:
        report = reports.get(node, Report())
        if devices[node].state == "waiting" and report.online:
            devices[node] = _begun(rollout, devices[node], report, now, new_id)
    after = replace(rollout, devices=devices)
    undecided = after.of_state("waiting", "offered")
    in_stage = set(names)
    if any(node in in_stage and reports.get(node, Report()).online for node in undecided):
        return after
    if fresh and not any(devices[node].state == "confirmed" for node in fresh):  # offline nodes prove nothing
        none_left = all(devices[node].state == "failed" for node in fresh)
        return _failed(after, fresh, now) if none_left else after
    if rollout.stage + 1 < len(rollout.stages):
        return replace(after, stage=rollout.stage + 1, since=now)
    return after if undecided else _in(after, "done", now, NO_REASON)  # who is offline catches up


def _failed(rollout: Rollout, nodes: list[str], now: int) -> Rollout:
    text = f"it failed on {nodes[0]}: {rollout.devices[nodes[0]].why}"
    return _in(rollout, "paused", now, because(text, "rollout-failed", node=nodes[0]))


def _begun(rollout: Rollout, device: Device, report: Report, now: int, new_id: Callable[[], str]) -> Device:
    slot = report.slot
    if _runs(rollout, slot):
        return _ended(device, "confirmed", report, now)
    if not report.able:
        text = "its agent takes no offers: upgrade it"
        return _ended(device, "failed", report, now, because(text, "rollout-not-able"))
    before = slot.attempt if slot is not None and slot.offered == rollout.digest else 0
    attempt = max(device.attempt, before, rollout.n - 1) + 1
    return Device(
        state="offered", attempt=attempt, command=new_id(), before=_mark(slot), asked=now, since=now
    )


def _requests(rollout: Rollout, reports: Mapping[str, Report]) -> Iterator[Request]:
    """The commands that are due; the one that asks for them leaves out those that it requested already."""
    for node, device in rollout.devices.items():
        if not reports.get(node, Report()).online:
            continue
        if device.state == "offered":
            package = f"sha256:{rollout.digest}"
            named = {"slot": rollout.slot, "package": package, "attempt": device.attempt}
            yield Request(node, device.command, OFFER, {**named, **to_builtins(_limited(rollout))})
        elif device.state == "undoing" and reports[node].offer != "open":  # an agent runs several at once
            args = {"slot": rollout.slot, "package": f"sha256:{rollout.digest}"}
            yield Request(node, device.command, UNDO, args)


def _limited(rollout: Rollout) -> Confirm:
    """The gates of an offer: shadow runs have the time of a node, where no other one is stated."""
    confirm, limit_s = rollout.confirm, rollout.timeout_ms / 1000
    if not confirm.shadow or confirm.shadow_s is not UNSET or limit_s == SHADOW_S:
        return confirm
    return replace(confirm, shadow_s=limit_s)


_REPEATED = "slot-offer-repeated"  # the attempt was used by a rollout of a state.db that is lost
# a node that did not confirm in time may still do so: it has the offer
_TOO_LATE = ("failed", "rollout-timeout")
