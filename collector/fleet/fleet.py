"""The current state of every node: status, devices, models, health, newest values, and its problems."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from msgspec import Struct

from collector.fleet import problems
from collector.fleet.live_room import LiveRoom
from collector.fleet.node_view import NodeView
from collector.ledger.balance import totals
from collector.ledger.ledger import Ledger
from collector.ledger.plausible import MAX_SESSIONS, Rising
from collector.store.clock_skew import Offset, Skew
from collector.store.marks import Claim, Entry
from wire.clock import Clock
from wire.codec import decode, encode
from wire.errors import WireError
from wire.messages import MAX_MS, Birth, DeviceState, Live, ModelState, Snapshot, Status
from wire.reasons import NO_REASON, Reason, because
from wire.topics import NODE_ITSELF, Topic

MAX_SNAPSHOTS = 300  # pictures of 60 kB at most
MAX_LABEL = 64  # letters of a class
REFUSED_MS = 30_000  # how long a refusal stays a problem after its end: the node sends again in this time
SILENT_MS = 45_000  # three heartbeats
NO_DATA_MS = 60_000  # a node sends a reading within a second
RESENT_MS = 660_000  # it sends a message again within ten minutes
HEARTBEAT = "agent"  # live/_/agent

_INT64 = 2**63

StateKey = str  # of a state in the store, like "status/{node}"


@dataclass(slots=True)
class NodeState:
    """What came from one node."""

    status: Status | None = None
    since_ms: int = 0  # of the status' state; the status is sent again when something else in it changes
    birth: Birth | None = None
    beat: Live = field(default_factory=dict)
    seen_ms: int = 0
    skew: Skew = field(default_factory=Skew)
    quarantined_ms: int = 0
    rising: Rising = field(default_factory=lambda: Rising(MAX_SESSIONS))  # `sess` of the statuses
    online_ms: int = 0  # when the status of its newest session arrived as online; 0 if it was retained
    beat_ms: int = 0  # when the newest heartbeat arrived that was not retained
    data_ms: int = 0  # when the newest numbered message arrived
    refused: Reason = NO_REASON  # why messages were refused last
    refused_ms: int = 0  # until when


class Fleet:
    """All nodes; every method may be called from any thread.

    Its callers limit the names of nodes. `room` limits the bytes that nodes keep here.
    """

    def __init__(self, clock: Clock, ledger: Ledger, room: LiveRoom | None = None) -> None:
        self._clock = clock
        self.ledger = ledger
        self._lock = threading.Lock()
        self._nodes: defaultdict[str, NodeState] = defaultdict(NodeState)
        self._room = LiveRoom() if room is None else room
        self._live: dict[tuple[str, str, str], Live] = {}
        self._snapshots: OrderedDict[tuple[str, str, str], Snapshot] = OrderedDict()
        self._unsaved: dict[StateKey, bytes] = {}
        self._missing: dict[str, int] = {}  # node -> since when messages of it are missing, ms
        self._judged_ms = 0  # when that was judged last

    def restore(self, states: Mapping[StateKey, bytes]) -> None:
        """Take over saved states; one that cannot be read is left out."""
        for key, body in states.items():
            kind, _, node = key.partition("/")
            if kind not in ("status", "birth", "beat"):
                continue
            state = self._nodes[node]
            try:
                if kind == "status":
                    state.status = decode(body, Status)
                    state.since_ms = state.status.ts
                elif kind == "birth":
                    state.birth = decode(body, Birth)
                else:
                    saved = msgspec.json.decode(body, type=_SavedBeat)
                    state.beat = saved.beat
                    state.seen_ms = max(state.seen_ms, saved.seen_ms)
            except (WireError, msgspec.MsgspecError):
                continue

    def take_unsaved(self) -> dict[StateKey, bytes]:
        """States that the store does not have yet; they count as saved from now on."""
        with self._lock:
            found, self._unsaved = self._unsaved, {}
        return found

    def give_back(self, states: Mapping[StateKey, bytes]) -> None:
        """Undo `take_unsaved`: newer ones win."""
        with self._lock:
            self._unsaved = {**states, **self._unsaved}

    @property
    def has_unsaved(self) -> bool:
        """Whether there are states for the store."""
        return bool(self._unsaved)

    def names(self) -> set[str]:
        """The known nodes."""
        with self._lock:
            return set(self._nodes)

    def saw(self, node: str, recv_ms: int) -> None:
        """Note that a message of the node arrived."""
        with self._lock:
            state = self._nodes[node]
            state.seen_ms = max(state.seen_ms, recv_ms)

    def on_data(self, node: str, recv_ms: int) -> None:
        """Note that a numbered message of the node arrived."""
        with self._lock:
            state = self._nodes[node]
            state.seen_ms = max(state.seen_ms, recv_ms)
            state.data_ms = max(state.data_ms, recv_ms)

    def without_data(self, since_ms: int) -> list[str]:
        """Nodes whose status or heartbeats arrive on the connection of `since_ms`, but none of their data."""
        now = self._clock.now_ms()
        with self._lock:
            return sorted(name for name, state in self._nodes.items() if _has_no_data(state, since_ms, now))

    def waiting(self) -> list[str]:
        """Nodes that send no data yet because some were refused before."""
        now = self._clock.now_ms()
        with self._lock:
            return sorted(name for name, state in self._nodes.items() if _waits(state, now))

    def on_status(self, node: str, status: Status, recv_ms: int, *, retained: bool) -> bool:
        """Take a status; False when it is older than a known one."""
        with self._lock:
            state = self._nodes[node]
            known = state.status.sess if state.status else None
            counts = not retained and status.state == "online"
            if not state.rising.believes(known, status.sess, counts=counts):
                return False
            before, state.status = state.status, status
            if before is None or (before.state, before.sess) != (status.state, status.sess):
                state.since_ms = status.ts
                state.online_ms = 0
            if not retained and status.state == "online":
                state.online_ms = state.online_ms or recv_ms
            # `lost` is the node's Will: the broker sent it, so it is not a sign of life
            if not retained and status.state != "lost":
                state.seen_ms = max(state.seen_ms, recv_ms)
            self._unsaved[f"status/{node}"] = encode(status)
        return True

    def reset(self, node: str) -> list[str]:
        """Forget status, birth and heartbeat of a node until the next ones arrive; what was forgotten."""
        with self._lock:
            state = self._nodes.get(node)
            if state is None:
                return []
            found = []
            if state.status is not None:
                found.append(f"its status {state.status.state!r} of session {state.status.sess}")
            if state.birth is not None:
                found.append(f"its birth of session {state.birth.sess}")
            if state.beat:
                found.append("its heartbeat")
            state.status = state.birth = None
            state.beat, state.rising = {}, Rising(MAX_SESSIONS)
            self._missing.pop(node, None)
            self._unsaved.update({f"{kind}/{node}": b"" for kind in ("status", "birth", "beat")})
        return found

    def on_birth(self, node: str, birth: Birth) -> bool:
        """Take a birth; False when it is older than a known one."""
        with self._lock:
            state = self._nodes[node]
            older = state.birth is not None and birth.sess < state.birth.sess
            # a birth of the session that the node has now follows a forged one
            if older and (state.status is None or birth.sess < state.status.sess):
                return False
            state.birth = birth
            self._unsaved[f"birth/{node}"] = encode(birth)
        return True

    def take_room(self, topic: Topic, size: int) -> Literal["", "node", "tenant"]:
        """Reserve the bytes that a topic keeps here, instead of those that it kept before.

        Returns whose share is exceeded, "" when there is room.
        """
        with self._lock:
            key = (topic.cls, topic.device, topic.name)
            return self._room.take(topic.address.tenant, str(topic.address), key, size)

    def forget_live(self, topic: Topic) -> None:
        """Drop newest values: their retained message was deleted."""
        with self._lock:
            self._live.pop((str(topic.address), topic.device, topic.name), None)
            self._room.free(str(topic.address), (topic.cls, topic.device, topic.name))

    def on_live(self, topic: Topic, live: Live, recv_ms: int, *, retained: bool) -> None:
        """Take newest values, or a heartbeat."""
        node = str(topic.address)
        with self._lock:
            state = self._nodes[node]
            if not retained:
                state.seen_ms = max(state.seen_ms, recv_ms)
            if topic.device == NODE_ITSELF and topic.name == HEARTBEAT:
                self._on_beat(node, state, live, recv_ms, retained)
            else:
                self._live[(node, topic.device, topic.name)] = live
        if topic.device == NODE_ITSELF and topic.name == HEARTBEAT:
            self._claim(node, live, recv_ms)

    def _on_beat(self, node: str, state: NodeState, beat: Live, recv_ms: int, retained: bool) -> None:
        sent = int(number(beat, "ts") or 0)
        if not retained:
            self._measure(state, beat, sent, recv_ms)
            state.beat_ms = recv_ms
        elif state.beat and sent < int(number(state.beat, "ts") or 0):
            return
        else:
            state.seen_ms = max(state.seen_ms, min(sent, recv_ms))
        state.beat = beat
        self._unsaved[f"beat/{node}"] = msgspec.json.encode(_SavedBeat(beat, recv_ms, state.seen_ms))

    def _measure(self, state: NodeState, beat: Live, sent: int, recv_ms: int) -> None:
        uptime, boot, ack_ms = number(beat, "uptime_s"), beat.get("boot"), number(beat, "ack_ms")
        if uptime is not None and isinstance(boot, str):
            state.skew.started_at(boot, sent - uptime * 1000)
        down = None if ack_ms is None or abs(ack_ms) > MAX_MS else int(ack_ms)
        state.skew.add(self._clock.monotonic(), recv_ms - sent, down)

    def _claim(self, node: str, beat: Live, recv_ms: int) -> None:
        ep = beat.get("ep")
        figures = [number(beat, name) for name in ("head", "acked", "depth", "taken_rows")]
        if not isinstance(ep, str) or not 8 <= len(ep) <= 32 or set(ep) - set("0123456789abcdef"):
            return
        head, acked, depth, rows = (int(min(max(value or 0, 0), 2**62)) for value in figures)
        self.ledger.claim(node, ep, Claim(head, acked, depth, rows, recv_ms))

    def on_snapshot(self, topic: Topic, snapshot: Snapshot, recv_ms: int) -> None:
        """Keep the newest picture of a stream."""
        key = (str(topic.address), topic.device, topic.name)
        with self._lock:
            self._nodes[key[0]].seen_ms = recv_ms
            self._snapshots[key] = snapshot
            self._snapshots.move_to_end(key)
            if len(self._snapshots) > MAX_SNAPSHOTS:  # the oldest of the node that has most
                most = Counter(node for node, _, _ in self._snapshots).most_common(1)[0][0]
                del self._snapshots[next(each for each in self._snapshots if each[0] == most)]

    def on_quarantine(self, node: str, recv_ms: int) -> None:
        """Note that a message on the node's topics was quarantined."""
        with self._lock:
            if node in self._nodes:
                self._nodes[node].quarantined_ms = recv_ms

    def on_refused(self, node: str, why: Reason, until_ms: int, now_ms: int) -> None:
        """Note that messages of a node are refused, because they exceed a share, until then at least."""
        with self._lock:
            state = self._nodes.get(node)
            if state is not None:
                state.refused = why
                state.refused_ms = min(max(until_ms, now_ms), now_ms + REFUSED_MS) + REFUSED_MS
                state.data_ms = max(state.data_ms, now_ms)  # they arrive, so no access rule holds them back

    def keep(self, key: StateKey, body: bytes) -> None:
        """Have the store save a body unchanged."""
        with self._lock:
            self._unsaved[key] = body

    def offset(self, node: str) -> Offset:
        """How far the node's clock is behind the collector's, with its uncertainty; None where unknown."""
        with self._lock:
            state = self._nodes.get(node)
            return state.skew.offset(self._clock.monotonic()) if state else Offset()

    def clock_state(self, node: str) -> int | None:
        """The clock state in the node's newest heartbeat."""
        with self._lock:
            state = self._nodes.get(node)
            return _clock_state(state.beat) if state else None

    def snapshot(self, node: str, device: str, stream: str) -> Snapshot | None:
        """The newest picture of a stream."""
        with self._lock:
            return self._snapshots.get((node, device, stream))

    def has_pictures(self, node: str, device: str, stream: str) -> bool:
        """Whether the node declares this as a stream of pictures."""
        birth = self.birth(node)
        found = birth.devices.get(device) if birth else None
        declared = found.streams.get(stream) if found else None
        return declared is not None and declared.kind == "frame"

    def live(self, node: str) -> dict[str, dict[str, Live]]:
        """Newest live values of a node, by device and stream."""
        found: dict[str, dict[str, Live]] = {}
        with self._lock:
            for (owner, device, stream), values in self._live.items():
                if owner == node:
                    found.setdefault(device, {})[stream] = values
        return found

    def birth(self, node: str) -> Birth | None:
        """The newest birth of a node."""
        with self._lock:
            state = self._nodes.get(node)
            return state.birth if state else None

    def unit(self, node: str, device: str, stream: str, name: str) -> str:
        """The declared unit of a field, "" when none is declared."""
        birth = self.birth(node)
        found = birth.devices.get(device) if birth else None
        declared = found.streams.get(stream) if found else None
        one = declared.fields.get(name) if declared else None
        return one.unit if one else ""

    def judge(self) -> None:
        """Note since when messages of each node are missing; the app calls it on a timer.

        It needs no open page. The ledger knows when the message before the missing one was stored. That may
        be long ago, so a message that was not missing at the last judgement counts from there.
        """
        now = self._clock.now_ms()
        entries = self._entries()
        with self._lock:
            found = {node: self._missing_since(node, some) for node, some in entries.items()}
            self._missing = {node: min(since, now) for node, since in found.items() if since is not None}
            self._judged_ms = now

    def _missing_since(self, node: str, entries: Sequence[Entry]) -> int | None:
        """Since when (ms, 0 unknown) messages of a node are missing; None when none are."""
        if not any(entry.missing_count for entry in entries):
            return None
        known = self._missing.get(node)
        if known is not None:
            return known
        return max(min(since for entry in entries for _, _, since, _ in entry.absent), self._judged_ms)

    def _entries(self, only: str | None = None) -> dict[str, list[Entry]]:
        found: dict[str, list[Entry]] = {}
        for entry in self.ledger.entries(only):
            found.setdefault(entry.node, []).append(entry)
        return found

    def views(self, only: str | None = None) -> list[NodeView]:
        """Every node (or `only` one), model alarms first, then the worst problem, then by name."""
        now = self._clock.now_ms()
        entries = self._entries(only)
        with self._lock:
            known = set(self._nodes) | set(entries)
            names = known if only is None else {only} & known
            found = [self._view(name, entries.get(name, ()), now) for name in names]
        return sorted(found, key=lambda view: (not view.has_alarm, -view.worst, view.node))

    def _view(self, node: str, entries: Sequence[Entry], now: int) -> NodeView:
        state = self._nodes.get(node) or NodeState()
        name, since, why = _condition(state, now)
        offset = state.skew.offset(self._clock.monotonic())
        view = NodeView(
            node=node,
            state=name,
            since=since,
            last_seen=state.seen_ms,
            agent=(state.status.agent if state.status else "")
            or (state.birth.agent.ver if state.birth else ""),
            clk=_clock_state(state.beat),
            skew_ms=offset.skew_ms,
            uncertainty_ms=offset.uncertainty_ms,
            outbox={key: number(state.beat, key) for key in ("depth", "oldest_s", "bytes")},
            health={key: number(state.beat, key) for key in ("rss_mb", "cpu_pct", "temp_c", "uptime_s")},
            devices=list(_devices(state, name == "online")),
            models=[
                {**model, "verdict": self._verdict(node, model, name == "online")}
                for model in _models(state, name == "online")
            ],
            ledger=totals(entries),
            problems=[],
        )
        view.problems = problems.find(
            view,
            why=why,
            now=now,
            missing_since=self._missing_since(node, entries),
            quarantined=state.quarantined_ms,
            doubt=self.ledger.doubt(node, now - problems.DOUBT_MS),
            refused=_refusal(node, state, now),
        )
        return view

    def _verdict(self, node: str, model: dict[str, Any], online: bool) -> dict[str, Any]:
        """The class that a model named last, and whether it is an alarm, where the model sends them."""
        live = self._live.get((node, model["device"], model["slot"]), {}) if online else {}
        label, alarm = live.get("label"), live.get("alarm")
        return {
            **({"label": label[:MAX_LABEL]} if isinstance(label, str) else {}),
            **({"alarm": alarm} if isinstance(alarm, bool) else {}),
        }


