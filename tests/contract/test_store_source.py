"""What every `Source` must do beside its `Store`; another database passes by adding its `Database` here."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from collector.store.chunk import MINUTE_US, ChunkRows
from collector.store.declared import Lost
from collector.store.folder import day_files
from collector.store.group import EventRow, Group, Quarantined
from collector.store.messages import Span, StoredMessage
from collector.store.reader import TooManyRows, read_rows, read_series
from collector.store.source import ALL, Hole, Source, StoredChunk, TooSlow, read_cursor
from collector.store.store import SqliteStore, Store
from wire.clock import NS_PER_MS, Clock
from wire.codec import decode_plain, encode
from wire.errors import TryAgain
from wire.messages import Batch, Event

NODE, OTHER, EP, T0 = (
    "acme/trial/hall/cobot-01",
    "acme/trial/hall/amr-02",
    "00112233aabbccdd",
    1_795_356_000_000,
)
KEY = (NODE, "arm", "joints")
T0_US, DAY_MS = T0 * 1000, 86_400_000


class SetClock(Clock):
    """A clock whose time the test sets."""

    ms = T0

    def now_ns(self) -> int:
        return self.ms * NS_PER_MS


class Database(Protocol):
    """One kind of database: makes stores, and damages what is in them."""

    def open(self, clock: Clock) -> Store:
        """The store; the same one when it was closed before."""
        ...

    def settle(self, store: Store) -> None:
        """Do at once what commits left to do."""
        ...

    def damage_chunk(self, first_us: int) -> None:
        """Make the chunk that begins at this time unreadable."""
        ...

    def damage_event(self, seq: int) -> None:
        """Make the body of an event unreadable."""
        ...

    def damage_first_day(self) -> None:
        """Make all that was received on the first day unreadable."""
        ...


class SqliteDatabase:
    """Day files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "store"

    def open(self, clock: Clock) -> Store:
        return SqliteStore(self._folder, clock)

    def settle(self, store: Store) -> None:
        assert isinstance(store, SqliteStore)
        for day in store._open_days():
            while day is not None and day.pack(T0, everything=True):
                pass

    def damage_chunk(self, first_us: int) -> None:
        self._change("UPDATE chunk SET body = x'00' WHERE first_us = ?", first_us)

    def damage_event(self, seq: int) -> None:
        self._change("UPDATE event SET body = x'7b' WHERE seq = ?", seq)

    def damage_first_day(self) -> None:
        first = day_files(self._folder)[0]
        with first.open("r+b") as file:
            file.write(b"\xff" * first.stat().st_size)

    def _change(self, query: str, value: int) -> None:
        for path in day_files(self._folder):
            with closing(sqlite3.connect(path)) as db, db:
                db.execute(query, (value,))


class Site:
    """A store, its clock, and one source that stays open."""

    def __init__(self, database: Database, packs: float) -> None:
        self.database = database
        self.packs = packs  # how often the rows of a commit are packed at once
        self.commits = 0
        self.clock = SetClock()
        self.store = database.open(self.clock)
        self.source: Source = self.store.source()

    def commit(self, *items: ChunkRows | EventRow | Quarantined) -> None:
        self.store.commit(
            Group(
                self.clock.now_ms(),
                [each for each in items if isinstance(each, ChunkRows)],
                [each for each in items if isinstance(each, EventRow)],
                [each for each in items if isinstance(each, Quarantined)],
            )
        )
        self.commits += 1
        if self.packs and self.commits * self.packs % 1 == 0:
            self.database.settle(self.store)

    def damage(self, what: Callable[[], None]) -> None:
        """Damage a store at rest, and open it again."""
        self.close()
        what()
        self.store = self.database.open(self.clock)
        self.source = self.store.source()

    def close(self) -> None:
        self.source.close()
        self.store.close()


DATABASES = {"sqlite": SqliteDatabase}


@pytest.fixture(params=[f"{name}-{how}" for name in DATABASES for how in ("packed", "landed", "both")])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """Rows that are packed, rows that are kept as they came, or both."""
    name, how = request.param.split("-")
    site = Site(DATABASES[name](tmp_path), {"packed": 1, "landed": 0, "both": 0.5}[how])
    yield site
    site.close()


