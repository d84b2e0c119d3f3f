"""Commands from `edgebed cmd` over a collector and a broker to an agent, and kills of both in between."""

from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from edgebed.broker import BrokerProcess
from edgebed.processes import Child, edgebed_command
from tests import counting_agent
from tests.integration.conftest import CollectorProcess
from tests.polling import wait_until
from tests.running_agent import GUARD_S, NODE, RunningAgent
from wire.clock import Clock
from wire.ulid import new_ulid

log = logging.getLogger(__name__)

ROUNDS = int(os.environ.get("EDGEBED_COMMAND_KILLS", "12"))
PATH = f"nodes/{NODE}/commands"


@pytest.fixture
def collector(broker: BrokerProcess, tmp_path: Path) -> Iterator[CollectorProcess]:
    if broker.kind != "mosquitto":
        pytest.skip("one broker is enough")
    made = CollectorProcess(tmp_path / "collector", broker)
    made.start()
    made.online()
    yield made
    made.stop()


@pytest.fixture
def agent(broker: BrokerProcess, tmp_path: Path) -> Iterator[RunningAgent]:
    made = RunningAgent(tmp_path, broker.url)
    script = [sys.executable, counting_agent.__file__, str(tmp_path / "counted")]
    made.child = Child("agent", [*script, "agent", "run", str(made.path)], tmp_path / "agent.log")
    yield made
    made.child.stop()


def cmd(collector: CollectorProcess, *words: str) -> subprocess.CompletedProcess[str]:
    command = edgebed_command("cmd", NODE, "--url", f"http://127.0.0.1:{collector.port}", *words)
    return subprocess.run(command, capture_output=True, text=True, timeout=GUARD_S, check=False)


def counted(agent: RunningAgent) -> Counter[str]:
    file = agent.folder / "counted"
    return Counter(file.read_text().split() if file.exists() else ())


def is_online(collector: CollectorProcess) -> bool:
    try:
        return bool(collector.ask(f"nodes/{NODE}")["state"] == "online")
    except urllib.error.HTTPError:
        return False


def test_a_command_waits_for_its_node_and_its_answer_comes_back(
    collector: CollectorProcess, agent: RunningAgent
) -> None:
    agent.start()
    wait_until(lambda: is_online(collector), "the node is known", GUARD_S)
    done = cmd(collector, "count", "--arg", "what=one", "--arg", "s=0", "--wait", "200")
    assert (done.returncode, done.stdout[26:]) == (0, ' count by local: done {"what": "one"}\n'), done
    agent.child.stop()
    wait_until(lambda: not is_online(collector), "the node is away", GUARD_S)
    waits = json.loads(cmd(collector, "count", "--arg", "what=two", "--arg", "s=0", "--json").stdout)
    gone = json.loads(cmd(collector, "ping", "--arg", "a=NaN", "--json").stdout)
    assert gone["args"] == {"a": "NaN"}, "what is not JSON is text"
    late = cmd(collector, "ping", "--ttl", "0.1", "--wait", "200")
    assert (late.returncode, "expired: the node did not take" in late.stdout) == (69, True), late
    assert "ping by local: withdrawn" in cmd(collector, "--withdraw", "--id", gone["id"]).stdout
    collector.kill()
    agent.start()
    collector.start()
    collector.online()
    collector.until(lambda: collector.ask(f"{PATH}/{waits['id']}")["state"] == "done", "it is sent")
    again = cmd(collector, "count", "--arg", "what=two", "--arg", "s=0", "--id", waits["id"])
    assert again.stdout == f'{waits["id"]} count by local: done {{"what": "two"}}\n'
    states = [one["state"] for one in collector.ask(PATH)["commands"]]
    assert states == ["expired", "withdrawn", "done", "done"]
    assert [line.split()[-1] for line in cmd(collector).stdout.splitlines()][1] == "withdrawn"
    assert counted(agent) == {"one": 1, "two": 1}


