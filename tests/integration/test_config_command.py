"""`edgebed config`: from the command over a collector and a broker to an agent, and back."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from edgebed.broker import BrokerProcess
from edgebed.processes import edgebed_command
from tests.brokers import LONG_TEST_KINDS
from tests.integration.conftest import CollectorProcess
from tests.polling import wait_until
from tests.running_agent import GUARD_S, NODE, RunningAgent, Subscriber, replay


@pytest.fixture
def collector(broker: BrokerProcess, tmp_path: Path) -> Iterator[CollectorProcess]:
    made = CollectorProcess(tmp_path / "collector", broker)
    made.start()
    made.online()
    yield made
    made.stop()


def config(
    collector: CollectorProcess, word: str, *more: str, node: str = NODE
) -> subprocess.CompletedProcess[str]:
    command = edgebed_command("config", word, node, "--url", f"http://127.0.0.1:{collector.port}", *more)
    return subprocess.run(command, capture_output=True, text=True, timeout=GUARD_S, check=False)


@pytest.mark.parametrize("broker", LONG_TEST_KINDS, indirect=True)
def test_a_request_reaches_the_node_and_its_answer_comes_back(
    broker: BrokerProcess, collector: CollectorProcess, tmp_path: Path
) -> None:
    agent = RunningAgent(tmp_path, broker.url, remote={"config": True, "files": ["."], "soak_s": 1})
    agent.start()
    try:
        wait_until(
            lambda: "version 0: applied" in config(collector, "show").stdout, "the node is known", GUARD_S
        )
        file = tmp_path / "change.yaml"
        file.write_text(yaml.safe_dump({"devices": {"arm": replay(), "leg": replay()}}))
        done = config(collector, "push", str(file), "--wait", "200")
        assert (done.returncode, done.stdout) == (0, "requested: version 1\nversion 1: applied\n")
        assert list(agent.status()["devices"]) == ["arm", "leg"]
        file.write_text(yaml.safe_dump({"devices": {"arm": replay(), "leg": replay(file="gone.csv")}}))
        done = config(collector, "push", str(file), "--wait", "200")
        assert done.returncode == 3
        assert "version 2: rolled_back: device leg" in done.stdout
        file.write_text(yaml.safe_dump({"devices": {"arm": {"adapter": "nope"}}}))
        done = config(collector, "push", str(file), "--wait", "200")
        assert done.returncode == 78
        assert "unknown adapter 'nope'" in done.stdout
        collector.kill()
        collector.start()
        collector.online()
        assert (
            "requested: version 3 by local: devices\nversion 3: rejected" in config(collector, "show").stdout
        )
        done = config(collector, "withdraw", "--wait", "200")
        assert (done.returncode, done.stdout) == (0, "requested: version 4\nversion 4: applied\n")
        agent.until(lambda now: list(now["devices"]) == ["arm"], "the own file is used alone")
    finally:
        agent.child.stop()


def test_a_broker_that_lost_what_it_kept_gets_it_again(
    broker: BrokerProcess, collector: CollectorProcess, tmp_path: Path
) -> None:
    if broker.kind != "mosquitto":
        pytest.skip("one broker is enough")
    agent = RunningAgent(tmp_path, broker.url)
    agent.start()
    there = Subscriber(broker.port)
    try:
        wait_until(lambda: config(collector, "show").returncode == 0, "the node is known", GUARD_S)
        file = tmp_path / "change.yaml"
        file.write_text("publish: {arm: {raw: false}}\n")
        done = config(collector, "push", str(file), "--wait", "0.1")
        assert done.returncode == 75, "this agent takes no documents"
        assert "is remote.config true" in done.stderr
        wait_until(lambda: there.body("desired/config").get("ver") == 1, "it is published")
        there.publish("desired/config", b"")
        wait_until(lambda: there.newest.get("desired/config") == b"", "it is gone")
        collector.stop()
        collector.start()
        wait_until(lambda: there.body("desired/config").get("ver") == 1, "it is published again", GUARD_S)
    finally:
        there.close()
        agent.child.stop()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("broker: {url: x}\n", "has devices, models, publish, one at least, and nothing else"),
        ("[]\n", "has devices, models, publish"),
        ("devices: [\n", "change.yaml:2:1"),
    ],
)
def test_a_wrong_file_is_named_before_anything_is_asked(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "change.yaml"
    file.write_text(text)
    command = edgebed_command("config", "push", NODE, str(file), "--url", "http://127.0.0.1:9")
    done = subprocess.run(command, capture_output=True, text=True, timeout=GUARD_S, check=False)
    assert done.returncode == 78
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("broker", LONG_TEST_KINDS, indirect=True)
def test_an_unknown_node_is_named(collector: CollectorProcess, broker: BrokerProcess) -> None:
    if broker.kind != "nats":
        pytest.skip("the broker does not matter here")
    done = config(collector, "show", node="t/p/s/nobody")
    assert done.returncode == 1
    assert "answers 404 unknown node" in done.stderr or "no such" in done.stderr or "nobody" in done.stderr
    assert config(collector, "withdraw", node="not-a-node").returncode == 1