@pytest.fixture(params=DATABASES)
def packing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """Every commit is packed, so each has chunks of its own."""
    site = Site(DATABASES[request.param](tmp_path), 1)
    yield site
    site.close()


def chunk(seq: int, at_ms: int, values: list[Any], *, per_ms: int = 100, **kind: Any) -> ChunkRows:
    """A message of `KEY`, or of another node or stream; rows `per_ms` apart from `at_ms` on."""
    node, stream, late = kind.get("node", NODE), kind.get("stream", "joints"), kind.get("late", False)
    clk = kind.get("clk", 1)
    rows = ChunkRows(node, "arm", stream, EP, clk, late=late, recv_ms=at_ms)
    fields = {"x": values, **kind.get("fields", {})}
    for first in range(0, len(values), 10_000):
        part = {name: column[first : first + 10_000] for name, column in fields.items()}
        t0 = at_ms + first * per_ms
        batch = Batch(ep=EP, seq=seq, t0=t0, per=per_ms, n=len(part["x"]), f=part, clk=clk)
        body = encode(batch)
        rows.add(batch, body, len(body))
    return rows


def event(seq: int, at_ms: int, kind: str = "alarm", *, node: str = NODE, device: str = "arm") -> EventRow:
    return EventRow(node, device, kind, 2, at_ms, at_ms + 50, EP, seq, b'{"why":"n%d"}' % seq)


def chunks(source: Source, start_us: int, end_us: int, **how: Any) -> list[StoredChunk]:
    found = list(source.chunks_between(KEY, start_us, end_us, **how))
    assert not [each for each in found if isinstance(each, Hole)]
    return [each for each in found if isinstance(each, StoredChunk)]


def values(source: Source, start_ms: int = 0, end_ms: int = T0 + 10 * DAY_MS) -> list[Any]:
    return [row["x"] for _, row, _ in read_rows(source, KEY, start_ms=start_ms, end_ms=end_ms)]


def numbers(source: Source, *nodes: str) -> list[int]:
    return sorted(seq for one in source.all_chunks(nodes or None) for seq in one.seqs)


QUESTIONS: dict[str, Callable[[Source], Any]] = {
    "rows_between": lambda source: source.rows_between(KEY, 0, ALL),
    "chunks_between": lambda source: list(source.chunks_between(KEY, 0, ALL, beside=True)),
    "rollups_between": lambda source: list(source.rollups_between(KEY, "x", 0, ALL)),
    "events": lambda source: source.events(NODE, "arm", limit=10, before=(ALL, "", 0)),
    "quarantine": lambda source: source.quarantine(10),
    "streams": lambda source: source.streams(NODE),
    "newest": lambda source: source.newest(NODE),
    "counts": lambda source: source.counts(),
    "all_chunks": lambda source: list(source.all_chunks()),
    "messages": lambda source: list(source.messages(Span(NODE, EP, 1, ALL))),
}


@pytest.mark.parametrize("ask", QUESTIONS.values(), ids=QUESTIONS)
def test_an_empty_store_has_nothing(site: Site, ask: Callable[[Source], Any]) -> None:
    assert ask(site.source) in (0, [], {}, (0, []))
    assert (site.source.damaged, site.source.suspects) == (set(), set())


@pytest.mark.parametrize("ask", QUESTIONS.values(), ids=QUESTIONS)
def test_a_closed_source_refuses(site: Site, ask: Callable[[Source], Any]) -> None:
    site.commit(chunk(1, T0, [1.0]), event(2, T0))
    assert ask(site.source) is not None
    site.source.close()
    site.source.close()
    with pytest.raises(TryAgain, match="closed"):
        ask(site.source)


