"""The daemon as a whole: real brokers, real processes, a recording for a device, an ONNX model made here."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiomqtt
import msgspec
import pytest
import yaml
from click.testing import CliRunner, Result
from onnx import helper

from agent import app as daemon
from agent.app import App, _CommitWatch
from agent.config import load
from agent.health import is_well, read_status, status_lines
from agent.inference.signing import signature
from agent.outbox import Message, Outbox, OutboxSettings
from agent.state_dir import is_running, locked
from edgebed.broker import BrokerProcess, free_port
from edgebed.cli import command
from edgebed.processes import edgebed_command
from tests.polling import until
from wire import codec, topics
from wire.clock import Clock
from wire.errors import ConfigError, TryAgain
from wire.messages import Ack, Batch, Birth, Event, Status
from wire.task_cancellation import end

HZ = 50
NODE = "t/p/s/n"


@pytest.fixture
def model(packages: Any) -> Path:
    """An anomaly model over half a second of both signals."""
    body = packages.model(
        [helper.make_node("ReduceMax", ["x"], ["y"], axes=[1, 2], keepdims=0)],
        inputs={"x": (1, 25, 2)},
        outputs={"y": (1,)},
    )
    window = {"kind": "window", "name": "x", "signals": ["a", "b"], "rate_hz": HZ, "length": 25, "hop": 25}
    output = {"decoder": "anomaly", "threshold": 99.5}
    return packages.write(body, name="peak", input=window, output=output)


@pytest.fixture
def config(tmp_path: Path, model: Path) -> Callable[..., Path]:
    """Writes a config for `url` whose device repeats 100 rows at 50 Hz; `a` counts from 1 to 100."""

    def write(url: str, **changes: Any) -> Path:
        rows = "".join(f"{i / HZ},{i + 1},{-i}\n" for i in range(100))
        (tmp_path / "rows.csv").write_text("t,a,b\n" + rows)
        options = {
            "file": "rows.csv",
            "time": "t",
            "rate_hz": HZ,
            "stream": "rows",
            "loop": True,
            "fields": {"a": "a", "b": "b"},
        }
        document = {
            "node": NODE,
            "broker": {"url": url},
            "state": "state",
            "devices": {"arm": {"adapter": "replay", "options": options}},
            "models": {"peak": {"package": str(model), "input": "arm/rows"}},
            **changes,
        }
        path = tmp_path / "agent.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    return write


class Centre:
    """A subscriber that keeps what it gets and acknowledges it, as a collector does after its commit."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self.client = client
        self.got: list[tuple[topics.Topic, bytes]] = []

    async def run(self) -> None:
        async for message in self.client.messages:
            topic = topics.parse(str(message.topic))
            body = codec.plain(bytes(message.payload)) if message.payload else b""  # type: ignore[arg-type]
            self.got.append((topic, body))
            if topic.cls in ("data", "event"):
                found = msgspec.json.decode(body, type=Batch if topic.cls == "data" else Event)
                ack = Ack(ep=found.ep, ok=[(found.seq, found.seq)], by="centre", ts=1)
                await self.client.publish(topic.address.topic("ack"), codec.encode(ack), qos=1)

    def bodies(self, cls: str, kind: type[Any], name: str = "") -> list[Any]:
        return [
            msgspec.json.decode(body, type=kind)
            for topic, body in self.got
            if topic.cls == cls and name in ("", topic.name) and body
        ]


@contextlib.asynccontextmanager
async def centre(broker: BrokerProcess) -> AsyncIterator[Centre]:
    async with aiomqtt.Client("127.0.0.1", broker.port, identifier="centre") as client:
        await client.subscribe("tb1/#", qos=1)
        made = Centre(client)
        task = asyncio.create_task(made.run())
        try:
            yield made
        finally:
            await end([task])


@contextlib.asynccontextmanager
async def running(path: Path) -> AsyncIterator[App]:
    clock = Clock()
    app = App(load(path, clock), clock, "9.9")
    task = asyncio.create_task(app.run())
    try:
        ready = asyncio.create_task(app.ready.wait())
        await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED, timeout=60)
        ready.cancel()
        if task.done():
            task.result()
        yield app
    finally:
        app.stop()
        await asyncio.wait_for(task, 90)


