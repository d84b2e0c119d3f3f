"""The writer thread: gathers received messages, commits them, and only then acknowledges them."""

from __future__ import annotations

import logging
import queue
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import ParamSpec

import msgspec
from msgspec import Struct

from collector.fleet.fleet import Fleet
from collector.health import CollectorProblems
from collector.ingest.backlog import Backlog, Overload
from collector.ingest.fair_rate import Wait
from collector.ingest.group_builder import BuiltGroup, GroupBuilder, acks
from collector.ingest.in_hand import InHand
from collector.ingest.inbox import Inbox
from collector.ingest.live import LiveMessages, OnAnswer, Viewers
from collector.ingest.refusal import Answers, Refusal, ShareExceeded
from collector.ingest.refused_senders import RefusedSenders
from collector.ingest.repeat_evidence import RepeatEvidence
from collector.ingest.share_limits import Shares
from collector.ingest.shares import ContentShares, Door, NodeNames, base_of
from collector.ingest.unpack import NUMBERED, parse_topic, unpack
from collector.ledger.accepted_keys import AcceptedKeys
from collector.ledger.enrolled import EnrolledNodes
from collector.mqtt.link import Link
from collector.mqtt.received import Received
from collector.store.chunk import ChunkRows
from collector.store.day_schema import Full, StoreBusy
from collector.store.group import EventRow, Group, Quarantined
from collector.store.marks import Key
from collector.store.store import Store
from wire.clock import Clock
from wire.errors import WireError
from wire.log_rate_limit import LogRateLimit
from wire.printable import printable
from wire.ranges import Ranges
from wire.reasons import NO_REASON, Reason, because
from wire.topics import Address, Topic

log = logging.getLogger(__name__)

P = ParamSpec("P")

GROUP_MESSAGES = 1_000
BURST = 16  # messages; a pause after a burst of this size means that the broker waits for PUBACKs
STATES_EVERY_S = 5.0  # how often heartbeats alone cause a commit
RETRY_S = 1.0
REFUSED_S = 60.0  # how long a refusal counts as a problem
NAMED = 20  # senders a second whose refusal becomes a problem of the collector: the worst
MAX_NAME = 300  # bytes of a sender's name that are kept
FRAME_ROWS = 5_000  # rows of one stream in one frame for viewers; a page asks the API for more

AGAIN = (b"data", b"event", b"pack")  # classes of messages that a node sends until they are acknowledged

_PARTICULAR = re.compile(r"[0-9'`\"]")  # from here on a reason describes one message, not the kind


class Counters(Struct):
    """Counts since the start; of messages unless the name states something else."""

    received: int = 0
    stored: int = 0
    rows: int = 0
    duplicates: int = 0
    quarantined: int = 0
    refused: int = 0  # neither stored nor acknowledged: their node sends them again
    commits: int = 0


class IngestSettings(Struct, frozen=True):
    """The collector's id, how long a group is gathered, the shares, and the enrolled nodes."""

    name: str
    group_commit_ms: int = 100
    shares: Shares = Shares()
    enrolled: EnrolledNodes | None = None


