"""Receive, gather, commit, and only then acknowledge: the writer thread between the link and the store."""

from __future__ import annotations

import functools
import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from msgspec import Struct

from collector.chunk import Rows
from collector.dayfile import StoreBusy
from collector.digest import Digest, Digester, Received, acks
from collector.fleet import Fleet
from collector.group import EventRow, Group
from collector.ledger import Ledger
from collector.link import Incoming, Link
from collector.news import News
from collector.store import Store
from collector.stream import Hub
from wire.clock import Clock
from wire.errors import WireError
from wire.topics import Topic, parse

log = logging.getLogger(__name__)

NUMBERED = ("data", "event")
GROUP_MESSAGES = 1_000
BURST = 16  # messages; after so many a pause means that the broker waits for acknowledgements
QUEUE_MESSAGES = 5_000
QUEUE_BYTES = 32_000_000
STATES_EVERY_S = 5.0  # heartbeats alone do not make the disk turn more often
RETRY_S = 1.0
FRAME_ROWS = 5_000  # rows of one stream told to viewers at once; more of them they had better ask for

parse_topic = functools.lru_cache(maxsize=65_536)(parse)


class Counters(Struct):
    """Since the start; messages unless the name says otherwise."""

    received: int = 0
    stored: int = 0
    rows: int = 0
    duplicates: int = 0
    quarantined: int = 0
    refused: int = 0  # not stored and not acknowledged: they come again
    commits: int = 0


@dataclass(slots=True)
class _Queue:
    """What was received and is not gathered yet."""

    items: deque[Received] = field(default_factory=deque)
    size: int = 0  # bytes


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
        self._digester = Digester(ledger, fleet.skew_ms)
        self._link: Link | None = None
        self._queue = _Queue()
        self._lock = threading.Lock()
        self._arrived = threading.Event()
        self._enough = threading.Event()
        self._stop = threading.Event()
        self._states_at = clock.monotonic()
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
        return len(self._queue.items)

    def is_full(self) -> bool:
        """Whether nothing more should be received now: what waits, waits at the broker."""
        return len(self._queue.items) >= QUEUE_MESSAGES or self._queue.size >= QUEUE_BYTES

    def receive(self, message: Incoming) -> None:
        """Take one message in; never raises, never waits for the disk."""
        self.counters.received += 1
        topic: Topic | None = None
        try:
            topic = parse_topic(message.topic)
            if topic.cls not in NUMBERED:
                self._news.take(topic, message)
                self._settle(message)
                return
            fault = ""
        except WireError as error:
            fault = str(error)
        except Exception as error:
            log.exception("a message on %r failed in an unforeseen way", message.topic[:100])
            fault = f"unforeseen: {type(error).__name__}: {error}"
        self._enqueue(Received(message, topic, fault))

    def _settle(self, message: Incoming) -> None:
        if message.token is not None and self._link is not None:
            self._link.settle((message.token,))

    def _enqueue(self, one: Received) -> None:
        with self._lock:
            self._queue.items.append(one)
            self._queue.size += len(one.message.body)
            count = len(self._queue.items)
        if count == 1:
            self._arrived.set()
        elif count >= GROUP_MESSAGES:
            self._enough.set()

    def _run(self) -> None:
        while not (self._stop.is_set() and not self._queue.items):
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
            except Exception as error:
                half = len(part) // 2
                if half:
                    parts += [part[half:], part[:half]]
                elif part and not part[0].fault:
                    log.error("a message on %r cannot be stored: %s", part[0].message.topic[:100], error)
                    fault = f"cannot be stored: {type(error).__name__}: {error}"
                    parts.append([Received(part[0].message, part[0].topic, fault)])
                else:
                    log.exception("a commit failed in an unforeseen way")
                    self._stop.wait(RETRY_S)  # what is not acknowledged comes again
        return True

    def _gather(self) -> list[Received]:
        """Wait for messages, then for company: `group_commit_ms`, a full group, or a pause after a burst."""
        self._arrived.wait(1.0)
        if not self._queue.items:
            self._arrived.clear()
            if not self._queue.items:
                return []
        step, waited, before = self._gather_s / 10, 0.0, 0
        while waited < self._gather_s and not self._stop.is_set():
            if self._enough.wait(step):
                break
            waited += step
            count = len(self._queue.items)
            if BURST <= count == before:
                break
            before = count
        with self._lock:
            waiting = self._queue.items
            items = [waiting.popleft() for _ in range(min(len(waiting), GROUP_MESSAGES))]
            self._queue.size -= sum(len(one.message.body) for one in items)
            if len(waiting) < GROUP_MESSAGES:
                self._enough.clear()
            if not waiting:
                self._arrived.clear()
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
        self._ledger.accept(digest.group.drafts)
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
            for one in items:
                if one.topic is not None:
                    self._blame(one.topic, digest.group)
        self._tell_viewers(digest.group)

    def _blame(self, topic: Topic, group: Group) -> None:
        base = f"{topic.address.base}/"
        for bad in group.quarantine:
            if bad.topic.startswith(base):
                self._fleet.on_quarantine(str(topic.address), bad.recv)

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
