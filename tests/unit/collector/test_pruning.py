"""Rules and quotas on a whole store: what goes in which order, whose messages are refused; the command."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from collector.backup.backup import back_up
from collector.backup.pace import Pace
from collector.backup.restore import restore
from collector.backup.verify import verify
from collector.health import CollectorProblems
from collector.ledger.audit import differences as audit
from collector.ledger.comparison import compared
from collector.ledger.holdings import differences, pages
from collector.ledger.ledger import Ledger
from collector.ledger.report import ReportFilter
from collector.pruning import PRUNE, Pruner, due_now
from collector.requests import answer, requested
from collector.state.audit import Audit
from collector.state.state_file import StateFile
from collector.store.folder import day_files
from collector.store.prune import bytes_in
from collector.store.reader import Readers
from collector.store.retention import Quota, Retention, RetentionRule
from collector.store.sqlite_source import SqliteSource
from collector.store.store import SqliteStore, peek
from collector.upkeep import FIRST_PRUNE_S, PRUNE_EVERY_S, Upkeep
from edgebed.cli import command as edgebed
from tests.unit.collector.stored import stored
from wire.clock import Clock
from wire.errors import TryAgain

NODE, EP, T0 = "acme/trial/hall/cobot-01", "00112233aabbccdd", 1_795_356_000_000
OTHER = "blue/trial/hall/cobot-01"
DAY_MS = 86_400_000
DATA_1 = RetentionRule(nodes="acme/*", cls="data", keep_days=1)


def no_pause(_size: int) -> None:
    pass


class Days:
    """A store to which a day adds ten data messages and two events of a node, and five of another node."""

    def __init__(self, folder: Path, clock: Any, batch: Any, event: Any, commit: Any) -> None:
        self.folder, self.clock = folder, clock
        self._batch, self._event, self._commit = batch, event, commit
        self.ledger = Ledger()
        self.store = SqliteStore(folder, clock)

    def close(self) -> None:
        if not self.store._is_closed:
            self.store.close()

    def open(self, days: int = 0, *rules: RetentionRule) -> SqliteStore:
        self.close()
        self.store = SqliteStore(self.folder, self.clock, days, rules)
        saved = self.store.load()
        self.ledger = Ledger(saved.marks, saved.states)
        return self.store

    def add(self, count: int) -> None:
        for _ in range(count):
            self.clock.ms += DAY_MS
            seq = self.ledger.highest((NODE, EP))
            mine = [self._batch(seq + n, recv=self.clock.ms) for n in range(1, 11)]
            events = [self._event(seq + n) for n in (11, 12)]
            first = self.ledger.highest((OTHER, EP)) + 1
            others = [self._batch(n, node=OTHER) for n in range(first, first + 5)]
            self._commit(self.store, self.ledger, [*mine, *events, *others], self.clock.ms)
            for _ in range(3):
                self.store.work()
                self.clock.ms += 2_000

    def counts(self) -> dict[str, int]:
        with closing(SqliteSource(self.folder)) as source:
            return source.counts()

    def gone(self) -> int:
        return sum(one.numbers.count() for one in compared(self.store, self.ledger).values())


@pytest.fixture
def days(folder: Path, clock: Any, batch: Any, event: Any, commit: Any) -> Iterator[Days]:
    made = Days(folder, clock, batch, event, commit)
    made.add(4)
    yield made
    made.close()


def prune(pruner: Pruner) -> list[str]:
    return [done.path.name[7:17] for done in iter(lambda: pruner.step(no_pause), None)]


def test_rules_prune_old_days_once_and_keep_the_rest(days: Days) -> None:
    pruner = Pruner(days.open(0, DATA_1))
    assert prune(pruner) == ["2026-11-23", "2026-11-24"]
    assert days.counts() == {NODE: 4 * 12 - 20, OTHER: 20}
    assert days.gone() == 0
    assert prune(pruner) == []
    days.add(1)
    assert prune(pruner) == ["2026-11-25"]
    store = days.open(0, DATA_1)
    assert prune(Pruner(store)) == [], "a restart prunes nothing twice"
    assert days.gone() == 0


def test_the_upkeep_prunes_and_the_ledger_states_it(days: Days, clock: Any) -> None:
    store = days.open(0, DATA_1, RetentionRule(nodes="green/*", keep_days=3))
    problems, readers = CollectorProblems(clock), Readers(partial(SqliteSource, days.folder))
    upkeep = Upkeep(Pruner(store), readers, days.ledger, problems, clock, lambda gone: pytest.fail(str(gone)))
    upkeep.step()
    assert days.ledger.entries(NODE)[0].pruned == []
    clock.ms += int(FIRST_PRUNE_S * 1000) + 1
    for _ in range(4):
        upkeep.step()
    (entry,) = days.ledger.entries(NODE)
    (one,) = entry.pruned
    assert (one.cls, one.messages, one.rows, one.first, one.last) == ("data", 20, 20, 1, 22)
    assert (one.first_day, one.last_day) == ("2026-11-23", "2026-11-24")
    assert (entry.taken, entry.stored, entry.missing_count, entry.pruned_count) == (48, 48, 0, 20)
    assert (entry.rows_stored, days.ledger.entries(OTHER)[0].pruned) == (48, [])
    days.add(1)
    upkeep.prune_now()
    upkeep.step()
    assert days.ledger.entries(NODE)[0].pruned_count == 30
    assert problems.current() == []
    upkeep.stop()
    days.add(1)
    clock.ms += int(PRUNE_EVERY_S * 1000) + 1
    upkeep.step()
    assert days.ledger.entries(NODE)[0].pruned_count == 30, "a collector that ends does not wait for it"
    readers.close()


def test_what_cannot_be_pruned_is_a_problem_until_it_can(days: Days, clock: Any, monkeypatch: Any) -> None:
    store = days.open(0, DATA_1)
    problems, readers = CollectorProblems(clock), Readers(partial(SqliteSource, days.folder))
    upkeep = Upkeep(Pruner(store), readers, days.ledger, problems, clock, lambda _gone: None)
    with monkeypatch.context() as patched:
        patched.setattr("collector.store.prune.ROOM_BYTES", 2**62)
        upkeep.prune_now()
        upkeep.step()
    assert [one.code for one in problems.current()] == ["store-not-pruned"]
    upkeep.prune_now()
    upkeep.step()
    assert problems.current() == []
    readers.close()


def test_two_collectors_with_other_rules_do_not_differ(days: Days, tmp_path: Path) -> None:
    before = list(pages(days.ledger, ReportFilter()))
    assert prune(Pruner(days.open(0, DATA_1)))
    saved = peek(days.folder)
    assert differences(before, pages(Ledger(saved.marks), ReportFilter())) == {}


def test_the_audit_counts_what_is_left(days: Days) -> None:
    assert prune(Pruner(days.open(0, DATA_1)))
    found = CliRunner().invoke(edgebed, ["ledger", "--store", str(days.folder), "--audit"])
    assert found.exit_code == 0, found.output
    text = "of these, retention removed 20 data messages (20 rows, numbers 1-22, received 2026-11-23 to "
    assert f"  {text}2026-11-24)" in found.stdout.splitlines()
    with closing(SqliteSource(days.folder)) as source:
        assert next(audit(source, {})).endswith("the files have 28 messages, the ledger has 0")


def test_a_quota_refuses_or_removes_the_oldest_days(days: Days) -> None:
    store = days.open()
    total = sum(bytes_in(path)[NODE] for path in day_files(days.folder))
    room = (total - 1) / 1e9
    refusing = Pruner(store, [Quota(tenant="acme", gb=room), Quota(tenant="blue", gb=1)])
    assert prune(refusing) == []
    assert refusing.full == {"acme"}
    assert refusing.used()["acme"] == pytest.approx(total, rel=0.01)
    removing = Pruner(store, [Quota(tenant="acme", gb=room, when_full="prune")])
    assert prune(removing) == ["2026-11-23"]
    assert removing.full == frozenset()
    assert days.counts() == {NODE: 36, OTHER: 20}
    assert days.gone() == 0
    small = Pruner(store, [Quota(tenant="acme", gb=1e-9, when_full="prune")])
    assert prune(small) == ["2026-11-24", "2026-11-25"]
    assert small.full == {"acme"}, "the day that is written does not go"
    assert days.counts() == {NODE: 12, OTHER: 20}


def test_a_quota_counts_what_arrives_today(days: Days) -> None:
    today: dict[str, int] = {}
    pruner = Pruner(days.open(), [Quota(tenant="acme", gb=1)], lambda: today)
    assert prune(pruner) == []
    assert pruner.full == frozenset()
    today["acme"] = 10**9
    assert prune(pruner) == []
    assert pruner.full == {"acme"}


def test_a_backup_has_rows_and_statements_that_belong_together(days: Days, tmp_path: Path) -> None:
    first = tmp_path / "first"
    back_up(days.folder, first, "test", Clock(), Pace(pauses=False))
    assert prune(Pruner(days.open(0, DATA_1)))
    second = tmp_path / "second"
    back_up(days.folder, second, "test", Clock(), Pace(pauses=False), base=first)
    for made in (days.folder, first, second):
        assert verify(made, Pace(pauses=False)).problems == []
    days.close()
    for made, held in ((first, 48), (second, 28)):
        again = tmp_path / f"again-{held}"
        restore(made, again, Clock(), Pace(pauses=False), lambda _text: None)
        assert len(stored(again)) == held + 20
        with closing(SqliteStore(again, days.clock)) as store:
            assert compared(store, Ledger(store.load().marks)) == {}


def run(*arguments: str) -> Any:
    return CliRunner().invoke(edgebed, ["collector", "prune", *arguments])


def test_the_command_shows_then_does_it_and_is_audited(days: Days, tmp_path: Path) -> None:
    days.close()
    rule = ("--store", str(days.folder), "--nodes", "acme/*", "--class", "data", "--keep-days", "1")
    before = {path: path.read_bytes() for path in day_files(days.folder)}
    shown = run(*rule, "--dry-run")
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    assert [line.split()[:3] for line in lines[:-1]] == [
        ["2026-11-23", "acme", "data"],
        ["2026-11-24", "acme", "data"],
    ]
    assert lines[0].endswith("bytes would go")
    assert {path: path.read_bytes() for path in day_files(days.folder)} == before
    done = run(*rule)
    assert done.exit_code == 0, done.output
    assert done.stdout == shown.stdout.replace("would go", "removed")
    assert days.counts()[NODE] == 28
    again = run(*rule)
    assert again.stdout.strip() == f"{days.folder}: nothing is due"
    with closing(StateFile(days.folder)) as state:
        assert [one.what for one in Audit(state).newest(10)] == ["prune", "prune"]
    unknown = run("--store", str(days.folder), "--nodes", "no/*", "--keep-days", "1")
    assert "no node is known" in unknown.stderr
    for wrong in (["--nodes", "acme"], ["--nodes", "acme", "--keep-days", "1"], ["--class", "data"]):
        assert run("--store", str(days.folder), *wrong).exit_code == 2


def test_the_command_asks_a_collector_that_runs(days: Days) -> None:
    def collector() -> None:
        while not requested(days.folder, PRUNE):
            pass
        answer(days.folder, PRUNE, [])

    thread = threading.Thread(target=collector)
    thread.start()
    found = run("--store", str(days.folder))
    thread.join()
    assert found.exit_code == 0, found.output
    assert "its collector removes what is due" in found.stdout
    refused = run("--store", str(days.folder), "--nodes", "acme/*", "--keep-days", "1")
    assert isinstance(refused.exception, TryAgain)
    assert "add the rule to its config" in str(refused.exception)


def test_a_dry_run_beside_a_collector_reads_only(days: Days) -> None:
    found = due_now(days.folder, Retention(1), days.clock)
    assert {cls for one in found for _, cls in one.gone.sizes} == {"data", "event"}
    assert [one.path.name[7:17] for one in found] == ["2026-11-23", "2026-11-24"]
