"""What becomes of a slot: one pure function from its state and an event to its next state and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from wire.messages import Evidence, SlotState
from wire.model_offer import Confirm as Confirm  # noqa: PLC0414 - what a slot keeps
from wire.reasons import NO_REASON, Args, Reason, because

MAX_STARTS = 3  # starts of the daemon while it opened or shadowed a package; the next refuses the package
_MOST_EARLIER = 3  # versions before `previous` to which a slot can be taken back
_MOST_JUDGED = 100  # digests whose newest attempt is kept

JUDGED = ("unconfirmed", "confirmed", "refused")  # what runs goes back if it is sick
ON_THE_WAY = ("downloading", "verifying", "gated", "shadow", "waiting")  # the candidate does not run yet
Action = Literal["fetch", "check", "open", "shadow", "wait", "run", "undo", "close", "free"]
"""What the owner does after the new state is on disk.

`fetch` the candidate, `check` its digest, `open` it through the gate, `shadow` it, `wait` for the update
lock, `run` it instead of what runs, `undo` that, `close` a candidate that will not run, `free` what is not
needed.
"""
REPEATED: dict[SlotState, Action] = {
    "downloading": "fetch", "verifying": "check", "gated": "check", "shadow": "check", "waiting": "check"
}  # fmt: skip


class Slot(Struct, kw_only=True, frozen=True):
    """What is kept on disk of one slot.

    `current` is the digest of the package that runs, empty for the package of the config. `previous` runs
    again if `current` is undone; None if there is nothing to go back to. `earlier` are those that ran before
    `previous`, the newest last: they make room where the store is full. `base` is the sha256 of the manifest
    that the config named: for another one all this does not count.
    """

    v: int = 1
    state: SlotState = "idle"
    base: str = ""
    current: str = ""
    previous: str | None = None
    earlier: tuple[str, ...] = ()
    candidate: str = ""  # the digest that was offered last
    attempt: int = 0  # of the candidate
    confirm: Confirm = Confirm()
    kept_by: Confirm = Confirm()  # by what `current` is judged after another version was offered
    since: int = 0  # when the state began, ms
    starts: int = 0
    judged: dict[str, int] = {}  # digest to its newest attempt, which is never offered again
    why: str = ""
    code: str = ""
    args: Args = {}
    evidence: Evidence | None = None  # of the shadow runs of the candidate

    @property
    def reason(self) -> Reason:
        """Why the candidate does not run."""
        return Reason(self.why, self.code, self.args)

    @property
    def judging(self) -> Confirm:
        """By what `current` is judged."""
        return self.confirm if self.state in ("unconfirmed", "confirmed") else self.kept_by

    @property
    def digests(self) -> frozenset[str]:
        """The packages that the slot needs."""
        named = {self.current, self.previous or ""}
        if self.state in ON_THE_WAY:
            named.add(self.candidate)
        return frozenset(named - {""})


@dataclass(frozen=True, slots=True)
class Offer:
    """A version is offered."""

    digest: str
    attempt: int
    confirm: Confirm


@dataclass(frozen=True, slots=True)
class Arrived:
    """The candidate is in the store."""


@dataclass(frozen=True, slots=True)
class Sound:
    """The files of the candidate are those of its digest."""


@dataclass(frozen=True, slots=True)
class Passed:
    """The candidate passed the gate and is open."""


@dataclass(frozen=True, slots=True)
class Shadowed:
    """The candidate gave enough good results beside what runs."""

    evidence: Evidence | None = None


@dataclass(frozen=True, slots=True)
class Free:
    """Nothing holds the candidate back."""


@dataclass(frozen=True, slots=True)
class Enough:
    """The candidate gave enough good results on real input."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The candidate cannot be used, or what is on trial is sick."""

    why: Reason


@dataclass(frozen=True, slots=True)
class Sick:
    """What runs must not run on."""

    why: Reason


@dataclass(frozen=True, slots=True)
class TakenBack:
    """An operator takes back a version, before it runs or while it does."""

    digest: str
    why: Reason


@dataclass(frozen=True, slots=True)
class Started:
    """The daemon has started."""


@dataclass(frozen=True, slots=True)
class Damaged:
    """Packages in the store are not what their digests say."""

    digests: frozenset[str]


Event = (
    Offer
    | Arrived
    | Sound
    | Passed
    | Shadowed
    | Free
    | Enough
    | Failed
    | Sick
    | TakenBack
    | Started
    | Damaged
)
Step = tuple[Slot, tuple[Action, ...]]
# the state in which an event counts, the next one, and what to do there
_ONWARD: dict[type[Event], tuple[SlotState, SlotState, Action]] = {
    Arrived: ("downloading", "verifying", "check"),
    Sound: ("verifying", "gated", "open"),
    Passed: ("gated", "waiting", "wait"),
    Shadowed: ("shadow", "waiting", "wait"),
    Free: ("waiting", "unconfirmed", "run"),
    Enough: ("unconfirmed", "confirmed", "free"),
}


def step(slot: Slot, event: Event, now_ms: int) -> Step:
    """The next state of a slot and what to do; an event that does not fit the state changes nothing."""
    after, actions = _step(slot, event)
    return (after if after.state == slot.state else replace(after, since=now_ms)), actions


