"""Signed statements of nodes about what they took: verified, and kept as parts of UTC days by stream."""

from __future__ import annotations

import logging
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from collector.store.marks import Book, Chain
from wire.custody import Statement, digest, key_id, read, signed_form
from wire.errors import WireError
from wire.messages import Event
from wire.ranges import Ranges

log = logging.getLogger(__name__)

MAX_RUNS = 20  # of an outbox with row numbers; of older runs only counts are kept
MAX_PARTS = 200  # of one day: more would be endless restarts
MAX_DAYS = 4_000  # of an outbox: eleven years, or a node that invents days
MAX_CHAINS = 8  # newest runs with statements that are compared with one another
MAX_REASONS = 20
_NOT_ACCEPTED = "its key {} is not accepted"
MAX_KEYS = 20  # of a node, accepted or not


class StatedPart(Struct, omit_defaults=True):
    """Numbers `first..upto` of one run and day, as stated; `end` is its last number, 0 while open.

    `streams`: messages, numbers of the first and last row. `settled`: stored rows of it when the run's row
    numbers were released. `extra`: stored rows that the run took after its last statement.
    """

    run: int
    first: int
    upto: int
    end: int = 0
    ts: int = 0
    clk: int = 0
    statements: int = 0
    key: str = ""
    streams: dict[str, tuple[int, int, int]] = {}
    settled: dict[str, int] = {}
    extra: dict[str, int] = {}


class Day(Struct):
    """The parts of one UTC day of one outbox; `coarse`: the oldest were joined, without their rows."""

    parts: list[StatedPart] = []
    coarse: bool = False

    def part(self, first: int) -> StatedPart | None:
        """The part that starts with this number."""
        return next((part for part in self.parts if part.first == first), None)


class KeySeen(Struct):
    """A public key that signed statements of a node; `how` it was accepted, "" while it is not."""

    key: str
    since: int
    last: int
    statements: int = 0
    how: str = ""


class Ring(Struct):
    """Every key that signed statements of a node."""

    keys: list[KeySeen] = []

    def of(self, key: str) -> KeySeen | None:
        """The entry of a key."""
        return next((one for one in self.keys if one.key == key), None)


class Days:
    """Every day of every outbox, encoded; the ledger's lock protects it."""

    def __init__(self, saved: Mapping[str, bytes] = {}) -> None:
        self._bodies: dict[tuple[str, str], dict[str, bytes]] = {}
        self.rings: dict[str, Ring] = {}
        self.restore({name: body for name, body in saved.items() if _is_sound(name, body)})

    def restore(self, saved: Mapping[str, bytes]) -> None:
        """Take over saved states."""
        for name, body in saved.items():
            kind, _, rest = name.partition("/")
            if kind == "custody":
                node, ep, day = rest.rsplit("/", 2)
                self._bodies.setdefault((node, ep), {})[day] = body
            elif kind == "key":
                self.rings[rest] = msgspec.json.decode(body, type=Ring)

    def get(self, key: tuple[str, str], day: str) -> Day:
        """A day, empty when there is nothing about it."""
        body = self._bodies.get(key, {}).get(day)
        return Day() if body is None else msgspec.json.decode(body, type=Day)

    def saved(self, key: tuple[str, str]) -> dict[str, bytes]:
        """The states of one outbox and the ring of its node, as they are saved."""
        bodies = self._bodies.get(key, {})
        found = {name: bodies[day] for day, name in state_names(key, bodies).items()}
        ring = self.rings.get(key[0])
        return found if ring is None else {**found, f"key/{key[0]}": msgspec.json.encode(ring)}

    def bodies(self, key: tuple[str, str]) -> dict[str, bytes]:
        """All days of an outbox, encoded."""
        return dict(self._bodies.get(key, {}))


def state_names(key: tuple[str, str], days: Iterable[str]) -> dict[str, str]:
    """The names under which days of an outbox are saved, by day."""
    return {day: f"custody/{key[0]}/{key[1]}/{day}" for day in days}


def _is_sound(name: str, body: bytes) -> bool:
    """Whether a saved state can be used; the disk may have damaged it."""
    kind, _, rest = name.partition("/")
    try:
        if kind == "custody":
            msgspec.json.decode(body, type=Day)
            return rest.count("/") >= 2
        if kind == "key":
            msgspec.json.decode(body, type=Ring)
    except (msgspec.MsgspecError, ValueError) as error:
        log.warning("the saved state %r is damaged and left out: %s", name[:100], error)
        return False
    return True


