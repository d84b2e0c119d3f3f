"""Desired documents on a real agent and a real broker: applied, reverted, refused, killed in between."""

from __future__ import annotations

import json
import logging
import os
import random
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgebed.broker import BrokerProcess
from tests.brokers import LONG_TEST_KINDS
from tests.polling import wait_until
from tests.running_agent import GUARD_S, RunningAgent, Subscriber, replay
from wire.clock import Clock

pytestmark = pytest.mark.parametrize("broker", LONG_TEST_KINDS, indirect=True)

log = logging.getLogger(__name__)

KILLS = int(os.environ.get("EDGEBED_CONFIG_KILLS", "8"))
YEAR_MS = 365 * 86_400_000


@pytest.fixture
def there(broker: BrokerProcess) -> Iterator[Subscriber]:
    found = Subscriber(broker.port)
    yield found
    found.close()


@pytest.fixture
def agent(broker: BrokerProcess, tmp_path: Path) -> Iterator[RunningAgent]:
    made = RunningAgent(tmp_path, broker.url, remote={"config": True, "files": ["."], "soak_s": 3})
    yield made
    made.child.stop()


def desired(ver: int, **doc: Any) -> dict[str, Any]:
    return {"v": 1, "ver": ver, "ts": Clock().now_ms(), "by": "test", "doc": doc}


def reported(there: Subscriber, ver: int, *states: str) -> dict[str, Any]:
    """Wait until the node reports the document in one of these states."""

    def found() -> dict[str, Any] | None:
        body = there.body("reported/config")
        return body if body.get("ver") == ver and body.get("state") in states else None

    body: dict[str, Any] = wait_until(
        found, f"{ver} {states}: {there.newest.get('reported/config')!r}", GUARD_S
    )
    return body


def test_a_document_replaces_devices_until_it_is_withdrawn(agent: RunningAgent, there: Subscriber) -> None:
    agent.start()
    file, ep = agent.path.read_bytes(), agent.status()["ep"]
    assert reported(there, 0, "applied").get("active", "") == ""
    there.publish("desired/config", desired(1, devices={"arm": replay(), "leg": replay()}))
    reported(there, 1, "soaking")
    assert stat.S_IMODE((agent.state / "desired.yaml").stat().st_mode) == 0o600
    done = reported(there, 1, "applied")
    assert done["active"] == done["hash"] != ""
    assert list(agent.status()["devices"]) == ["arm", "leg"]
    assert agent.status()["devices"]["arm"].get("lost", 0) == 0
    wait_until(lambda: "desired document 1: applied" in agent.lines(), "the status shows it")
    agent.child.kill()
    agent.start()
    agent.until(lambda now: list(now["devices"]) == ["arm", "leg"], "it is used after a restart")
    there.publish("desired/config", desired(2, publish={"arm": {"raw": False}}))
    reported(there, 2, "applied")
    agent.until(lambda now: list(now["devices"]) == ["arm"], "a document replaces the one before")
    agent.document["devices"]["eye"] = replay()
    agent.write()
    assert agent.reload().stdout == "applied: device eye\n"
    there.publish("desired/config", desired(3))
    withdrawn = reported(there, 3, "applied")
    assert withdrawn.get("active", "") == ""
    agent.document["devices"].pop("eye")
    agent.write()
    assert agent.path.read_bytes() == file, "the operator's file is never written"
    assert agent.status()["ep"] == ep
    many = len(there.values("data/arm/rows"))
    wait_until(lambda: len(there.values("data/arm/rows")) > many, "the rows leave again")


def test_a_document_whose_device_does_not_work_is_reverted_and_not_tried_again(
    agent: RunningAgent, there: Subscriber
) -> None:
    agent.start()
    there.publish("desired/config", desired(1, devices={"arm": replay(), "leg": replay()}))
    reported(there, 1, "applied")
    broken = desired(2, devices={"arm": replay(rate=2.0), "leg": replay(file="gone.csv")})
    there.publish("desired/config", broken)
    found = reported(there, 2, "rolled_back")
    assert found["code"] == "config-reverted"
    assert "gone.csv" in found["err"]
    assert there.body("status")["code"] == "config-reverted"
    agent.until(lambda now: now["devices"]["leg"]["state"] == "ok", "the document before is in use again")
    assert agent.child.stop() == 0
    del there.newest["reported/config"]
    agent.start()  # the broker sends the broken document again
    assert reported(there, 2, "rolled_back", "soaking")["state"] == "rolled_back"
    kept = json.loads((agent.state / "desired.yaml").read_bytes())
    assert (kept["used"]["ver"], kept["trial"]) == (1, None)
    agent.until(lambda now: now["devices"]["leg"]["state"] == "ok", "the document before is in use")


def test_a_device_that_was_just_started_is_not_taken_for_one_that_never_worked(
    agent: RunningAgent, there: Subscriber
) -> None:
    there.publish("desired/config", desired(1, devices={"arm": replay(file="gone.csv")}))
    agent.start()  # the document arrives while the arm is still being opened
    assert reported(there, 1, "rolled_back", "applied")["state"] == "rolled_back"
    agent.until(lambda now: now["devices"]["arm"]["state"] == "ok", "the own file is used again")