def test_a_wrong_command_line_is_named() -> None:
    for words, sentence in (
        (("ping", "--arg", "x"), "--arg 'x' is not KEY=VALUE"),
        (("ping", "--arg", "x=\udcff"), "is not text in UTF-8"),
        (("--withdraw",), "--withdraw needs --id"),
        (("ping", "--ttl", "nan"), "nan"),
        (("ping", "--ttl", "0"), "is not in the range"),
        (("ping", "--ttl", "1e9"), "is not in the range"),
        (("ping", "--wait", "inf"), "inf is not a finite number"),
    ):
        command = edgebed_command("cmd", NODE, "--url", "http://127.0.0.1:9", *words)
        done = subprocess.run(command, capture_output=True, text=True, timeout=GUARD_S, check=False)
        assert (done.returncode, sentence in done.stderr) == (2, True), done.stderr
    command = edgebed_command("cmd", NODE, "ping", "--url", "http://127.0.0.1:9")
    done = subprocess.run(command, capture_output=True, text=True, timeout=GUARD_S, check=False)
    assert (done.returncode, "send the same command with --id 01" in done.stderr) == (69, True), done.stderr


class Killing:
    """Requests commands while one of both, or both, are killed; what is left must be whole."""

    def __init__(self, collector: CollectorProcess, agent: RunningAgent, seed: int) -> None:
        self.collector, self.agent = collector, agent
        self.random = random.Random(seed)
        self.ids: list[str] = []

    def request(self) -> None:
        """Request a command; the same again while the answer does not come."""
        identity = new_ulid(Clock().now_ms())
        self.ids.append(identity)
        args = {"what": identity, "s": self.random.choice((0.0, 0.0, 0.3, 1.5))}
        body = json.dumps({"name": "count", "id": identity, "args": args, "ttl_ms": 600_000}).encode()
        url = f"http://127.0.0.1:{self.collector.port}"
        headers = {"Content-Type": "application/json", "Origin": url}
        request = urllib.request.Request(f"{url}/api/v1/{PATH}", body, headers)  # noqa: S310 - the test's own

        def is_taken() -> bool:
            try:
                urllib.request.urlopen(request, timeout=60).close()  # noqa: S310
            except urllib.error.HTTPError as error:
                # a collector that has just started may not know the node again yet
                assert error.code in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.NOT_FOUND), error.read()
                return False
            except OSError:
                return False
            return True

        wait_until(is_taken, "the request is taken", GUARD_S)

    def round(self) -> None:
        for _ in range(self.random.randint(1, 4)):
            self.request()
        time.sleep(self.random.choice((0.0, 0.01, 0.05, 0.2, 1.0)))
        whom = self.random.choice(("agent", "collector", "both"))
        if whom != "collector":
            self.agent.child.kill()
        if whom != "agent":
            self.collector.kill()
            self.collector.start()
        if whom != "collector":
            self.agent.start()
        log.info("killed %s", whom)

    def check(self) -> None:
        """Every command ended, and none ran twice."""

        def states() -> dict[str, dict[str, Any]]:
            found = self.collector.ask(f"{PATH}?limit=100")["commands"]
            return {one["id"]: one for one in found if one["state"] not in ("queued", "delivered", "running")}

        wait_until(lambda: len(states()) == len(self.ids), "every command ends", GUARD_S)
        effects = counted(self.agent)
        assert set(effects) <= set(self.ids)
        assert max(effects.values()) == 1, "a command ran twice"
        for identity, one in states().items():
            state, answer = one["state"], one["answer"]
            changes = [change["state"] for change in one["changes"]]
            assert (changes[0], changes[-1]) == ("queued", state)
            if state == "done":
                assert (effects[identity], answer["result"]) == (1, {"what": identity})
            else:
                assert (state, answer["err_code"]) == ("failed", "command-interrupted"), one
        entries = self.collector.ask("audit?limit=500")["entries"]
        ended = [each["subject"] for each in entries if each["what"] == "command ended"]
        assert sorted(subject.split()[-1] for subject in ended) == sorted(self.ids)


def kill_rounds(collector: CollectorProcess, agent: RunningAgent, rounds: int, seed: int) -> None:
    agent.start()
    wait_until(lambda: is_online(collector), "the node is known", GUARD_S)
    killing = Killing(collector, agent, seed)
    for _ in range(rounds):
        killing.round()
    killing.collector.online()
    killing.check()


@pytest.mark.slow
def test_kills_between_the_request_and_the_answer(collector: CollectorProcess, agent: RunningAgent) -> None:
    kill_rounds(collector, agent, ROUNDS, 20261201)