def decoded(bodies: Mapping[str, bytes]) -> dict[str, Day]:
    """Days by their dates."""
    return {day: msgspec.json.decode(body, type=Day) for day, body in bodies.items()}


class Statements:
    """The changes that one group's statements make, kept apart until they are on disk."""

    def __init__(self, days: Days) -> None:
        self._known = days
        self._days: dict[tuple[tuple[str, str], str], Day] = {}
        self._rings: dict[str, Ring] = {}

    def saved(self) -> dict[str, bytes]:
        """The states to write with the group."""
        found = {}
        for (key, day), one in self._days.items():
            body = msgspec.json.encode(one)
            if body != self._known.bodies(key).get(day):
                found[state_names(key, [day])[day]] = body
        found.update({f"key/{node}": msgspec.json.encode(ring) for node, ring in self._rings.items()})
        return found

    def take(
        self,
        book: Book,
        node: str,
        event: Event,
        recv_ms: int,
        accepted: Iterable[str],
        *,
        is_closed: bool = False,
    ) -> None:
        """Take a custody event of `node`; a false statement is refused and counted, and raises nothing.

        `is_closed`: no other key counts than those that are `accepted`.
        """
        try:
            keys = frozenset(accepted)
            statement = self._verified(book, node, event, recv_ms, keys, is_closed=is_closed)
        except WireError as error:
            why = str(error)
            log.warning("%s ep %s: a custody statement is refused: %s", node, event.ep, why)
            stated = book.stated
            if len(stated.refused) < MAX_REASONS or why in stated.refused:
                stated.refused[why] = stated.refused.get(why, 0) + 1
            stated.refused_why, stated.refused_at = why, recv_ms
            return
        if book.stated.refused_why == _NOT_ACCEPTED.format(key_id(statement.key)):
            book.stated.refused_at = 0  # the key was accepted meanwhile
        stated = book.stated
        stated.statements += 1
        if event.ts >= stated.made_at:
            stated.made_at, stated.sent, stated.dropped = event.ts, statement.sent, statement.dropped
        stated.acked = max(stated.acked, statement.acked)
        self._place(book, (node, event.ep), statement, event.ts)

    def _verified(
        self,
        book: Book,
        node: str,
        event: Event,
        recv_ms: int,
        accepted: frozenset[str],
        *,
        is_closed: bool,
    ) -> Statement:
        statement = read(event.detail)
        if event.seq <= statement.upto:
            raise WireError("it covers numbers that were not given yet")
        days = self._known.bodies((node, event.ep))
        if len(days) >= MAX_DAYS and statement.day not in days:
            raise WireError("it names more days than are kept")
        form = signed_form(event.detail, node, event.ep)
        if statement.sig is msgspec.UNSET or not _is_signed(statement.key, statement.sig, form):
            raise WireError("its signature does not fit this node, outbox and text")
        self._trust(node, statement.key, recv_ms, accepted, is_closed=is_closed)
        self._link(book, statement, digest(form))
        return statement

    def _trust(self, node: str, key: str, recv_ms: int, accepted: frozenset[str], *, is_closed: bool) -> None:
        ring = self._rings.get(node)
        if ring is None:
            known = self._known.rings.get(node, Ring())
            ring = self._rings[node] = Ring([replace(one) for one in known.keys])
        seen = ring.of(key)
        if seen is None:
            if len(ring.keys) >= MAX_KEYS:
                raise WireError(f"its key is not accepted, and the node used {MAX_KEYS} others")
            seen = KeySeen(key, recv_ms, recv_ms, how="" if ring.keys or is_closed else "first seen")
            ring.keys.append(seen)
        seen.last, seen.statements = max(seen.last, recv_ms), seen.statements + 1
        if key_id(key) in accepted:
            seen.how = seen.how or "accepted"
        elif is_closed:
            seen.how = ""
        if not seen.how:
            raise WireError(_NOT_ACCEPTED.format(key_id(key)))

    def _link(self, book: Book, statement: Statement, name: str) -> None:
        """Compare a statement with its neighbours in the run's chain; two that differ mean a copied key."""
        chain = book.stated.chains.get(statement.run, Chain())
        seen, ends, n = Ranges(chain.seen), dict(chain.ends), statement.n
        before, after, same = ends.get(n - 1), ends.get(n + 1), ends.get(n)
        forked = (before and before[0] != statement.prev) or (after and after[1] != name)
        if n in seen:
            forked = same is not None and same[0] != name
        elif (n == 1) == bool(statement.prev):
            forked = True
        if forked:
            book.stated.chains[statement.run] = Chain(chain.seen, chain.ends, forked=True)
            raise WireError("it does not continue the statement before it: is there a copy of this node?")
        if n in seen:
            raise WireError("a statement with this number arrived before")
        seen.add(n)
        ends[n] = (name, statement.prev)
        for at in (n - 1, n, n + 1):
            if at in ends and at + 1 in seen and (at == 1 or at - 1 in seen):
                del ends[at]
        while len(ends) > 100:
            del ends[min(ends)]
        book.stated.chains[statement.run] = Chain(list(seen), ends, chain.forked)
        while len(book.stated.chains) > MAX_CHAINS:
            del book.stated.chains[min(book.stated.chains)]

    def _place(self, book: Book, key: tuple[str, str], statement: Statement, ts: int) -> None:
        day = self._day(key, statement.day)
        part = day.part(statement.first)
        if part is None:
            part = StatedPart(statement.run, statement.first, statement.first)
            self._insert(key, day, part)
            book.stated.begin = min(book.stated.begin or part.first, part.first)
        if part.run != statement.run:
            return  # a sound node does not state this
        part.statements += 1
        if statement.upto >= part.upto:
            part.upto, part.streams = statement.upto, statement.streams
            part.ts, part.clk, part.key = ts, statement.clk, key_id(statement.key)
        while len(book.rows) > MAX_RUNS:
            self.settle(book, key)

    def _insert(self, key: tuple[str, str], day: Day, part: StatedPart) -> None:
        """Insert a part; each part ends where the next one starts, so every number is in one part."""
        others = self._parts(key)
        at = bisect_left(others, part.first, key=lambda one: one.first)
        if at < len(others):
            part.end = others[at].first - 1
        if at > 0:
            others[at - 1].end = part.first - 1
        insort(day.parts, part, key=lambda one: one.first)
        while len(day.parts) > MAX_PARTS:
            oldest = day.parts.pop(0)
            day.parts[0].first, day.coarse = oldest.first, True
            day.parts[0].statements += oldest.statements

    def settle(self, book: Book, key: tuple[str, str]) -> None:
        """Release the row numbers of the oldest run; the stored rows of its parts stay as counts."""
        run = min(book.rows)
        streams = book.rows.pop(run)
        parts = [part for part in self._parts(key) if part.run == run]
        for part, (within, beyond) in zip(parts, stored_rows(parts, streams), strict=True):
            part.settled = _sum(part.settled, within)
            part.extra = _sum(part.extra, beyond)

    def _parts(self, key: tuple[str, str]) -> list[StatedPart]:
        """All parts of an outbox, in order; called at restarts and new days only."""
        days = {*self._known.bodies(key), *(day for of, day in self._days if of == key)}
        return sorted((part for day in days for part in self._day(key, day).parts), key=lambda one: one.first)

    def _day(self, key: tuple[str, str], day: str) -> Day:
        found = self._days.get((key, day))
        if found is None:
            found = self._days[(key, day)] = self._known.get(key, day)
        return found


Counts = dict[str, int]  # by stream


def stored_rows(parts: Sequence[StatedPart], streams: Mapping[str, Ranges]) -> list[tuple[Counts, Counts]]:
    """For each part of a run, in order: stored rows within it, and stored rows after it in no part."""
    found: list[tuple[Counts, Counts]] = [({}, {}) for _ in parts]
    for stream, ranges in streams.items():
        covered = 0
        for at, part in enumerate(parts):
            _, first, last = part.streams.get(stream, (0, 1, 0))
            if first > last:
                continue
            found[at][0][stream] = ranges.count_in(first, last)
            _add(found[max(0, at - 1)][1], stream, ranges.count_in(covered + 1, first - 1))
            covered = last
        if found:
            _add(found[-1][1], stream, ranges.count_in(covered + 1, ranges.highest()))
    return found


def _add(counts: Counts, stream: str, rows: int) -> None:
    if rows:
        counts[stream] = counts.get(stream, 0) + rows


def _sum(left: Counts, right: Counts) -> Counts:
    return {name: left.get(name, 0) + right.get(name, 0) for name in {**left, **right}}


def _is_signed(key: str, signature: str, form: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(bytes.fromhex(signature), form)
    except (InvalidSignature, ValueError):
        return False
    return True
