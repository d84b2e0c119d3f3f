"""Reports of pilots over real HTTP: who may see them, what is kept, and how many are made at once."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import threading
from collections import OrderedDict
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from collector.app import Collector
from collector.pilots.report import making
from collector.pilots.report.canonical_report import read_report, report_bytes
from collector.pilots.report.from_store import of_store
from collector.pilots.report.making import KEEP_S, MAX_EACH, MAX_KEEP_S, MAX_WAITING, ReportMaker, moment
from collector.pilots.report.process import ReportProcess
from collector.rights.user import Grant
from collector.store.folder import day_files
from edgebed.pilot_report.command import report
from tests.polling import until
from tests.unit.collector.pilots.kpis.stored_rows import NODE, Plant
from tests.unit.collector.pilots.report.played_pilot import (
    PERIOD_MS,
    PLAN,
    PlayedPilot,
    changed,
    opened,
    report_of,
)
from tests.unit.collector.web.serving import serving
from wire import config
from wire.clock import Clock
from wire.errors import TryAgain
from wire.pilot.frozen import FrozenPlan, Opened, envelope, read_signed
from wire.pilot.plan import Plan

PATH = "/api/v1/pilots/acme/line-1/report"


def doc(plan: Opened) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(envelope(plan.payload, plan.signatures))
    return found


def unchecked(text: str) -> Plan:
    """A plan without any check."""
    return msgspec.convert(config.plain(text), Plan)


def played(folder: Path) -> PlayedPilot:
    plant = Plant(folder / "store", Clock())
    pilot = PlayedPilot(plant, PLAN)
    pilot.play()
    plant.store.close()
    return pilot


def send(collector: Collector, plan: Opened, node: str = NODE, at_ms: int = 1) -> None:
    collector.documents.put(node, doc(plan), by="kim", at_ms=at_ms, what="pilot")


async def test_the_report_is_that_of_the_stored_rows_also_after_a_withdrawal(tmp_path: Path) -> None:
    pilot = played(tmp_path)
    async with serving(tmp_path) as (collector, get):
        assert (await get(PATH)).status == 404
        send(collector, pilot.newest)
        collector.documents.put(NODE, {}, by="kim", at_ms=2, what="pilot")
        answer = await get(PATH)
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        found = read_report(answer.body)
        assert (found.word, found.plan_hash) == ("met", pilot.newest.hash)
        [listed] = (await get("/api/v1/pilots/plans")).json()["plans"]
        assert (listed["state"], listed["nodes"], listed["by"]) == ("over", [NODE], "kim")
        half = pilot.newest.plan.schedule.trial[9].end_ms
        early = read_report((await get(f"{PATH}?until={half + 5_000}")).body)
        assert (early.until_ms, early.state, early.reason) == (half, "running", "trial-not-over")
        for query, status in (("until=x", 400), ("unti=1", 400), ("hash=ff", 404)):
            assert (await get(f"{PATH}?{query}")).status == status
    made = report_of(tmp_path / "store", pilot.versions)
    assert msgspec.structs.replace(found, software="") == msgspec.structs.replace(made, software="")


async def test_each_version_is_listed_and_the_last_one_that_was_sent_is_reported(tmp_path: Path) -> None:
    first = opened(PLAN)
    second = opened(changed(("min: 0.05", "min: 0.02")), after=first, reason="it was a mistake")
    later = opened(changed(("2026-11-23", "2099-11-23"), ("2026-11-23", "2099-11-23"), ("line-1", "line-2")))
    played(tmp_path)
    async with serving(tmp_path) as (collector, get):
        for at_ms, plan in enumerate((first, second, later), 1):
            send(collector, plan, at_ms=at_ms)
        listed = (await get("/api/v1/pilots/plans")).json()["plans"]
        assert [(each["pilot"], each["version"], each["state"]) for each in listed] == [
            ("line-2", 1, "planned"), ("line-1", 2, "over"), ("line-1", 1, "amended"),
        ]  # fmt: skip
        collector.documents.put(NODE, {}, by="kim", at_ms=9, what="pilot")
        assert (await get("/api/v1/pilots/plans")).json()["plans"][0]["state"] == "withdrawn"
        found = read_report((await get(PATH)).body)
        assert [each.version for each in found.versions] == [1, 2]
        assert {each.code for each in found.findings} == {"amended", "plan-not-recorded"}
        earlier = read_report((await get(f"{PATH}?hash={first.hash}")).body)
        assert [each.version for each in earlier.versions] == [1]


async def test_the_command_asks_a_collector_for_the_version_of_its_file(tmp_path: Path) -> None:
    pilot = played(tmp_path)
    second = opened(changed(("min: 0.05", "min: 0.02")), after=pilot.newest, reason="it was a mistake")
    file = tmp_path / "line-1.plan.json"
    file.write_bytes(msgspec.json.encode(doc(pilot.newest)))
    async with serving(tmp_path) as (collector, _):
        for at_ms, plan in enumerate((pilot.newest, second), 1):
            send(collector, plan, at_ms=at_ms)
        url = f"http://127.0.0.1:{collector.socket.getsockname()[1]}"
        done = await asyncio.to_thread(CliRunner().invoke, report, [str(file), "--url", url])
        assert done.exception is None, done.output
        assert f"plan {pilot.newest.hash[:12]}, over" in done.output


async def test_only_who_sees_all_nodes_sees_the_pilot_and_tenants_may_use_the_same_name(
    tmp_path: Path,
) -> None:
    both = "nodes: [acme/trial/hall/cell-01, acme/other/hall/cell-02]"
    mine = opened(changed(("nodes: [acme/trial/hall/cell-01]", both)))
    theirs = opened(changed(("owner: acme", "owner: hanbit"), ("[acme/trial", "[hanbit/trial")))
    played(tmp_path)
    async with serving(tmp_path) as (collector, get):
        send(collector, mine)
        send(collector, theirs, "hanbit/trial/hall/cell-01")
        accounts = collector.directory.accounts
        tokens = {}
        for name, prefix in (("kim", "acme/*"), ("lee", "acme/trial"), ("park", "hanbit/*")):
            accounts.add(name, "x", Grant("viewer", (prefix,)))
            token = accounts.add_token(name, "", Grant("viewer", (prefix,)), 1)[1]
            tokens[name] = {"Authorization": f"Bearer {token}"}
        collector.directory.refresh()
        seen = {}
        for name, headers in tokens.items():
            plans = (await get("/api/v1/pilots/plans", **headers)).json()["plans"]
            paths = [f"/api/v1/pilots/{owner}/line-1/report" for owner in ("acme", "hanbit")]
            seen[name] = [each["owner"] for each in plans], [(await get(p, **headers)).status for p in paths]
        assert seen == {
            "kim": (["acme"], [200, 404]),
            "lee": ([], [404, 404]),
            "park": (["hanbit"], [404, 200]),
        }


@pytest.mark.parametrize(
    "change",
    [
        ("{field: cell/production/level}", "{field: cell/production/level, node: hanbit/trial/hall/cell-01}"),
        ("washout_s: 60,", "groups: {machines: [hanbit/trial/hall/cell-01]}, washout_s: 60,"),
        ("kpis:", "adjust: {covariates: {x: {event: a/b, node: hanbit/trial/hall/cell-01}}}\nkpis:"),
    ],
)
async def test_a_plan_made_by_hand_shows_no_node_of_another_tenant(
    tmp_path: Path, change: tuple[str, str]
) -> None:
    body = unchecked(changed(change))
    forged = FrozenPlan(version=1, previous="", reason="", plan=body, schedule=opened(PLAN).plan.schedule)
    played(tmp_path)
    async with serving(tmp_path) as (collector, get):
        send(collector, read_signed(msgspec.json.encode(envelope(forged.payload, (("ab" * 32, b"x"),)))))
        accounts = collector.directory.accounts
        accounts.add("kim", "x", Grant("viewer", ("acme/*",)))
        token = accounts.add_token("kim", "", Grant("viewer", ("acme/*",)), 1)[1]
        collector.directory.refresh()
        headers = {"Authorization": f"Bearer {token}"}
        assert (await get(PATH, **headers)).status == 404
        assert (await get("/api/v1/pilots/plans", **headers)).json() == {"plans": []}


# --- how many are made at once


class Held:
    """The process of a report that begins after a signal, and counts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.count = 0
        whole = ReportProcess.make

        def held(process: ReportProcess, *given: Any) -> bytes:
            self.count += 1
            assert self.go.wait(60)
            return whole(process, *given)

        monkeypatch.setattr(ReportProcess, "make", held)