class _SavedBeat(Struct):
    beat: Live
    at_ms: int
    seen_ms: int


def number(live: Live, name: str) -> float | None:
    """A number in a flat body that fits into 64 bits, else None."""
    value = live.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return value if -_INT64 <= value < _INT64 else None


def _clock_state(beat: Live) -> int | None:
    value = number(beat, "clk")
    return int(value) if value in (0, 1, 2) else None


def _condition(state: NodeState, now: int) -> tuple[str, int, Reason]:
    """State, since when, and why; the state of a silent node decays to `unknown`."""
    status = state.status
    if status is None:
        return "unknown", state.seen_ms, because("no status has arrived yet", "no-status")
    if status.state == "online" and state.seen_ms <= 0:
        why = because("the broker kept its status, and it gave no sign of life since", "only-retained")
        return "unknown", state.since_ms, why
    silent_ms = now - state.seen_ms
    if status.state == "online" and silent_ms > SILENT_MS:
        silent_s = silent_ms // 1000
        why = because(f"no sign of life for {silent_s} s", "node-silent", seconds=silent_s)
        return "unknown", state.seen_ms + SILENT_MS, why
    return status.state, state.since_ms, Reason(status.reason, status.code, status.args)


def _refusal(node: str, state: NodeState, now: int) -> Reason:
    """Why messages of a node wait because a collector refuses or refused them."""
    if now < state.refused_ms:
        return state.refused
    return after_refusal([node]) if _waits(state, now) else NO_REASON


