"""Receive, gather, commit, and only then acknowledge: the writer thread between the link and the store."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct

from collector.fleet.fleet import Fleet
from collector.ingest.group_builder import Digest, Digester, Received, acks
from collector.ingest.inbox import Inbox
from collector.ingest.live import News
from collector.ingest.unpack import NUMBERED, parse_topic, unpack
from collector.ledger.ledger import Ledger
from collector.mqtt.link import Incoming, Link
from collector.mqtt.node_quota import Quota
from collector.store.chunk import Rows
from collector.store.day_file import StoreBusy
from collector.store.group import EventRow, Group, Quarantined
from collector.store.store import Store
from collector.web.event_stream import Hub
from wire.clock import Clock
from wire.errors import WireError
from wire.log_rate_limit import LogRateLimit
from wire.topics import Address, Topic

log = logging.getLogger(__name__)

GROUP_MESSAGES = 1_000
BURST = 16  # messages; after so many a pause means that the broker waits for acknowledgements
STATES_EVERY_S = 5.0  # heartbeats alone do not make the disk turn more often
RETRY_S = 1.0
FRAME_ROWS = 5_000  # rows of one stream told to viewers at once; more of them they had better ask for

_PARTICULAR = re.compile(r"[0-9'`\"]")  # from here on a reason tells of one message, not of its kind


class Counters(Struct):
    """Since the start; messages unless the name says otherwise."""

    received: int = 0
    stored: int = 0
    rows: int = 0
    duplicates: int = 0
    quarantined: int = 0
    refused: int = 0  # not stored and not acknowledged: they come again
    commits: int = 0


class Ingest:
    """Owns the writer thread. `receive` is for the link's thread, `start` and `stop` for the app."""

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        fleet: Fleet,
        hub: Hub,
        clock: Clock,
        *,
        name: str,
        group_commit_ms: int = 100,
        accepted: Callable[[str], Iterable[str]] = lambda _node: (),
    ) -> None:
        self.counters = Counters()
        self.trouble = ""  # why nothing can be committed now
        self._store = store
        self._ledger = ledger
        self._fleet = fleet
        self._hub = hub
        self._clock = clock
        self._name = name
        self._gather_s = group_commit_ms / 1000
        self._news = News(fleet, hub)
        self._digester = Digester(ledger, fleet.offset, accepted)
        self._link: Link | None = None
        self._inbox = Inbox()
        self._quota = Quota()
        self._arrived = threading.Event()
        self._enough = threading.Event()
        self._stop = threading.Event()
        self._states_at = clock.monotonic()
        self._seldom = LogRateLimit()
        self._thread = threading.Thread(target=self._run, name="collector-writer", daemon=True)

    def start(self, link: Link) -> None:
        """Begin to write what `link` receives, and acknowledge through it."""
        self._link = link
        self._thread.start()

    def stop(self) -> None:
        """Commit what is here if the disk takes it, acknowledge it, end the thread."""
        self._stop.set()
        self._arrived.set()
        self._enough.set()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether the writer runs."""
        return self._thread.is_alive()

    @property
    def backlog(self) -> int:
        """Messages that wait for their commit."""
        return len(self._inbox)

    def is_full(self) -> bool:
        """Whether nothing more should be received now: what waits, waits at the broker."""
        return self._inbox.is_full

    def turn(self, now_s: float) -> None:
        """Before `admits`, in the link's thread: what time it is, in s of any steady clock."""
        self._quota.turn(now_s)

    def admits(self, topic: bytes) -> bool:
        """Whether its node may publish that now: asked for each publication, in the link's thread."""
        if self._quota.admits(topic):
            return True
        self.counters.received += 1
        self._refuse(b"/".join(topic.split(b"/", 5)[:5]).decode(errors="backslashreplace"), 1)
        return False

    def receive(self, message: Incoming) -> None:
        """Take one message in; never raises, never waits for the disk."""
        self.counters.received += 1
        topic: Topic | None = None
        try:
            topic = parse_topic(message.topic)
            if topic.cls == "pack":
                self._enqueue(message, topic, unpack(message, topic))
                return
            if topic.cls not in NUMBERED:
                self._news.take(topic, message)
                self._settle(message)
                return
            fault = ""
        except WireError as error:
            fault = str(error)
        except Exception as error:  # noqa: BLE001 - a bug met by a stranger's bytes costs that message, not this thread
            self._complain(message.topic, "unforeseen", error)
            fault = f"unforeseen: {type(error).__name__}: {error}"
        self._enqueue(message, topic, [Received(message, topic, fault)])

    def _settle(self, message: Incoming) -> None:
        if message.token is not None and self._link is not None:
            self._link.settle((message.token,))

    def _enqueue(self, message: Incoming, topic: Topic | None, some: Sequence[Received]) -> None:
        sender = "" if topic is None else topic.address.base
        if not self._inbox.put(sender, some):  # nobody acknowledges it: from a node's outbox it comes again
            self._settle(message)
            self._refuse(sender, len(some))
            return
        self._arrived.set()
        if len(self._inbox) >= GROUP_MESSAGES:
            self._enough.set()

    def _refuse(self, sender: str, count: int) -> None:
        self.counters.refused += count
        if self._seldom.since(("flood", sender)) is not None:
            log.warning(
                "%s sends faster than can be stored: refused for now",
                repr(sender[:100]) if sender else "a stranger",
            )

    def _run(self) -> None:
        while not (self._stop.is_set() and not self._inbox):
            items = self._gather()
            if (items or self._states_due()) and not self._write_all(items):
                return  # stopping, and the disk does not take it: nobody was told that it did

    def _write_all(self, items: Sequence[Received]) -> bool:
        """Store every message that can be stored: a group that fails is halved until the bad one is alone."""
        parts = [items]
        while parts:
            part = parts.pop()
            try:
                if not self._write(part):
                    return False
            except Exception as error:  # noqa: BLE001 - a bug that one message meets must not stop the others
                half = len(part) // 2
                if half:
                    parts += [part[half:], part[:half]]
                elif part and not part[0].fault:
                    self._complain(part[0].message.topic, "cannot be stored", error)
                    fault = f"cannot be stored: {type(error).__name__}: {error}"
                    parts.append([Received(part[0].message, part[0].topic, fault)])
                else:
                    self._complain("", "a commit failed", error)
                    for one in part:
                        self._settle(one.message)  # its node sends it again; the broker is to go on
                    self._stop.wait(RETRY_S)
        return True

    def _complain(self, topic: str, what: str, error: Exception) -> None:
        """Tell of a bug with its trace, each kind once in a while."""
        if self._seldom.since((what, type(error))) is not None:
            log.error("%s: %r: please report this", what, topic[:100], exc_info=error)

    def _gather(self) -> list[Received]:
        """Wait for messages, then for company: `group_commit_ms`, a full group, or a pause after a burst."""
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
        if self._inbox:  # more, or what came meanwhile
            self._arrived.set()
        if len(self._inbox) >= GROUP_MESSAGES:
            self._enough.set()
        return items

    def _states_due(self) -> bool:
        if not (self._fleet.has_unsaved or self._ledger.has_claims):
            return False
        return self._stop.is_set() or self._clock.monotonic() - self._states_at >= STATES_EVERY_S

    def _write(self, items: Sequence[Received]) -> bool:
        """Commit `items` and say so; False when that was given up because of the stop."""
        digest = self._digester.digest(items, self._clock.now_ms())
        if not self._commit(digest.group):
            return False
        self._after(digest, items)
        return True

    def _commit(self, group: Group) -> bool:
        """Until it is on disk; False when that did not happen before the stop."""
        group.states = self._fleet.take_unsaved()
        group.marks = self._ledger.marks(group.drafts)
        try:
            while True:
                try:
                    self._store.commit(group)
                except StoreBusy as error:
                    self._tell_trouble(str(error))
                    if self._stop.wait(RETRY_S):
                        return False
                else:
                    break
        except BaseException:
            self._fleet.give_back(group.states)
            self._ledger.remember(group.marks)
            raise
        self._states_at = self._clock.monotonic()
        self._tell_trouble("")
        return True

    def _tell_trouble(self, why: str) -> None:
        if why and not self.trouble:
            log.error("%s; nothing is acknowledged until it can be stored", why)
        elif self.trouble and not why:
            log.warning("the store takes messages again")
        self.trouble = why

    def _after(self, digest: Digest, items: Sequence[Received]) -> None:
        """It is on disk: say so to the broker, to the nodes, to the viewers, in this order."""
        self._ledger.accept(digest.group.drafts, digest.group.custody)
        tokens = [one.message.token for one in items if one.message.token is not None]
        if self._link is not None:
            self._link.settle(tokens, acks(digest.acked, self._name, self._clock.now_ms()))
        counters = self.counters
        counters.commits += 1
        counters.stored += digest.stored
        counters.rows += digest.rows
        counters.duplicates += digest.duplicates
        if digest.refused and not counters.refused:
            log.warning("messages are refused for now: %s", digest.refused[0])
        counters.refused += len(digest.refused)
        counters.quarantined += len(digest.group.quarantine)
        for node, recv_ms in _senders(items).items():
            self._fleet.saw(node, recv_ms)
        if digest.group.quarantine:
            blamed: dict[str, int] = {}
            for bad in digest.group.quarantine:
                node = _node_of(bad.topic)
                blamed[node] = bad.recv
                self._tell_quarantined(node, bad)
            for node, recv_ms in blamed.items():
                self._fleet.on_quarantine(node, recv_ms)
        self._tell_viewers(digest.group)

    def _tell_quarantined(self, node: str, bad: Quarantined) -> None:
        kind = _PARTICULAR.split(bad.why, maxsplit=1)[0]
        if (more := self._seldom.since((node, kind))) is not None:
            also = f" ({more} alike were not told)" if more else ""
            log.warning("a message on %r cannot be taken: %s%s", bad.topic[:100], bad.why[:200], also)

    def _tell_viewers(self, group: Group) -> None:
        for chunk in group.chunks:
            rows = chunk.rows
            if self._hub.is_wanted(rows.node, rows.device):
                self._hub.post("rows", rows_frame(rows), rows.node, rows.device)
        for event in group.events:
            if self._hub.is_wanted(event.node, event.device):
                self._hub.post("event", event_frame(event), event.node, event.device)


def _senders(items: Sequence[Received]) -> Mapping[str, int]:
    return {str(one.topic.address): one.message.recv_ms for one in items if one.topic is not None}


def _node_of(topic: str) -> str:
    """Whose topic it is, though the rest of it may be nonsense; "" for nobody's."""
    try:
        return str(Address.parse("/".join(topic.split("/")[1:5])))
    except WireError:
        return ""


def rows_frame(rows: Rows) -> dict[str, object]:
    """Stored rows as viewers get them."""
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
    """A stored event as viewers get it."""
    body: dict[str, object] = msgspec.json.decode(event.body)
    head = {"ts": event.ts, "recv": event.recv, "type": event.type, "sev": event.sev}
    return {**body, **head, "node": event.node, "device": event.device}