def _devices(**devices: Any) -> dict[str, Any]:
    return {"devices": devices}


def _model(package: str) -> dict[str, Any]:
    return {"models": {"m": {"package": package, "input": "arm/rows"}}}


SECRET = {
    "url": "mqtt://198.51.100.1",
    "username": "u",
    "password_file": "pw",
    "topics": ["t"],
    "format": "json",
    "fields": {"a": {"path": "a"}},
}
BODIES: list[tuple[bytes, str, str]] = [
    (b"{", "body-invalid", "cannot be read"),
    (b'{"ver":"x","ts":1,"doc":{}}', "body-invalid", "cannot be read"),
    (b'{"ver":5,"ts":1,"docs":{}}', "body-invalid", "has no `doc`"),
    (b'{"ver":5,"ts":1,"ref":{"url":"http://x"}}', "body-invalid", "has no `doc`"),
    (b'{"ver":5,"ts":1,"doc":{"devices":{"a":"' + b"x" * 60_000 + b'"}}}', "body-too-large", "60000 are"),
    (b'{"ver":5,"ts":1,"doc":{"devices":' + b'{"a":' * 70 + b"1" + b"}" * 72, "body-invalid", "deep"),
]  # fmt: skip
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"devices": []}, "body-invalid", "devices: expected keys and values"),
    ({"broker": {"url": "mqtt://x"}}, "config-not-allowed", "cannot set broker"),
    ({"state": "/", "node": "t/p/s/x", "outbox": {}}, "config-not-allowed", "node, outbox, state"),
    ({"remote": {"files": ["/"]}}, "config-not-allowed", "cannot set remote"),
    ({"devices": {}, "models": {}}, "config-invalid", "1 are needed"),
    (_devices(arm=3), "config-invalid", "devices.arm: expected keys and values"),
    (_devices(arm={**replay(), "publsh": {}}), "config-invalid", "did you mean 'publish'?"),
    (_devices(arm=replay(lop=True)), "config-invalid", "did you mean 'loop'?"),
    (_devices(arm={"adapter": "nope"}), "config-invalid", "unknown adapter 'nope'"),
    (_devices(**{"Arm/..": replay()}), "config-invalid", "is not an id"),
    ({"publish": {"leg": {"raw": False}}}, "config-invalid", "there is no device 'leg'"),
    (_model("none"), "config-invalid", "none"),
    (_model("/usr"), "config-not-allowed", "/usr is not below"),
    (_devices(arm=replay(file="/etc/passwd")), "config-not-allowed", "/etc/passwd is not below"),
    (_devices(arm=replay(file="../../x.csv")), "config-not-allowed", "is not below"),
    (_devices(arm=replay(file="link/passwd")), "config-not-allowed", "is not below"),
    (_devices(x={"adapter": "mqtt", "options": SECRET}), "config-not-allowed", "password_file: is a secret"),
    (
        _devices(x={"adapter": "camera", "options": {"url": "rtsp://u:pw@198.51.100.1/x"}}),
        "config-not-allowed",
        "url: holds a password",
    ),
]


def _named(there: Subscriber, code: str, sentence: str) -> None:
    """Wait until a refusal with this code and sentence is reported."""

    def found() -> bool:
        body = there.body("reported/config")
        return (body.get("state"), body.get("code")) == ("rejected", code) and sentence in body["err"]

    wait_until(found, f"{code}: {sentence}", GUARD_S)
    assert "root:" not in there.body("reported/config")["err"], "no content of a file leaves"


def test_what_cannot_be_used_changes_nothing_and_is_named(
    agent: RunningAgent, there: Subscriber, broker: BrokerProcess
) -> None:
    if broker.kind != "nats":
        pytest.skip("the broker does not matter here")
    (agent.folder / "link").symlink_to("/etc")
    (agent.folder / "pw").write_text("secret")
    agent.start()
    key = (agent.state / "node.key").read_bytes()
    sent = [json.dumps(desired(100 + at, **doc)).encode() for at, (doc, _, _) in enumerate(BAD)]
    cases = [*BODIES, *((body, code, text) for body, (_, code, text) in zip(sent, BAD, strict=True))]
    for body, code, sentence in cases:
        there.publish("desired/config", body)
        _named(there, code, sentence)
        assert list(agent.status()["devices"]) == ["arm"], sentence
        assert _kept(agent)["used"] is _kept(agent)["trial"] is None
    assert agent.status()["devices"]["arm"].get("lost", 0) == 0
    assert (agent.state / "node.key").read_bytes() == key
    there.publish("desired/config", desired(900, devices={"arm": replay(), "leg": replay()}))
    reported(there, 900, "applied")