def after_refusal(nodes: Sequence[str]) -> Reason:
    """The reason of nodes that send nothing yet because they were refused before."""
    who = nodes[0] if len(nodes) == 1 else f"{len(nodes)} nodes, such as {nodes[0]},"
    text = f"messages of {who} were refused before and wait there: a node sends them again within ten minutes"
    return because(text, "waits-after-refusal", n=len(nodes), node=nodes[0])


def _waits(state: NodeState, now: int) -> bool:
    """Whether a node itself states that it sends nothing because it was refused; no data since."""
    code = state.beat.get("refused_code")
    waits = isinstance(code, str) and code.startswith("share-") and now - state.beat_ms < SILENT_MS
    is_online = state.status is not None and state.status.state == "online"
    # data that arrived lately show that it does not wait: some shares refuse only a part of the messages
    return waits and is_online and now >= state.refused_ms and now - state.data_ms >= REFUSED_MS


def _has_no_data(state: NodeState, since_ms: int, now: int) -> bool:
    """Whether only the data of a node are held back, as by an access rule of the broker."""
    if state.status is None or state.status.state != "online":
        return False
    first = state.data_ms < since_ms
    wait_ms = NO_DATA_MS if first and not _waits(state, now) else RESENT_MS
    if now - max(since_ms, state.data_ms) < wait_ms:
        return False
    if state.beat_ms >= since_ms:
        return now - state.beat_ms < SILENT_MS and (number(state.beat, "oldest_s") or 0) * 1000 > NO_DATA_MS
    return first and since_ms <= state.online_ms < now - NO_DATA_MS