async def test_one_report_is_made_at_a_time_and_each_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant, clock = Plant(tmp_path / "store", Clock()), Clock()
    pilot, held = PlayedPilot(plant, PLAN), Held(monkeypatch)
    pilot.play()
    periods = pilot.newest.plan.schedule.trial
    with closing(ReportMaker(plant.folder, plant.ledger, clock)) as made:
        asked = [
            asyncio.ensure_future(made.report(pilot.versions, period.end_ms, user=f"user-{at // MAX_EACH}"))
            for at, period in enumerate((*periods[:MAX_WAITING], periods[0], periods[0]))
        ]
        await asyncio.sleep(0)
        with pytest.raises(TryAgain, match=f"{MAX_WAITING} reports are being made"):
            await made.report(pilot.versions, periods[MAX_WAITING].end_ms, user="kim")
        with pytest.raises(TryAgain, match=f"{MAX_EACH} reports are being made for you"):
            await made.report(pilot.versions, periods[MAX_WAITING].end_ms, user="user-0")
        asked[-1].cancel()  # one client leaves; the others get their reports
        held.go.set()
        found = await asyncio.gather(*asked[:-1])
        assert found[0] is found[-1]
        assert held.count == MAX_WAITING
        plant.commit([plant.data(periods[-1].end_ms, {"level": [1.0]})])
        assert await made.report(pilot.versions, periods[0].end_ms + 1) is found[0], "for a minute"
        clock.monotonic = lambda: found[0].at_s + KEEP_S  # type: ignore[method-assign]
        again = await made.report(pilot.versions, periods[0].end_ms)
        assert again is not found[0]
        assert again.body == found[0].body, "rows after its moment do not change it"
        assert await made.report(pilot.versions, periods[0].end_ms) is again, "nothing came since"
    plant.store.close()


