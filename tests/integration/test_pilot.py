"""The plan of a pilot on a real agent and a real broker: followed, recorded, kept over a kill, ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.inference.signing.signature import new_key
from agent.pilots.set_point import FILE
from agent.pilots.signatures import sign
from edgebed.broker import BrokerProcess
from simulators.devices.modbus.device import ParticulateSensor
from tests.brokers import LONG_TEST_KINDS
from tests.polling import until, wait_until
from tests.running_agent import GUARD_S, NODE, RunningAgent, Subscriber
from tests.unit.wire.pilot.plans import changed
from wire.clock import Clock
from wire.pilot.frozen import FrozenPlan, SignedPlan, envelope, freeze
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


def plan(intervention: str = MODEL, days: int = 1) -> FrozenPlan:
    start = datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
    text = changed(
        (THRESHOLD, intervention),
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


def signed(frozen: FrozenPlan) -> SignedPlan:
    return envelope(frozen.payload, (sign(frozen.payload, PRIVATE),))


def desired(ver: int, doc: Any) -> dict[str, Any]:
    return {"v": 1, "ver": ver, "ts": Clock().now_ms(), "by": "test", "doc": msgspec.to_builtins(doc)}


def test_a_plan_is_followed_recorded_and_kept_over_a_kill(agent: RunningAgent, there: Subscriber) -> None:
    agent.start()
    frozen = plan()
    good = signed(frozen)

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


FAN = (
    "kind: set-point\n  what: {en: a, ko: b}\n  device: fan\n  register: speed\n"
    "  min: 0\n  max: 90\n  safe: 20\n  on: 40\n  off: 50"
)


def fan(url: str, **more: Any) -> dict[str, Any]:
    options = {
        "url": url,
        "registers": {"speed": {"register": 0, "scale": 0.1}},
        "allow_write": True,
        "write": {"register": "speed", "min": 10, "max": 60, "safe": 20},
    }
    return {"adapter": "modbus", "options": {**options, **more}}


@pytest.mark.parametrize("broker", LONG_TEST_KINDS, indirect=True)
async def test_a_set_point_follows_the_plan_and_is_safe_after_a_kill(
    broker: BrokerProcess, tmp_path: Path, there: Subscriber
) -> None:
    (tmp_path / "acme.pem").write_bytes(PUBLIC)
    async with ParticulateSensor(seed=1) as device:
        keys: dict[str, Any] = {"remote": {"pilot": True, "config": True}, "trust": {"keys": ["acme.pem"]}}
        agent = RunningAgent(tmp_path, broker.url, devices={"fan": fan(device.url)}, **keys)
        now = partial(device.settings.get, ("holding", 0))
        try:
            await asyncio.to_thread(agent.start)
            for ver, more in enumerate(({"max": 90}, {"safe": 30}), 1):
                write = {**fan(device.url)["options"]["write"], **more}
                document = {"devices": {"fan": fan(device.url, write=write)}}
                there.publish("desired/config", desired(ver, document))
                await until(lambda ver=ver: there.body("reported/config").get("ver") == ver)  # type: ignore[misc]
                assert there.body("reported/config")["code"] == "config-not-allowed"
            beyond = plan(FAN.replace("on: 40", "on: 70"), 0)
            there.publish("desired/pilot", desired(1, signed(beyond)))
            await until(lambda: there.body("reported/pilot").get("code") == "pilot-write-not-allowed")
            assert now() == 600, "nothing was written"
            frozen = plan(FAN, 0)
            there.publish("desired/pilot", desired(2, signed(frozen)))
            arm = frozen.schedule.trial[0].arm
            number = {"on": 40, "off": 50}[arm]

            async def is_applied(**detail: Any) -> None:
                def found() -> bool:
                    event = there.body("event/_/exposure")
                    return event.get("value") == number and event["detail"].items() >= detail.items()

                await until(found, "the exposure", GUARD_S)
                assert now() == number * 10

            await is_applied(planned=arm, actual=arm)
            agent.child.kill()
            assert now() == number * 10, "only the next start makes it safe"
            write, written = device.write, list[int]()

            def noted(table: str, address: int, numbers: Sequence[int]) -> None:
                written.extend(numbers)
                write(table, address, numbers)

            device.write = noted  # type: ignore[method-assign]  # the device itself stays as it is
            await asyncio.to_thread(agent.start)
            await is_applied(planned=arm, actual=arm, restart=True)
            assert written == [200, number * 10]
            await asyncio.to_thread(agent.child.stop)
            assert now() == 200
            await until(lambda: there.body("event/_/exposure").get("value") == 20)
            there.publish("desired/pilot", desired(3, {}))
            (agent.state / FILE).write_text('{"device": "fan"}')  # as a kill leaves it
            device.settings["holding", 0] = 400
            await asyncio.to_thread(agent.start)
            await until(lambda: now() == 200)
        finally:
            await asyncio.to_thread(agent.child.stop)