def objection(slot: Slot, offer: Offer) -> Reason:
    """Why the slot does not take an offer; `NO_REASON` where it does."""
    if offer.attempt <= (newest := slot.judged.get(offer.digest, 0)):
        text = f"attempt {newest} of {offer.digest[:12]} was offered before: use a higher number"
        return because(text, "slot-offer-repeated", attempt=newest)
    if slot.state == "unconfirmed":
        text = f"{slot.current[:12]} is not confirmed yet: offer another version after that"
        return because(text, "slot-busy")
    return NO_REASON


def _step(slot: Slot, event: Event) -> Step:
    match event:
        case Offer():
            return _offered(slot, event)
        case Failed():
            return _failed(slot, event.why)
        case Sick() | TakenBack():
            return _taken_back(slot, event)
        case Started():
            return _started(slot)
        case Damaged():
            return _damaged(slot, event.digests)
    return _onward(slot, event)


def _onward(slot: Slot, event: Event) -> Step:
    found = _ONWARD.get(type(event))
    if found is None or slot.state != found[0]:
        return slot, ()
    _, after, action = found
    if isinstance(event, Passed) and slot.confirm.shadow:
        after, action = "shadow", "shadow"
    if isinstance(event, Shadowed):
        slot = replace(slot, evidence=event.evidence)
    elif isinstance(event, Free):
        earlier = slot.earlier if slot.previous is None else (*slot.earlier, slot.previous)
        slot = replace(slot, current=slot.candidate, previous=slot.current, earlier=earlier, starts=0)
    elif isinstance(event, Enough):
        slot = replace(slot, earlier=slot.earlier[-_MOST_EARLIER:])
    return replace(slot, state=after), (action,)


def _offered(slot: Slot, offer: Offer) -> Step:
    if objection(slot, offer).why:
        return slot, ()
    judged = {key: attempt for key, attempt in slot.judged.items() if key != offer.digest}
    judged = dict([*judged.items(), (offer.digest, offer.attempt)][-_MOST_JUDGED:])
    closes: tuple[Action, ...] = ("close",) if slot.state in ON_THE_WAY else ()
    taken = replace(
        slot,
        candidate=offer.digest,
        attempt=offer.attempt,
        confirm=offer.confirm,
        kept_by=slot.judging,
        judged=judged,
        starts=0,
        why="",
        code="",
        args={},
        evidence=None,
    )
    if offer.digest == slot.current:  # it was confirmed before
        return replace(taken, state="confirmed"), closes
    return replace(taken, state="downloading"), (*closes, "fetch")


def _failed(slot: Slot, why: Reason) -> Step:
    if slot.state in ON_THE_WAY:
        return replace(slot, state="refused", **why.fields()), ("close",)
    if slot.state in ("unconfirmed", "confirmed") and slot.previous is not None:
        return _back(slot, why), ("undo",)
    return slot, ()


def _taken_back(slot: Slot, event: Sick | TakenBack) -> Step:
    if isinstance(event, TakenBack) and slot.state in ON_THE_WAY:
        return _failed(slot, event.why) if event.digest == slot.candidate else (slot, ())
    goes_back = (
        slot.state in (*JUDGED, *ON_THE_WAY) if isinstance(event, Sick) else event.digest == slot.current
    )
    if not goes_back or slot.previous is None:
        return slot, ()
    if slot.state in ON_THE_WAY:  # the candidate goes on afterwards: perhaps it is the repair
        return replace(_to_previous(slot), state=_again(slot)), ("undo",)
    attempt = slot.judged.get(slot.current, 0)
    return _back(replace(slot, candidate=slot.current, attempt=attempt), event.why), ("undo",)


def _again(slot: Slot) -> SlotState:
    """The state in which a candidate begins once more."""
    return "downloading" if slot.state == "downloading" else "verifying"


def without(slot: Slot, digests: frozenset[str]) -> Slot:
    """The slot if it must not go back to some packages; to the package of the config for ""."""
    before = () if slot.previous is None else (slot.previous,)
    left = [each for each in (*slot.earlier, *before) if each not in digests]
    return replace(slot, previous=left[-1] if left else None, earlier=tuple(left[:-1]))


def _to_previous(slot: Slot) -> Slot:
    before = slot.earlier[-1] if slot.earlier else None
    return replace(slot, current=slot.previous or "", previous=before, earlier=slot.earlier[:-1])


def _back(slot: Slot, why: Reason) -> Slot:
    return replace(_to_previous(slot), state="rolled-back", starts=0, **why.fields())


def _started(slot: Slot) -> Step:
    if slot.state == "unconfirmed":
        text = "the agent started again before the version was confirmed"
        return _back(slot, because(text, "slot-restarted")), ()
    if (again := REPEATED.get(slot.state)) is None:
        return slot, ()
    if slot.state in ("gated", "shadow"):
        if slot.starts + 1 >= MAX_STARTS:
            text = f"the agent ended {slot.starts + 1} times while it opened this package"
            return _failed(slot, because(text, "slot-crashed", times=slot.starts + 1))
        slot = replace(slot, starts=slot.starts + 1)
    return replace(slot, state=_again(slot)), (again,)


def _damaged(slot: Slot, digests: frozenset[str]) -> Step:
    sound = without(slot, digests)
    if slot.current not in digests:
        return sound, ()
    text = f"the files of {slot.current[:12]} in the store have changed: it is not used"
    why = because(text, "slot-damaged")
    if slot.state in ON_THE_WAY:  # the candidate goes on
        return _to_previous(sound), ("undo",)
    return _back(sound, why), ("undo",)
