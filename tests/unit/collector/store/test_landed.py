"""Messages land as they came and are packed later: each row is there once, whatever happens in between."""

from __future__ import annotations

import gzip
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import zstandard

from collector.ledger.ledger import Ledger
from collector.mqtt.received import Received
from collector.store import day_file, landed
from collector.store.chunk import ChunkRows, pack
from collector.store.clock_skew import Offset
from collector.store.folder import day_files
from collector.store.landed import AT_ONCE, PACK_AFTER_MS, PACK_MESSAGES
from collector.store.reader import read_rows
from collector.store.sqlite_source import SqliteSource
from collector.store.store import SqliteStore
from edgebed.drill.check import kept
from tests.unit.collector.stored import stored
from wire.topics import parse

NODE, EP, T0 = "acme/trial/hall/cobot-01", "00112233aabbccdd", 1_795_356_000_000
KEY = (NODE, "arm", "joints")
DAY_MS, HOUR_MS = 86_400_000, 3_600_000


class Site:
    """A store and what its writer thread does with it: `send` stores a message, `wait` lets time pass."""

    def __init__(self, folder: Path, clock: Any, batch: Any, commit: Any) -> None:
        self.folder = folder
        self.clock = clock
        self._batch, self._commit = batch, commit
        self.open()

    def open(self) -> None:
        self.store = SqliteStore(self.folder, self.clock)
        self.ledger = Ledger(self.store.load().marks)

    def again(self) -> None:
        """Restart the collector."""
        self.store.close()
        self.open()

    def send(self, *seqs: int, **kind: Any) -> None:
        """Store messages in one commit; the row of each has its number."""
        now = self.clock.ms
        values = kind.pop("values", None)
        several = [
            self._batch(seq, values or {"n": [seq], "x": [seq / 2]}, t0=now + seq, recv=now, **kind)
            for seq in seqs
        ]
        self._commit(self.store, self.ledger, several, self.clock.ms)

    def wait(self, ms: int) -> None:
        self.clock.ms += ms
        self.store.work()

    def raw(self, day: int = -1) -> list[int]:
        """The numbers of the messages that wait to be packed."""
        with closing(sqlite3.connect(day_files(self.folder)[day])) as db:
            return [seq for (seq,) in db.execute("SELECT seq FROM raw ORDER BY id")]

    def bodies(self, day: int = -1) -> bytes:
        """All bytes of the messages that wait."""
        with closing(sqlite3.connect(day_files(self.folder)[day])) as db:
            return b"".join(body for (body,) in db.execute("SELECT body FROM raw"))

    def chunks(self, day: int = -1) -> list[int]:
        """The number of messages in each chunk."""
        with closing(sqlite3.connect(day_files(self.folder)[day])) as db:
            return [b - a + 1 for a, b in db.execute("SELECT seq_a, seq_b FROM chunk ORDER BY id")]

    def rows(self, stream: str = "joints") -> list[int]:
        with closing(SqliteSource(self.folder)) as source:
            key = (NODE, "arm", stream)
            return [row["n"] for _, row, _ in read_rows(source, key, start_ms=0, end_ms=2**45)]


@pytest.fixture
def site(folder: Path, clock: Any, batch: Any, commit: Any) -> Any:
    made = Site(folder, clock, batch, commit)
    yield made
    made.store.close()


def seqs_in(folder: Path) -> list[int]:
    """By the drill's independent reading; it fails on a message that is there twice."""
    found = kept(folder)
    assert [one.doubled for one in found.values()] == [[] for _ in found]
    return sorted(seq for one in found.values() for seq in one.stored)


def test_a_stream_is_packed_when_enough_of_its_messages_are_there(site: Site) -> None:
    for seq in range(1, PACK_MESSAGES):
        site.send(seq)
    assert (site.raw(), site.chunks()) == (list(range(1, PACK_MESSAGES)), [])
    site.send(99, stream="other")
    site.send(PACK_MESSAGES)
    assert (site.raw(), site.chunks()) == ([99], [PACK_MESSAGES])
    assert site.rows() == list(range(1, PACK_MESSAGES + 1))