class Ingest:
    """The writer thread. The link's thread calls `receive`, the app calls `start` and `stop`."""

    def __init__(
        self,
        store: Store,
        fleet: Fleet,
        viewers: Viewers,
        clock: Clock,
        settings: IngestSettings,
        problems: CollectorProblems | None = None,
    ) -> None:
        shares = settings.shares
        self.counters = Counters()
        self.problem = ""  # why nothing can be committed now
        self._store = store
        self._ledger = fleet.ledger
        self._fleet = fleet
        self._viewers = viewers
        self._clock = clock
        self._settings = settings
        self._gather_s = settings.group_commit_ms / 1000
        self._live = LiveMessages(fleet, viewers)
        self._accepted_keys = AcceptedKeys(store.folder, settings.enrolled)
        self._problems = CollectorProblems(clock) if problems is None else problems
        self._evidence = RepeatEvidence()
        self._link: Link | None = None
        self._inbox = Inbox()
        self._backlog = Backlog(clock, self._problems)
        self._in_hand = InHand(store.folder)
        self._door = Door(shares)
        self._names = NodeNames(shares.tenant.nodes, {*fleet.names(), *fleet.ledger.names()})
        self._content = ContentShares(shares)
        self._answers = Answers(settings.name)
        self._refused = RefusedSenders()
        self._answering = threading.Lock()  # the link's thread and the writer refuse and count it
        self._arrived = threading.Event()
        self._enough = threading.Event()
        self._stop = threading.Event()
        self._states_at = clock.monotonic()
        self._chores: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._log_limit = LogRateLimit()
        self._thread = threading.Thread(target=self._run, name="collector-writer", daemon=True)

    def pass_answers_to(self, take: OnAnswer) -> None:
        """Have `take` get each answer to a command; before `start`."""
        self._live.on_answer = take

    def start(self, link: Link) -> None:
        """Start the thread; `link` carries the acknowledgements."""
        self._link = link
        self._thread.start()

    def stop(self) -> None:
        """Commit and acknowledge what waits, if the disk takes it; then end the thread."""
        self._stop.set()
        self._arrived.set()
        self._enough.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._in_hand.close()

    def do(self, chore: Callable[[], None]) -> None:
        """Have the writer do something between two groups; any thread."""
        self._chores.put(chore)

    def refuse_tenants(self, tenants: frozenset[str]) -> None:
        """Refuse what these tenants send that needs disk, until the next call; any thread."""
        self._content.full = tenants

    def written_today(self) -> Mapping[str, int]:
        """Bytes that were written for each tenant today, since the start; any thread."""
        return self._content.written()

    @property
    def is_alive(self) -> bool:
        """Whether the writer runs."""
        return self._thread.is_alive()

    @property
    def backlog(self) -> int:
        """Messages that wait for their commit."""
        return len(self._inbox)

    @property
    def overload(self) -> Overload:
        """Whether messages wait for long, by the last `watch_backlog`."""
        return self._backlog.now

    @property
    def explains_silence(self) -> bool:
        """Whether data of nodes may be late because messages wait here or at the broker."""
        return self._backlog.explains_silence

    def watch_backlog(self) -> None:
        """Report messages that wait for long, and refuse some if need be; the app calls it each second."""
        self._backlog.watch(is_blocked=bool(self.problem))

    @property
    def probes(self) -> Backlog:
        """What measures the wait at the broker, for the link."""
        return self._backlog

    def is_full(self) -> bool:
        """Whether the link should stop receiving; messages then wait at the broker."""
        return self._inbox.is_full

    def admits(self, topic: bytes, body: bytes, now_s: float) -> bool:
        """Whether the node of this topic may publish this; the link's thread asks for each publication."""
        found = self._door.check(topic, body, now_s)
        if found is None and self._backlog.is_refusing:
            found = self._over_part(topic)
        if found is None:
            return True
        self._backlog.arrived += 1
        self.counters.received += 1
        self._refuse(topic, body, Refusal.after(*found, self._clock.now_ms()))
        return False

    def _over_part(self, topic: bytes) -> tuple[Wait, str] | None:
        """Why an overloaded collector refuses this; only messages that their node sends again are refused."""
        parts = topic.split(b"/", 6)
        if len(parts) < 6 or parts[5] not in AGAIN:
            return None
        wait_s = self._backlog.wait_s(self._known_node(topic))
        return (Wait("collector", wait_s), "overload") if wait_s else None

    def _known_node(self, topic: bytes) -> bytes:
        """The node whose part of the capacity a message takes; names that are not known yet share one."""
        base = base_of(topic)
        return base if base.partition(b"/")[2].decode(errors="replace") in self._names else b""

    def refused_shares(self) -> dict[str, dict[str, int]]:
        """How many messages exceeded each share since the start."""
        with self._answering:
            counts = dict(self._answers.counts)
        found: dict[str, dict[str, int]] = {"node": {}, "tenant": {}, "collector": {}}
        for (scope, key), count in counts.items():
            found[scope][key] = count
        return found

    def receive(self, message: Received) -> None:
        """Take in one message; never raises and never waits for the disk."""
        self.counters.received += 1
        try:
            topic = message.parsed = parse_topic(message.topic)
            if (refusal := self._names.check(topic.address, message.recv_ms)) is not None:
                raise ShareExceeded(refusal)
            if topic.cls not in NUMBERED:
                message.fault = self._in_hand.why_set_aside(message)
                if not message.fault:
                    self._take_apart(topic, message)
                    return
        except ShareExceeded as error:
            self._settle(message)
            self._refuse(message.topic.encode(), message.body, error.refusal)
            return
        except WireError as error:
            message.fault = str(error)
        except Exception as error:  # noqa: BLE001 - bytes that trigger a bug cost their message, not this thread
            self._complain(message.topic, "unforeseen", error)
            message.fault = f"unforeseen: {type(error).__name__}: {error}"
        self._enqueue(message, [message])

    def _take_apart(self, topic: Topic, message: Received) -> None:
        """Take a pack or a live message, which are decoded in the link's thread."""
        with self._in_hand.receiving(message, always=topic.cls == "pack"):
            if topic.cls == "pack":
                self._enqueue(message, unpack(message, topic))
            else:
                self._live.take(topic, message)
                self._settle(message)

    def _settle(self, message: Received) -> None:
        if message.token is not None and self._link is not None:
            self._link.settle((message.token,))

    def _enqueue(self, message: Received, some: Sequence[Received]) -> None:
        sender = "" if message.parsed is None else message.parsed.address.base
        self._backlog.arrived += len(some)
        if not self._inbox.put(sender, some):
            self._settle(message)  # settled at the broker, not acknowledged: the node's outbox sends it again
            now_s = self._clock.monotonic()
            with self._answering:
                self.counters.refused += len(some)
                self._refused.add(sender, because("it sends faster than can be stored"), now_s)
            return
        if self._backlog.is_refusing and len(some) > 1:
            self._backlog.charge(self._known_node(message.topic.encode()), len(some) - 1)
        self._backlog.queued += len(some)
        if not self._arrived.is_set():
            self._arrived.set()
        if len(self._inbox) >= GROUP_MESSAGES:
            self._enough.set()

    def _refuse(self, topic: bytes, body: bytes, refusal: Refusal) -> None:
        """Count a message that exceeds a share, and answer its node; any thread."""
        base, now_ms, now_s = base_of(topic), self._clock.now_ms(), self._clock.monotonic()
        with self._answering:
            self.counters.refused += 1
            answer = self._answers.answer(base, body, refusal, now_ms, now_s)
            sender = base[:MAX_NAME].decode(errors="backslashreplace")
            # a client that invents names of nodes makes one problem, that of their tenant
            whose = sender if refusal.key != "nodes" else "/".join(sender.split("/", 2)[:2])
            if refusal.is_overload:  # one problem names them all
                is_first = answer is not None
            else:
                is_first = self._refused.add(whose, refusal.reason, now_s)  # since the last `name_refused`
        if is_first:
            self._fleet.on_refused(sender.partition("/")[2], refusal.reason, refusal.until_ms, now_ms)
        if answer is not None and self._link is not None:
            self._link.settle((), [answer])

    def name_refused(self) -> None:
        """Report whose messages are refused, the worst first; the app calls it about once a second."""
        with self._answering:
            found = self._refused.take_new(self._clock.monotonic())
        for one in found[:NAMED]:
            name = printable(one.name, 130) if one.name else "an unknown client"
            self._report_refused(f"{name}: {one.why.why}", one.name, one.count, one.why)

    def _report_refused(self, why: str, part: str = "", count: int = 1, cause: Reason = NO_REASON) -> None:
        text = f"{why}: its messages are refused for now"
        reason = because(
            text,
            "messages-refused",
            detail=why,
            sender=printable(part, 130),
            cause=cause.code,
            share=cause.args.get("share", ""),
        )
        self._problems.report(reason, part, for_s=REFUSED_S, weight=count)

    def _run(self) -> None:
        while not (self._stop.is_set() and not self._inbox):
            while not self._chores.empty():
                self._guarded(self._chores.get())
            items = self._gather()
            if (items or self._states_due()) and not self._write_all(items):
                return  # stopping, and the disk is not writable: nothing was acknowledged
            self._backlog.handled += len(items)
            self._store.work()

    def _write_all(self, items: Sequence[Received]) -> bool:
        """Store every message that can be stored; halve a failing group until the bad message is alone."""
        parts = self._in_hand.parts(items)[::-1]
        while parts:
            part = parts.pop()
            try:
                taken = self._write(part)
                if taken < 0:
                    return False
                if taken < len(part):
                    parts.append(part[taken:])
            except Exception as error:  # noqa: BLE001 - a bug that one message triggers must not stop the others
                half = len(part) // 2
                if half:
                    parts += [part[half:], part[:half]]
                elif isinstance(error, Full):
                    self._refuse_full(part, error)
                elif part and not part[0].fault:
                    self._complain(part[0].topic, "cannot be stored", error)
                    part[0].fault = f"cannot be stored: {type(error).__name__}: {error}"
                    parts.append(part)
                else:
                    self._complain("", "a commit failed", error)
                    for one in part:
                        self._settle(one)  # the broker goes on, and the node sends it again
                    self._stop.wait(RETRY_S)
        return True

    def _refuse_full(self, part: Sequence[Received], error: Full) -> None:
        """Refuse the message that finds no room in the day file."""
        for one in part:
            self._settle(one)
            with self._answering:
                self.counters.refused += 1
            self._report_refused(str(error))

    def _complain(self, topic: str, what: str, error: Exception) -> None:
        """Log a bug with its trace, each kind at most once per ten minutes."""
        if self._log_limit.since((what, type(error))) is not None:
            log.error("%s: %r: please report this", what, topic[:100], exc_info=error)

    def _gather(self) -> list[Received]:
        """Wait for a message, then until `group_commit_ms` passed, a group is full or a burst pauses."""
        self._arrived.wait(1.0)
        if not self._inbox:
            self._arrived.clear()
            if not self._inbox:
                return []
        step, waited, before = self._gather_s / 10, 0.0, 0
        while waited < self._gather_s and not self._stop.is_set():
            if self._enough.wait(step):
                break
            waited += step
            count = len(self._inbox)
            if BURST <= count == before:
                break
            before = count
        self._enough.clear()
        self._arrived.clear()
        items = self._inbox.take(GROUP_MESSAGES)
        if self._inbox:  # more than a group, or new ones
            self._arrived.set()
        if len(self._inbox) >= GROUP_MESSAGES:
            self._enough.set()
        return items

    def _states_due(self) -> bool:
        if not (self._fleet.has_unsaved or self._ledger.has_claims):
            return False
        return self._stop.is_set() or self._clock.monotonic() - self._states_at >= STATES_EVERY_S

    def _write(self, items: Sequence[Received]) -> int:
        """Commit `items`, or the first of them that fit into a group, and acknowledge them.

        Returns how many; -1 when the stop came first.
        """
        now_ms = self._clock.now_ms()
        self._content.turn(now_ms, self._clock.monotonic())
        builder = GroupBuilder(
            self._ledger,
            self._fleet.offset,
            now_ms,
            keys=self._accepted_keys,
            evidence=self._evidence,
            shares=self._content,
        )
        with self._in_hand.holding(items):
            built = builder.build(items)
            if not self._commit(built):
                return -1
        self._after(built, items[: built.taken])
        return built.taken

    def _commit(self, built: BuiltGroup) -> bool:
        """Retry until the group is on disk; False when the stop came first."""
        group = built.group
        self._fleet.pilot_events.take(group.events)
        group.states = self._fleet.take_unsaved()
        group.marks = self._ledger.marks(built.drafts)
        try:
            while True:
                try:
                    self._store.commit(group)
                except StoreBusy as error:
                    self._set_problem(str(error))
                    if self._stop.wait(RETRY_S):
                        return False
                else:
                    break
        except BaseException:
            self._fleet.give_back(group.states)
            self._ledger.remember(group.marks)
            raise
        self._guarded(self._note_sizes)
        self._states_at = self._clock.monotonic()
        if self.problem:
            self._set_problem("")
        return True

    def _note_sizes(self) -> None:
        for node, size in self._store.take_sizes().items():
            self._content.stored(node, size)

    def _set_problem(self, why: str) -> None:
        if why:
            text = f"{why}; retrying, and nothing is acknowledged until it is stored"
            self._problems.report(because(text, "store-blocked", detail=why))
        else:
            self._problems.clear("store-blocked")
        self.problem = why

    def _after(self, built: BuiltGroup, items: Sequence[Received]) -> None:
        """After the commit: acknowledge to the nodes and the broker, then update the viewers.

        Raises nothing: the group is on disk, and to store it again would double it.
        """
        tokens = [one.token for one in items if one.token is not None]
        self._guarded(self._ledger.accept, built.drafts, built.group.custody)
        self._guarded(self._acknowledge, tokens, built.acked)
        self._guarded(self._count, built)
        self._guarded(self._note_senders, built.group.quarantine, items)
        self._guarded(self._post_frames, built.group)

    def _guarded(self, step: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Do one step after a commit; a bug in it costs this step only."""
        try:
            step(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - see `_after`
            self._complain("", "a step after a commit failed", error)

    def _acknowledge(self, tokens: Sequence[tuple[int, int]], acked: Mapping[Key, Ranges]) -> None:
        if self._link is not None:
            highest = self._ledger.highest
            self._link.settle(tokens, acks(acked, self._settings.name, self._clock.now_ms(), highest))

    def _count(self, built: BuiltGroup) -> None:
        counters = self.counters
        counters.commits += 1
        counters.stored += built.stored
        counters.rows += built.rows
        counters.duplicates += built.duplicates
        for why in dict.fromkeys(built.refused):
            self._report_refused(why)
        with self._answering:
            counters.refused += len(built.refused)
        for message, refusal in built.exceeded:
            self._refuse(message.topic.encode(), message.body, refusal)
        counters.quarantined += len(built.group.quarantine)

    def _note_senders(self, quarantine: Sequence[Quarantined], items: Sequence[Received]) -> None:
        newest = {one.parsed.address.text: one.recv_ms for one in items if one.parsed is not None}
        for node, recv_ms in newest.items():
            self._fleet.on_data(node, recv_ms)
        for bad in quarantine:
            node = _node_of(bad.topic)
            self._fleet.on_quarantine(node, bad.recv)
            self._log_quarantined(node, bad)

    def _log_quarantined(self, node: str, bad: Quarantined) -> None:
        kind = _PARTICULAR.split(bad.why, maxsplit=1)[0]
        if (more := self._log_limit.since((node, kind))) is not None:
            also = f" ({more} similar ones were not logged)" if more else ""
            log.warning("a message on %r was quarantined: %s%s", bad.topic[:100], bad.why[:200], also)

    def _post_frames(self, group: Group) -> None:
        for rows in group.rows:
            if self._viewers.is_wanted(rows.node, rows.device):
                self._viewers.post("rows", rows_frame(rows), rows.node, rows.device)
        for event in group.events:
            if self._viewers.is_wanted(event.node, event.device):
                self._viewers.post("event", event_frame(event), event.node, event.device)


def _node_of(topic: str) -> str:
    """The node of a topic whose rest may be invalid; "" without a valid node."""
    try:
        return Address.parse("/".join(topic.split("/")[1:5])).text
    except WireError:
        return ""


def rows_frame(rows: ChunkRows) -> dict[str, object]:
    """The frame of stored rows for viewers."""
    start = max(0, rows.count - FRAME_ROWS)
    return {
        "node": rows.node,
        "device": rows.device,
        "stream": rows.stream,
        "t": (rows.times_us()[start:] // 1000).tolist(),
        "f": {name: column[start:] for name, column in rows.columns.items()},
        "late": int(rows.late),
    }


def event_frame(event: EventRow) -> dict[str, object]:
    """The frame of a stored event for viewers."""
    body: dict[str, object] = msgspec.json.decode(event.body)
    head = {"ts": event.ts, "recv": event.recv, "type": event.type, "sev": event.sev}
    return {**body, **head, "node": event.node, "device": event.device, "ep": event.ep, "seq": event.seq}