async def test_from_a_recording_to_the_broker_and_nothing_is_left(
    broker: BrokerProcess, config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.app.DRAIN_S", 60.0)  # a busy machine may take long
    monkeypatch.setattr("agent.app.DRAIN_IDLE_S", 30.0)
    path = config(broker.url)
    async with centre(broker) as there:
        async with running(path) as app:
            assert is_running(path.parent / "state")
            await until(
                lambda: "anomaly-end" in [event.type for event in there.bodies("event", Event)],
                "an anomaly begins and ends",
            )
            document = read_status(path.parent / "state", NODE, Clock())
            assert document["running"]
            assert (document["node"], document["agent"], document["boot"]) == (NODE, "9.9", app.boot)
        await until(lambda: there.bodies("status", Status)[-1].state == "offline", "offline is published")
        rows = [value for batch in there.bodies("data", Batch, "rows") for value in batch.f["a"]]
        head = json.loads((path.parent / "state/status.json").read_bytes())
    assert rows == [float(i % 100 + 1) for i in range(len(rows))], "whole, in order, nothing twice"
    assert len(rows) >= 100
    seqs = sorted(b.seq for b in [*there.bodies("data", Batch), *there.bodies("event", Event)])
    assert seqs == list(range(1, len(seqs) + 1)), "every message taken was sent before the daemon ended"
    assert (head["head"], head["depth"], head["running"]) == (len(seqs), 0, False)
    events = [event for event in there.bodies("event", Event) if event.type != "custody"]
    assert [event.type for event in events[:2]] == ["anomaly", "anomaly-end"]
    assert events[0].score == 100.0
    birth = there.bodies("birth", Birth)[-1]  # the first was sent before the gate had ended
    assert set(birth.devices["arm"].streams) == {"rows", "peak"}
    assert birth.models["peak"].name == "peak"
    assert {"ping", "snapshot", "rebirth"} <= {command.name for command in birth.cmds}
    online = [body for body in there.bodies("status", Status) if body.state == "online"][-1]
    assert online.devices["arm"].state == "ok"
    assert online.models["peak"].provider == "CPUExecutionProvider"
    beats = [json.loads(body) for topic, body in there.got if (topic.cls, topic.device) == ("live", "_")]
    assert beats[-1]["head"] == len(seqs)
    assert not is_running(path.parent / "state")


async def test_without_a_broker_it_is_ready_and_keeps_everything(config: Callable[..., Path]) -> None:
    path = config(f"mqtt://127.0.0.1:{free_port()}")
    async with running(path) as app:
        await until(lambda: app.outbox.stats().taken_rows >= 60, "rows are on disk")
    document = read_status(path.parent / "state", NODE, Clock())
    assert document["depth"] == document["head"] > 0
    assert "not running, offline" in next(iter(status_lines(document)))
    async with running(path) as app:
        await until(lambda: app.outbox.stats().head > document["head"], "the same outbox continues")
        assert app.outbox.ep == document["ep"]


async def test_a_device_that_is_not_there_does_not_keep_another_from_being_read(
    config: Callable[..., Path], tmp_path: Path
) -> None:
    path = config("mqtt://127.0.0.1:9")
    document = yaml.safe_load(path.read_text())
    gone = {"file": "gone.csv", "rate_hz": 1, "fields": {"x": "x"}}
    document["devices"]["lost"] = {"adapter": "replay", "options": gone}
    document["models"]["bad"] = {"package": "nowhere", "input": "arm/rows"}
    path.write_text(yaml.safe_dump(document))
    async with running(path) as app:
        await until(lambda: app.description.status().devices["lost"].state == "degraded", "the loss is seen")
        await until(lambda: app.pipeline.runners["peak"].counters["runs"], "the other is read")
        found = app.description.status()
        assert found.devices["arm"].state == "ok"
        assert "gone.csv" in found.devices["lost"].why
        assert found.devices["lost"].code == "device-missing"
        assert "gone.csv" in str(found.devices["lost"].args["where"])
        assert (found.models["bad"].state, found.models["peak"].state) == ("failed", "ok")
        assert "nowhere" in found.models["bad"].why
        assert found.models["bad"].code == "model-refused"
    document = read_status(tmp_path / "state", NODE, Clock())
    assert document["devices"]["lost"]["code"] == "device-missing", "also in `agent status --json`"
    assert "gone.csv" in document["devices"]["lost"]["args"]["where"]
    assert not is_well({**document, "running": True})
    fine = {**document, "running": True, "devices": {}, "models": {}, "age_s": 14.0, "connected": True}
    assert is_well(fine)
    assert document["depth"]
    assert not is_well({**fine, "connected": False}), "messages wait and nothing can be sent"
    assert is_well({**fine, "connected": False, "depth": 0})
    old = {**fine, "age_s": 60.0}
    assert not is_well(old)
    assert any("check whether the disk of the state folder is full" in line for line in status_lines(old))
    assert any("device lost: degraded" in line for line in status_lines(document))


@pytest.mark.parametrize(("section", "unmapped"), [({}, 0), ({"trim": False}, 0), ({"trim": True}, 1)])
async def test_program_text_is_unmapped_only_when_the_config_asks(
    config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, section: dict[str, Any], unmapped: int
) -> None:
    calls: list[str] = []
    done = asyncio.Event()
    monkeypatch.setattr("agent.app.SETTLED_S", 0.0)
    monkeypatch.setattr(
        "agent.process_memory.unmap_program_text", lambda: calls.append("unmap") or done.set()
    )
    async with running(config("mqtt://127.0.0.1:9", memory=section)) as app:
        await until(lambda: done.is_set() or (not unmapped and app.outbox.head > 1), "the daemon has settled")
    assert len(calls) == unmapped


async def test_one_state_folder_has_one_agent(config: Callable[..., Path]) -> None:
    path = config("mqtt://127.0.0.1:9")
    words = f"another agent .process {os.getpid()}. runs on state folder"
    with locked(path.parent / "state", NODE), pytest.raises(TryAgain, match=words):
        async with running(path):
            pass
    async with running(path):
        pass


async def test_a_state_folder_belongs_to_one_node(config: Callable[..., Path]) -> None:
    def ask(*arguments: str) -> Result:
        return CliRunner().invoke(command, ["agent", *arguments])

    path = config("mqtt://127.0.0.1:9")
    state = path.parent / "state"
    async with running(path):
        pass
    (state / "node").unlink()  # a folder of an earlier release
    async with running(path) as app:
        await until(lambda: app.outbox.head > 1, "a message waits")
        other = config("mqtt://127.0.0.1:9", node="t/p/s/other")
        words = f"state folder {state} belongs to node {NODE}, not to t/p/s/other: give t/p/s/other another"
        with pytest.raises(ConfigError, match=words):  # and not "another agent runs", which systemd restarts
            async with running(other):
                pass
    for arguments in (["status"], ["status", "--json"], ["check"]):
        refused = ask(*arguments, str(other))
        assert isinstance(refused.exception, ConfigError), refused.output
        assert words in str(refused.exception)
        assert not refused.stdout or not json.loads(refused.stdout)["ok"]
    (state / "node").unlink()
    assert isinstance(ask("status", str(other)).exception, ConfigError)
    assert ask("status", str(config("mqtt://127.0.0.1:9"))).exit_code == 69, "its own node is still shown"


async def test_a_state_folder_that_cannot_be_written_is_one_sentence(config: Callable[..., Path]) -> None:
    path = config("mqtt://127.0.0.1:9", state="rows.csv/state")
    with pytest.raises(ConfigError, match="cannot be written"):
        async with running(path):
            pass


@pytest.fixture
def notify(tmp_path: Path) -> Iterator[socket.socket]:
    """A socket as systemd listens on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(tmp_path / "notify"))
        bound.settimeout(60)
        yield bound


def test_as_a_service_it_reports_ready_feeds_the_watchdog_and_ends_on_sigterm(
    config: Callable[..., Path], notify: socket.socket, tmp_path: Path
) -> None:
    path = config("mqtt://127.0.0.1:9")
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "900000"}
    with subprocess.Popen(
        edgebed_command("agent", "run", str(path)), env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            words = [notify.recv(4096).decode() for _ in range(4)]
            assert words[0].startswith("READY=1\nSTATUS=t/p/s/n: ")
            assert all(word.startswith("WATCHDOG=1") for word in words[1:])
            asked = subprocess.run(
                edgebed_command("agent", "status", "--json", str(path)), capture_output=True, text=True
            )
            assert json.loads(asked.stdout)["running"], asked.stderr
            second = subprocess.run(
                edgebed_command("agent", "run", str(path)), capture_output=True, text=True
            )
            assert second.returncode == 75
            assert f"process {process.pid}" in second.stderr
            assert "Traceback" not in second.stderr
        finally:
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    asked = subprocess.run(edgebed_command("agent", "status", str(path)), capture_output=True, text=True)
    assert asked.returncode == 69
    assert "t/p/s/n: not running" in asked.stdout


async def test_an_outbox_that_stops_committing_is_detected(tmp_path: Path) -> None:
    outbox = await asyncio.to_thread(Outbox.open, tmp_path / "outbox", OutboxSettings(), Clock())
    try:
        watch = _CommitWatch(outbox)
        assert watch.move(0.0)
        assert watch.move(100.0), "nothing waits"
        outbox.append(Message("event", "_", "x", Event(ts=1, type="x")))
        assert watch.move(101.0)
        assert watch.move(129.0)
        assert not watch.move(132.0)
        await asyncio.to_thread(outbox.commit)
        assert watch.move(133.0)
    finally:
        await asyncio.to_thread(outbox.close)


def test_ctrl_c_ends_in_order_and_twice_at_once(config: Callable[..., Path]) -> None:
    path = config("mqtt://127.0.0.1:9")
    for presses in (1, 2):
        with subprocess.Popen(
            edgebed_command("agent", "run", str(path)), stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            while "ready: " not in process.stderr.readline():
                assert process.poll() is None
            for _ in range(presses):
                process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "Traceback" not in said


def test_once_prints_what_would_be_sent_and_leaves_nothing(config: Callable[..., Path]) -> None:
    path = config("mqtt://127.0.0.1:9")
    before = sorted(path.parent.rglob("*"))
    done = subprocess.run(edgebed_command("agent", "once", str(path)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["topic"] for line in lines} >= {
        f"tb1/{NODE}/{tail}" for tail in ("data/arm/rows", "data/arm/peak", "live/arm/rows")
    }
    data = next(line["body"] for line in lines if line["topic"].endswith("data/arm/rows"))
    assert data["f"]["a"][:3] == [1.0, 2.0, 3.0]
    assert sorted(path.parent.rglob("*")) == before


def test_once_names_the_silent_device(config: Callable[..., Path]) -> None:
    path = config("mqtt://127.0.0.1:9")
    (path.parent / "rows.csv").unlink()
    done = subprocess.run(
        edgebed_command("agent", "once", "--seconds", "1", str(path)), capture_output=True, text=True
    )
    assert done.returncode == 69
    assert "rows.csv" in done.stderr
    assert done.stdout == ""


def test_once_states_how_long_a_model_needs(config: Callable[..., Path], model: Path, tmp_path: Path) -> None:
    slow = shutil.copytree(model, tmp_path / "slow")
    manifest = yaml.safe_load((slow / "manifest.yaml").read_text())
    manifest["input"]["rate_hz"] = 0.1
    (slow / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    path = config("mqtt://127.0.0.1:9", models={"peak": {"package": str(slow), "input": "arm/rows"}})
    done = subprocess.run(
        edgebed_command("agent", "once", "--seconds", "1", str(path)), capture_output=True, text=True
    )
    assert done.returncode == 3
    assert "s long: run longer, with --seconds" in done.stderr
    assert "data/arm/rows" in done.stdout


def hanging_models(packages: Any, model: Path, **hangs: bool) -> dict[str, Any]:
    """The good model and, by name, models that hang: in the gate, or only with the rows of the device."""
    found = {"peak": {"package": str(model), "input": "arm/rows"}}
    for name, in_gate in hangs.items():
        window = {"kind": "window", "name": "x", "signals": ["a", "b"], "rate_hz": HZ, "length": 4}
        body = packages.hanging() if in_gate else packages.hanging(above=50)
        # the gate's noise has this mean, the rows are far above it
        folder = packages.write(body, name=name, input={**window, "mean": [-100.0, 0.0]})
        found[name] = {"package": str(folder), "input": "arm/rows"}
    return found


async def test_models_that_hang_in_the_gate_hold_nothing_up(
    config: Callable[..., Path],
    packages: Any,
    tmp_path: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = config("mqtt://127.0.0.1:9", models=hanging_models(packages, model, h1=True, h2=True))
    async with running(path) as app:
        await until(lambda: app.sources["arm"].readings > 20, "readings flow beside the gates")
        assert app.description.status().models["h1"].code == "model-checking"
        await until(
            lambda: app.pipeline.runners["peak"].counters["runs"], "a model that passed gives results"
        )
        assert "peak" in app.description.birth().devices["arm"].streams
    monkeypatch.setattr("agent.inference.gate.WALL_S", 1.5)
    async with running(path) as app:
        await until(lambda: all(app.pipeline.models()[name].state == "failed" for name in ("h1", "h2")))
        assert app.pipeline.models()["h1"].code == "model-gate-timeout"


def test_a_stop_ends_in_order_while_a_model_hangs(
    config: Callable[..., Path], packages: Any, model: Path
) -> None:
    path = config("mqtt://127.0.0.1:9", models=hanging_models(packages, model, later=False))
    with subprocess.Popen(
        edgebed_command("agent", "run", str(path)), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        while "later@1.0 runs on" not in process.stderr.readline():
            assert process.poll() is None
        time.sleep(1.0)  # the first window hangs
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "terminate called" not in said


def test_once_ends_with_a_sentence_while_a_model_hangs(
    config: Callable[..., Path], packages: Any, model: Path
) -> None:
    path = config("mqtt://127.0.0.1:9", models=hanging_models(packages, model, later=False))
    done = subprocess.run(
        edgebed_command("agent", "once", "--seconds", "4", str(path)),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 3, done.stderr
    assert "model later: " in done.stderr
    assert "terminate called" not in done.stderr
    assert '"data/arm/peak"' in done.stdout or "/data/arm/peak" in done.stdout


async def test_a_recording_that_waits_loses_no_row_to_the_gate(
    config: Callable[..., Path], packages: Any, model: Path
) -> None:
    path = config("mqtt://127.0.0.1:9", models=hanging_models(packages, model))
    document = yaml.safe_load(path.read_text())
    document["devices"]["arm"]["options"].update(rate="asap", loop=False, times="recorded")
    path.write_text(yaml.safe_dump(document))
    async with running(path) as app:
        await until(lambda: app.sources["arm"].state.state == "stopped", "the recording has ended")
        await until(lambda: not app.pipeline.busy)
        runner = app.pipeline.runners["peak"]
        assert runner.manifest is not None
        spec = runner.manifest.input
        windows = (100 - spec.length) // spec.hop + 1
        assert runner.counters["runs"] == windows, "each window of the 100 rows"


async def test_a_model_is_stopped_when_its_key_is_revoked(
    broker: BrokerProcess,
    config: Callable[..., Path],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(daemon, "KEYS_S", 0.2)
    private, public = signature.new_key()
    signature.sign(model, private)
    keys = tmp_path / "keys" / "t"
    keys.mkdir(parents=True)
    (keys / "maker.pem").write_bytes(public)
    path = config(broker.url, trust={"keys": ["keys"], "require_signature": True})
    async with running(path) as app, centre(broker) as got:
        state = app.pipeline.models
        await until(lambda: state()["peak"].state == "ok")
        assert state()["peak"].signed_by == "maker"
        (keys / "maker.pem").rename(keys / "maker.revoked")
        await until(lambda: state()["peak"].code == "model-key-revoked")
        assert state()["peak"].state == "failed"
        assert state()["peak"].why.endswith("model.sig is by the key maker, which is revoked")
        await until(
            lambda: any(
                each.models and each.models["peak"].code == "model-key-revoked"
                for each in got.bodies("status", Status)
            )
        )
        rows = app.sources["arm"].readings
        await until(lambda: app.sources["arm"].readings > rows + HZ)
    async with running(path) as app:
        await until(lambda: app.pipeline.opened)
        assert app.pipeline.models()["peak"].code == "model-key-revoked"
