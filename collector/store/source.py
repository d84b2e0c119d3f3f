"""What readers ask of stored data: the interface beside `Store`, and the types of its answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple, Protocol

from collector.store.chunk import Unpacked
from collector.store.group import Quarantined
from collector.store.messages import Span, StoredMessage
from collector.store.series import Points
from wire.errors import EdgebedError, TryAgain

Key = tuple[str, str, str]  # node, device, stream
Cursor = tuple[int, str, int]  # time in ms, then what the source itself gave

ALL = 2**62  # a time or an id beyond all others
EVENTS_A_PAGE = 1_000
CHANGED = "changed"  # a key of an event that is not as it was stored
MOST_CHANGED = 1_000  # changed events in an answer


class TooSlow(TryAgain):
    """A question that took longer than allowed."""


class StoredChunk(NamedTuple):
    """Rows of one stream that were committed together; `is_beside`: none of them is in the span."""

    ep: str
    is_late: bool
    is_beside: bool
    content: Unpacked


class Hole(NamedTuple):
    """A span in ms in which stored rows cannot be read, and why; it may reach beyond what was asked for."""

    first_ms: int
    last_ms: int
    why: str


class ChangedEvent(NamedTuple):
    """An event that is not as it was stored: when it was or is at the place that was asked for, and where.

    Without `times_ms` that is not known.
    """

    times_ms: tuple[int, ...]
    where: str


class StoredStream(NamedTuple):
    """The newest chunk of a stream: its last time in Unix ms, and the kind of each column (d q b j)."""

    last_ms: int
    kinds: dict[str, str]


class StoredNumbers(NamedTuple):
    """The message numbers in one chunk or event, and how many rows it has."""

    node: str
    ep: str
    seqs: list[int]
    rows: int


class Source(Protocol):
    """Reads what a store has committed; for one thread at a time, while the store may write.

    A question sees all that was committed before it began; of a later group it may see only a part. What
    cannot be read becomes a `Hole` or is left out, and is named in `damaged` or `suspects`; the rest is
    answered. Spans are half-open: `start_us <= time < end_us`.

    Raises, from every question:
        TooSlow: `deadline` passed.
        TryAgain: the store cannot be read now, or the source is closed.
        StoreError: a newer edgebed or another program wrote the store.
    """

    deadline: float  # time.monotonic() at which a question is cut off
    damaged: set[str]  # parts that gave nothing to the last question
    suspects: set[str]  # parts that gave less than they should; the owner may empty it
    changed: Counter[str]  # events that are not as they were stored, by part; `all_chunks` counts them

    def rows_between(self, key: Key, start_us: int, end_us: int) -> float:
        """How many rows the chunks of a stream have that reach into a span; 0 when there are none."""
        ...

    def chunks_between(
        self,
        key: Key,
        start_us: int,
        end_us: int,
        *,
        names: Collection[str] | None = None,
        beside: bool = False,
    ) -> Iterator[StoredChunk | Hole]:
        """The chunks that reach into a span, in any order, with the columns in `names` (all when None).

        With `beside` also the nearest chunks before and after it, wherever the source has them at hand.
        """
        ...

    def rollups_between(self, key: Key, field: str, start_us: int, end_us: int) -> Iterator[Points | Hole]:
        """One field by minutes that reach into a span, in any order; several points may share a minute."""
        ...

    def events(
        self,
        node: str,
        device: str,
        *,
        limit: int,
        before: Cursor,
        kind: str = "",
        since_ms: float = -math.inf,
    ) -> list[tuple[str, dict[str, Any]]]:
        """Events since a time and before a cursor, the newest first, with texts that `read_cursor` takes.

        One that is not as it was stored has `CHANGED`; of parts without seals that is not known.
        """
        ...

    def changed_events(self, place: Key, start_ms: int, end_ms: int) -> list[ChangedEvent]:
        """The events that are not as they were stored, and were or are of a node, device and type in a span.

        Those whose seal was removed, and copies of another event, are of all times.
        """
        ...

    def event_counts(
        self, node: str, device: str, start_ms: int, end_ms: int, step_ms: int
    ) -> dict[str, dict[int, int]]:
        """By type, how many events begin in each step with any; `start_ms + n * step_ms` begins step n."""
        ...

    def quarantine(self, limit: int, under: Collection[str] | None = None) -> tuple[int, list[Quarantined]]:
        """The total count, and the newest ones; only of topics that begin with one of `under`, if given."""
        ...

    def streams(self, node: str) -> dict[str, set[str]]:
        """The stored streams of a node by device; a device that only has events has none."""
        ...

    def newest(self, node: str) -> dict[str, dict[str, StoredStream]]:
        """What is stored of each device of a node, also of those that the node no longer declares."""
        ...

    def counts(self) -> dict[str, int]:
        """How many messages of each node are stored, by the sums that the store keeps."""
        ...

    def all_chunks(self, nodes: Collection[str] | None = None) -> Iterator[StoredNumbers]:
        """The numbers in every chunk and every event, of `nodes` or of all."""
        ...

    def messages(self, span: Span) -> Iterator[StoredMessage]:
        """The messages of one outbox with these numbers, in any order; what cannot be read is left out."""
        ...

    def close(self) -> None:
        """Release what the source holds; closing twice is allowed."""
        ...


def read_cursor(text: str) -> Cursor:
    """Parse `before=` of the events: a time in ms, or the cursor of the last event.

    Raises:
        EdgebedError: it is neither.
    """
    parts = text.split(".")
    if not all(part.isascii() and part.isdigit() and len(part) < 19 for part in parts) or len(parts) not in (
        1,
        3,
    ):
        raise EdgebedError(f"before={text[:40]!r} is neither a time in ms nor a cursor")
    if len(parts) == 1:
        return int(parts[0]), "", 0
    return int(parts[0]), parts[1], int(parts[2])


def newest_first(
    source: Source, node: str, device: str, before_ms: int, kind: str = "", since_ms: float = -math.inf
) -> Iterator[dict[str, Any]]:
    """The events of a device between two moments, the newest first; a page of them is kept at a time.

    Raises:
        EdgebedError: as every question to a source.
    """
    before: Cursor = (before_ms, "", 0)
    while True:
        page = source.events(node, device, limit=EVENTS_A_PAGE, before=before, kind=kind, since_ms=since_ms)
        yield from (event for _, event in page)
        if len(page) < EVENTS_A_PAGE:
            return
        ts, number, at = page[-1][0].split(".")  # its own text; a damaged time may be negative
        before = int(ts), number, int(at)
