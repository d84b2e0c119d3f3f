"""The collector on real brokers: acknowledged means stored, after kills, full disks, cuts and garbage."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import resource
import sqlite3
import subprocess
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import paho.mqtt.client as mqtt
import pytest

from collector.app import Collector
from collector.config import CollectorConfig, Http
from collector.mqtt import connection
from collector.mqtt import link as link_module
from collector.store.sqlite_source import SqliteSource
from edgebed.broker import BrokerProcess, free_port
from edgebed.processes import Child, edgebed_command
from simulators.faults import FaultProxy
from tests import paho_client
from tests.brokers import LONG_TEST_KINDS
from tests.polling import until, wait_until
from wire.broker import Broker
from wire.clock import Clock
from wire.codec import compress, decode, encode
from wire.errors import Unreachable
from wire.messages import Ack, AgentInfo, Batch, Birth, Event, Status
from wire.mqtt.blocking_client import BlockingClient
from wire.ranges import Ranges
from wire.topics import Address

NODE = Address("acme", "trial", "hall", "cobot-01")
EP = "00112233aabbccdd"
T0 = 1_795_356_000_000
ROWS = 10


class Sender:
    """A minimal outbox: it sends by number, and again after 3 s without an ack."""

    def __init__(self, port: int, node: Address = NODE) -> None:
        self.node = node
        self.port = port
        self.acked = Ranges()
        self.on_ack: Callable[[Ack], None] = lambda _ack: None
        self.taken = 0
        self._pending: dict[int, tuple[str, bytes, float]] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=node.client_id)
        self.client.max_inflight_messages_set(500)
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = lambda client, *_: client.subscribe(node.topic("ack"), 1)
        self.client.on_message = self._on_message
        self._thread = threading.Thread(target=self._resend, name="sender")

    def __enter__(self) -> Sender:
        self.client.connect_async("127.0.0.1", self.port, keepalive=10)
        self.client.loop_start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        paho_client.end(self.client)

    def _on_message(self, _client: Any, _user: Any, message: mqtt.MQTTMessage) -> None:
        ack = decode(message.payload, Ack)
        with self._lock:
            self.acked.update(ack.ok)
            for seq in [seq for seq in self._pending if seq in self.acked]:
                del self._pending[seq]
        self.on_ack(ack)

    def _resend(self) -> None:
        while not self._stop.wait(0.2):
            now = time.monotonic()
            with self._lock:
                # like a node, at most its in-flight window: a sender that floods is refused
                oldest = list(self._pending.items())[:300]
                due = [(seq, *rest) for seq, rest in oldest if now - rest[2] > 3.0]
                for seq, topic, body, _ in due:
                    self._pending[seq] = (topic, body, now)
            if self.client.is_connected():
                for _, topic, body, _ in due:
                    self.client.publish(topic, body, qos=1)

    def send(self, count: int, stream: str = "joints") -> None:
        """`count` batches with numbered rows: row r of batch s has x = s * ROWS + r."""
        for _ in range(count):
            self.taken += 1
            seq = self.taken
            values = [seq * ROWS + row for row in range(ROWS)]
            batch = Batch(ep=EP, seq=seq, t0=T0 + seq * 100, per=10, n=ROWS, f={"x": values})
            topic, body = self.node.topic("data", "arm", stream), compress(encode(batch))
            with self._lock:
                self._pending[seq] = (topic, body, time.monotonic())
            self.client.publish(topic, body, qos=1)

    def wait(self, deadline_s: float = 60.0) -> None:
        """Until everything sent is acknowledged."""
        wait_until(lambda: self.acked.count() >= self.taken, "acknowledgements", deadline_s)


@pytest.fixture
def child(tmp_path: Path, broker: BrokerProcess) -> Iterator[Child]:
    """A collector process; it is started by the test."""
    port = free_port()
    command = edgebed_command(
        "collector", "run", "--store", str(tmp_path / "store"), "--broker", broker.url, "--port", str(port)
    )
    made = Child("collector", command, tmp_path / "collector.log")
    made.url = f"http://127.0.0.1:{port}"  # type: ignore[attr-defined]  # for `ask`
    yield made
    made.stop()


def ask(child: Child, path: str) -> Any:
    url = f"{child.url}/api/v1/{path}"  # type: ignore[attr-defined]  # set above
    with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310 - own loopback
        return json.load(answer)


def is_online(child: Child) -> bool:
    try:
        return bool(ask(child, "health")["broker"]["state"] == "online")
    except OSError:
        return False


def rows_of(folder: Path) -> list[tuple[int, int]]:
    """(time in ms, x) of every stored row in stored order, read from the day files."""
    from collector.store.chunk import read_chunk, times_of
    from collector.store.folder import day_files

    found: list[tuple[int, int]] = []
    for path in day_files(folder):
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            db.execute("BEGIN")  # a collector may pack messages between two statements
            for (body,) in db.execute("SELECT body FROM chunk ORDER BY id"):
                chunk = read_chunk(body)
                found += zip((chunk.times // 1000).tolist(), chunk.columns["x"].tolist(), strict=True)
            for (body,) in db.execute("SELECT body FROM raw ORDER BY id"):  # these wait to be packed
                batch = decode(body, Batch)
                found += zip((times_of(batch) // 1000).tolist(), cast(list[int], batch.f["x"]), strict=True)
    return found


def expect_exactly(folder: Path, count: int) -> None:
    rows = rows_of(folder)
    expected = [
        (T0 + seq * 100 + row * 10, seq * ROWS + row) for seq in range(1, count + 1) for row in range(ROWS)
    ]
    assert len(rows) == len(expected), "rows are missing or stored twice"
    assert sorted(rows) == expected


def test_acknowledged_means_stored(tmp_path: Path, broker: BrokerProcess, child: Child) -> None:
    child.start()
    early: list[int] = []
    reader = SqliteSource(tmp_path / "store")

    def check(ack: Ack) -> None:
        stored = {seq for _, _, seqs, _ in reader.all_chunks() for seq in seqs}
        early.extend(seq for first, last in ack.ok for seq in range(first, last + 1) if seq not in stored)
        acks.append(ack)

    acks: list[Ack] = []
    with Sender(broker.port) as sender:
        sender.on_ack = check
        wait_until(lambda: is_online(child), "the collector connects")
        for _ in range(10):
            sender.send(30)
            time.sleep(0.05)
        sender.wait()
    reader.close()
    assert early == []
    assert {ack.by for ack in acks} == {"collector-1"}
    assert len(acks) < 100, "ranges are joined: far fewer acks than messages"
    expect_exactly(tmp_path / "store", 300)
    assert [x for _, x in rows_of(tmp_path / "store")] == sorted(x for _, x in rows_of(tmp_path / "store"))
    (entry,) = ask(child, "ledger")["entries"]
    assert (entry["taken"], entry["stored"], entry["missing"], entry["rows_stored"]) == (300, 300, [], 3000)
    assert ask(child, "health")["broker"]["protocol"] == ("5" if broker.kind == "mosquitto" else "3.1.1")
    report = subprocess.run(
        edgebed_command("ledger", "--store", str(tmp_path / "store"), "--audit"),
        capture_output=True,
        text=True,
    )
    assert report.returncode == 0, report.stderr
    assert "100.000 % of 300 messages stored (3,000 rows)" in report.stdout


@pytest.mark.parametrize("broker", LONG_TEST_KINDS, indirect=True)
def test_kill_9_in_mid_stream_loses_and_doubles_nothing(
    tmp_path: Path, broker: BrokerProcess, child: Child
) -> None:
    dice = random.Random(7)
    child.start()
    with Sender(broker.port) as sender:
        wait_until(lambda: is_online(child), "the collector connects")
        for round_ in range(5):
            target = sender.acked.count() + 20
            while sender.acked.count() < target:
                sender.send(10)
                time.sleep(0.03)
            time.sleep(dice.uniform(0, 0.15))
            if round_ == 2:
                broker.kill()
                sender.send(50)
                broker.start()
            elif round_ == 3:
                assert child.stop() == 0
                child.start()
            else:
                child.kill()
                sender.send(50)
                child.start()
        sender.wait()
        wait_until(lambda: is_online(child), "the collector is back")
        (entry,) = ask(child, "ledger")["entries"]
    assert (entry["taken"], entry["stored"], entry["missing"]) == (sender.taken, sender.taken, [])
    assert child.stop() == 0
    expect_exactly(tmp_path / "store", sender.taken)


@pytest.mark.parametrize("broker", LONG_TEST_KINDS, indirect=True)
def test_duplicates_are_dropped_counted_and_acknowledged_again(broker: BrokerProcess, child: Child) -> None:
    child.start()
    with Sender(broker.port) as sender:
        wait_until(lambda: is_online(child), "the collector connects")
        sender.send(20)
        sender.wait()
        again = Ranges()
        sender.on_ack = lambda ack: again.update(ack.ok)
        sender.taken = 0
        sender.send(20)
        wait_until(lambda: again.count() == 20, "the duplicates are acknowledged too")
        (entry,) = ask(child, "ledger")["entries"]
    assert (entry["stored"], entry["duplicates"], entry["rows_stored"]) == (20, 20, 200)


@pytest.mark.parametrize("broker", LONG_TEST_KINDS, indirect=True)
def test_garbage_is_quarantined_alone(tmp_path: Path, broker: BrokerProcess, child: Child) -> None:
    dice = random.Random(3)
    child.start()
    with Sender(broker.port) as sender:
        wait_until(lambda: is_online(child), "the collector connects")
        base = f"{NODE.base}/"
        tails = [
            "data/arm/joints", "event/arm/alarm", "data/arm", "data/arm/joints/more", "data/ARM/joints",
            "status", "birth", "live/arm/joints", "snap/arm/frames", "live/_/agent", "res/arm/ping",
            "reported/config", "log/info", "event//x", "data/arm/" + "x" * 300,
        ]  # fmt: skip
        bodies = [
            b"", b"{}", b"null", b"[" * 20_000, b'{"ep":"%s","seq":1}' % EP.encode(), b"\x1f\x8b\x08\x00junk",
            b"\x28\xb5\x2f\xfd\xff", b'{"ts":-1}', b"1e999", b'{"state":"online"}', b"x" * 65_000,
        ]  # fmt: skip
        for number in range(300):
            body = dice.choice(bodies) if number % 2 else dice.randbytes(dice.randrange(1, 400))
            sender.client.publish(base + dice.choice(tails), body, qos=1)
            if number % 10 == 0:
                sender.send(1)
        sender.wait()
        wait_until(lambda: ask(child, "quarantine")["total"] >= 150, "the garbage is quarantined")
        sender.send(10)
        sender.wait()
        items = ask(child, "quarantine?limit=500")["items"]
        health = ask(child, "health")
    assert ask(child, "health")["quarantined"] == ask(child, "quarantine")["total"]
    assert all(item["why"] and len(item["topic"]) <= 256 for item in items)
    assert any("60000 are allowed" in item["why"] for item in items)
    assert any("takes 2 more segments" in item["why"] for item in items)
    assert health["broker"]["state"] == "online"
    (entry,) = ask(child, "ledger")["entries"]
    assert entry["stored"] + entry["gap_count"] == entry["taken"] == 40
    assert "Traceback" not in child.log.read_text()


def test_a_full_disk_holds_everything_back_and_loses_nothing(
    tmp_path: Path, broker: BrokerProcess, child: Child
) -> None:
    child.start()
    with Sender(broker.port) as sender:
        wait_until(lambda: is_online(child), "the collector connects")
        sender.send(20)
        sender.wait()
        largest = max(path.stat().st_size for path in (tmp_path / "store").iterdir())
        limit = resource.prlimit(child.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (largest + 4096, limit[1]))
        sender.send(300)
        wait_until(lambda: ask(child, "health")["store"]["state"] == "blocked", "the store is blocked")
        held = len({seq for _, _, seqs, _ in read_all(tmp_path) for seq in seqs})
        wait_until(lambda: sender.acked.count() == held, "what was stored before is acknowledged")
        health = ask(child, "health")
        assert health["state"] == "degraded"
        assert "000001-" in health["store"]["trouble"] or "full" in health["store"]["trouble"]
        time.sleep(1.2)
        assert sender.acked.count() == held < 320
        assert {seq for _, _, seqs, _ in read_all(tmp_path) for seq in seqs} == set(range(1, held + 1))
        resource.prlimit(child.pid, resource.RLIMIT_FSIZE, limit)
        sender.wait()
        assert ask(child, "health")["store"]["state"] == "ok"
    assert child.stop() == 0
    expect_exactly(tmp_path / "store", 320)
    log = child.log.read_text()
    assert log.count("nothing is acknowledged until it is stored") == 1
    assert log.count("the problem store-blocked has ended") == 1


def read_all(tmp_path: Path) -> list[tuple[str, str, list[int], int]]:
    reader = SqliteSource(tmp_path / "store")
    try:
        return list(reader.all_chunks())
    finally:
        reader.close()


@pytest.mark.parametrize("broker", LONG_TEST_KINDS, indirect=True)
def test_a_restart_brings_back_ledger_and_fleet(broker: BrokerProcess, child: Child) -> None:
    child.start()
    with Sender(broker.port) as sender:
        wait_until(lambda: is_online(child), "the collector connects")
        publish = sender.client.publish
        publish(NODE.topic("status"), encode(Status(state="online", ts=T0, boot="deadbeef", sess=4)), 1, True)
        birth = Birth(ts=T0, boot="deadbeef", sess=4, ep=EP, agent=AgentInfo(ver="0.1.0"))
        publish(NODE.topic("birth"), encode(birth), 1, True)
        lost = Event(ep=EP, seq=9, ts=T0, type="gap", lost=[(6, 8)], why="disk full")
        publish(NODE.topic("event", "_", "gap"), encode(lost), 1)
        beat = {"ts": T0, "ep": EP, "head": 12, "depth": 2, "taken_rows": 60, "rss_mb": 41.5}
        publish(NODE.topic("live", "_", "agent"), encode(beat), 0)
        sender.send(5)
        sender.wait()
        wait_until(lambda: ask(child, "ledger")["totals"]["stored"] == 6, "the gap event is stored")
        before = ask(child, "ledger")["entries"]
        child.stop()
        publish(NODE.topic("status"), b"", 1, True)  # the broker loses its data, the store does not
        publish(NODE.topic("live", "_", "agent"), b"", 0, True)
        child.start()
        wait_until(lambda: is_online(child), "the collector connects again")
        after = ask(child, "ledger")["entries"]
        (node,) = ask(child, "fleet")["nodes"]
    assert after == before
    assert (before[0]["gap_count"], before[0]["waiting"], before[0]["missing_count"]) == (3, 2, 1)
    assert (node["agent"], node["health"]["rss_mb"]) == ("0.1.0", 41.5)


def test_what_an_absent_collector_missed_waits_for_it(
    tmp_path: Path, broker: BrokerProcess, child: Child
) -> None:
    child.start()
    wait_until(lambda: is_online(child), "the collector connects")
    child.kill()
    with Sender(broker.port) as sender:
        sender.send(100)
        wait_until(lambda: not sender.client._out_messages, "the broker has them")
        child.start()
        sender.wait()
    child.stop()
    expect_exactly(tmp_path / "store", 100)


def test_a_second_collector_on_the_store_is_refused(tmp_path: Path) -> None:
    command = edgebed_command("collector", "run", "--store", str(tmp_path / "store"), "--port", "0")
    with Child("collector", command, tmp_path / "collector.log") as first:
        first.first_line()
        second = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (second.returncode, second.stdout) == (75, "")
    assert second.stderr.count("\n") == 1
    assert "another collector writes to" in second.stderr


PATIENCE_S = 4.0  # longer than a busy machine separates broker and collector


@contextmanager
def hurried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(connection, "SILENCE_S", PATIENCE_S)
    monkeypatch.setattr(connection, "PROBE_EVERY_S", 0.3)
    monkeypatch.setattr(connection, "ASK_AGAIN_S", ())  # it would repair the fault of this test
    yield


@asynccontextmanager
async def collecting(tmp_path: Path, port: int, username: str = "") -> AsyncIterator[Collector]:
    config = CollectorConfig(
        broker=Broker(url=f"mqtt://127.0.0.1:{port}", username=username),
        store=tmp_path / "store",
        http=Http(port=0),
    )
    collector = Collector(config, Clock())
    running = asyncio.create_task(collector.run())
    try:
        yield collector
    finally:
        collector.stop()
        async with asyncio.timeout(60):
            await running


async def test_a_silent_connection_is_replaced(
    tmp_path: Path, broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hurried(monkeypatch):
        async with FaultProxy(broker.port) as proxy, collecting(tmp_path, proxy.port) as collector:
            await until(lambda: collector.link.state.state == "online")
            await asyncio.sleep(PATIENCE_S + 1)
            assert collector.link.state.rebuilt == 0, "the own probe is a sign of life"
            proxy.black_hole(True)
            await until(lambda: collector.link.state.rebuilt >= 1)
            proxy.black_hole(False)
            proxy.cut()
            await until(lambda: collector.link.state.state == "online")
            with Sender(broker.port) as sender:
                sender.send(20)
                await asyncio.to_thread(sender.wait)
    expect_exactly(tmp_path / "store", 20)


def unsubscribe(client: BlockingClient, topic: str) -> None:
    """Unsubscribe in the thread of the client, which never does so by itself."""
    turn = client.turn

    def turn_once() -> None:
        client.turn = turn  # type: ignore[method-assign]
        client._paho.unsubscribe(topic)
        client._paho.loop_write()
        turn()

    client.turn = turn_once  # type: ignore[method-assign, assignment]


@pytest.mark.parametrize("tail", ["data/#", "status"])
async def test_a_subscription_that_died_alone_is_replaced(
    tmp_path: Path, broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch, tail: str
) -> None:
    """Connected, with pings and all other messages; only the messages of one class do not arrive."""
    made: list[connection.Connection] = []

    def noted(*arguments: Any) -> connection.Connection:
        made.append(connection.Connection(*arguments))
        return made[-1]

    monkeypatch.setattr(link_module, "Connection", noted)
    with hurried(monkeypatch):
        async with collecting(tmp_path, broker.port) as collector:
            await until(lambda: collector.link.state.state == "online")
            *_, receiving = (one for one in made if one._link is collector.link)
            unsubscribe(receiving._client, f"{connection.NODE}/{tail}")
            with Sender(broker.port) as sender:
                sender.send(20)
                status = Status(state="online", ts=T0, boot="deadbeef", sess=4)
                sender.client.publish(NODE.topic("status"), encode(status), 1, True)
                await until(lambda: collector.link.state.rebuilt >= 1)
                await asyncio.to_thread(sender.wait)
                await until(lambda: collector.fleet.views(str(NODE))[0].state == "online")
    expect_exactly(tmp_path / "store", 20)


class OneClient(BrokerProcess):
    """A mosquitto that takes every connection of a user for one client."""

    def command(self) -> list[str]:
        program, flag, path = super().command()
        with Path(path).open("a") as conf:
            conf.write("use_username_as_clientid true\n")
        return [program, flag, path]


async def test_a_broker_that_gives_no_second_connection(tmp_path: Path) -> None:
    """Acks have their own connection where possible; here each of the two would end the other."""
    try:
        broker = OneClient("mosquitto", tmp_path / "broker")
        broker.start()
    except Unreachable as error:
        pytest.skip(str(error))
    try:
        async with collecting(tmp_path, broker.port, "collector-1") as collector:
            acks = collector.link.acks
            assert acks is not None
            await until(lambda: acks.link.state.state == "stopped", "it gives in")
            await until(lambda: collector.link.state.state == "online")
            connects = collector.link.state.connects
            sender = Sender(broker.port)
            sender.client.username_pw_set(NODE.client_id)
            with sender:
                sender.send(50)
                await asyncio.to_thread(sender.wait)
            assert collector.link.state.connects == connects, "the connection stays from then on"
    finally:
        broker.stop()
    expect_exactly(tmp_path / "store", 50)


async def test_while_the_queue_is_full_nothing_is_read_and_nothing_is_lost(
    tmp_path: Path, broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    from collector.ingest import inbox
    from collector.ingest import writer as ingest_writer
    from collector.store.day_schema import StoreBusy

    monkeypatch.setattr(inbox, "QUEUE_MESSAGES", 50)
    monkeypatch.setattr(ingest_writer, "RETRY_S", 0.1)
    blocked = threading.Event()
    blocked.set()
    with hurried(monkeypatch):
        async with collecting(tmp_path, broker.port) as collector:
            commit = collector.store.commit

            def hesitating(group: Any) -> None:
                if blocked.is_set():
                    raise StoreBusy("the disk is full")
                commit(group)

            monkeypatch.setattr(collector.store, "commit", hesitating)
            await until(lambda: collector.link.state.state == "online")
            with Sender(broker.port) as sender:
                sender.send(400)
                await until(lambda: collector.ingest.backlog >= 50)
                await asyncio.sleep(PATIENCE_S + 1)
                assert collector.ingest.backlog <= 50 + 250
                assert sender.acked.count() == 0
                assert collector.link.state.rebuilt == 0, "the collector itself holds back"
                blocked.clear()
                await asyncio.to_thread(sender.wait)
    expect_exactly(tmp_path / "store", 400)


class Deaf:
    """A line that removes statuses from what the broker sends, until a later SUBSCRIBE.

    It PUBACKs them, so for the broker they are delivered and never sent again: nats-server does this with a
    status that is published while a session subscribes.
    """

    def __init__(self, port: int, deaf_for: int) -> None:
        self.port = 0
        self.subscribes = 0
        self._target, self._deaf_for = port, deaf_for
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Deaf:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        from_broker, to_broker = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._up(reader, to_broker))
                group.create_task(self._down(from_broker, writer, to_broker))
        except* (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            to_broker.close()

    async def _up(self, reader: asyncio.StreamReader, to_broker: asyncio.StreamWriter) -> None:
        while True:
            head, body = await _packet(reader)
            self.subscribes += head[0] >> 4 == 8
            to_broker.write(head + body)

    async def _down(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, to_broker: asyncio.StreamWriter
    ) -> None:
        while True:
            head, body = await _packet(reader)
            if head[0] >> 4 == 3 and self.subscribes <= self._deaf_for:
                size = int.from_bytes(body[:2])
                if body[2 : 2 + size].endswith(b"cobot-01/status"):
                    if head[0] & 6:
                        to_broker.write(b"\x40\x02" + body[2 + size : 4 + size])
                    continue
            writer.write(head + body)


async def _packet(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(2)
    size, shift = head[1] & 127, 7
    while head[-1] & 128:
        head += await reader.readexactly(1)
        size |= (head[-1] & 127) << shift
        shift += 7
    return head, await reader.readexactly(size)


async def test_a_status_that_was_missed_while_subscribing_is_asked_for_again(
    tmp_path: Path, broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the first repetition, or by the second when the first one fails too."""
    monkeypatch.setattr(connection, "ASK_AGAIN_S", (0.3, 0.6))
    with Sender(broker.port) as sender:
        await until(sender.client.is_connected)
        status = Status(state="online", ts=T0, boot="deadbeef", sess=4, agent="0.1.0")
        retained = sender.client.publish(NODE.topic("status"), encode(status), 1, True)
        await asyncio.to_thread(retained.wait_for_publish, 60)
        for deaf_for in (1, 2):
            folder = tmp_path / str(deaf_for)
            async with Deaf(broker.port, deaf_for) as line, collecting(folder, line.port) as made:
                await until(lambda made=made: made.fleet.views(str(NODE)))
                (view,) = made.fleet.views(str(NODE))
                assert view.agent == "0.1.0"
                assert line.subscribes > deaf_for, "until then nothing arrived"
                assert made.link.state.rebuilt == 0
