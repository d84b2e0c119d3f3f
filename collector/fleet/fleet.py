"""The current state of every node: status, devices, models, health, newest values, and its problems."""

from __future__ import annotations

import contextlib
import heapq
import threading
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Literal

import msgspec
from msgspec import Struct

from collector.fleet import problems
from collector.fleet.accounts import NodeAccounts
from collector.fleet.live_room import LiveRoom
from collector.fleet.node_state import REFUSED_MS, NodeState, clock_state, number
from collector.fleet.node_view import NodeView
from collector.fleet.pilot_events import AllPilotEvents
from collector.fleet.views import next_turn, verdict, view_of
from collector.ledger.ledger import Ledger
from collector.ledger.plausible import MAX_SESSIONS, Rising
from collector.store.clock_skew import Offset
from collector.store.marks import Claim
from wire.clock import Clock
from wire.codec import decode, encode
from wire.errors import WireError
from wire.messages import MAX_MS, Birth, Live, ModelState, Reported, Snapshot, Status
from wire.reasons import Reason
from wire.topics import NODE_ITSELF, Topic

MAX_SNAPSHOTS = 300  # pictures of 60 kB at most
HEARTBEAT = "agent"  # live/_/agent

_BATCH = 500  # nodes that are judged under one lock

CONFIG = "/config"  # ends the key of what a node reports of its configuration
StateKey = str  # of a state in the store, like "status/{node}"