def test_rows_that_are_enough_never_land(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.send(*range(1, 41))
    assert (site.raw(), site.chunks()) == ([], [40])
    monkeypatch.setattr(landed, "PACK_BYTES", 100)
    site.send(41)
    assert (site.raw(), site.chunks()) == ([], [40, 1])


def test_a_slow_stream_is_packed_after_a_time(site: Site) -> None:
    site.send(1)
    site.wait(PACK_AFTER_MS - 1000)
    site.send(2)
    assert site.raw() == [1, 2]
    site.wait(1000)
    assert (site.raw(), site.chunks()) == ([], [2])
    site.send(3)
    site.clock.ms -= PACK_AFTER_MS  # a clock that was set back
    site.store.work()
    assert site.chunks() == [2, 1]


def test_a_restart_goes_on_with_what_waits(site: Site) -> None:
    site.send(1, 2)
    site.send(3)
    site.again()
    assert site.raw() == [1, 2, 3]
    site.wait(PACK_AFTER_MS)
    assert (site.raw(), site.chunks()) == ([], [3])
    assert (site.rows(), site.ledger.entries()[0].stored) == ([1, 2, 3], 3)


def test_the_oldest_are_packed_when_too_many_wait(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landed, "MOST_MESSAGES", 8)
    monkeypatch.setattr(landed, "AT_ONCE", 2)
    for seq in range(1, 10):
        site.send(seq, stream=f"s{seq}")
    assert site.raw() == list(range(1, 10))
    site.wait(1000)
    assert site.raw() == list(range(3, 10))
    for seq in range(10, 15):
        site.send(seq, stream=f"s{seq}")
    assert site.raw() == list(range(3, 14)), "no more may wait: the next one is packed at once"
    assert stored(site.folder) == seqs_in(site.folder) == list(range(1, 15))


def test_more_than_one_step_is_packed_without_a_pause(site: Site) -> None:
    for start in range(0, AT_ONCE + 5, 5):
        for seq in range(start, start + 5):
            site.send(seq + 1, stream=f"s{seq}")
    site.wait(PACK_AFTER_MS)
    assert len(site.raw()) == 5
    site.store.work()
    assert site.raw() == []


def test_the_day_before_is_packed_to_its_end(site: Site) -> None:
    site.send(1, 2)
    site.clock.ms += DAY_MS
    site.send(3)
    assert (site.raw(0), site.raw(1)) == ([1, 2], [3])
    site.wait(1000)
    assert (site.raw(0), site.chunks(0), site.raw(1)) == ([], [2], [3])
    assert not day_files(site.folder)[0].with_name(f"{day_files(site.folder)[0].name}-wal").exists()
    assert site.rows() == [1, 2, 3]


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_restart_after_midnight_packs_the_day_before(site: Site, has_begun: bool) -> None:
    site.send(1, 2)
    site.clock.ms += DAY_MS
    if has_begun:
        site.send(3)
    site.again()
    site.send(4)
    assert site.raw(0) == [1, 2]
    site.wait(1000)
    assert (site.raw(0), site.chunks(0)) == ([], [2])
    assert stored(site.folder) == ([1, 2, 3, 4] if has_begun else [1, 2, 4])


def test_a_locked_file_is_packed_later(site: Site) -> None:
    site.send(1, 2)
    assert site.store._day is not None
    site.store._day._db.execute("PRAGMA busy_timeout = 20")
    with closing(sqlite3.connect(day_files(site.folder)[0], isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        site.wait(PACK_AFTER_MS)
        assert "is locked by another program" in site.store.packing_problem
        other.execute("ROLLBACK")
    assert site.raw() == [1, 2]
    site.wait(1000)
    assert (site.store.packing_problem, site.raw(), site.chunks()) == ("", [], [2])
    assert site.rows() == seqs_in(site.folder) == [1, 2]


def test_a_locked_file_holds_up_no_other(site: Site) -> None:
    """Another program has the file of the day before: groups do not wait, and rows of today are packed."""
    site.send(1)
    site.clock.ms += DAY_MS
    site.send(2)
    with closing(sqlite3.connect(day_files(site.folder)[0], isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began_s = time.monotonic()
        for _ in range(6):  # with the patience of a group, 30 s
            site.wait(PACK_AFTER_MS)
        assert time.monotonic() - began_s < 25
        assert day_files(site.folder)[0].name in site.store.packing_problem
        assert (site.raw(0), site.raw(1), site.chunks(1)) == ([1], [], [1])
        other.execute("ROLLBACK")
    site.wait(1000)
    assert (site.store.packing_problem, site.raw(0), site.rows()) == ("", [], [1, 2])


@pytest.mark.parametrize("again", [False, True])
def test_a_clock_that_jumps_over_midnights_leaves_nothing_unpacked(site: Site, again: bool) -> None:
    for seq, days in enumerate((0, 1, -1, 1, 365, -365, 0), 1):
        site.clock.ms += days * DAY_MS
        site.send(seq)
    if again:
        site.again()
    count = len(day_files(site.folder))
    assert [site.raw(day) for day in range(count)] == [[1], [2], [3], [4], [5], [6, 7]]
    site.clock.ms += 1000
    site.store.work()
    assert [site.raw(day) for day in range(count)] == [[], [], [], [], [], [6, 7]]
    assert sorted(site.rows()) == seqs_in(site.folder) == [*range(1, 8)]


def test_a_full_disk_at_each_page_loses_and_doubles_nothing(site: Site) -> None:
    assert site.store._day is not None
    db = site.store._day._db
    for seq in range(1, 101):
        site.send(seq, stream=f"s{seq}")
    tries, pages = 0, db.execute("PRAGMA page_count").fetchone()[0]
    while site.raw():
        db.execute(f"PRAGMA max_page_count = {pages + tries}")
        site.wait(PACK_AFTER_MS)
        assert site.raw() == [] or "is full" in site.store.packing_problem
        assert seqs_in(site.folder) == stored(site.folder) == list(range(1, 101))
        tries += 1
    assert tries > 2
    assert site.store.packing_problem == ""


def test_rows_that_cannot_be_packed_stay_and_others_are_packed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaking(rows: ChunkRows) -> Any:
        if 2 in rows.columns["n"]:
            raise ZeroDivisionError("an unexpected bug")
        return pack(rows)

    site.send(1, stream="other")
    site.send(2)
    monkeypatch.setattr(day_file, "pack", breaking)
    site.wait(PACK_AFTER_MS)
    assert (site.raw(), site.chunks()) == ([2], [1])
    site.send(3)
    assert (site.raw(), site.chunks()) == ([2], [1, 1])
    assert site.rows() == [2, 3]
    monkeypatch.undo()
    site.again()
    site.wait(PACK_AFTER_MS)
    assert (site.raw(), stored(site.folder)) == ([], [1, 2, 3])


@pytest.mark.parametrize(
    "harm", ["body = x'7b'", "body = 'text'", "body = 7", "seq = 9", "rows = 7", "ep = 5", "recv_ms = 'x'"]
)
def test_a_message_that_cannot_be_read_costs_no_other(site: Site, harm: str) -> None:
    for seq in (1, 2, 3):
        site.send(seq)
    site.send(9, stream="other")
    site.store.close()
    with closing(sqlite3.connect(day_files(site.folder)[0])) as db, db:
        db.execute(f"UPDATE raw SET {harm} WHERE id = 2")  # noqa: S608 - constants
    site.open()
    site.wait(PACK_AFTER_MS)
    assert (len(site.raw()), site.chunks()) == (3, [1]), "the file keeps the bytes for a rescue"
    with closing(SqliteSource(site.folder)) as source:
        table = read_rows(source, KEY, start_ms=0, end_ms=2**45)
        assert [row["n"] for _, row, _ in table] == [1, 3]
        assert source.suspects == {day_files(site.folder)[0].name}
    site.store.rescue(source.suspects)
    site.send(10)
    assert list(site.store.rescue().values()) == [1]
    assert site.rows() == [1, 3, 10]


def test_no_room_for_a_name_is_found_when_rows_land(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.send(1)
    monkeypatch.setattr(day_file, "MAX_FIELDS", 2)
    monkeypatch.setattr(day_file, "MAX_STREAMS", 2)
    with pytest.raises(day_file.Full, match="field names"):
        site._commit(site.store, site.ledger, [site._batch(2, {"y": [1.0]})])
    site.send(3, stream="second")
    with pytest.raises(day_file.Full, match="streams"):
        site.send(4, stream="third")
    site.wait(PACK_AFTER_MS)
    assert (site.raw(), site.chunks(), site.store.packing_problem) == ([], [1, 1], "")


def test_hours_count_when_messages_arrived(site: Site) -> None:
    site.clock.ms = T0 // HOUR_MS * HOUR_MS + HOUR_MS - 1
    site.send(1, 2)
    site.clock.ms += 1
    site.send(3)
    site.wait(PACK_AFTER_MS)
    with closing(sqlite3.connect(day_files(site.folder)[0])) as db:
        hours = db.execute("SELECT hour - ?, messages, rows FROM hour", (T0 // HOUR_MS,)).fetchall()
    assert hours == [(0, 2, 2), (1, 1, 1)]


def test_a_chunk_states_an_error_of_the_clock_that_covers_all_its_rows() -> None:
    several = []
    for seq, offset in enumerate([Offset(45, 3), Offset(52, 4), Offset(400, 4), Offset(), Offset(44)], 1):
        rows = ChunkRows(*KEY, EP, 1, late=False, recv_ms=T0, offset=offset)
        rows.times, rows.columns, rows.messages, rows.count = [landed_times()], {"x": [1.0]}, [(seq, 1)], 1
        several.append(rows)
    found = {tuple(seq for seq, _ in rows.messages): rows.offset for rows in landed.joined(several)}
    assert found == {(1, 2): Offset(49, 7), (3,): Offset(400, 4), (4,): Offset(), (5,): Offset(44)}


def landed_times() -> Any:
    import numpy as np

    return np.array([T0 * 1000])


def test_the_share_of_the_disk_counts_what_is_there(site: Site) -> None:
    site.send(*range(1, 11))
    first = site.store.take_sizes()[NODE]
    assert first > 10 * landed.BODY_BYTES
    assert site.store.take_sizes() == {}
    site.wait(PACK_AFTER_MS)
    with closing(sqlite3.connect(day_files(site.folder)[0])) as db:
        query = "SELECT (SELECT total(length(body)) FROM chunk), (SELECT count(*) FROM rollup)"
        body, rollups = db.execute(query).fetchone()
    assert first + site.store.take_sizes()[NODE] == body + day_file.ROLLUP_BYTES * rollups


@pytest.mark.parametrize("pack_body", [bytes, gzip.compress, zstandard.compress])
def test_the_independent_check_reads_both_forms(site: Site, pack_body: Callable[[bytes], bytes]) -> None:
    several = [site._batch(seq, {"n": [2 * seq, 2 * seq + 1]}, stream="rows") for seq in (1, 2)]
    for one in several:
        one.body = pack_body(one.body)
    site._commit(site.store, site.ledger, several)
    expected = {1: [2, 3], 2: [4, 5]}
    assert (site.raw(), kept(site.folder)[NODE, EP].rows) == ([1, 2], expected)
    site.wait(PACK_AFTER_MS)
    assert (site.raw(), kept(site.folder)[NODE, EP].rows) == ([], expected)
    with closing(sqlite3.connect(day_files(site.folder)[0])) as db, db:
        db.execute(
            "INSERT INTO raw(stream, ep, seq, rows, recv_ms, late, body) VALUES (1,?,2,2,0,0,'{\"f\":{}}')",
            (EP,),
        )
    assert kept(site.folder)[NODE, EP].doubled == [2]


KILLER = """
import os, signal, sqlite3, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.unit.collector.store.test_landed import PACK_AFTER_MS, Site
from tests.unit.collector.conftest import SetClock, batch, commit

connect, left = sqlite3.connect, [10**9]

class Killing(sqlite3.Connection):
    def step(self):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def execute(self, sql, *rest):
        found = super().execute(sql, *rest)
        if not sql.lstrip().startswith(("SELECT", "PRAGMA")):
            self.step()
        return found

    def executemany(self, sql, rows):
        found = super().executemany(sql, rows)
        self.step()
        return found

sqlite3.connect = lambda *names, **options: connect(*names, **options, factory=Killing)
folder, first = Path(sys.argv[1]), 1
for steps in range(10**6):
    child = os.fork()
    if child == 0:
        clock = SetClock()
        site = Site(folder, clock, batch.__wrapped__(), commit.__wrapped__())
        left[0] = steps
        for seq in range(first, first + 4):
            site.send(seq, stream=f"s{seq % 2}")
            print(seq, flush=True)
        site.wait(PACK_AFTER_MS)
        site.send(*range(first + 4, first + 40))
        print(*range(first + 4, first + 40), flush=True)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print("killed" if code == -9 else f"done {code}", flush=True)
    if code != -9:
        break
    first += 100
"""


def test_a_kill_at_each_step_loses_and_doubles_nothing(folder: Path) -> None:
    root = Path(__file__).parents[4]
    command = [sys.executable, "-c", KILLER, str(folder), str(root)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=root)
    lines = run.stdout.splitlines()
    assert (lines[-1], run.returncode) == ("done 0", 0), run.stderr
    assert lines.count("killed") > 20
    said = {int(word) for line in lines if line[0].isdigit() for word in line.split()}
    found = seqs_in(folder)
    assert said <= set(found), "what was committed is there"
    assert found == stored(folder)


def test_a_message_is_in_one_place_after_each_change(site: Site) -> None:
    changes: list[Callable[[], Any]] = [
        lambda: site.send(1, 2),
        lambda: site.send(3),
        site.again,
        lambda: site.wait(PACK_AFTER_MS),
        lambda: site.send(*range(4, 44)),
        lambda: site.send(44),
        lambda: site.wait(DAY_MS),
        lambda: site.send(45),
        lambda: site.wait(1000),
    ]
    counts = []
    for change in changes:
        change()
        assert seqs_in(site.folder) == stored(site.folder) == sorted(site.rows())
        with closing(SqliteSource(site.folder)) as source:
            counts.append(source.counts()[NODE])
    assert counts == [2, 3, 3, 3, 43, 44, 44, 45, 45]


@pytest.mark.parametrize("step", ["add", "forget"])
def test_a_fault_after_a_commit_stores_and_loses_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """No memory to note what waits: the group is on disk, so it must not be written again."""
    site.send(1)
    site.send(2, stream="other")

    def failing(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as broken:
        broken.setattr(landed.Landed, step, failing)
        site.send(3)
        site.wait(PACK_AFTER_MS)
    site.send(4)
    site.wait(PACK_AFTER_MS)
    assert (site.rows(), seqs_in(site.folder)) == ([1, 3, 4], [1, 2, 3, 4])
    site.again()
    site.wait(PACK_AFTER_MS)
    assert (site.raw(), site.rows(), site.rows("other")) == ([], [1, 3, 4], [2])
    assert seqs_in(site.folder) == [1, 2, 3, 4]


def test_columns_count_when_too_much_waits(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column with one value takes far more memory than the value."""
    size = 20_000
    monkeypatch.setattr(landed, "MOST_BYTES", size)

    def send(seq: int, columns: int) -> None:
        values = {f"c{n:04d}": [1] for n in range(columns)}
        site.send(seq, stream=f"s{seq}", values=values)

    send(1, 600)
    send(2, 600)
    assert len(site.bodies()) < size
    site.wait(1000)
    assert site.raw() == []
    send(3, 600)
    site.wait(1000)
    assert site.raw() == [3], "what was packed counts no more"


def test_a_rescue_keeps_the_streams_of_an_outbox_apart(site: Site) -> None:
    """Messages of two streams with the same fields wait: each keeps its rows."""
    for seq in range(1, 9):
        site.send(seq, stream="joints" if seq % 2 else "other")
    (path,) = day_files(site.folder)
    site.store.rescue({path.name})  # the writer sets it aside with its next commit
    site.send(9)
    assert site.store.rescue() == {path.name: 0}
    assert site.rows() == [1, 3, 5, 7, 9]
    assert site.rows("other") == [2, 4, 6, 8]


@pytest.mark.parametrize("depth", [70, 700])
def test_a_body_that_nests_deep_is_read_where_many_calls_are_open(
    site: Site, commit: Any, depth: int
) -> None:
    deep = f"{'[' * depth}{']' * depth}"
    body = f'{{"ep":"{EP}","seq":1,"t0":{T0},"dt":[0],"f":{{"n":[7],"s":["[{{"]}},"x":{deep}}}'.encode()
    topic = f"tb1/{NODE}/data/arm/joints"
    one = Received(topic, body, T0, False, (1, 1), parsed=parse(topic))
    assert commit(site.store, site.ledger, [one], T0).stored == 1

    def rows(calls: int) -> list[int]:
        return rows(calls - 1) if calls else site.rows()

    assert (site.raw(), rows(400)) == ([1], [7])
    site.again()
    site.wait(PACK_AFTER_MS)
    assert (site.raw(), rows(400)) == ([], [7])
