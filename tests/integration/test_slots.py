"""Versions of a model in a real agent on a real broker, killed at any moment: one model works, always."""

from __future__ import annotations

import json
import logging
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from agent.slots.model_store import ModelStore
from agent.slots.slot_state import Slot
from edgebed.broker import BrokerProcess
from tests.polling import wait_until
from tests.running_agent import BASE, GUARD_S, RunningAgent, Subscriber, replay
from tests.unit.agent.conftest import Packages
from wire.clock import Clock
from wire.ulid import new_ulid

log = logging.getLogger(__name__)

KILLS = int(os.environ.get("EDGEBED_SLOT_KILLS", "10"))
ENDS = ("idle", "confirmed", "rolled-back", "refused")


class Node:
    """An agent with one slot, and packages in its store by name."""

    def __init__(self, folder: Path, broker: BrokerProcess) -> None:
        packages = Packages(folder)
        self.there = Subscriber(broker.port)
        base = packages.write(packages.constant(np.zeros(1)), name="base")
        slot = {"package": str(base), "input": "arm/rows", "isolation": "thread"}
        self.agent = RunningAgent(folder, broker.url, devices={"arm": replay(loop=True)}, models={"m": slot})
        self.store = ModelStore(self.agent.state)
        fades = [
            helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
            helper.make_node("Sub", ["limit", "most"], ["left"]),
            helper.make_node("Sqrt", ["left"], ["y"]),
        ]
        limit = {"limit": np.array(100.0, np.float32)}
        bodies = {
            "one": packages.constant(np.ones(1)),
            "two": packages.constant(np.ones(1) * 2),
            "nan": packages.constant(np.array([np.nan])),
            "fades": packages.model(fades, inputs={"x": (1, 4, 2)}, outputs={"y": ()}, constants=limit),
        }
        self.digests = {
            name: self.store.add(packages.write(body, name=name)) for name, body in bodies.items()
        }
        self.names = {"": "base", **{digest: name for name, digest in self.digests.items()}}

    def offer(self, name: str, attempt: int, **confirm: Any) -> None:
        """Send the command, without waiting for its answer."""
        args = {"slot": "m", "package": self.digests[name], "attempt": attempt, **confirm}
        body = {
            "v": 1,
            "id": new_ulid(Clock().now_ms()),
            "ts": Clock().now_ms(),
            "ttl_ms": 60_000,
            "args": args,
        }
        data = json.dumps(body).encode()
        self.there.client.publish(f"{BASE}/cmd/_/model-offer", data, qos=1).wait_for_publish(GUARD_S)

    def model(self) -> dict[str, Any]:
        """What the node's status file reports of the model."""
        found: dict[str, Any] = self.agent.status().get("models", {}).get("m", {})
        return found

    def slot(self) -> dict[str, Any]:
        """What the node reports of the slot."""
        found: dict[str, Any] = self.model().get("slot", {})
        return found

    def works(self, name: str) -> None:
        """Wait until the model of this name gives results."""
        self.agent.until(
            lambda now: now["models"]["m"].get("name") == name and now["models"]["m"]["state"] == "ok",
            f"{name} works",
        )


@pytest.fixture
def node(broker: BrokerProcess, tmp_path: Path) -> Iterator[Node]:
    if broker.kind != "mosquitto":
        pytest.skip("the broker does not matter here")
    made = Node(tmp_path, broker)
    yield made
    made.agent.child.stop()
    made.there.close()


def test_a_command_offers_a_version_and_the_status_shows_it(node: Node) -> None:
    node.agent.start()
    node.works("base")
    node.offer("one", 1, results=5)
    node.agent.until(lambda _: node.slot().get("state") == "confirmed", "it is confirmed")
    node.works("one")
    wait_until(
        lambda: (
            node.there.body("status").get("models", {}).get("m", {}).get("slot", {}).get("digest")
            == node.digests["one"]
        ),
        "the status shows it",
        GUARD_S,
    )
    assert any("version" in line and "is confirmed" in line for line in node.agent.lines())
    node.offer("nan", 1, results=5)
    node.agent.until(lambda _: node.slot().get("state") == "refused", "it is refused")
    node.works("one")


def _check(node: Node, kept: Slot, now: dict[str, Any]) -> None:
    """One version is reported, it is the one on disk, and its files are whole."""
    runs = now.get("slot", {}).get("digest", "")
    assert not runs or node.store.damage(runs) == ""
    if now.get("name"):
        assert node.names[runs] == now["name"], "the name is that of the digest"
    assert kept.current in node.names
    assert kept.previous is None or kept.previous in node.names


@pytest.mark.slow
@pytest.mark.timeout(60 * max(KILLS, 10))
def test_a_kill_at_any_moment_leaves_one_working_model(node: Node) -> None:
    choice, seen = random.Random(49), Counter[str]()
    node.agent.start()
    node.works("base")
    confirmed = {""}  # what may run after a kill: what was confirmed, or runs from the config
    for number in range(1, KILLS + 1):
        name = choice.choice(["one", "two", "one", "two", "nan", "fades"])
        few = choice.random() < 0.7
        node.offer(name, number, results=3 if few else 10_000, shadow=choice.choice([0, 0, 10]), soak_s=8)
        _pause(node, choice)
        node.agent.child.kill()
        kept = node.store.slot("m")
        seen[kept.state] += 1
        if kept.state == "confirmed":
            confirmed.add(kept.current)
        stays = kept.previous if kept.state == "unconfirmed" else kept.current
        assert stays in confirmed, (number, kept)
        node.agent.start()
        after = node.store.slot("m")
        assert after.state != "unconfirmed" or after.attempt == kept.attempt
        node.agent.until(lambda now: now["models"]["m"]["state"] == "ok", f"{number}: a model works")
        _check(node, node.store.slot("m"), node.model())
        if choice.random() < 0.3:  # let some come to their end
            node.agent.until(lambda _: node.slot().get("state", "idle") in ENDS, f"{number} {name}: it ends")
            if (ended := node.store.slot("m")).state == "confirmed":
                confirmed.add(ended.current)
    node.agent.child.kill()
    node.agent.start()
    node.agent.until(lambda _: node.slot().get("state", "idle") in ENDS, "it comes to an end")
    kept = node.store.slot("m")
    node.works(node.names[kept.current])
    node.agent.until(lambda _: node.slot().get("digest", "") == kept.current, "what is kept is what runs")
    log.info("%d kills; on disk after them: %s", KILLS, dict(seen))


def _pause(node: Node, choice: random.Random) -> None:
    """Wait until a state that was drawn is on disk, or for a time that was drawn."""
    if choice.random() < 0.3:
        time.sleep(choice.uniform(0, 3))
        return
    wanted = choice.choice(["verifying", "gated", "waiting", "unconfirmed", "unconfirmed", *ENDS])
    until_s = time.monotonic() + 5
    while time.monotonic() < until_s and node.store.slot("m").state != wanted:
        time.sleep(0.002)
    time.sleep(choice.choice([0, 0, choice.uniform(0, 0.1)]))
