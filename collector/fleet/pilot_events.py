"""What nodes have recorded of their pilots: when each plan began and ended there, and the newest switch."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from collector.store.group import EventRow
from wire.pilot.plan import Sha256, Word
from wire.pilot.schedule import Arm
from wire.topics import NODE_ITSELF

KEY = "pilot-events"  # of the saved states
MAX_PLANS = 20  # of a node: its newest ones

T = TypeVar("T")


class Switched(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The detail of an event `exposure`, with the fields beside it."""

    pilot: Word
    hash: Sha256
    phase: Literal["baseline", "trial", "outside", "over"]
    period: int
    planned: Arm | None
    actual: Literal["on", "off", "other"]
    from_ms: int = field(name="from")
    restart: bool = False
    value: float | UnsetType = UNSET
    why: Annotated[str, Meta(max_length=2_000)] = ""
    code: Annotated[str, Meta(max_length=48)] = ""
    args: dict[str, Any] = {}


class _Followed(Struct):
    hash: Sha256 | None = None
    withdrawn: Sha256 | None = None


class PilotEvents(Struct, omit_defaults=True):
    """Of one node: hash of a plan -> when it began and when it was withdrawn there; and the newest switch."""

    began: dict[str, int] = {}
    ended: dict[str, int] = {}
    switched: Switched | None = None
    at: tuple[str, int] = ("", 0)  # epoch and number of the message of `switched`


class AllPilotEvents:
    """Of all nodes; every method may be called from any thread. `keep` has the store save a state."""

    def __init__(self, keep: Callable[[str, bytes], None]) -> None:
        self._keep = keep
        self._lock = threading.Lock()
        self._of: defaultdict[str, PilotEvents] = defaultdict(PilotEvents)

    def restore(self, states: Mapping[str, bytes]) -> None:
        """Take over saved states; one that cannot be read is left out."""
        for key, body in states.items():
            kind, _, node = key.partition("/")
            if kind == KEY:
                try:
                    self._of[node] = msgspec.json.decode(body, type=PilotEvents)
                except msgspec.MsgspecError:
                    continue

    def of(self, node: str) -> PilotEvents:
        """What a node has recorded."""
        with self._lock:
            return self._of.get(node, PilotEvents())

    def take(self, events: Iterable[EventRow]) -> None:
        """Note new events; those of other kinds, and those that break the contract, change nothing."""
        for event in events:
            if event.device != NODE_ITSELF or event.type not in ("pilot", "exposure"):
                continue
            with self._lock:
                before = self._of[event.node]
                after = _followed(before, event) if event.type == "pilot" else _switched(before, event)
                self._of[event.node] = after
            if after is not before:
                self._keep(f"{KEY}/{event.node}", msgspec.json.encode(after))


def _followed(before: PilotEvents, event: EventRow) -> PilotEvents:
    detail = _detail(event, _Followed)
    if detail is None:
        return before
    began, ended = before.began, before.ended
    if detail.hash is not None:
        began = _earliest(began, detail.hash, event.ts)
        # a plan that was sent again after its withdrawal counts again
        ended = {plan: ms for plan, ms in ended.items() if plan != detail.hash or ms > event.ts}
    if detail.withdrawn is not None:
        ended = _earliest(ended, detail.withdrawn, event.ts)
    return msgspec.structs.replace(before, began=began, ended=ended)


def _earliest(known: dict[str, int], plan: str, ms: int) -> dict[str, int]:
    found = {**known, plan: min(ms, known.get(plan, ms))}
    newest = sorted(found, key=lambda each: found[each])[-MAX_PLANS:]
    return {each: found[each] for each in newest}


def _switched(before: PilotEvents, event: EventRow) -> PilotEvents:
    if before.at[0] == event.ep and event.seq < before.at[1]:
        return before  # an older one that arrived late
    found = _detail(event, Switched)
    if found is None:
        return before
    return msgspec.structs.replace(before, switched=found, at=(event.ep, event.seq))


def _detail(event: EventRow, kind: type[T]) -> T | None:
    try:
        body = msgspec.json.decode(event.body, type=dict[str, Any])
        beside = {name: body[name] for name in ("value", "why", "code", "args") if name in body}
        return msgspec.convert({**body["detail"], **beside}, kind)
    except (msgspec.MsgspecError, KeyError, TypeError):
        return None