class Fleet:
    """All nodes; every method may be called from any thread.

    Its callers limit the names of nodes. `room` limits the bytes that nodes keep here.
    """

    def __init__(self, clock: Clock, ledger: Ledger, room: LiveRoom | None = None) -> None:
        self._clock = clock
        self.ledger = ledger
        self._lock = threading.Lock()
        self._reported: dict[str, Reported] = {}  # `NODE/config`: of a desired document
        self._nodes: defaultdict[str, NodeState] = defaultdict(NodeState)
        self._room = LiveRoom() if room is None else room
        self._live: dict[tuple[str, str, str], Live] = {}
        self._snapshots: OrderedDict[tuple[str, str, str], Snapshot] = OrderedDict()
        self._unsaved: dict[StateKey, bytes] = {}
        self.pilot_events = AllPilotEvents(self.keep)
        self._accounts = NodeAccounts(ledger)
        self._changed: dict[str, bool] = {}  # node -> whether more than its figures changed

    def restore(self, states: Mapping[StateKey, bytes]) -> None:
        """Take over saved states; one that cannot be read is left out."""
        self.pilot_events.restore(states)
        for key, body in states.items():
            kind, _, node = key.partition("/")
            if kind == "reported":
                with contextlib.suppress(msgspec.MsgspecError):
                    self._reported[node] = msgspec.json.decode(body, type=Reported)
            if kind not in ("status", "birth", "beat"):
                continue
            state = self._nodes[node]
            self._changed[node] = True
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

    def on_reported(self, node: str, what: str, reported: Reported) -> None:
        """Note what a node reports of a desired document, such as its `config`."""
        with self._lock:
            self._reported[f"{node}/{what}"] = reported

    def reported(self, node: str, what: str = "config") -> Reported | None:
        """What a node reported last of a desired document."""
        with self._lock:
            return self._reported.get(f"{node}/{what}")

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

    def is_online(self, node: str) -> bool:
        """Whether the newest status of a node is `online`."""
        with self._lock:
            state = self._nodes.get(node)
            return state is not None and state.is_online

    def models(self, node: str) -> Mapping[str, ModelState]:
        """What the newest status of a node has of its models, by slot."""
        with self._lock:
            state = self._nodes.get(node)
            status = None if state is None else state.status
            return {} if status is None else status.models

    def model(self, node: str, slot: str) -> ModelState | None:
        """What the newest status of a node has of the model in a slot."""
        return self.models(node).get(slot)

    def known(self) -> set[str]:
        """The nodes that sent something or have an account."""
        return self.names() | self.ledger.names()

    def _note(self, node: str, *, urgent: bool = False) -> None:
        """Note that the view of a node changed; `urgent` where more than figures did."""
        self._changed[node] = urgent or self._changed.get(node, False)

    def take_changed(self) -> dict[str, bool]:
        """The nodes whose views changed since the last call, and whether more than their figures did."""
        with self._lock:
            found, self._changed = self._changed, {}
        for node in self._accounts.take_changed():
            found.setdefault(node, False)
        return found

    def saw(self, node: str, recv_ms: int) -> None:
        """Note that a message of the node arrived."""
        with self._lock:
            self._saw(node, recv_ms)

    def _saw(self, node: str, recv_ms: int) -> NodeState:
        state = self._nodes[node]
        self._note(node, urgent=state.saw(recv_ms))
        return state

    def on_data(self, node: str, recv_ms: int) -> None:
        """Note that a numbered message of the node arrived."""
        with self._lock:
            state = self._saw(node, recv_ms)
            state.data_ms = max(state.data_ms, recv_ms)

    def held_back(self, since_ms: int) -> tuple[list[str], list[str]]:
        """The nodes whose data are held back, and those that send none because some were refused before.

        The status or heartbeats of the first arrive on the connection of `since_ms`, but none of their data.
        """
        now = self._clock.now_ms()
        without_data: list[str] = []
        waiting: list[str] = []
        names = iter(self.names())
        while batch := list(islice(names, _BATCH)):
            with self._lock:
                for name, state in ((name, self._nodes[name]) for name in batch):
                    if state.has_no_data(since_ms, now):
                        without_data.append(name)
                    elif state.says_refused and state.waits(now):
                        waiting.append(name)
        return sorted(without_data), sorted(waiting)

    def without_data(self, since_ms: int) -> list[str]:
        """Nodes whose status or heartbeats arrive on the connection of `since_ms`, but none of their data."""
        return self.held_back(since_ms)[0]

    def waiting(self) -> list[str]:
        """Nodes that send no data yet because some were refused before."""
        return self.held_back(self._clock.now_ms())[1]

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
                state.saw(recv_ms)
            self._note(node, urgent=True)
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
            state.status = state.birth = state.streams = None
            state.beat, state.rising = {}, Rising(MAX_SESSIONS)
            self._note(node, urgent=True)
            self._unsaved.update({f"{kind}/{node}": b"" for kind in ("status", "birth", "beat")})
        self._accounts.forget(node)
        return found

    def on_birth(self, node: str, birth: Birth) -> bool:
        """Take a birth; False when it is older than a known one."""
        with self._lock:
            state = self._nodes[node]
            older = state.birth is not None and birth.sess < state.birth.sess
            # a birth of the session that the node has now follows a forged one
            if older and (state.status is None or birth.sess < state.status.sess):
                return False
            state.birth, state.streams = birth, None
            self._note(node, urgent=True)
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
            if self._live.pop((str(topic.address), topic.device, topic.name), None) is not None:
                self._note(str(topic.address), urgent=True)
            self._room.free(str(topic.address), (topic.cls, topic.device, topic.name))

    def on_live(self, topic: Topic, live: Live, recv_ms: int, *, retained: bool) -> None:
        """Take newest values, or a heartbeat."""
        node = str(topic.address)
        is_beat = topic.device == NODE_ITSELF and topic.name == HEARTBEAT
        with self._lock:
            state = self._nodes[node] if retained else self._saw(node, recv_ms)
            if is_beat:
                self._on_beat(node, state, live, recv_ms, retained)
            else:
                key = (node, topic.device, topic.name)
                before = self._live.get(key, {})
                self._live[key] = live
                if verdict(before) != verdict(live):
                    self._note(node, urgent=True)
        if is_beat:
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
        self._note(node, urgent=_pressing(state.beat) != _pressing(beat))
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
            self._saw(key[0], recv_ms)
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
                self._note(node, urgent=True)

    def on_refused(self, node: str, why: Reason, until_ms: int, now_ms: int) -> None:
        """Note that messages of a node are refused, because they exceed a share, until then at least."""
        with self._lock:
            state = self._nodes.get(node)
            if state is not None:
                self._note(node, urgent=state.refused_ms <= now_ms or state.refused != why)
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
            return clock_state(state.beat) if state else None

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

    def newest(
        self, after: tuple[str, str], limit: int, sees: Callable[[str], bool]
    ) -> list[tuple[str, str, dict[str, Live]]]:
        """Newest live values of devices behind (node, device), by node, device and stream, in this order."""
        devices: dict[tuple[str, str], dict[str, Live]] = {}
        with self._lock:
            for (node, device, stream), values in self._live.items():
                if (node, device) > after:
                    devices.setdefault((node, device), {})[stream] = values
        visible = {node for node in {node for node, _ in devices} if sees(node)}
        keys = heapq.nsmallest(limit, (key for key in devices if key[0] in visible))
        return [(*key, devices[key]) for key in keys]

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
        """Note since when messages of each node are missing; the app calls it on a timer."""
        self._accounts.judge(self._clock.now_ms())

    def views(self, only: str | None = None) -> list[NodeView]:
        """Every node (or `only` one), model alarms first, then the worst problem, then by name."""
        names = self.known() if only is None else {only}
        if only is not None and only not in self._nodes and not self.ledger.outboxes(only):
            return []
        found = [self.view(name)[0] for name in names]
        for device in (device for view in found for device in view.devices):
            device["streams"] = msgspec.json.decode(device["streams"])
        return sorted(found, key=lambda view: view.rank)

    def view(self, node: str) -> tuple[NodeView, int]:
        """One node, with the streams of its devices encoded, and when that changes by time alone, ms."""
        now = self._clock.now_ms()
        totals, missing_since = self._accounts.of(node)
        doubt = self.ledger.doubt(node, now - problems.DOUBT_MS)
        with self._lock:
            state = self._nodes.get(node) or NodeState()
            found = view_of(
                node,
                state,
                totals,
                now=now,
                offset=state.skew.offset(self._clock.monotonic()),
                newest=lambda device, model: self._live.get((node, device, model), {}),
            )
            found.problems = problems.find(
                found,
                why=state.condition(now)[2],
                now=now,
                missing_since=missing_since,
                quarantined=state.quarantined_ms,
                doubt=doubt,
                refused=state.refusal(node, now),
                behind=state.behind(now),
                fenced=state.fenced(now),
            )
            return found, next_turn(state, now=now, missing_since=missing_since, doubt=doubt)


class _SavedBeat(Struct):
    beat: Live
    at_ms: int
    seen_ms: int


def _pressing(beat: Live) -> tuple[object, ...]:
    """What of a heartbeat makes or ends a problem."""
    late = bool(number(beat, "depth")) and (number(beat, "oldest_s") or 0) > problems.BACKLOG_S
    return number(beat, "clk") == 0, late, beat.get("refused_code"), beat.get("fence_code")
