"""`edgebed sim fleet` with real brokers and a real collector: each acknowledged message is stored once."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest

from edgebed.broker import BrokerProcess
from edgebed.drill.check import kept
from edgebed.fleet.plan import FleetPlan
from edgebed.processes import Child, edgebed_command
from edgebed.signals import LIMIT_S
from tests.brokers import LONG_TEST_KINDS
from tests.integration.conftest import CollectorProcess
from tests.polling import wait_until
from wire.codec import decode
from wire.messages import Batch, Status
from wire.topics import parse

FAULTS = {"drop": 0.1, "reconnect": 0.1, "flood": 0.1}
FAULTY = [word for name, share in FAULTS.items() for word in (f"--{name}", str(share))]
SITE = "acme/trial/hall"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = edgebed_command("sim", "fleet", *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)


class Listener:
    """Everything that a client of the broker receives."""

    def __init__(self, client: mqtt.Client, *topics: str) -> None:
        self.messages: list[tuple[str, bytes]] = []
        client.on_message = lambda _client, _data, message: self.messages.append(
            (message.topic, message.payload)
        )
        subscribed: list[int] = []
        client.on_subscribe = lambda *_: subscribed.append(1)
        client.subscribe([(topic, 1) for topic in topics])
        wait_until(lambda: subscribed, "it is subscribed")

    def states(self, node: str) -> list[str]:
        """The states of a node, in their order."""
        topic = f"tb1/{SITE}/{node}/status"
        return [decode(body, Status).state for at, body in self.messages if at == topic]

    def values(self) -> dict[str, dict[int, object]]:
        """The values of each message, by node and number."""
        found: dict[str, dict[int, object]] = defaultdict(dict)
        for topic, body in self.messages:
            if "/data/" in topic:
                batch = decode(body, Batch)
                found[parse(topic).address.node][batch.seq] = batch.f
        return found


def test_a_fleet_with_faults_on_its_own_broker_and_collector(
    require: Callable[[str], str], tmp_path: Path
) -> None:
    require("mosquitto")
    plan = FleetPlan(nodes=20, rate=5, seed=3, **FAULTS)
    assert any((plan.node(number).cut_s(0) or 9) < 2 for number in plan.faults), "a connection breaks"
    figures = tmp_path / "figures.json"
    options = ["--nodes", "20", "--rate", "5", "--for", "3", "--seed", "3", "--samples", "2"]
    done = run(*options, *FAULTY, "--json", str(figures))
    assert done.returncode == 0, done.stderr
    found = json.loads(figures.read_text())
    assert found["faulty_nodes"] == {"drop": 2, "reconnect": 2, "flood": 2}
    assert found["offered"] == found["acknowledged"] == found["stored"] > 20 * 5 * 2
    assert (found["unacknowledged"], found["wrongly_acknowledged"], found["not_taken"]) == (0, 0, 0)
    assert set(found["cost"]) == {"broker", "collector", "generator"}
    assert found["cost"]["collector"]["cpu_us_per_message"] > 0
    delays = found["publish_to_ack_ms"]
    assert 0 < delays["p50"] <= delays["p90"] <= delays["p99"] <= delays["max"]
    assert re.search(r"^publish to ack +p50 [\d.,]+ ms, p90 ", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("broker", LONG_TEST_KINDS, indirect=True)
def test_a_running_collector_refuses_a_flood_and_has_everything_in_the_end(
    broker: BrokerProcess, publisher: mqtt.Client, tmp_path: Path
) -> None:
    heard = Listener(publisher, f"tb1/{SITE}/+/status", f"tb1/{SITE}/+/data/#")
    figures = tmp_path / "figures.json"
    options = ["--broker", broker.url, "--site", SITE, "--seed", "4", "--json", str(figures)]
    options += ["--nodes", "10", "--rate", "2", "--for", "3", "--custody", "2", "--heartbeat", "1", *FAULTY]
    plan = FleetPlan(nodes=10, rate=2, seed=4, **FAULTS)
    away = next(number for number, fault in plan.faults.items() if fault == "drop")
    assert (plan.node(away).cut_s(0) or 9) < 1
    runs: list[dict[str, Any]] = []
    values = []
    with CollectorProcess(tmp_path, broker, "{node: {messages_per_s: 25}}") as collector:
        collector.online()
        pids = ["--broker-pid", str(broker.pid), "--collector-pid", str(collector.pid)]
        for _ in range(2):
            heard.messages.clear()
            done = run(*options, *pids)
            assert done.returncode == 0, done.stderr
            runs.append(json.loads(figures.read_text()))
            values.append(heard.values())
            assert set(runs[-1]["cost"]) == {"broker", "collector", "generator"}
            assert runs[-1]["refusals"] > 0
            assert runs[-1]["sent_again"] > 0
            for number in range(10):
                states = heard.states(plan.node(number).name)
                assert (states[0], states[-1]) == ("online", "offline")
                if number == away:
                    assert "lost" in states, "the broker published the Will"
        days = collector.ask("ledger?pilot=acme/trial")["days"]
        fleet = {one["node"]: one for one in collector.ask("fleet")["nodes"]}
    assert len(days) >= 10
    assert [(day["node"], day["doubt"]) for day in days if day["doubt"]] == []
    assert all(day["statements"] for day in days)
    assert len(fleet) == 10
    held = kept(tmp_path / "store")
    assert len(held) == 20, "each run numbers its messages in outboxes of its own"
    assert sum(len(of.stored) for of in held.values()) == sum(one["acknowledged"] for one in runs)
    assert all(one["acknowledged"] == one["offered"] for one in runs)
    assert not [of.doubled for of in held.values() if of.doubled]
    _assert_same_values(plan, *values)


def _assert_same_values(plan: FleetPlan, *runs: dict[str, dict[int, object]]) -> None:
    """The data messages of a node have the values of the plan, whatever else it numbers among them."""
    for values in runs:
        assert len(values) == plan.nodes
        for number in range(plan.nodes):
            sent = values[plan.node(number).name]
            for message, seq in enumerate(sorted(sent)):
                assert sent[seq] == plan.columns(number, message)


@pytest.mark.parametrize("broker", LONG_TEST_KINDS, indirect=True)
def test_without_a_collector_nothing_is_acknowledged(broker: BrokerProcess) -> None:
    done = run("--broker", broker.url, "--nodes", "3", "--for", "1", "--drain", "0.2", "--connections", "2")
    assert done.returncode == 1
    assert re.fullmatch(r"edgebed: \d+ messages were not acknowledged\n", done.stderr)
    assert "2 connections" in done.stdout


def test_many_nodes_share_one_connection(require: Callable[[str], str], tmp_path: Path) -> None:
    require("mosquitto")
    with BrokerProcess("mosquitto", tmp_path / "broker", persistent=False) as broker:
        done = run(
            *("--broker", broker.url, "--site", SITE, "--nodes", "800", "--connections", "1"),
            *("--rate", "0.5", "--for", "1", "--drain", "0", "--custody", "0"),
        )
    assert done.returncode == 1
    assert "messages were not acknowledged" in done.stderr, "their 2,400 subscriptions need several packets"
    assert "800 nodes, each 0.5 messages/s of 1 rows, 1 connections" in done.stdout


@pytest.mark.parametrize("broker", LONG_TEST_KINDS, indirect=True)
def test_a_wrong_acknowledgement_fails_the_run(broker: BrokerProcess, publisher: mqtt.Client) -> None:
    def answer(_client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        batch = decode(bytes(message.payload), Batch)
        body = b'{"v":1,"ep":"%s","ok":[[1,%d]],"by":"c","ts":1}' % (batch.ep.encode(), batch.seq + 1)
        publisher.publish(f"tb1/{SITE}/node-00000/ack", body, qos=1)

    Listener(publisher, f"tb1/{SITE}/node-00000/data/#")
    publisher.on_message = answer
    options = ["--broker", broker.url, "--site", SITE, "--nodes", "1", "--rate", "5", "--custody", "0"]
    done = run(*options, "--for", "1", "--drain", "30")
    assert done.returncode == 1
    assert "acknowledgements are wrong, such as acme/trial/hall/node-00000: " in done.stderr
    assert "the newest is" in done.stderr


@pytest.mark.parametrize("broker", LONG_TEST_KINDS, indirect=True)
@pytest.mark.parametrize(("how", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_with_what_there_is(
    how: signal.Signals,
    status: int,
    broker: BrokerProcess,
    publisher: mqtt.Client,
    tmp_path: Path,
) -> None:
    heard = Listener(publisher, f"tb1/{SITE}/+/data/#", f"tb1/{SITE}/+/status")
    command = edgebed_command("sim", "fleet", "--broker", broker.url, "--site", SITE, "--nodes", "3")
    with Child("fleet", command, tmp_path / "fleet.log") as fleet:
        wait_until(heard.values, "it sends")
        assert fleet.end(how) == status
    assert fleet.out.read_text().startswith("fleet ")
    assert "offered" in fleet.out.read_text()
    assert fleet.tail() == ""
    wait_until(lambda: heard.states("node-00001")[-1] == "offline", "it says that it stops")


def test_a_signal_ends_its_broker_and_its_collector_too(
    require: Callable[[str], str], tmp_path: Path, processes_of: Callable[[Path], list[str]]
) -> None:
    require("mosquitto")
    command = edgebed_command("sim", "fleet", "--nodes", "3", "--site", SITE)
    with Child("fleet", ["env", f"TMPDIR={tmp_path}", *command], tmp_path / "fleet.log") as fleet:
        wait_until(lambda: len(processes_of(tmp_path)) >= 2, "broker and collector run")
        since_s = time.monotonic()
        assert fleet.end(signal.SIGTERM) == 143
        is_orderly = (
            time.monotonic() - since_s < LIMIT_S
        )  # else a busy machine ended it before the folder was gone
    wait_until(lambda: not processes_of(tmp_path), "they ended")
    assert not (is_orderly and list(tmp_path.glob("edgebed-fleet-*")))
