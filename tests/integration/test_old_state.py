"""What edgebed 0.1.0 left on disks opens with the code of today; what it is: fixtures/state-0.1/README.md."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import subprocess
import tarfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from agent.outbox import Message, Outbox, OutboxSettings, Record
from collector.ingest.group_builder import GroupBuilder
from collector.ledger.balance import GONE
from collector.ledger.ledger import Ledger
from collector.mqtt.received import Received
from collector.store.clock_skew import Offset
from collector.store.day_schema import SCHEMA, schema_of
from collector.store.folder import day_files
from collector.store.store import SqliteStore
from edgebed.broker import BrokerProcess
from edgebed.drill.check import kept
from edgebed.processes import Child, edgebed_command
from tests import paho_client
from tests.polling import wait_until
from wire.clock import NS_PER_MS, Clock
from wire.codec import encode
from wire.messages import Batch
from wire.topics import parse

WRITTEN = Path(__file__).resolve().parents[1] / "fixtures" / "state-0.1"
PILOT = "acme/old"
BOX, GAPS, HAND, TWIN = (f"{PILOT}/hall/{name}" for name in ("box", "gaps", "hand", "twin"))
BOX_EP, GAPS_EP, HAND_EP = "47e12e219ab6bc22", "729ad57bdf740a85", "c0ffee00c0ffee00"
FIRST_TWIN_EP, SECOND_TWIN_EP = "7a3aa46b6d418739", "89b9b1e7f4ea5f9d"
MIDNIGHT_MS = 1_795_219_200_000  # 2026-11-21
FIRST_ROW_MS = MIDNIGHT_MS - 30_000
PING = "01JD0000000000000000000001"  # the command that the box executed
BOX_WAITS, BOX_ROWS_WAIT = range(31, 47), 35  # numbers; rows of vital signs among them
DAYS = ("000001-2026-11-20", "000002-2026-11-21")  # the files of the store
ALL = 1 << 30


def unpack(name: str, to: Path) -> Path:
    with tarfile.open(WRITTEN / f"{name}.tar.gz") as archive:
        archive.extractall(to, filter="data")
    return to / name


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return unpack("site", tmp_path)


def edgebed(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = edgebed_command(*map(str, arguments))
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def wait(what: str, condition: Callable[[], Any], deadline_s: float = 60.0) -> Any:
    until = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < until, what
        time.sleep(0.05)
    return found


# --- the outbox


def opened(folder: Path) -> Outbox:
    return Outbox.open(folder, OutboxSettings(max_mb=1), Clock())


def digest(records: list[Record]) -> str:
    """Of everything that a record holds, to the bit."""
    found = hashlib.sha256()
    for each in records:
        head = (
            each.seq,
            each.cls,
            each.tail,
            each.at_ms,
            each.offset_ns,
            each.boot,
            each.rows,
            each.unsynced,
        )
        found.update(repr(head).encode() + each.body)
    return found.hexdigest()


def test_an_outbox_gives_what_waits_to_the_bit_and_goes_on(tmp_path: Path) -> None:
    folder = unpack("outbox", tmp_path)
    outbox = opened(folder)
    assert (outbox.ep, outbox.head) == ("3caf117b8195d459", 127)
    stats = outbox.stats()
    assert (stats.taken_rows, stats.dropped_rows, stats.acked) == (216, 101, 23)
    assert (stats.dropped, stats.torn_bytes, stats.trouble) == ({"data": 51, "event": 0}, 0, "")
    records = outbox.take(ALL, ALL)
    assert stats.depth == len(records) == 57
    assert digest(records) == "3ddb8f3eb4596fb89e8252d540f1a38ca6df439dee259ab88923160f3a7da415"
    alarms = [each for each in records if each.tail == "arm/alarm"]
    assert [each.seq for each in alarms[:3] + alarms[-2:]] == [24, 28, 32, 123, 127]
    assert all(each.unsynced for each in alarms)
    gaps = [json.loads(each.body) for each in records if each.tail == "_/gap"]
    assert [gap["why"] for gap in gaps] == ["too-large", *["quota"] * 5]
    assert gaps[0]["lost"] == [[41, 41]]
    assert gaps[1]["lost"] == [[1, 3], [5, 7], [9, 11], [13, 13]]
    batches = [each for each in records if each.cls == "data"]
    assert [each.seq for each in batches[:4] + batches[-2:]] == [91, 92, 94, 95, 125, 126]
    first = json.loads(batches[0].body)
    assert (first["no"], first["f"]["x"]) == ([1, 130], [88, 88.5])

    fresh = Message("data", "arm", "joints", Batch(t0=1, per=1, n=1, f={"x": [1.0]}))
    assert outbox.append(fresh) == 128
    assert outbox.commit()
    assert [json.loads(each.body)["no"] for each in outbox.take(ALL, ALL)] == [[128, 1]]
    assert outbox.ack([(1, 127)]) == 57
    outbox.close()
    again = opened(folder)
    assert (again.ep, [each.seq for each in again.take(ALL, ALL)]) == ("3caf117b8195d459", [128])
    assert again.stats().dropped == {"data": 51, "event": 0}
    again.close()


def test_an_outbox_of_a_killed_agent_gives_what_waits(site: Path) -> None:
    outbox = opened(site / "state-box" / "outbox")
    records = outbox.take(ALL, ALL)
    assert (outbox.ep, outbox.head, outbox.stats().torn_bytes) == (BOX_EP, 46, 0)
    assert sorted(each.seq for each in records) == list(BOX_WAITS)
    tails = {each.tail for each in records}
    assert tails == {"_/custody", "bed/anomaly", "bed/vitals", "bed/news2"}
    assert digest(records) == "d7036654fa689e6cc5e8d60b113c6cfe794204b1de74cd65c9e106fcf3b2e706"
    outbox.close()


# --- the agent's state


def configured(site: Path, name: str, broker: str = "mqtt://127.0.0.1:1") -> Path:
    """The old config of an agent, on this broker and with a short recording to read."""
    path = site / f"{name}.yaml"
    document = yaml.safe_load(path.read_text())
    document["broker"]["url"] = broker
    document["devices"]["bed"]["options"].update(file="short.jsonl", rate="asap")
    path.write_text(yaml.safe_dump(document))
    return path


def status(site: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((site / f"state-{name}" / "status.json").read_text())
    return found


def agent(site: Path, name: str, broker: str = "mqtt://127.0.0.1:1") -> Child:
    command = edgebed_command("agent", "run", str(configured(site, name, broker)))
    return Child(name, command, site / f"{name}.log")


def test_the_status_of_an_agent_that_was_killed(site: Path) -> None:
    asked = edgebed("agent", "status", site / "box.yaml")
    assert asked.returncode == 69
    first, *rest = asked.stdout.splitlines()
    assert first.startswith(f"{BOX}: not running, offline, as of ")
    assert rest[:3] == [
        "outbox: 14 messages wait, the oldest for 7 s, 0.0 MB",
        "device bed: ok, 33 readings",
        "model news2: ok, news2@1.0.0 on CPUExecutionProvider, 33 runs",
    ]


def test_a_model_that_passed_the_gate_before_the_upgrade_passes_it_once_more(site: Path) -> None:
    """A verdict of another version of edgebed does not hold; one of this version holds at the next start."""
    folder = site / "state-box" / "gate"
    (old,) = folder.iterdir()
    notes: list[dict[str, tuple[int, int, bytes]]] = []
    for _ in range(2):
        boot = status(site, "box")["boot"]
        with agent(site, "box") as running:
            wait("the agent runs", lambda before=boot: status(site, "box")["boot"] != before)
            wait("the model runs", lambda: status(site, "box")["models"]["news2"]["state"] == "ok")
            assert status(site, "box")["running"], running.tail()
        notes.append(
            {
                each.name: (each.stat().st_ino, each.stat().st_mtime_ns, each.read_bytes())
                for each in folder.iterdir()
            }
        )
    assert len(notes[0]) == 2
    assert old.name in notes[0]
    assert notes[0] == notes[1], "the gate writes a verdict again each time it judges"


def version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


# --- the collector's store


def ledger(store: Path, *arguments: str) -> tuple[int, Any]:
    asked = edgebed("ledger", "--store", store, "--json", *arguments)
    return asked.returncode, json.loads(asked.stdout)


def test_the_ledger_of_a_store(site: Path) -> None:
    code, found = ledger(site / "store", "--pilot", PILOT, "--audit")
    assert code == 3  # of what is missing, and of nothing else:
    assert found["audit"] == []
    keys = ("node", "ep", "taken", "stored", "gap_count", "missing_count", "duplicates", "rows_stored")
    assert [tuple(entry[key] for key in keys) for entry in found["entries"]] == [
        (BOX, BOX_EP, 30, 30, 0, 0, 0, 126),
        (GAPS, GAPS_EP, 9, 6, 3, 0, 0, 6),
        (HAND, HAND_EP, 5, 3, 0, 2, 1, 9),
        (TWIN, FIRST_TWIN_EP, 2, 2, 0, 0, 0, 11),
        (TWIN, SECOND_TWIN_EP, 2, 2, 0, 0, 0, 11),
    ]
    entries = {entry["ep"]: entry for entry in found["entries"]}
    assert entries[GAPS_EP]["gaps"] == [[3, 3, "too-large"], [5, 6, "too-large"]]
    assert entries[HAND_EP]["absent"] == [[3, 4, 1795219194245, "never arrived"]]
    assert [one["key"] for one in found["strangers"]] == ["ccb43d8fbc832b00"]
    days = {(line["ep"], line["day"]): line for line in found["days"]}
    assert len(days) == 6
    evening, morning = days[BOX_EP, "2026-11-20"], days[BOX_EP, "2026-11-21"]
    keys = ("taken", "stored", "signed", "statements", "verified", "doubt", "told")
    assert [evening[key] for key in keys] == [11, 11, 11, 2, True, "", 1795219201236]
    assert [morning[key] for key in keys] == [19, 19, 18, 2, True, "", 1795219213452]
    assert morning["streams"] == {
        "data/bed/news2": {"messages": 7, "rows_taken": 35, "rows_stored": 35},
        "data/bed/vitals": {"messages": 7, "rows_taken": 35, "rows_stored": 35},
        "event/_/custody": {"messages": 2, "rows_taken": 3, "rows_stored": 3},
        "event/bed/anomaly": {"messages": 1, "rows_taken": 1, "rows_stored": 1},
        "event/bed/anomaly-end": {"messages": 1, "rows_taken": 1, "rows_stored": 1},
    }


def test_the_ledger_of_a_store_in_words(site: Path) -> None:
    asked = edgebed("ledger", "--store", site / "store")
    assert asked.returncode == 3
    assert f"{BOX}  ep {BOX_EP}\n  100.000 % of 30 messages stored (126 rows)\n" in asked.stdout
    assert "  declared lost: 5-6: too-large\n" in asked.stdout
    assert "  missing 3-4: since 2026-11-20 23:59:54 UTC, never arrived\n" in asked.stdout


@contextmanager
def collector(site: Path, broker: str = "mqtt://127.0.0.1:1") -> Iterator[Callable[[str], Any]]:
    """A collector on the old store; asks its API."""
    command = ("collector", "run", "--store", str(site / "store"), "--broker", broker, "--port", "0")
    with Child("collector", edgebed_command(*command), site / "collector.log") as child:
        url = child.first_line()

        def ask(path: str) -> Any:
            with urllib.request.urlopen(f"{url}/api/v1/{path}", timeout=10) as answer:  # noqa: S310 - own server
                return json.load(answer)

        yield ask


def rows_of(ask: Callable[[str], Any], stream: str) -> dict[str, Any]:
    span = f"from={FIRST_ROW_MS}&to={FIRST_ROW_MS + 60_000}"
    found: dict[str, Any] = ask(f"nodes/{BOX}/devices/bed/rows?stream={stream}&{span}")
    return found


def test_a_collector_shows_what_a_store_holds(site: Path) -> None:
    with collector(site) as ask:
        rows = rows_of(ask, "vitals")
        assert rows["us"] == [1000 * (FIRST_ROW_MS + 1000 * index) for index in range(60)]
        ill = range(30, 45)
        assert rows["f"]["spo2"] == [88 if index in ill else 97 for index in range(60)]
        pulse = [125 if index in ill else 70 + index % 7 for index in range(60)]
        assert rows["f"]["heart_rate"] == pulse
        temperature = [round(36.5 + index % 4 / 10, 1) for index in range(60)]
        assert rows["f"]["temperature"] == pytest.approx(temperature)
        results = rows_of(ask, "news2")
        assert [score >= 5 for score in results["f"]["score"]] == [index in ill for index in range(60)]
        assert results["f"]["alarm"] == [index in ill for index in range(60)]

        span = f"stream=vitals&field=heart_rate&from={MIDNIGHT_MS - 3_600_000}&to={MIDNIGHT_MS + 3_600_000}"
        series = ask(f"nodes/{BOX}/devices/bed/series?{span}&points=10")
        assert (series["source"], series["t"]) == ("rollup", [MIDNIGHT_MS - 60_000, MIDNIGHT_MS])
        assert (series["n"], series["min"], series["max"]) == ([30, 30], [70, 70], [76, 125])
        assert series["mean"] == pytest.approx([72.833333, 99.0])
        events = ask(f"nodes/{BOX}/devices/bed/events")["events"]
        assert [(one["ts"], one["type"], one["top"], one["score"]) for one in events] == [
            (MIDNIGHT_MS + 15_000, "anomaly-end", "resp_rate", 0),
            (MIDNIGHT_MS, "anomaly", "resp_rate", 8),
        ]
        statements = ask(f"nodes/{BOX}/devices/_/events?type=custody")["events"]
        assert [one["detail"]["upto"] for one in statements] == [29, 14, 11, 2]

        fleet = {view["node"]: view for view in ask("fleet")["nodes"]}
        assert set(fleet) == {BOX, GAPS, HAND, TWIN}
        node = ask(f"nodes/{BOX}")
        assert node["birth"]["models"]["news2"]["ver"] == "1.0.0"
        quarantine = ask("quarantine")
        assert quarantine["total"] == 2
        assert [one["head"] for one in quarantine["items"]] == ["{}", "{this is no batch"]
        health = ask("health")
        assert (health["store"]["days"], health["store"]["damaged"]) == (2, [])
        assert (
            ask(f"ledger?pilot={PILOT}&days=4000")["days"]
            == ledger(site / "store", "--pilot", PILOT)[1]["days"]
        )


def test_the_copy_of_the_marks_stands_in_for_a_damaged_day(site: Path) -> None:
    store = site / "store"
    _, before = ledger(store, "--pilot", PILOT)
    for day in DAYS:
        (store / f"{day}.db").write_bytes(b"\xff" * 8192)
    with collector(site) as ask:
        assert ask("health")["store"]["damaged"] == [f"{day}.db.damaged" for day in DAYS]

        def without_rows() -> Any:  # the ledger may follow a moment after the health
            found = ask(f"ledger?pilot={PILOT}&days=4000")
            return None if any(one["stored"] for one in found["entries"]) else found

        after = wait_until(without_rows)
    # every account and signed day is known, and what was in the damaged files is missing
    stored = [
        (one["node"], one["ep"], one["taken"], one["stored"], one["gap_count"]) for one in before["entries"]
    ]
    assert stored == [
        (one["node"], one["ep"], one["taken"], one["missing_count"] - more["missing_count"], one["gap_count"])
        for one, more in zip(after["entries"], before["entries"], strict=True)
    ]
    assert {one["stored"] for one in after["entries"]} == {0}
    assert {why for one in after["entries"] for _, _, _, why in one["absent"]} >= {GONE}
    days = [(one["node"], one["day"], one["taken"], one["statements"]) for one in before["days"]]
    assert [(one["node"], one["day"], one["taken"], one["statements"]) for one in after["days"]] == days


@pytest.mark.parametrize("days", [0, 1])
def test_day_files_of_the_first_schema_stay_as_they_are(site: Path, days: int) -> None:
    folder = site / "store"
    before = {name: (folder / f"{name}.db").read_bytes() for name in DAYS}
    clock = FixedClock(MIDNIGHT_MS + 3_600_000 + days * 86_400_000)
    for seq in (1, 2):
        store = SqliteStore(folder, clock)
        ledger = Ledger(store.load().marks)
        again = encode(Batch(ep=BOX_EP, seq=5, t0=clock.now_ms(), per=20, n=1, f={"x": [1.0]}))
        new = encode(Batch(ep="aa" * 8, seq=seq, t0=clock.now_ms(), per=20, n=1, f={"x": [1.0]}))
        topic = f"tb1/{BOX}/data/bed/vitals"
        received = [
            Received(topic, body, clock.now_ms(), False, None, parsed=parse(topic)) for body in (again, new)
        ]
        built = GroupBuilder(ledger, lambda _node: Offset(), clock.now_ms()).build(received)
        built.group.marks = ledger.marks(built.drafts)
        store.commit(built.group)
        store.close()
        assert (built.stored, built.duplicates) == (1, 1), "what the old files have is known"
    assert {name: (folder / f"{name}.db").read_bytes() for name in DAYS} == before
    assert [schema_of(path) for path in day_files(folder)] == [1, 1, SCHEMA]
    assert day_files(folder)[2].name == f"000003-2026-11-2{1 + days}.db"
    assert kept(folder)[BOX, "aa" * 8].stored == {1, 2}


class FixedClock(Clock):
    """A clock that stands."""

    def __init__(self, ms: int) -> None:
        super().__init__()
        self._ms = ms

    def now_ns(self) -> int:
        return self._ms * NS_PER_MS


# --- all of it at work again


class Answers:
    """Sends commands to the box and keeps what it answers."""

    def __init__(self, port: int) -> None:
        self.by_id: dict[str, str] = {}
        self._heard = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="operator")
        self._client.on_message = self._take
        self._client.on_subscribe = lambda *_: self._heard.set()
        self._client.connect("127.0.0.1", port)
        self._client.subscribe(f"tb1/{BOX}/res/#", qos=1)
        self._client.loop_start()
        assert self._heard.wait(20)

    def _take(self, _client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        answer = json.loads(message.payload)
        self.by_id[answer["id"]] = answer["state"]

    def ping(self, identity: str) -> str:
        command = {"v": 1, "id": identity, "ts": Clock().now_ms(), "ttl_ms": 60_000}
        self._client.publish(f"tb1/{BOX}/cmd/_/ping", json.dumps(command), qos=1)
        state: str = wait("an answer", lambda: self.by_id.get(identity))
        return state

    def close(self) -> None:
        paho_client.end(self._client)


def test_agents_and_collector_go_on_where_they_stopped(site: Path, tmp_path: Path) -> None:
    _, before = ledger(site / "store", "--pilot", PILOT)
    keys = [(site / f"state-{name}" / "node.key").read_bytes() for name in ("box", "twin")]
    with BrokerProcess("nats", tmp_path / "broker") as broker, collector(site, broker.url) as ask:
        with agent(site, "twin", broker.url), agent(site, "box", broker.url):
            wait(
                "ten more rows of the twin are stored", lambda: entry(ask, SECOND_TWIN_EP)["rows_stored"] > 20
            )
            wait("what waited and ten rows are stored", lambda: entry(ask, BOX_EP)["stored"] >= 48)
            with closing(Answers(broker.port)) as box:
                assert (box.ping(PING), box.ping(f"{PING[:-1]}2")) == ("duplicate", "done")
        last = {ep: status(site, name) for name, ep in (("box", BOX_EP), ("twin", SECOND_TWIN_EP))}
        for ep, each in last.items():
            wait("all is stored", lambda ep=ep, each=each: entry(ask, ep)["stored"] == each["head"])
            assert (each["ep"], each["depth"]) == (ep, 0)
            assert [entry(ask, ep)[key] for key in ("gap_count", "missing_count", "duplicates")] == [0, 0, 0]
        # one CONNECT of the box, which knew that the broker speaks MQTT 3.1.1; two of the twin, which did not
        assert (last[BOX_EP]["sess"], last[SECOND_TWIN_EP]["sess"]) == (9, 4)
        assert len(rows_of(ask, "vitals")["us"]) == 60 + BOX_ROWS_WAIT + 10
        after = ask(f"ledger?pilot={PILOT}&days=4000")
        assert after["strangers"] == []  # the key of the twin was accepted
        old = {(line["ep"], line["day"]): line for line in before["days"]}
        new = {(line["ep"], line["day"]): line for line in after["days"]}
        assert new[BOX_EP, "2026-11-20"] == old[BOX_EP, "2026-11-20"]
        morning = new[BOX_EP, "2026-11-21"]
        assert (morning["taken"], morning["verified"], morning["doubt"]) == (19 + len(BOX_WAITS), True, "")
        today = [line for key, line in new.items() if key not in old]
        assert {(line["ep"], line["statements"] > 0, line["verified"]) for line in today} == {
            (BOX_EP, True, True),
            (SECOND_TWIN_EP, True, True),
        }
    assert [(site / f"state-{name}" / "node.key").read_bytes() for name in ("box", "twin")] == keys


def entry(ask: Callable[[str], Any], ep: str) -> dict[str, Any]:
    (found,) = [one for one in ask("ledger")["entries"] if one["ep"] == ep]
    return dict(found)


# --- a recording


def test_a_recording_gives_the_events_it_gave(tmp_path: Path) -> None:
    folder = unpack("recording", tmp_path)
    session = folder / "session.mcap"
    asked = edgebed("replay", session)
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout == (folder / "expect.jsonl").read_text()
    assert [json.loads(line)["ts"] for line in asked.stdout.splitlines()] == [
        MIDNIGHT_MS,
        MIDNIGHT_MS + 15_000,
    ]
    compared = edgebed("replay", session, "--expect", folder / "expect.jsonl")
    assert (compared.returncode, compared.stdout) == (0, "as expected\n")
    told = json.loads(edgebed("replay", session, "--json").stdout)
    assert (told["readings"], told["left_out"], told["recovered"], told["events"]) == (63, 0, "", 2)
    onnx = hashlib.sha256((folder / "news2" / "model.onnx").read_bytes()).hexdigest()
    assert (told["models"], told["changed_models"]) == ({"news2": f"news2@1.0.0 {onnx}"}, [])
