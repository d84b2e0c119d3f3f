"""Events that somebody changed in a day file: they are found, whatever a store does with its files."""

from __future__ import annotations

import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from collector.backup.backup import back_up
from collector.backup.pace import Pace
from collector.backup.restore import restore
from collector.backup.verify import verify
from collector.ledger.audit import differences
from collector.ledger.ledger import Ledger
from collector.store.day_schema import PAGE_BYTES, SCHEMA, WITH_RAW, schema_of
from collector.store.event_seal import SEALED, is_changed
from collector.store.folder import day_files
from collector.store.messages import Span
from collector.store.source import CHANGED, ChangedEvent, Hole, newest_first
from collector.store.sqlite_source import SqliteSource
from collector.store.store import SqliteStore

FIXTURES = Path(__file__).parents[3] / "fixtures"
NODE, OTHER, EP = "acme/trial/hall/cobot-01", "blue/trial/hall/cobot-01", "00112233aabbccdd"
T0, DAY_MS = 1_795_356_000_000, 86_400_000
PLACE = NODE, "arm", "anomaly"
QUICK = Pace(pauses=False)
SECOND = T0 + 2_000  # when the event that is changed happened


@pytest.fixture
def store(folder: Path, clock: Any, batch: Any, event: Any, commit: Any) -> Iterator[SqliteStore]:
    """A day with three events of a node and data of two, then a day with one message."""
    opened, ledger = SqliteStore(folder, clock), Ledger()
    events = [event(seq, "anomaly", ts=T0 + seq * 1_000, value=0.5) for seq in (1, 2, 3)]
    commit(opened, ledger, [*events, batch(4), batch(1, node=OTHER)], clock.ms)
    clock.ms += DAY_MS
    commit(opened, ledger, [batch(5)], clock.ms)
    for _ in range(3):
        clock.ms += 700_000
        opened.work()
    yield opened
    opened.close()


def changed(folder: Path, statement: str) -> Path:
    """The first day file, with its second event changed."""
    path = day_files(folder)[0]
    with closing(sqlite3.connect(path)) as db:
        assert db.execute(f"UPDATE event SET {statement} WHERE seq = 2").rowcount == 1  # noqa: S608
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