def test_a_document_from_the_future_waits_for_a_right_clock(agent: RunningAgent, there: Subscriber) -> None:
    agent.start()
    early = desired(1, devices={"leg": replay()})
    there.publish("desired/config", {**early, "ts": early["ts"] + YEAR_MS})
    found = wait_until(lambda: (now := there.body("reported/config")).get("code") and now, "it is reported")
    assert (found["state"], found["code"]) == ("rejected", "config-clock")
    assert "365 days after this node's clock" in found["err"]
    assert list(agent.status()["devices"]) == ["arm"]
    old = desired(2, devices={"arm": replay(), "leg": replay()})
    there.publish("desired/config", {**old, "ts": old["ts"] - YEAR_MS})
    reported(there, 2, "applied")  # a document may wait for its node for long


def test_without_the_key_and_for_another_node_nothing_happens(broker: BrokerProcess, tmp_path: Path) -> None:
    there, agent = Subscriber(broker.port), RunningAgent(tmp_path, broker.url)
    there.publish("desired/config", desired(1, devices={"leg": replay()}))
    try:
        agent.start()
        agent.until(lambda now: now["connected"] and now["devices"]["arm"]["state"] == "ok", "it runs")
        assert agent.child.stop() == 0
        there.publish("desired/config", b"")
        agent.document["remote"] = {"config": True}
        agent.write()
        agent.start()
        reported(there, 0, "applied")
        there.publish("desired/config", desired(1, devices={"leg": replay()}), node="other/p/s/n")
        there.publish("desired/models", desired(1, devices={"leg": replay()}))
        wait_until(lambda: len(there.values("data/arm/rows")) > 50, "it goes on")
        assert list(agent.status()["devices"]) == ["arm"]
        assert not (agent.state / "desired.yaml").exists()
    finally:
        agent.child.stop()
        there.close()


def test_a_document_that_ends_the_agent_is_given_up(agent: RunningAgent, there: Subscriber) -> None:
    agent.document["remote"]["soak_s"] = 600
    agent.write()
    agent.start()
    there.publish("desired/config", desired(1, devices={"arm": replay(), "leg": replay()}))
    reported(there, 1, "soaking")
    for _ in range(2):
        agent.child.kill()
        agent.start()
        agent.until(lambda now: list(now["devices"]) == ["arm", "leg"], "the trial starts again")
    agent.child.kill()
    agent.start()
    found = reported(there, 1, "rolled_back")
    assert (found["code"], found["args"]) == ("config-crashed", {"times": 3})
    assert list(agent.status()["devices"]) == ["arm"]


def documents() -> list[dict[str, Any]]:
    """The devices of four documents; those of the last do not work."""
    pairs = [("a1", "a2"), ("b1", "b2"), ("c1", "c2")]
    found = [{"arm": replay(), **{name: replay() for name in pair}} for pair in pairs]
    return [*found, {"arm": replay(), "d1": replay(file="gone.csv"), "d2": replay()}]


@pytest.mark.slow
@pytest.mark.timeout(60 * max(KILLS, 10))
def test_a_kill_at_any_moment_leaves_a_whole_configuration(broker: BrokerProcess, tmp_path: Path) -> None:
    if broker.kind != "nats":
        pytest.skip("the broker does not matter here")
    there = Subscriber(broker.port)
    agent = RunningAgent(tmp_path, broker.url, remote={"config": True, "files": ["."], "soak_s": 0.7})
    choice, file, seen = (
        random.Random(12),
        agent.path.read_bytes(),
        dict.fromkeys(("trial", "used", "none"), 0),
    )
    sets = [["arm"], *(list(each) for each in documents())]
    try:
        agent.start()
        key, ep, head = (agent.state / "node.key").read_bytes(), agent.status()["ep"], 0
        for number in range(1, KILLS + 1):
            devices = choice.choice([*documents(), None])
            doc = {} if devices is None else {"devices": devices}
            there.publish("desired/config", desired(number, **doc))
            time.sleep(choice.choice([choice.uniform(0, 0.15), choice.uniform(0, 2.5)]))
            agent.child.kill()
            kept = _kept(agent)
            seen["trial" if kept["trial"] else "used" if kept["used"] else "none"] += 1
            agent.start()
            now = agent.status()
            assert list(now["devices"]) in sets, (number, list(now["devices"]))
            assert (now["ep"], (agent.state / "node.key").read_bytes()) == (ep, key)
            assert now["head"] >= head
            head = now["head"]
            assert agent.path.read_bytes() == file
        agent.until(lambda now: not _kept(agent)["trial"], "the last trial has ended")
        used = _kept(agent)["used"]
        expected = list(used["doc"]["devices"]) if used else ["arm"]
        agent.until(lambda now: list(now["devices"]) == expected, "what is kept is what runs")
        assert "event/_/gap" not in there.newest
    finally:
        agent.child.stop()
        there.close()
    log.info("%d kills; on disk after them: %s", KILLS, seen)


def _kept(agent: RunningAgent) -> dict[str, Any]:
    """What is on disk: it is whole, and each of its documents is one that was sent."""
    path = agent.state / "desired.yaml"
    if not path.exists():
        return {"trial": None, "used": None}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    kept: dict[str, Any] = json.loads(path.read_bytes())
    for document in (kept.get("trial"), kept.get("used")):
        assert document is None or document["doc"]["devices"] in documents()
    return {"trial": None, "used": None, **kept}