@pytest.mark.parametrize(
    ("start_us", "end_us", "found"),
    [
        (T0_US - 9, T0_US, 0),
        (T0_US - 9, T0_US + 1, 1),
        (T0_US + 300_000, T0_US + 300_001, 1),
        (T0_US + 900_000, T0_US + 900_001, 1),
        (T0_US + 900_001, ALL, 0),
        (0, ALL, 1),
        (T0_US, T0_US, 0),
    ],
)
def test_spans_are_half_open(site: Site, start_us: int, end_us: int, found: int) -> None:
    site.commit(chunk(1, T0, [float(n) for n in range(10)]))
    site.commit(chunk(2, T0, [9.0], stream="other"), chunk(3, T0, [9.0], node=OTHER))
    assert len(chunks(site.source, start_us, end_us)) == found
    assert site.source.rows_between(KEY, start_us, end_us) == 10 * found


def test_rows_end_before_the_end_and_series_with_it(site: Site) -> None:
    site.commit(chunk(1, T0, [float(n) for n in range(10)]))
    assert values(site.source, T0 + 100, T0 + 300) == [1.0, 2.0]
    series = read_series(site.source, KEY, "x", start_ms=T0 + 100, end_ms=T0 + 300, points=10)
    assert (series.t, series.mean) == ([T0 + 100, T0 + 200, T0 + 300], [1.0, 2.0, 3.0])


def test_a_chunk_has_what_was_packed(site: Site) -> None:
    fields = {"word": ["a", None, "c"], "n": [1, 2, 3], "on": [True, False, True]}
    site.commit(chunk(7, T0, [1.5, None, 2.5], fields=fields, clk=2, late=True))
    (found,) = chunks(site.source, 0, ALL)
    content = found.content
    assert (found.ep, found.is_late, found.is_beside, content.head.clk) == (EP, True, False, 2)
    assert content.head.messages == [(7, 3)]
    assert content.times.tolist() == [T0_US, T0_US + 100_000, T0_US + 200_000]
    assert set(content.columns) == {"x", "word", "n", "on"}
    (named,) = chunks(site.source, 0, ALL, names=("n", "absent"))
    assert {name: list(column) for name, column in named.content.columns.items()} == {"n": [1, 2, 3]}
    assert values(site.source) == [1.5, None, 2.5]


def test_late_rows_are_marked_and_in_their_place(site: Site) -> None:
    site.commit(chunk(2, T0 + 60_000, [3.0, 4.0]))
    site.commit(chunk(1, T0, [1.0, 2.0], late=True))
    series = read_series(site.source, KEY, "x", start_ms=T0, end_ms=T0 + 60_100, points=100)
    assert [(m, late) for m, late in zip(series.mean, series.late, strict=True) if m is not None] == [
        (1.0, 1),
        (2.0, 1),
        (3.0, 0),
        (4.0, 0),
    ]
    rollups = read_series(site.source, KEY, "x", start_ms=T0, end_ms=T0 + 60_100, points=1)
    assert (rollups.source, rollups.n, rollups.late) == ("rollup", [4], [0])


def test_chunks_that_were_committed_in_another_order_are_read_in_order_of_time(site: Site) -> None:
    for at in (3, 1, 4, 0, 2):
        site.commit(chunk(at + 1, T0 + at * 200, [float(10 * at), float(10 * at + 1)]))
    assert values(site.source) == [0, 1, 10, 11, 20, 21, 30, 31, 40, 41]
    series = read_series(site.source, KEY, "x", start_ms=T0, end_ms=T0 + 10_000, points=100)
    assert [mean for mean in series.mean if mean is not None] == values(site.source)


def test_chunks_beside_the_span_show_where_a_loss_begins(packing: Site) -> None:
    for seq, at_ms in ((1, 0), (2, 1000), (5, 60_000), (6, 61_000)):
        packing.commit(chunk(seq, T0 + at_ms, [1.0] * 10))
    found = chunks(packing.source, T0_US + 10_000_000, T0_US + 20_000_000, names=(), beside=True)
    assert sorted((one.is_beside, one.content.head.messages) for one in found) == [
        (True, [(2, 10)]),
        (True, [(5, 10)]),
    ]
    losses: list[Lost] = [(EP, 3, 4, "evicted")]
    span: dict[str, Any] = {"start_ms": T0 + 10_000, "end_ms": T0 + 20_000, "points": 100}
    series = read_series(packing.source, KEY, "x", losses=losses, **span)
    assert (series.t, series.gaps) == ([], [(T0 + 10_000, T0 + 20_000, "evicted")])
    assert read_series(packing.source, KEY, "x", **span).gaps == []