def sealed(path: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(f"SELECT {SEALED} FROM event ORDER BY seq").fetchall()  # noqa: S608 - a constant


def found(folder: Path, start_ms: int = SECOND, end_ms: int = SECOND + 1) -> list[ChangedEvent]:
    with closing(SqliteSource(folder)) as source:
        return source.changed_events(PLACE, start_ms, end_ms)


def problems(folder: Path) -> list[str]:
    return [each for each in verify(folder, QUICK).problems if "changed after being stored" in each]


CHANGES = [
    "node = 'acme/trial/hall/cobot-02'",
    "device = 'leg'",
    "type = 'alarm'",
    "sev = 4",
    "ts = ts + 1",
    "ts = 0",
    "ts = 1.5",
    "ts = 'late'",
    "ts = 9e999",
    "recv = recv - 60000",
    "ep = '00112233aabbccde'",
    "seq = 7",
    "body = CAST(replace(body, '0.5', '0.4') AS BLOB)",
    "body = '{\"value\": 0.5}'",
    "body = '{'",
    "seal = zeroblob(16)",
    "seal = NULL",
    "seal = 'sealed'",
    "seal = x'00'",
    "seal = (SELECT seal FROM event WHERE seq = 1)",
]


@pytest.mark.parametrize("statement", CHANGES)
def test_each_column_that_somebody_changes_is_found_where_the_event_was(
    store: SqliteStore, folder: Path, statement: str
) -> None:
    assert found(folder, 0, T0 + DAY_MS) == []
    with closing(SqliteSource(folder)) as source:
        assert list(differences(source, {}, lambda _node: False)) == []
    path = changed(folder, statement)
    (one,) = found(folder)
    assert one.where == path.name
    is_lost = statement in ("seal = NULL", "seal = 'sealed'")  # then its time is not known
    assert (SECOND in one.times_ms) is not is_lost
    assert (one.times_ms == ()) is is_lost
    assert problems(folder) != []
    assert bool(found(folder, T0 + DAY_MS, T0 + 2 * DAY_MS)) is is_lost
    with closing(SqliteSource(folder)) as source:
        audited = [each for each in differences(source, {}) if "after being stored" in each]
        assert audited == [f"day file {path.name}: 1 event changed after being stored"]
        kinds = ("anomaly", "alarm")
        events = [each for kind in kinds for each in newest_first(source, NODE, "arm", 2**62, kind)]
        assert [each["ts"] - T0 for each in events if CHANGED not in each] == [3_000, 1_000]
        sent = [each.body for each in source.messages(Span(NODE, EP, 1, 3)) if each.cls == "event"]
        assert len(sent) == 2, "another collector does not get it"


@pytest.mark.parametrize("copied", [1, 3])
def test_a_copy_of_another_event_is_found_where_that_one_is(
    store: SqliteStore, folder: Path, copied: int
) -> None:
    columns = f"(SELECT {SEALED} FROM event WHERE seq = {copied})"  # noqa: S608 - a constant
    path = changed(folder, f"({SEALED}) = {columns}")
    assert not any(is_changed(row) for row in sealed(path))
    assert found(folder) == []
    assert found(folder, T0, T0 + DAY_MS) == [ChangedEvent((), path.name)]


def unindexed(path: Path, index: str, how: str) -> None:
    """Drop an index of a day file, or overwrite its root page."""
    with closing(sqlite3.connect(path)) as db:
        (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (index,)).fetchone()
        if how == "dropped":
            db.execute(f"DROP INDEX {index}")
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    if how == "damaged":
        with path.open("r+b") as file:
            file.seek((root - 1) * PAGE_BYTES)
            file.write(bytes(PAGE_BYTES))


COPY = f"({SEALED}) = (SELECT {SEALED} FROM event WHERE seq = 1)"  # noqa: S608 - constants


@pytest.mark.parametrize("how", ["dropped", "damaged"])
@pytest.mark.parametrize("index", ["event_by_seal", "event_by_time"])
@pytest.mark.parametrize("statement", ["sev = 4", "ts = 0", "seal = NULL", "seal = 'sealed'", COPY])
def test_a_change_is_also_found_without_an_index(
    store: SqliteStore, folder: Path, statement: str, index: str, how: str
) -> None:
    path = changed(folder, statement)
    with_index = found(folder, 0, T0 + DAY_MS)
    unindexed(path, index, how)
    assert found(folder, 0, T0 + DAY_MS) == with_index != []


def test_an_event_with_a_time_that_is_not_whole_ends_no_question(store: SqliteStore, folder: Path) -> None:
    for value in ("1.5", "-9e999"):
        changed(folder, f"ts = {value}")
        with closing(SqliteSource(folder)) as source:
            (*_, (cursor, event)) = source.events(NODE, "arm", limit=3, before=(2**62, "", 0))
            assert event["ts"] == float(value)
            ts, number, at = cursor.split(".")
            more = source.events(NODE, "arm", limit=3, before=(int(ts), number, int(at)))
            assert [each["ts"] for _, each in more] == [float(value)] * (value != "1.5"), "nothing is lost"


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_lower_schema_number_switches_no_checksum_off(
    store: SqliteStore, folder: Path, number: int
) -> None:
    path = changed(folder, "sev = 4")
    with closing(SqliteSource(folder)) as source:
        before = found(folder), source.counts(), sealed(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {number}")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with closing(SqliteSource(folder)) as source:
        assert (found(folder), source.counts(), sealed(path)) == before
        assert [
            CHANGED in each for _, each in source.events(NODE, "arm", limit=3, before=(2**62, "", 0))
        ] == [
            False,
            True,
            False,
        ]
    (problem,) = problems(folder)
    assert f"its schema number is {number}, and its tables are those of schema {SCHEMA}" in problem
    assert store.prune(path, lambda node, cls: (node, cls) == (OTHER, "data"), QUICK.step)
    assert (sealed(path), found(folder)) == (before[2], before[0])
    with path.open("r+b") as file:
        file.seek(60)
        assert int.from_bytes(file.read(4), "big") == SCHEMA, "it is right again"


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_lower_schema_number_of_the_newest_file_hides_no_message_that_waits(
    folder: Path, clock: Any, batch: Any, event: Any, commit: Any, number: int
) -> None:
    with closing(SqliteStore(folder, clock)) as opened:
        commit(opened, Ledger(), [batch(1), event(2, "anomaly", ts=SECOND)], clock.ms)
    (path,) = day_files(folder)
    assert waiting(path) == 1
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE raw SET recv_ms = recv_ms + 1")
        db.commit()
        db.execute(f"PRAGMA user_version = {number}")
    with closing(SqliteStore(folder, clock)) as again:
        ledger = Ledger(again.load().marks)
        assert ledger.highest((NODE, EP)) == 2, "the file is there"
        commit(again, ledger, [event(3, "anomaly", ts=SECOND)], clock.ms)
    assert day_files(folder) == [path]
    assert [is_changed(row) for row in sealed(path)] == [False, False]
    with closing(SqliteSource(folder)) as source:
        assert source.counts() == {NODE: 3}
        holes = list(source.chunks_between((NODE, "arm", "joints"), 0, 2**60))
    assert [isinstance(each, Hole) for each in holes] == [True], "that it was changed is found"


def test_seals_stay_as_they_are_in_a_pruned_file_a_backup_and_a_rescued_file(
    store: SqliteStore, folder: Path, tmp_path: Path, clock: Any
) -> None:
    path = changed(folder, "sev = 4")
    before = sealed(path)
    assert [is_changed(row) for row in before] == [False, True, False]
    assert store.prune(path, lambda node, cls: (node, cls) == (OTHER, "data"), QUICK.step)
    assert sealed(path) == before
    back_up(folder, tmp_path / "backup", "", clock, QUICK)
    restore(tmp_path / "backup", tmp_path / "restored", clock, QUICK, lambda _text: None)
    assert sealed(tmp_path / "restored" / path.name) == before
    assert found(tmp_path / "restored") == found(folder) != []
    with path.open("r+b") as file:
        file.write(b"\xff" * PAGE_BYTES)
    assert path.name in store.rescue([path.name])
    assert (sealed(path), schema_of(path)) == (before, SCHEMA)
    assert len(problems(folder)) == 1
    assert found(folder) != []


def test_a_seal_that_was_removed_is_not_made_again_by_a_rescue(store: SqliteStore, folder: Path) -> None:
    path = changed(folder, "seal = NULL")
    with path.open("r+b") as file:
        file.write(b"\xff" * PAGE_BYTES)
    assert path.name in store.rescue([path.name])
    assert [is_changed(row) for row in sealed(path)] == [False, True, False]


@pytest.mark.parametrize("number", [999, 1000])
def test_where_many_events_were_changed_all_times_are_in_doubt(
    folder: Path, clock: Any, event: Any, commit: Any, number: int
) -> None:
    opened = SqliteStore(folder, clock)
    commit(opened, Ledger(), [event(seq, "anomaly", ts=T0 + seq) for seq in range(1, 1_101)], clock.ms)
    opened.close()
    with closing(sqlite3.connect(day_files(folder)[0])) as db:
        db.execute("UPDATE event SET sev = 4 WHERE seq <= ?", (number,))
        db.commit()
    several = found(folder, T0, T0 + DAY_MS)
    assert len(several) == number + (number == 1000)
    assert (several[0].times_ms == ()) is (number == 1000)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A store of the release before: its events have no seals."""
    with tarfile.open(FIXTURES / "store-2" / "store.tar.gz") as archive:
        archive.extractall(tmp_path / "old", filter="data")
    return tmp_path / "old" / "store"


def test_events_of_the_release_before_are_read_as_before(old: Path, clock: Any) -> None:
    (path,) = day_files(old)
    clock.ms = T0
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE event SET sev = 4 WHERE seq = 2")
        db.commit()
    with closing(SqliteSource(old)) as source:
        node = next(iter(source.counts()))
        events = list(newest_first(source, node, "_", 2**62, "exposure"))
        assert (len(events), any(CHANGED in each for each in events)) == (20, False)
        assert source.changed_events((node, "_", "exposure"), 0, 2**62) == []
        assert list(differences(source, {}, lambda _node: False)) == []
    assert verify(old, QUICK).problems == []


def test_a_store_of_the_release_before_goes_on_with_sealed_events(
    old: Path, clock: Any, event: Any, commit: Any
) -> None:
    (path,) = day_files(old)
    clock.ms = T0
    before = columns(path)
    assert waiting(path) > 0
    store = SqliteStore(old, clock)
    ledger = Ledger(store.load().marks)
    commit(store, ledger, [event(1, "anomaly", ts=T0)], clock.ms)
    clock.ms += 700_000
    for _ in range(3):  # what waits in the old file is packed
        store.work()
        clock.ms += 2_000
    assert waiting(path) == 0
    assert [schema_of(each) for each in day_files(old)] == [WITH_RAW, SCHEMA]
    assert columns(path) == before
    assert [is_changed(row) for row in sealed(day_files(old)[1])] == [False]
    # a file without seals that is written again must not look like one whose seals were removed
    node = NODE.replace("cobot", "cell")
    assert store.prune(path, lambda owner, cls: (owner, cls) == (node, "data"), QUICK.step)
    assert (schema_of(path), columns(path)) == (WITH_RAW, before)
    assert verify(old, QUICK).problems == []
    with path.open("r+b") as file:
        file.write(b"\xff" * PAGE_BYTES)
    assert path.name in store.rescue([path.name])
    assert (schema_of(path), columns(path)) == (WITH_RAW, before)
    store.close()


def waiting(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        found: int = db.execute("SELECT count(*) FROM raw").fetchone()[0]
        return found


def columns(path: Path) -> list[tuple[Any, ...]]:
    """The events of a file of schema 2."""
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM pragma_table_info('event')").fetchone() == (10,)
        return db.execute("SELECT * FROM event ORDER BY seq").fetchall()
