"""The worker of a model in a real daemon: it is restarted, two slots share it, and it ends with the agent."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from onnx import helper

from tests.polling import wait_until
from tests.running_agent import GUARD_S, RunningAgent
from tests.unit.agent.conftest import Packages


def test_a_worker_is_restarted_and_ends_with_its_agent(tmp_path: Path) -> None:
    packages = Packages(tmp_path)
    nodes = [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)]
    body = packages.model(nodes, inputs={"x": (1, 4, 2)}, outputs={"y": ()})
    folder = packages.write(body, input={
        "kind": "window", "name": "x", "signals": ["a", "b"], "rate_hz": 50, "length": 4, "hop": 4
    })  # fmt: skip
    slot = {"package": str(folder), "input": "arm/rows", "events": "never"}
    models = {"one": slot, "two": slot, "inside": {**slot, "isolation": "thread"}}
    agent = RunningAgent(tmp_path, "mqtt://127.0.0.1:9", models=models)
    agent.start()

    def well(now: dict[str, Any]) -> bool:
        states = [now["models"][name] for name in models]
        return all(each["state"] == "ok" and each.get("runs") for each in states)

    first = agent.until(well, "every model gives results")["models"]
    assert first["one"]["isolation"] == first["two"]["isolation"] == "process"
    assert first["one"]["pid"] == first["two"]["pid"], "slots of one package share a worker"
    assert "pid" not in first["inside"] or not first["inside"]["pid"]
    assert first["one"]["mb"] > 10
    pid = first["one"]["pid"]
    os.kill(pid, signal.SIGSEGV)
    again = agent.until(
        lambda now: well(now) and now["models"]["one"]["pid"] not in (0, pid), "another worker runs"
    )["models"]
    assert sum(again[name].get("worker_ended", 0) for name in ("one", "two")) == 1
    pid = again["one"]["pid"]
    assert agent.child.stop() == 0
    assert not Path(f"/proc/{pid}").exists(), "a stop in order ends the worker"
    agent.start()
    pid = agent.until(well, "every model gives results")["models"]["one"]["pid"]
    agent.child.kill()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the worker ends with its agent", GUARD_S)
