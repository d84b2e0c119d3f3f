"""Rollouts over a real broker: a collector and three agents as processes, good and bad versions, kills."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import helper

from edgebed.broker import BrokerProcess
from edgebed.cli import command
from tests.integration.conftest import CollectorProcess
from tests.polling import wait_until
from tests.running_agent import GUARD_S, RunningAgent, replay
from tests.unit.agent.conftest import Packages

KILLS = int(os.environ.get("EDGEBED_ROLLOUT_KILLS", "1"))
NAMES = ("n1", "n2", "n3")
INPUT = {"kind": "window", "name": "x", "signals": ["a", "b"], "rate_hz": 50, "length": 4}


class Site:
    """A broker, a collector and agents that run the package `base`; `tried` is what a second model gives."""

    def __init__(self, folder: Path, names: tuple[str, ...] = NAMES, tried: float | None = None) -> None:
        self.folder = folder
        self.packages = Packages(folder)
        self.broker = BrokerProcess("mosquitto", folder / "broker")
        self.broker.start()
        self.collector = CollectorProcess(folder / "site", self.broker)
        self.url = f"http://127.0.0.1:{self.collector.port}"
        base = self.constant("base", 0.0)
        self.tried = None if tried is None else self.constant("tried", tried)
        self.agents = {name: self._agent(name, base) for name in names}

    def _agent(self, name: str, base: Path) -> RunningAgent:
        place = self.folder / name
        place.mkdir()
        slot: dict[str, Any] = {"package": str(base), "input": "arm/rows", "isolation": "thread"}
        if self.tried is not None:
            slot["shadow"] = {"package": str(self.tried)}
        made = RunningAgent(
            place,
            self.broker.url,
            versions={"url": self.url},
            models={"m": slot},
        )
        made.document["node"] = f"t/p/s/{name}"
        made.document["devices"]["arm"]["options"]["loop"] = True
        made.write()
        return made

    def start(self) -> None:
        self.collector.start()
        self.collector.online()
        for agent in self.agents.values():
            agent.child.start()
        wait_until(self._is_whole, "every node shows its model", GUARD_S)

    def _is_whole(self) -> bool:
        nodes = self.collector.ask("fleet")["nodes"]
        return len([one for one in nodes if one["models"] and one["state"] == "online"]) == len(self.agents)

    def stop(self) -> None:
        for child in (*(agent.child for agent in self.agents.values()), self.collector):
            child.stop()
        self.broker.kill()

    def constant(self, name: str, value: float) -> Path:
        return self.packages.write(self.packages.constant(np.array([value])), name=name, input=INPUT)

    def bad(self, name: str) -> Path:
        """A package whose results are numbers only up to an input of 1: not on the real input."""
        nodes = [
            helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
            helper.make_node("Sub", ["limit", "most"], ["left"]),
            helper.make_node("Sqrt", ["left"], ["y"]),
        ]
        constants = {"limit": np.array(1.0, np.float32)}
        body = self.packages.model(nodes, inputs={"x": (1, 4, 2)}, outputs={"y": ()}, constants=constants)
        return self.packages.write(body, name=name, input=INPUT)

    def run(self, *words: str, fails: bool = False) -> str:
        done = CliRunner().invoke(command, [*words, "--url", self.url])
        assert (done.exit_code != 0) is fails, (words, done.output, done.exception)
        return f"{done.exception}" if fails else done.output

    def push(self, package: Path) -> str:
        """Push a package; returns its digest."""
        return self.run("model", "push", str(package), "--tenant", "t").strip().rpartition(":")[2]

    def begin(self, digest: str, stages: str = "1,2,100%", timeout: str = "20m") -> str:
        """Start a rollout; returns its id."""
        text = self.run(
            "rollout", "start", f"sha256:{digest}", "--slot", "m", "--nodes", "t/*", "--stages", stages,
            "--confirm", "results>=5,soak_s<600", "--timeout", timeout, "--json",
        )  # fmt: skip
        identity: str = json.loads(text)["id"]
        return identity

    def rollout(self, identity: str) -> dict[str, Any]:
        found: dict[str, Any] = self.collector.ask(f"rollouts/t/{identity}")
        return found

    def until(self, identity: str, condition: Callable[[dict[str, Any]], Any], what: str) -> dict[str, Any]:
        found: dict[str, Any] = wait_until(
            lambda: (now := self.rollout(identity)) and condition(now) and now, what, GUARD_S
        )
        return found

    def running(self) -> list[str]:
        """The name of the model that each agent runs."""
        return [agent.status()["models"]["m"].get("name", "") for agent in self.agents.values()]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def test_a_good_version_goes_through_and_a_bad_one_stops(site: Site) -> None:
    good, bad = site.push(site.constant("good", 1.0)), site.push(site.bad("bad"))
    first = site.begin(good)
    site.until(first, lambda now: now["state"] == "done", "the good one is done")
    wait_until(lambda: site.running() == ["good"] * 3, "all run it", GUARD_S)
    for one in site.rollout(first)["devices"]:
        assert (one["state"], one["slot"]["digest"]) == ("confirmed", good)
        assert one["slot"]["results"] >= one["slot"]["of"] == 5
    assert good[:12] in site.run("rollout", "evidence", first)
    site.run("rollout", "rollback", first)
    site.until(first, lambda now: now["state"] == "rolled-back", "the good one is taken back")
    wait_until(lambda: site.running() == ["base"] * 3, "all run what they had", GUARD_S)
    second = site.begin(bad)
    paused = site.until(second, lambda now: now["state"] == "paused", "the bad one is stopped")
    assert (paused["code"], paused["stage"]) == ("rollout-failed", 0)
    assert "not numbers" in paused["why"], paused["why"]
    assert sorted(one["state"] for one in paused["devices"]) == ["failed", "waiting", "waiting"]
    wait_until(lambda: site.running() == ["base"] * 3, "it is rolled back", GUARD_S)
    site.run("rollout", "abort", second)


@pytest.fixture
def shadowing(tmp_path: Path) -> Iterator[Site]:
    """One agent whose second model gives what the first gives."""
    made = Site(tmp_path, NAMES[:1], tried=0.0)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.mark.slow
def test_a_second_model_acts_after_its_evidence_alone(shadowing: Site) -> None:
    site = shadowing
    assert site.tried is not None
    tried, other = site.push(site.tried), site.push(site.constant("other", 2.0))

    def promote(digest: str, *words: str, fails: bool = True) -> str:
        wanted = ("--slot", "m", "--nodes", "t/*", "--stages", "100%", "--confirm", "results>=5")
        return site.run("rollout", "promote", f"sha256:{digest}", *wanted, *words, fails=fails)

    def evidence() -> dict[str, Any]:
        (node,) = site.collector.ask("fleet")["nodes"]
        found: dict[str, Any] = node["models"][0].get("evidence") or {}
        return found

    agent = site.agents["n1"]
    agent.until(lambda now: (now["models"]["m"].get("evidence") or {}).get("n", 0) >= 20, "both answered")
    agent.document["devices"]["other"] = replay()  # it reports at once, not within a minute
    agent.write()
    assert agent.reload().returncode == 0
    wait_until(lambda: evidence().get("n", 0) >= 20, "the collector knows it", GUARD_S)
    assert "t/p/s/n1: tried@1.0 is in shadow there, with other files than the package" in promote(other)
    assert "t/p/s/n1: both models answered" in promote(tried, "--min-n", "1000000000")
    enough = ("--min-n", "20", "--min-agreement")
    assert "t/p/s/n1: the agreement is at least 0." in promote(tried, *enough, "1")
    assert site.collector.ask("rollouts")["rollouts"] == []
    assert site.running() == ["base"]
    made = json.loads(promote(tried, *enough, "0.1", "--json", fails=False))
    site.until(made["id"], lambda now: now["state"] == "done", "it is done")
    wait_until(lambda: site.running() == ["tried"], "it acts", GUARD_S)
    assert "NaN 0.000% of" in site.run("rollout", "evidence", made["id"])
    agent.child.stop()
    wait_until(lambda: site.collector.ask("fleet")["nodes"][0]["state"] == "offline", "it is off", GUARD_S)
    assert "t/p/s/n1: it is offline" in promote(tried, *enough, "0.1")


def kills(site: Site, identity: str, chance: random.Random) -> None:
    """Kill the collector or an agent once, at a random moment, and start it again."""
    limit = chance.randint(1, 400)
    seen = iter(range(limit))
    wait_until(
        lambda: next(seen, None) is None or site.rollout(identity)["state"] == "done", "a moment", GUARD_S
    )
    if chance.random() < 0.5:
        site.collector.kill()
        site.collector.start()
        site.collector.online()
    else:
        child = site.agents[chance.choice(NAMES)].child
        child.kill()
        child.start()


def converges(site: Site, rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    for count in range(rounds):
        name = f"v{seed}-{count}"
        digest = site.push(site.constant(name, float(count + 2)))
        identity = site.begin(digest, chance.choice(["1,2,100%", "100%", "1,100%"]))
        kills(site, identity, chance)

        def is_done(now: dict[str, Any], identity: str = identity) -> bool:
            if now["state"] == "paused":  # an agent that was killed before it confirmed went back
                assert {one["code"] for one in now["devices"] if one["why"]} <= {
                    "slot-restarted",
                    "slot-undone",
                }
                site.run("rollout", "resume", identity)
            return bool(now["state"] == "done")

        site.until(identity, is_done, f"seed {seed}, round {count}: it converges")
        wait_until(lambda name=name: site.running() == [name] * 3, f"round {count}: all run it", GUARD_S)


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(site: Site) -> None:
    converges(site, KILLS, 1)


@pytest.mark.slow
def test_many_kills(site: Site) -> None:
    converges(site, int(os.environ.get("EDGEBED_ROLLOUT_MANY_KILLS", "4")), 2)