async def test_a_kept_report_does_not_hide_for_long_that_the_store_was_changed(tmp_path: Path) -> None:
    pilot, clock = played(tmp_path), Clock()
    folder, end_ms = pilot.plant.folder, pilot.newest.plan.schedule.trial_ms[1]
    with closing(ReportMaker(folder, pilot.plant.ledger, clock)) as made:
        before = await made.report(pilot.versions, end_ms)
        with closing(sqlite3.connect(day_files(folder)[0])) as db, db:
            db.execute("UPDATE event SET sev = 3 WHERE type = 'exposure'")
        clock.monotonic = lambda: before.at_s + MAX_KEEP_S - 1  # type: ignore[method-assign]
        assert await made.report(pilot.versions, end_ms) is before
        clock.monotonic = lambda: before.at_s + MAX_KEEP_S  # type: ignore[method-assign]
        after = await made.report(pilot.versions, end_ms)
    assert before.body != after.body == report_bytes(of_store(folder, pilot.versions, end_ms))


async def test_what_is_kept_is_only_changed_by_the_thread_that_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pilot, threads = played(tmp_path), set[int]()

    class Kept(OrderedDict[Any, Any]):
        def __setitem__(self, key: Any, value: Any) -> None:
            threads.add(threading.get_ident())
            super().__setitem__(key, value)

        def popitem(self, last: bool = True) -> Any:
            threads.add(threading.get_ident())
            return super().popitem(last)

    monkeypatch.setattr(making, "OrderedDict", Kept)
    monkeypatch.setattr(making, "_KEPT", 1)
    with closing(ReportMaker(pilot.plant.folder, pilot.plant.ledger, Clock())) as made:
        periods = pilot.newest.plan.schedule.trial[:2]
        several = [await made.report(pilot.versions, each.end_ms) for each in periods]
        assert await made.report(pilot.versions, periods[1].end_ms) is several[1]
        assert await made.report(pilot.versions, periods[0].end_ms) is not several[0], "one is kept"
    assert threads == {threading.get_ident()}


async def test_who_may_not_see_the_first_version_gets_a_report_without_it(
    tmp_path: Path,
) -> None:
    plant = Plant(tmp_path / "store", Clock())
    pilot = PlayedPilot(plant, PLAN)
    pilot.play()
    second = opened(changed(("min: 0.05", "min: 0.02")), after=pilot.newest, reason="x")
    until_ms = second.plan.schedule.trial_ms[1]
    with closing(ReportMaker(plant.folder, plant.ledger, Clock())) as made:
        both = await made.report([pilot.newest, second], until_ms)
        alone = await made.report([second], until_ms)
    assert [len(each.report.versions) for each in (both, alone)] == [2, 1]
    plant.store.close()