def _devices(state: NodeState, online: bool) -> Iterable[dict[str, Any]]:
    described = state.birth.devices if state.birth else {}
    reported = state.status.devices if state.status else {}
    for name in sorted({*described, *reported}):
        device, current = described.get(name), reported.get(name)
        streams = {
            stream: {"kind": one.kind, **msgspec.to_builtins(one), "fields": msgspec.to_builtins(one.fields)}
            for stream, one in (device.streams if device else {}).items()
        }
        yield {
            "id": name,
            "type": device.type if device else "",
            "state": current.state if current and online else "unknown",
            "since": current.since if current else 0,
            **_reason(current),
            "counters": current.counters if current else {},
            "streams": streams,
        }


def _models(state: NodeState, online: bool) -> Iterable[dict[str, Any]]:
    reported = state.status.models if state.status else {}
    listed = state.birth.models if state.birth else {}
    for slot in sorted({*reported, *listed}):
        current, ref = reported.get(slot), listed.get(slot)
        yield {
            "slot": slot,
            "device": current.device if current else "",
            "name": (current.name if current else "") or (ref.name if ref else ""),
            "ver": (current.ver if current else "") or (ref.ver if ref else ""),
            "provider": current.provider if current else "",
            "state": current.state if current and online else "unknown",
            **_reason(current),
            "counters": current.counters if current else {},
        }


def _reason(current: DeviceState | ModelState | None) -> dict[str, Any]:
    if current is None:
        return {"why": "", "code": "", "args": {}}
    return {"why": current.why, "code": current.code, "args": current.args}
