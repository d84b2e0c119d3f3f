"""`edgebed agent reload` on a real agent process and a real broker."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgebed.broker import BrokerProcess
from tests.brokers import LONG_TEST_KINDS
from tests.polling import wait_until
from tests.running_agent import RunningAgent, Subscriber, replay


@pytest.fixture
def there(broker: BrokerProcess) -> Iterator[Subscriber]:
    found = Subscriber(broker.port)
    yield found
    found.close()


@pytest.fixture
def agent(broker: BrokerProcess, tmp_path: Path, there: Subscriber) -> Iterator[RunningAgent]:
    # `there` subscribes first, so that it gets the first row
    made = RunningAgent(tmp_path, broker.url, remote={"soak_s": 20})
    made.start()
    made.until(lambda now: now["devices"]["arm"]["state"] == "ok" and now["connected"], "the arm is read")
    yield made
    made.child.stop()


@pytest.mark.parametrize("broker", LONG_TEST_KINDS, indirect=True)
def test_what_did_not_change_goes_on_and_outbox_and_identity_stay(
    agent: RunningAgent, there: Subscriber
) -> None:
    before, key = agent.status(), (agent.state / "node.key").read_bytes()
    agent.document["devices"]["leg"] = replay()
    agent.write()
    done = agent.reload()
    assert (done.returncode, done.stdout) == (0, "applied: device leg\n")
    wait_until(lambda: len(there.values("data/leg/rows")) > 20, "the leg is read")
    agent.document["devices"]["arm"]["publish"] = {"live_hz": 5}
    del agent.document["devices"]["leg"]
    agent.write()
    done = agent.reload("--json")
    assert '"what": "without device leg; what leaves of device arm"' in done.stdout
    wait_until(lambda: list(there.body("birth")["devices"]) == ["arm"], "the birth has no leg")
    wait_until(lambda: list(there.body("status")["devices"]) == ["arm"], "the status has no leg")
    now = agent.status()
    assert [now[key] for key in ("ep", "boot", "sess")] == [before[key] for key in ("ep", "boot", "sess")]
    assert (agent.state / "node.key").read_bytes() == key
    many = len(there.values("data/arm/rows"))
    wait_until(lambda: len(there.values("data/arm/rows")) > many, "the arm goes on")
    assert agent.child.stop() == 0
    wait_until(lambda: there.body("status")["state"] == "offline", "the agent has ended")
    rows = there.values("data/arm/rows")
    assert rows == [float(number + 1) for number in range(len(rows))], "no row is lost and none twice"


BAD = [
    ({"devices": {}}, "config-invalid", "1 are needed"),
    ({"devices": {"arm": replay(file=3)}}, "config-invalid", "devices.arm.options.file"),
    ({"models": {"m": {"package": "none", "input": "arm/rows"}}}, "config-invalid", "models.m.package"),
    ({"device": {}}, "config-invalid", "unknown key; did you mean 'devices'?"),
    ({"node": "t/p/s/other"}, "", "belongs to node t/p/s/n, not to t/p/s/other"),
    ({"outbox": {"max_mb": 64}, "devices": {"a": replay()}}, "config-needs-restart", "to change outbox"),
    ({"broker": {"url": "mqtt://127.0.0.1:10"}}, "config-needs-restart", "the agent to change broker"),
    ({"remote": {"soak_s": 5}}, "config-needs-restart", "restart the agent to change remote"),
]


def test_a_config_that_cannot_be_used_changes_nothing(tmp_path: Path) -> None:
    agent = RunningAgent(tmp_path, "mqtt://127.0.0.1:9")
    agent.start()
    good = dict(agent.document)
    try:
        for change, code, sentence in BAD:
            agent.document = {**good, **change}
            agent.write()
            done = agent.reload()
            assert done.returncode == 78, change
            assert sentence in done.stderr
            assert "Traceback" not in done.stderr
            assert list(agent.status()["devices"]) == ["arm"]
            if code:
                assert agent.status()["reload"]["code"] == code
                assert any("PROBLEM: the newest configuration was refused" in line for line in agent.lines())
    finally:
        agent.child.stop()


@pytest.mark.parametrize("broker", LONG_TEST_KINDS, indirect=True)
def test_devices_that_do_not_work_bring_the_old_ones_back(agent: RunningAgent, there: Subscriber) -> None:
    agent.document["devices"]["arm"] = replay(file="rows.csv", rate=2.0)
    agent.document["devices"]["leg"] = replay(file="gone.csv")
    agent.write()
    done = agent.reload()
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith("reverted: device leg: ")
    now = agent.until(lambda now: now["devices"]["arm"]["state"] == "ok", "the arm is read again")
    assert list(now["devices"]) == ["arm"]
    problem = wait_until(lambda: there.body("status").get("code") and there.body("status"), "it is reported")
    assert problem["code"] == "config-reverted"
    assert "gone.csv" in problem["args"]["what"]
    agent.document["devices"] = {"arm": replay()}
    agent.write()
    assert agent.reload().stdout == "applied: nothing differs\n"
    wait_until(lambda: "code" not in there.body("status"), "the problem is over")


@pytest.mark.parametrize("broker", LONG_TEST_KINDS, indirect=True)
def test_a_plain_sighup_reads_the_file_too(agent: RunningAgent) -> None:
    agent.document["devices"]["leg"] = replay()
    agent.write()
    os.kill(agent.child.pid, signal.SIGHUP)
    agent.until(lambda now: now.get("reload", {}).get("state") == "applied", "the file is in use")
    assert list(agent.status()["devices"]) == ["arm", "leg"]


@pytest.mark.parametrize("broker", LONG_TEST_KINDS, indirect=True)
def test_a_stop_in_a_trial_ends_in_order(agent: RunningAgent) -> None:
    agent.document["devices"]["leg"] = replay(file="gone.csv")
    agent.write()
    os.kill(agent.child.pid, signal.SIGHUP)
    agent.until(lambda now: now.get("reload", {}).get("state") == "soaking", "the trial has begun")
    assert agent.child.stop() == 0
    assert agent.status()["running"] is False


def test_without_an_agent_there_is_nothing_to_reload(tmp_path: Path) -> None:
    agent = RunningAgent(tmp_path, "mqtt://127.0.0.1:9")
    done = agent.reload()
    assert done.returncode == 69
    assert "no agent runs on state folder" in done.stderr


def test_no_signal_goes_to_a_process_that_only_has_the_number(tmp_path: Path) -> None:
    """The number in the lock may be of another container: a process here with this number must not get it."""
    agent = RunningAgent(tmp_path, "mqtt://127.0.0.1:9")
    agent.start()
    with subprocess.Popen(["sleep", "600"]) as other:
        try:
            (agent.state / "agent.lock").write_text(f"{other.pid}\n")
            done = agent.reload()
            assert done.returncode == 78
            assert "does not hold" in done.stderr
            time.sleep(0.2)
            assert other.poll() is None, "SIGHUP would have ended it"
        finally:
            other.kill()
            agent.child.stop()


def test_the_result_waits_no_longer_than_asked(tmp_path: Path) -> None:
    agent = RunningAgent(tmp_path, "mqtt://127.0.0.1:9")
    agent.start()
    try:
        os.kill(agent.child.pid, signal.SIGSTOP)
        done = agent.reload("--seconds", "0.5")
        assert done.returncode == 75
        assert "no result within 0.5 s" in done.stderr
    finally:
        os.kill(agent.child.pid, signal.SIGCONT)
        agent.child.stop()