async def test_who_waits_for_a_report_gets_an_answer_when_the_collector_stops(tmp_path: Path) -> None:
    pilot = played(tmp_path)
    async with serving(tmp_path) as (collector, get):
        send(collector, pilot.newest)
        asked = asyncio.ensure_future(get(PATH))
        os.kill(await until(lambda: collector.reports.process.pid), signal.SIGSTOP)
        collector.stop()
        answer = await asked
        assert answer.status == 503
        assert "the collector stops" in answer.json()["error"]


async def test_a_collector_that_stops_ends_the_process_of_the_report(tmp_path: Path) -> None:
    plant = Plant(tmp_path / "store", Clock())
    pilot = PlayedPilot(plant, PLAN)
    pilot.play()
    made = ReportMaker(plant.folder, plant.ledger, Clock())
    asked = asyncio.ensure_future(made.report(pilot.versions, pilot.newest.plan.schedule.trial_ms[1]))
    pid = await until(lambda: made.process.pid)
    os.kill(pid, signal.SIGSTOP)
    await asyncio.to_thread(made.close)
    with pytest.raises(TryAgain, match="the collector stops"):
        await asked
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(TryAgain):
        await made.report(pilot.versions, 5)
    plant.store.close()


def test_a_report_changes_only_where_a_period_starts_or_ends() -> None:
    plan = opened(PLAN)
    start = plan.plan.schedule.trial[3].start_ms
    assert moment(plan, start + PERIOD_MS - 1) == start
    assert moment(plan, start + PERIOD_MS) == start + PERIOD_MS
    assert moment(plan, 5) == 0


# --- what is kept was changed


def change_rows(folder: Path, text: str, *values: object) -> None:
    """Change rows of the plans in `state.db`, as somebody who may write the collector's files can."""
    with closing(sqlite3.connect(folder / "store" / "state.db")) as db, db:
        db.execute(f"UPDATE pilot_plan SET {text}", values)  # noqa: S608 - of this file


@pytest.mark.parametrize("what", ["a target", "a byte", "the version before"])
async def test_a_kept_plan_that_was_changed_gives_no_report_until_it_is_sent_again(
    tmp_path: Path, what: str
) -> None:
    pilot = played(tmp_path)
    easier = opened(changed(("min: 0.05", "min: 0.01")))
    body = msgspec.json.encode(doc(pilot.newest)).decode()
    async with serving(tmp_path) as (collector, get):
        send(collector, pilot.newest)
        assert (await get(PATH)).status == 200
        if what == "a target":
            change_rows(tmp_path, "doc = ?", msgspec.json.encode(doc(easier)).decode())
        elif what == "a byte":
            change_rows(tmp_path, "doc = ?", body[:300] + ("A" if body[300] != "A" else "B") + body[301:])
        else:
            change_rows(tmp_path, "previous = ?", "ab" * 32)
        for path in (PATH, f"{PATH}?hash={pilot.newest.hash}", f"{PATH}.html", f"{PATH[:-6]}verdict"):
            answer = await get(path)
            assert answer.status == 409, path
            assert (
                f"the kept plan {pilot.newest.hash[:12]} is not the one that was sent"
                in answer.json()["error"]
            )
        [listed] = (await get("/api/v1/pilots/plans")).json()["plans"]
        assert (listed["state"], listed["hash"], listed["nodes"]) == ("damaged", pilot.newest.hash, [])
        accounts = collector.directory.accounts
        accounts.add("kim", "x", Grant("viewer", ("acme/trial/*",)))
        token = accounts.add_token("kim", "", Grant("viewer", ("acme/trial/*",)), 1)[1]
        collector.directory.refresh()
        headers = {"Authorization": f"Bearer {token}"}
        assert (await get(PATH, **headers)).status == 404, "which nodes it had is not known"
        assert (await get("/api/v1/pilots/plans", **headers)).json() == {"plans": []}
        send(collector, pilot.newest)
        assert (await get(PATH, **headers)).status == 200


async def test_a_plan_put_in_the_place_of_the_kept_one_with_its_hash_is_recorded_by_no_node(
    tmp_path: Path,
) -> None:
    pilot = played(tmp_path)
    easier = opened(changed(("min: 0.05", "min: 0.01")))
    async with serving(tmp_path) as (collector, get):
        send(collector, pilot.newest)
        change_rows(tmp_path, "doc = ?, hash = ?", msgspec.json.encode(doc(easier)).decode(), easier.hash)
        found = read_report((await get(PATH)).body)
    assert {each.code for each in found.findings} >= {"plan-not-recorded", "plan-other"}
