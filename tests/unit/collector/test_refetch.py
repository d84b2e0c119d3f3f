"""A store is filled from its twin: every message once, whatever ends the run, and with the same ledger."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from collector import refetch as module
from collector.app import Collector
from collector.backup.pace import Pace
from collector.ledger.audit import differences as audit
from collector.ledger.ledger import Ledger
from collector.ledger.report import ReportFilter, day_lines
from collector.mqtt.received import Received
from collector.refetch import refetch
from collector.store import landed, messages
from collector.store.folder import day_files
from collector.store.messages import Line, Span
from collector.store.reader import read_rows
from collector.store.snapshot import Stopped
from collector.store.sqlite_source import SqliteSource
from collector.store.store import SqliteStore
from edgebed.cli import command as edgebed
from edgebed.collector_api import CollectorApi
from edgebed.processes import edgebed_command
from edgebed.twin import HttpTwin
from tests.polling import until
from tests.unit.collector.ledger.stating_node import EP, NODE, OTHER, T0, Node
from tests.unit.collector.web.serving import serving
from wire.clock import Clock
from wire.codec import compress, encode, seal
from wire.errors import EdgebedError
from wire.messages import Batch, Event
from wire.topics import parse

ALL_US = 2**60
EVERYTHING = ReportFilter()
KEYS = [(NODE, "arm", "joints"), (NODE, "arm", "odd"), (OTHER, "arm", "joints")]


def received(node: str, tail: str, body: Any, recv_ms: int) -> Received:
    topic = f"tb1/{node}/{tail}"
    return Received(topic, compress(encode(body)), recv_ms, False, None, parsed=parse(topic))


def traffic() -> list[Received]:
    """Messages of two nodes: all kinds of values and times, late ones, events, a gap, signed statements."""
    node, other = Node(), Node(node=OTHER, ep="aabbccdd00112233")
    sent = [node.data() for _ in range(40)] + [node.state()]
    seq, no = node.number("data/arm/odd", 3)
    columns = {
        "text": ["ä\n", None, '"'],
        "flag": [True, False, True],
        "whole": [2**60, -3, 0],
        "mixed": [1, None, 2.5],
        "empty": [None, None, None],
    }
    odd = Batch(ep=EP, seq=seq, no=no, t0=T0, dt=[0, 7, -3], tu="us", f=columns, clk=2, q=[0, 4, 0])
    sent.append(received(NODE, "data/arm/odd", odd, T0 + 100_000))  # late
    seq, no = node.number("event/arm/alarm", 1)
    alarm = Event(
        ep=EP, seq=seq, no=no, ts=T0, type="alarm", sev=3, why="hot", detail={"a": [1, {"b": None}]}
    )
    sent.append(received(NODE, "event/arm/alarm", alarm, T0 + 60))
    lost = [node.data() for _ in range(5)]
    first = node.seq - len(lost) + 1
    sent += [node.gap([(first, node.seq)]), node.data(), node.state()]
    node.restart()
    sent += [node.data(rows=3) for _ in range(20)] + [node.state()]
    return sent + [other.data() for _ in range(30)] + [other.state()]


def feed(collector: Collector, some: list[Received]) -> None:
    for one in some:
        collector.ingest.receive(Received(one.topic, one.body, one.recv_ms, False, None))


@pytest.fixture(params=["landed", "packed"])
async def twin(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[str]:
    """The URL of a collector that has the whole traffic."""
    if request.param == "packed":
        monkeypatch.setattr(landed, "PACK_MESSAGES", 1)
    async with serving(tmp_path / "twin") as (collector, _):
        sent = traffic()
        feed(collector, sent)
        await until(lambda: collector.ingest.counters.stored == len(sent), "all is stored")
        assert not collector.ingest.counters.quarantined
        yield f"http://127.0.0.1:{collector.socket.getsockname()[1]}"


def fill(folder: Path, url: str, pace: Pace | None = None, wanted: ReportFilter = EVERYTHING) -> Any:
    folder.mkdir(exist_ok=True)
    with closing(SqliteStore(folder, Clock())) as store:
        return refetch(store, HttpTwin(CollectorApi(url), wanted), Clock(), pace or Pace(pauses=False))


def content(folder: Path) -> dict[str, Any]:
    """Everything that readers get of a store."""
    with closing(SqliteStore(folder, Clock())) as store:
        saved = store.load()
        ledger = Ledger(saved.marks, saved.states)
        with closing(SqliteSource(folder)) as source:
            marked = {
                (one.node, one.ep): {"stored": one.stored, "rows_stored": one.rows_stored}
                for one in ledger.entries()
            }
            assert list(audit(source, marked)) == []
            rows = {}
            for key in KEYS:
                table = read_rows(source, key, start_ms=0, end_ms=ALL_US // 2**10)
                rows[key] = sorted(map(repr, table.rows))
            events = {
                (node, device): sorted(
                    repr(event) for _, event in source.events(node, device, limit=500, before=(ALL_US, "", 0))
                )
                for node in (NODE, OTHER)
                for device in ("arm", "_")
            }
            late = {
                (key, one.is_late, one.content.head.skew, tuple(one.content.head.messages))
                for key in KEYS[1:2]
                for one in source.chunks_between(key, 0, ALL_US)
                if not isinstance(one, tuple) or hasattr(one, "is_late")
            }
        lines = [msgspec.to_builtins(line) for line in day_lines(ledger, ReportFilter())]
        entries = [msgspec.to_builtins(one) for one in ledger.entries()]
        for one in entries:
            del one["absent"], one["duplicates"], one["taken"], one["waiting"], one["rows_taken"]
        return {"rows": rows, "events": events, "late": late, "days": lines, "entries": entries}


async def test_a_new_store_becomes_what_its_twin_is(twin: str, tmp_path: Path) -> None:
    found = await asyncio.to_thread(fill, tmp_path / "new", twin)
    assert (found.outboxes, found.problems) == (2, [])
    again = await asyncio.to_thread(fill, tmp_path / "new", twin)
    assert (again.outboxes, again.messages) == (0, 0)
    new = await asyncio.to_thread(content, tmp_path / "new")
    assert all(line["verified"] for line in new["days"] if line["day"]), new["days"]
    (tmp_path / "copy").mkdir()
    for path in (tmp_path / "twin" / "store").glob("*.db*"):
        (tmp_path / "copy" / path.name).write_bytes(path.read_bytes())
    assert new == await asyncio.to_thread(content, tmp_path / "copy")


@pytest.mark.parametrize("seed", range(3))
async def test_a_run_that_is_ended_goes_on_where_it_was(
    twin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(module, "WINDOW", 7)

    class Ending(Pace):
        left = 0

        def step(self, size: int) -> None:
            super().step(size)
            self.left -= 1
            if self.left <= 0:
                raise Stopped

    messages, runs = 0, 0
    while True:
        pace = Ending(pauses=False)
        pace.left = chance.randint(1, 4)
        try:
            found = await asyncio.to_thread(fill, tmp_path / "new", twin, pace)
        except Stopped:
            runs += 1
            continue
        messages += found.messages
        break
    assert runs > 2
    whole = await asyncio.to_thread(fill, tmp_path / "whole", twin)
    assert messages < whole.messages
    assert await asyncio.to_thread(content, tmp_path / "new") == await asyncio.to_thread(
        content, tmp_path / "whole"
    )


async def test_a_store_that_has_a_part_gets_the_rest(twin: str, tmp_path: Path, commit: Any) -> None:
    some = traffic()[10:60:2]
    (tmp_path / "part").mkdir()
    with closing(SqliteStore(tmp_path / "part", Clock())) as store:
        commit(store, Ledger(), some)
    found = await asyncio.to_thread(fill, tmp_path / "part", twin)
    assert found.messages == len(traffic()) - len(some)
    await asyncio.to_thread(fill, tmp_path / "whole", twin)
    mine, whole = [await asyncio.to_thread(content, tmp_path / name) for name in ("part", "whole")]
    assert {**mine, "late": 0} == {**whole, "late": 0}  # its chunks are others


async def test_an_answer_that_is_too_large_is_asked_for_in_halves(
    twin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "MAX_BYTES", 3_000)
    found = await asyncio.to_thread(fill, tmp_path / "new", twin)
    assert (found.messages, found.problems) == (len(traffic()), [])


async def test_messages_that_the_twin_lacks_are_named_and_no_statement_is_taken_over(
    twin: str, tmp_path: Path, commit: Any
) -> None:
    with_more = Node()
    with_more.seq = 5_000
    (tmp_path / "more").mkdir()
    with closing(SqliteStore(tmp_path / "more", Clock())) as store:
        commit(store, Ledger(), [with_more.data()])
    found = await asyncio.to_thread(fill, tmp_path / "more", twin)
    assert found.messages == len(traffic())
    (problem,) = found.problems
    assert "1 messages that the twin lacks" in problem


async def test_an_event_that_somebody_changed_at_the_twin_is_not_taken_over(
    twin: str, tmp_path: Path
) -> None:
    (path,) = day_files(tmp_path / "twin" / "store")
    with closing(sqlite3.connect(path, timeout=20)) as db:
        assert db.execute("UPDATE event SET sev = 0 WHERE type = 'alarm'").rowcount == 1
        db.commit()
    found = await asyncio.to_thread(fill, tmp_path / "new", twin)
    assert found.problems == [f"{NODE} ep {EP}: the twin cannot read 1 messages that it has stored"]
    with closing(SqliteSource(tmp_path / "new")) as source:
        kinds = [event["type"] for _, event in source.events(NODE, "arm", limit=9, before=(ALL_US, "", 0))]
    assert kinds == []


async def test_one_node_alone(twin: str, tmp_path: Path) -> None:
    found = await asyncio.to_thread(fill, tmp_path / "one", twin, None, ReportFilter(node=OTHER))
    assert (found.outboxes, found.messages) == (1, 31)


class Wrong:
    """A twin whose messages are not what they should be."""

    def __init__(self, url: str, change: Any) -> None:
        self._twin = HttpTwin(CollectorApi(url), ReportFilter(node=OTHER))
        self._change = change
        self.outboxes, self.record = self._twin.outboxes, self._twin.record

    def messages(self, span: Span) -> tuple[list[Line], bool]:
        lines, cut = self._twin.messages(span)
        return [self._change(line) for line in lines], cut


class Late:
    """A twin that stored every second message after it stated what it has."""

    def __init__(self, url: str) -> None:
        self._twin = HttpTwin(CollectorApi(url), ReportFilter(node=OTHER))
        self.outboxes, self.messages = self._twin.outboxes, self._twin.messages

    def record(self, outbox: Any) -> Any:
        found = self._twin.record(outbox)
        account = msgspec.json.decode(found.account)
        account["stored"] = [[one, one] for one in range(account["stored"][0][0], 32, 2)]
        return msgspec.structs.replace(found, account=msgspec.Raw(msgspec.json.encode(account)))


async def test_what_the_twin_stored_meanwhile_is_left_for_later(twin: str, tmp_path: Path) -> None:
    def run() -> Any:
        (tmp_path / "late").mkdir()
        with closing(SqliteStore(tmp_path / "late", Clock())) as store:
            return refetch(store, Late(twin), Clock(), Pace(pauses=False))

    found = await asyncio.to_thread(run)
    # the counts of rows differ, since this twin states the rows of all
    assert not any("cannot be stored" in problem for problem in found.problems), found.problems
    assert 10 <= found.messages <= 20


def _renumbered(line: Line) -> Line:
    body = msgspec.json.decode(line.body, type=dict[str, Any])
    del body["crc"]
    return msgspec.structs.replace(line, body=msgspec.Raw(seal(msgspec.json.encode({**body, "seq": 4_000}))))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda line: msgspec.structs.replace(line, device="../x"), "not ids"),
        (lambda line: msgspec.structs.replace(line, body=msgspec.Raw(b"{}")), "cannot be stored"),
        (
            lambda line: msgspec.structs.replace(
                line, body=msgspec.Raw(bytes(line.body).replace(b"1.0", b"7.0", 1))
            ),
            "checksum",
        ),
        (_renumbered, "not asked for"),
    ],
    ids=["name", "body", "damage", "number"],
)
async def test_what_is_not_a_message_is_not_stored(twin: str, tmp_path: Path, change: Any, why: str) -> None:
    def run() -> Any:
        (tmp_path / "wrong").mkdir()
        with closing(SqliteStore(tmp_path / "wrong", Clock())) as store:
            return refetch(store, Wrong(twin, change), Clock(), Pace(pauses=False))

    found = await asyncio.to_thread(run)
    assert any(why in problem for problem in found.problems), found.problems
    assert any("cannot read" in problem for problem in found.problems)
    assert found.messages < 31


def _answers(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    real = messages.message_lines
    from collector.web import api

    monkeypatch.setattr(api, "message_lines", lambda source, span: change(real(source, span)))


@pytest.mark.parametrize("change", [lambda body: body[:-40], lambda _: b"", lambda _: b"<html>\n"])
async def test_an_answer_that_ends_early_is_not_taken_for_a_whole_one(
    twin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    _answers(monkeypatch, change)
    with pytest.raises(EdgebedError, match=r"ended early|not a collector"):
        await asyncio.to_thread(fill, tmp_path / "new", twin)


async def test_the_command(twin: str, tmp_path: Path) -> None:
    arguments = edgebed_command("collector", "refetch", str(tmp_path / "new"), "--from", twin)
    child = await asyncio.create_subprocess_exec(*arguments, stdout=PIPE, stderr=PIPE)
    out, err = await child.communicate()
    assert child.returncode == 0, err
    count = len(traffic())
    assert out.startswith(f"{tmp_path / 'new'}: fetched {count} messages".encode())
    assert out.endswith(b"of 2 outboxes\n")

    def compare() -> Any:
        return CliRunner().invoke(edgebed, ["ledger", "--store", str(tmp_path / "new"), "--against", twin])

    compared = await asyncio.to_thread(compare)
    assert (compared.exit_code, compared.output) == (
        0,
        f"{tmp_path / 'new'} and collector-1 have the same {count} messages\n",
    )


def test_windows_cover_the_numbers_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from wire.ranges import Ranges

    monkeypatch.setattr(module, "WINDOW", 10)
    numbers = Ranges([(1, 3), (5, 25), (40, 40)])
    spans: Iterator[tuple[int, int]] = iter(list(module._windows(numbers)))
    assert list(spans) == [(1, 10), (11, 20), (21, 30), (40, 49)]
