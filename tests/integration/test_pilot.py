"""The plan of a pilot on a real agent and a real broker: followed, recorded, kept over a kill, ended."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.inference.signing.signature import new_key
from agent.pilots.signatures import sign
from edgebed.broker import BrokerProcess
from tests.polling import wait_until
from tests.running_agent import GUARD_S, NODE, RunningAgent, Subscriber
from tests.unit.wire.pilot.plans import changed
from wire.clock import Clock
from wire.pilot.frozen import FrozenPlan, envelope, freeze
from wire.pilot.plan import parse

THRESHOLD = changed().partition("intervention:\n  ")[2].partition("\ndesign:")[0]
MODEL = "kind: model\n  what: {en: a, ko: b}\n  slot: s\n  model: m@1.0.0\n  sha256: " + "a" * 64
PRIVATE, PUBLIC = new_key()


@pytest.fixture
def there(broker: BrokerProcess) -> Iterator[Subscriber]:
    found = Subscriber(broker.port)
    yield found
    found.close()


@pytest.fixture
def agent(broker: BrokerProcess, tmp_path: Path) -> Iterator[RunningAgent]:
    (tmp_path / "acme.pem").write_bytes(PUBLIC)
    made = RunningAgent(tmp_path, broker.url, remote={"pilot": True}, trust={"keys": ["acme.pem"]})
    yield made
    made.child.stop()


def plan() -> FrozenPlan:
    start = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    text = changed(
        (THRESHOLD, MODEL),
        ("owner: acme", "owner: t"),
        ("[acme/p1/s1/n1, acme/p1/s1/n2]", f"[{NODE}]"),
        ("  baseline: {from: 2027-02-01, to: 2027-03-01}\n", ""),
        ("tz: Asia/Seoul", "tz: UTC"),
        (
            "2027-03-01 06:00, to: 2027-03-07 22:00",
            f"{start:%Y-%m-%d %H:%M:%S}, to: {start + timedelta(hours=160):%Y-%m-%d %H:%M:%S}",
        ),
    )
    return freeze(parse(text, "pilot.yaml"))


def desired(ver: int, doc: Any) -> dict[str, Any]:
    return {"v": 1, "ver": ver, "ts": Clock().now_ms(), "by": "test", "doc": msgspec.to_builtins(doc)}


def test_a_plan_is_followed_recorded_and_kept_over_a_kill(agent: RunningAgent, there: Subscriber) -> None:
    agent.start()
    frozen = plan()
    good = envelope(frozen.payload, (sign(frozen.payload, PRIVATE),))

    def reported(ver: int, state: str) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            body = there.body("reported/pilot")
            return body if body.get("ver") == ver and body.get("state") == state else None

        body: dict[str, Any] = wait_until(found, f"plan {ver} {state}", GUARD_S)
        return body

    wait_until(lambda: there.body("reported/pilot"), "the agent listens", GUARD_S)
    there.publish("desired/pilot", desired(1, envelope(frozen.payload)))
    assert reported(1, "rejected")["code"] == "pilot-not-signed"
    there.publish("desired/pilot", desired(2, good))
    digest = reported(2, "applied")["active"]
    event = wait_until(lambda: there.body("event/_/pilot"), "the event about the plan", GUARD_S)
    assert event["detail"]["hash"] == digest
    assert event["detail"]["signed_by"] == ["acme"]
    assert event["ts"] < frozen.schedule.trial_ms[0]
    assert event["seq"] > 0, "it is in the outbox, so that the custody chain covers it"
    switched = wait_until(lambda: there.body("event/_/exposure"), "the event about the switch", GUARD_S)
    assert switched["detail"].items() >= {"hash": digest, "phase": "outside", "actual": "off"}.items()
    agent.child.kill()
    agent.start()
    assert reported(2, "applied")["active"] == digest
    there.publish("desired/pilot", desired(3, {}))
    assert reported(3, "applied").get("active", "") == ""
    ended = wait_until(
        lambda: there.body("event/_/pilot")["detail"].get("withdrawn"), "the event about its end", GUARD_S
    )
    assert ended == digest