def test_a_minute_that_two_days_share_is_whole(site: Site) -> None:
    site.commit(chunk(1, T0, [1.0, 2.0]), event(2, T0), Quarantined(T0, "a", "why a", 3, b"abc"))
    site.clock.ms += DAY_MS
    site.commit(chunk(3, T0 + 200, [3.0, 4.0]), event(4, T0 + 1), Quarantined(T0 + 1, "b", "why b", 3))
    assert values(site.source) == [1.0, 2.0, 3.0, 4.0]
    assert site.source.rows_between(KEY, 0, ALL) == 4
    series = read_series(site.source, KEY, "x", start_ms=T0, end_ms=T0 + 600_000, points=5)
    assert (series.source, series.n, series.mean, series.min, series.max) == ("rollup", [4], [2.5], [1], [4])
    assert site.source.counts() == {NODE: 4}
    assert numbers(site.source) == [1, 2, 3, 4]
    total, items = site.source.quarantine(10)
    assert (total, [one.topic for one in items], items[1].head) == (2, ["b", "a"], b"abc")
    assert site.source.newest(NODE)["arm"]["joints"] == (T0 + 300, {"x": "d"})


def test_rollups_have_the_sums_of_the_rows(site: Site) -> None:
    chance = np.random.default_rng(3)
    parts = [chance.normal(20, 5, 900).tolist() for _ in range(4)]  # 90 s each: minutes are shared
    for at, part in enumerate(parts):
        site.commit(chunk(at + 1, T0 + at * 90_000, part))
    site.commit(chunk(9, T0 + 400_000, [None, 7.0, None], per_ms=60_000))  # a row a minute: no rollups kept
    raw: defaultdict[int, list[float]] = defaultdict(list)
    for at_us, row, _ in read_rows(site.source, KEY, start_ms=0, end_ms=T0 + DAY_MS):
        if row["x"] is not None:
            raw[at_us // MINUTE_US * 60_000].append(row["x"])
    found: defaultdict[int, list[tuple[float, ...]]] = defaultdict(list)
    for part in site.source.rollups_between(KEY, "x", 0, ALL):
        assert not isinstance(part, Hole)
        for t, *sums in zip(part.t, part.n, part.total, part.low, part.high, strict=True):
            if sums[0]:
                found[int(t)].append(tuple(sums))
    assert found.keys() == raw.keys()
    for minute, sums in found.items():
        n, total, low, high = zip(*sums, strict=True)
        assert (sum(n), min(low), max(high)) == (len(raw[minute]), min(raw[minute]), max(raw[minute]))
        assert sum(total) == pytest.approx(sum(raw[minute]))


@pytest.mark.parametrize(
    ("start_ms", "end_ms", "n"),
    [
        (0, 60_000, 600),
        (0, 60_001, 1200),
        (59_999, 60_000, 600),
        (60_000, 120_000, 600),
        (120_000, 180_000, 0),
    ],
)
def test_rollups_of_minutes_that_reach_into_the_span(site: Site, start_ms: int, end_ms: int, n: int) -> None:
    minute = T0 // 60_000 * 60_000
    site.commit(chunk(1, minute, [1.0] * 1200))
    found = site.source.rollups_between(KEY, "x", (minute + start_ms) * 1000, (minute + end_ms) * 1000)
    assert sum(part.n.sum() for part in found if not isinstance(part, Hole)) == n


def test_events_page_through_days_the_newest_first_without_a_double(site: Site) -> None:
    order = [3, 1, 2, 0, 4]
    for seq in range(1, 31):  # three share each time; the times of one day are not in order
        at_ms = T0 + ((seq - 1) // 15 * 5 + order[(seq - 1) // 3 % 5]) * 1000
        site.commit(event(seq, at_ms, "alarm" if seq % 2 else "count"))
        if seq in (10, 20):
            site.clock.ms += DAY_MS
    site.commit(event(31, T0, device="leg"), event(32, T0, node=OTHER))
    seen: list[dict[str, Any]] = []
    before = read_cursor(str(2**50))
    while page := site.source.events(NODE, "arm", limit=4, before=before):
        seen += [found for _, found in page]
        before = read_cursor(page[-1][0])
    assert [one["ts"] for one in seen] == sorted((one["ts"] for one in seen), reverse=True)
    assert sorted(one["why"] for one in seen) == sorted(f"n{seq}" for seq in range(1, 31))
    newest = seen[0]
    assert newest == {
        "why": newest["why"],
        "ts": T0 + 9000,
        "recv": T0 + 9050,
        "device": "arm",
        "type": newest["type"],
        "sev": 2,
        "ep": EP,
        "seq": 30,
    }
    whole = site.source.events(NODE, "arm", limit=100, before=read_cursor(str(2**50)))
    assert [one for _, one in whole] == seen, "the order does not depend on the pages"
    alarms = site.source.events(NODE, "arm", limit=100, before=read_cursor(str(2**50)), kind="alarm")
    assert {one["type"] for _, one in alarms} == {"alarm"}
    assert len(alarms) == 15
    counts = site.source.event_counts(NODE, "arm", T0 - 500, T0 + 2 * DAY_MS, DAY_MS)
    shown: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for _, one in whole:
        if T0 - 500 <= one["ts"] < T0 + 2 * DAY_MS:
            shown[one["type"]][(one["ts"] - T0 + 500) // DAY_MS] += 1
    assert counts == shown
    earlier = site.source.events(NODE, "arm", limit=100, before=read_cursor(str(T0 + 1000)))
    assert {one["ts"] for _, one in earlier} == {T0}


def test_quarantine_gives_the_newest_and_counts_all(site: Site) -> None:
    site.commit(*(Quarantined(T0 + n, f"t{n}", "why", n) for n in range(30)))
    site.clock.ms += DAY_MS
    site.commit(*(Quarantined(T0 + n, f"t{n}", "why", n) for n in range(30, 35)))
    total, items = site.source.quarantine(8)
    assert (total, [one.size for one in items]) == (35, list(range(34, 26, -1)))
    assert site.source.quarantine(0) == (35, [])


def test_devices_streams_and_counts_of_one_node(site: Site) -> None:
    site.commit(chunk(1, T0, [1]), chunk(2, T0, ["a"], stream="words"), event(3, T0, device="_"))
    site.commit(chunk(9, T0, [1.0], node=OTHER), event(10, T0, node=OTHER))
    assert site.source.streams(NODE) == {"arm": {"joints", "words"}, "_": set()}
    newest = site.source.newest(NODE)
    assert newest == {"arm": {"joints": (T0, {"x": "q"}), "words": (T0, {"x": "j"})}}
    assert site.source.streams("acme/trial/hall/none") == site.source.newest("acme/trial/hall/none") == {}
    assert site.source.counts() == {NODE: 3, OTHER: 2}
    assert (numbers(site.source, NODE), numbers(site.source, OTHER)) == ([1, 2, 3], [9, 10])


def test_a_chunk_that_cannot_be_read_is_a_named_hole(packing: Site) -> None:
    for seq in range(1, 6):
        packing.commit(chunk(seq, T0 + seq * 1000, [float(seq)] * 10))
    packing.damage(lambda: packing.database.damage_chunk(T0_US + 3_000_000))
    found = list(packing.source.chunks_between(KEY, 0, ALL))
    (hole,) = (each for each in found if isinstance(each, Hole))
    assert hole[:2] == (T0 + 3000, T0 + 3900)
    assert "10 rows cannot be read" in hole.why
    assert len(found) == 5
    assert len(packing.source.suspects) == 1
    table = read_rows(packing.source, KEY, start_ms=T0, end_ms=T0 + 60_000)
    assert (len(table), table.gaps) == (40, [hole])
    series = read_series(packing.source, KEY, "x", start_ms=T0, end_ms=T0 + 60_000, points=1000)
    assert (sum(series.n), series.gaps) == (40, [hole])
    cut = read_rows(packing.source, KEY, start_ms=T0 + 3500, end_ms=T0 + 4000)
    assert (len(cut), cut.gaps) == (0, [(T0 + 3500, T0 + 3900, hole.why)])
    assert read_rows(packing.source, KEY, start_ms=T0 + 4000, end_ms=T0 + 60_000).gaps == []
    assert set(numbers(packing.source)) >= {1, 2, 4, 5}


def test_a_day_that_cannot_be_read_is_a_named_hole(site: Site) -> None:
    site.commit(chunk(1, T0, [1.0]), event(2, T0), Quarantined(T0, "a", "why", 3))
    site.clock.ms += DAY_MS
    site.commit(chunk(3, T0 + DAY_MS, [2.0]), event(4, T0 + DAY_MS))
    site.damage(site.database.damage_first_day)
    assert values(site.source) == [2.0]
    span = {"start_ms": T0, "end_ms": T0 + 2 * DAY_MS}
    (hole,) = read_rows(site.source, KEY, **span).gaps
    assert hole[:2] == (T0, T0 + 2 * DAY_MS)
    assert "is damaged" in hole[2]
    for points in (10, 5000):
        series = read_series(site.source, KEY, "x", points=points, **span)
        assert (sum(series.n), series.gaps) == (1, [hole])
    assert [event["why"] for _, event in site.source.events(NODE, "arm", limit=9, before=(ALL, "", 0))] == [
        "n4"
    ]
    assert site.source.newest(NODE)["arm"]["joints"].last_ms == T0 + DAY_MS
    assert site.source.counts() == {NODE: 2}
    assert numbers(site.source) == [3, 4]
    assert len(site.source.damaged) == 1
    assert site.source.quarantine(5)[1] == []


def test_an_event_that_cannot_be_read_costs_no_other(site: Site) -> None:
    site.commit(*(event(seq, T0 + seq) for seq in range(1, 6)))
    site.damage(lambda: site.database.damage_event(3))
    found = site.source.events(NODE, "arm", limit=9, before=(ALL, "", 0))
    assert [one["ts"] - T0 for _, one in found] == [5, 4, 2, 1]
    assert len(site.source.suspects) == 1


def test_a_long_answer_is_refused_and_read_in_parts(site: Site) -> None:
    for seq in range(1, 4):
        site.commit(chunk(seq, T0 + (seq - 1) * 20_000, [float(n) for n in range(20_000)], per_ms=1))
    with pytest.raises(TooManyRows):
        read_rows(site.source, KEY, start_ms=T0, end_ms=T0 + 60_000, limit=10_000)
    parts = [values(site.source, T0 + at, T0 + at + 7000) for at in range(0, 63_000, 7000)]
    assert [value for part in parts for value in part] == values(site.source)
    assert sum(map(len, parts)) == site.source.rows_between(KEY, 0, ALL) == 60_000


def test_a_question_is_cut_off_at_its_deadline(site: Site) -> None:
    site.commit(*(event(seq, T0) for seq in range(1, 20_001)))
    site.source.deadline = time.monotonic() - 1
    with pytest.raises(TooSlow):
        list(site.source.all_chunks())
    site.source.deadline = time.monotonic() + 600
    assert len(numbers(site.source)) == 20_000


def test_an_answer_that_is_being_read_has_what_was_there(packing: Site) -> None:
    for seq in range(1, 11):
        packing.commit(chunk(seq, T0 + seq * 1000, [float(seq)]))
    asked, rows = packing.source.all_chunks(), packing.source.chunks_between(KEY, 0, ALL)
    first = [*next(asked).seqs]
    begun = next(rows)
    for seq in range(11, 21):
        packing.commit(chunk(seq, T0 + seq * 1000, [float(seq)]))
    seqs = first + [seq for one in asked for seq in one.seqs]
    assert len(seqs) == len(set(seqs))
    assert set(range(1, 11)) <= set(seqs)
    found = [begun, *rows]
    assert [each for each in found if isinstance(each, Hole)] == []
    assert len(found) in range(10, 21)
    assert numbers(packing.source) == list(range(1, 21)), "the next question sees all"
    assert values(packing.source) == [float(seq) for seq in range(1, 21)]


def test_a_source_sees_whole_groups_only(site: Site) -> None:
    done, torn = threading.Event(), list[int]()

    def watch() -> None:
        with closing(site.store.source()) as source:
            while not done.is_set():
                count = sum(len(one.seqs) for one in source.all_chunks())
                if count % 7:
                    torn.append(count)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for start in range(1, 211, 7):
            group = (chunk(seq, T0 + seq, [1.0], stream=f"s{seq % 3}") for seq in range(start, start + 7))
            site.commit(*group)
    finally:
        done.set()
        watcher.join()
    assert torn == []
    assert numbers(site.source) == list(range(1, 211))


def test_rows_that_are_packed_meanwhile_are_seen_once(site: Site) -> None:
    done, wrong = threading.Event(), list[Any]()

    def watch() -> None:
        with closing(site.store.source()) as source:
            while not done.is_set():
                before = len(committed)
                found = sorted(values(source))
                whole = read_series(source, KEY, "x", start_ms=T0, end_ms=T0 + DAY_MS - 1, points=24)
                seqs = numbers(source)
                if len(found) < before or found != [float(n) for n in range(1, len(found) + 1)]:
                    wrong.append(found)
                if seqs != list(range(1, len(seqs) + 1)) or sum(whole.n) < before:
                    wrong.append((seqs, whole.n))

    committed: list[int] = []
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for seq in range(1, 101):
            site.commit(chunk(seq, T0 + seq * 1000, [float(seq)]))
            committed.append(seq)
            if seq % 4 == 0:
                site.database.settle(site.store)
    finally:
        done.set()
        watcher.join()
    assert wrong == []
    assert values(site.source) == [float(seq) for seq in range(1, 101)]
    assert site.source.counts() == {NODE: 100}


def test_no_benchmark_opens_a_day_file() -> None:
    """Bench is not installed, so no import contract in pyproject.toml covers it."""
    bench = Path(__file__).parents[2] / "bench"
    found = {
        path.name for path in bench.rglob("*.py") if "import sqlite3" in path.read_text(encoding="utf-8")
    }
    assert found == {"outbox.py", "wear.py"}, "these two measure SQLite as an outbox"


def seq_of(one: StoredMessage) -> int:
    return decode_plain(one.body, Batch).seq if one.cls == "data" else decode_plain(one.body, Event).seq


def test_messages_by_their_numbers(site: Site) -> None:
    site.commit(chunk(1, T0, [1.5, None], fields={"y": ["a", None]}), event(2, T0 + 5))
    site.commit(chunk(3, T0 + 1_000, [7]), chunk(4, T0 + 2_000, [True], late=True))
    site.commit(chunk(5, T0, [9.0], node="acme/trial/hall/other"))
    every = {one.name: one for one in site.source.messages(Span(NODE, EP, 2, 2))}
    assert set(every) == {"alarm"}
    assert decode_plain(every["alarm"].body, Event).seq == 2
    data = [one for one in site.source.messages(Span(NODE, EP, 1, 4)) if one.cls == "data"]
    found = {body.seq: (one, body) for one in data for body in [decode_plain(one.body, Batch)]}
    assert sorted(found) == [1, 3, 4]
    one, first = found[1]
    assert (one.device, one.name, one.recv_ms, one.is_late) == ("arm", "joints", T0, False)
    assert (first.f, first.clk, first.times_us()) == (
        {"x": [1.5, None], "y": ["a", None]},
        1,
        [T0 * 1_000, T0 * 1_000 + 100_000],
    )
    assert found[3][1].f == {"x": [7]}
    assert (found[4][0].is_late, found[4][1].f) == (True, {"x": [True]})
    assert list(site.source.messages(Span(NODE, "ff" * 8, 1, 9))) == []


def test_messages_beside_damaged_ones(packing: Site) -> None:
    for seq in (1, 2, 3):
        packing.commit(chunk(seq, T0 + 1_000 * seq, [1.0]), event(10 + seq, T0))
    packing.damage(lambda: packing.database.damage_chunk((T0 + 2_000) * 1_000))
    packing.damage(lambda: packing.database.damage_event(12))
    found = list(packing.source.messages(Span(NODE, EP, 1, 99)))
    assert sorted(map(seq_of, found)) == [1, 3, 11, 13]
    assert packing.source.suspects
