"""A running agent whose slots name hostile packages: each is refused with a sentence, and devices go on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from agent.inference.signing import signature
from edgebed.broker import BrokerProcess
from tests import paho_client
from tests.polling import wait_until
from tests.running_agent import GUARD_S, RunningAgent, Subscriber
from tests.unit.agent.conftest import Packages

MOST_MB = 400  # of the agent itself, whatever its packages are
INPUT = {"kind": "window", "name": "x", "signals": ["a", "b"], "rate_hz": 50, "length": 4, "hop": 4}
ESCAPES = "\x1b[2J\x1b[31mok\r\n9 golden vectors agree"
SUM = [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)]


def body(*nodes: onnx.NodeProto, weights: TensorProto | None = None, domain: str = "") -> bytes:
    """A model of a window; with a tensor `w` beside its graph, and another domain of operators."""
    made = onnx.load_from_string(Packages.model(nodes or SUM, inputs={"x": (1, 4, 2)}, outputs={"y": ()}))
    if weights is not None:
        made.graph.initializer.append(weights)
    if domain:
        made.opset_import.append(helper.make_opsetid(domain, 1))
    return made.SerializeToString()


def outside(location: str) -> TensorProto:
    made = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[8], data_location=TensorProto.EXTERNAL)
    made.external_data.add(key="location", value=location)
    return made


def huge() -> TensorProto:
    return TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**31, 2**31], raw_data=b"0" * 16)


def nested(depth: int) -> bytes:
    """Branches in branches."""
    kind = helper.make_tensor_value_info("o", TensorProto.FLOAT, [1, 4, 2])
    plain = helper.make_graph([helper.make_node("Identity", ["x"], ["o"])], "b", [], [kind])
    inner = plain
    for _ in range(depth):
        node = helper.make_node("If", ["t"], ["o"], then_branch=inner, else_branch=plain)
        inner = helper.make_graph([node], "b", [], [kind])
    return body(*inner.node, helper.make_node("ReduceSum", ["o"], ["y"], keepdims=0))


class Hostile(Packages):
    """Writes packages that are hostile, or mistaken."""

    def put(self, name: str, model: bytes | None = None, **changes: Any) -> Path:
        return self.write(body() if model is None else model, name=name, **{"input": INPUT, **changes})

    def file(self, name: str, file: str, make: Callable[[Path], object]) -> None:
        """A good package in which one file is something else."""
        path = self.put(name) / file
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        make(path)

    def signed(self, name: str, key: bytes, then: Callable[[Path], object]) -> None:
        """A package that is changed after it was signed."""
        folder = self.put(name)
        self.golden(folder, 28)
        signature.sign(folder, key)
        then(folder)

    @staticmethod
    def golden(folder: Path, expected: float) -> None:
        (folder / "golden").mkdir(exist_ok=True)
        window = np.arange(8, dtype=np.float32).reshape(4, 2)
        np.savez(folder / "golden" / "a.npz", input=window, output_0=np.float32(expected))


def write_all(made: Hostile, trusted: bytes, revoked: bytes) -> dict[str, str]:
    """The hostile packages, and what the sentence of each must have."""
    weights = "has weights outside the file"
    for at, location in enumerate(
        ("/etc/passwd", "../../secret", "weights.bin", "*/_ORT_MEM_ADDR_/*", "/dev/zero")
    ):
        made.put(f"outside-{at}", body(weights=outside(location)))
    made.put("nested", nested(24))
    made.put("huge", body(helper.make_node("ReduceSum", ["w"], ["y"], keepdims=0), weights=huge()))
    made.put(
        "domain", body(helper.make_node("Steal", ["x"], ["y"], domain="com.example"), domain="com.example")
    )
    made.put("truncated", body()[:-9])
    made.put("shapes", Packages.model(SUM, inputs={"x": (1, 7, 3)}, outputs={"y": ()}))
    total = [helper.make_node("ReduceSum", [ESCAPES], ["y"], keepdims=0)]
    made.put("names", Packages.model(total, inputs={ESCAPES: (1, 4, 2)}, outputs={"y": ()}))
    made.put("hash", sha256="ab" * 32)
    made.golden(made.put("golden"), 99)
    made.file("fifo", "golden/a.npz", os.mkfifo)
    made.file("fifo-model", "model.onnx", os.mkfifo)
    made.file("fifo-signature", "model.sig", os.mkfifo)
    made.file("link", "model.onnx", lambda path: path.symlink_to("/dev/zero"))
    made.file(
        "link-folder",
        "golden",
        lambda path: path.symlink_to("/etc"),
    )
    made.signed("unlisted", trusted, lambda folder: (folder / f"x{ESCAPES[:4]}.txt").write_text("x"))
    made.signed("swapped", trusted, lambda folder: made.golden(folder, 27))
    made.signed("revoked", revoked, lambda folder: None)
    return {
        **dict.fromkeys((f"outside-{at}" for at in range(5)), weights),
        "nested": "nested",
        "huge": "onnxruntime refuses it",
        "domain": "needs operators of 'com.example'",
        "truncated": "is not a whole ONNX file",
        "shapes": "the model needs x float32[1, 7, 3]",
        "names": r"\x1b[2J",
        "hash": "sha256",
        "golden": "golden/a.npz",
        "fifo": "golden/a.npz is not a regular file",
        "fifo-model": "model.onnx is not a regular file",
        "fifo-signature": "model.sig is not a regular file",
        "link": "model.onnx is not a regular file",
        "link-folder": "golden is not a folder",
        "unlisted": "is in the folder and is not signed",
        "swapped": "golden/a.npz",
        "revoked": "revoked",
    }


@pytest.mark.slow
def test_hostile_packages_are_refused_while_telemetry_flows(tmp_path: Path, broker: BrokerProcess) -> None:
    (tmp_path / "packages").mkdir()
    made = Hostile(tmp_path / "packages")
    (trusted, public), (revoked, revoked_public) = signature.new_key(), signature.new_key()
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "maker.pem").write_bytes(public)
    (keys / "old.revoked").write_bytes(revoked_public)
    sentences = write_all(made, trusted, revoked)
    made.put("endless", made.hanging())
    made.put("good")
    models = {
        name: {"package": f"packages/{name}", "input": "arm/rows", "events": "never"}
        for name in [*sentences, "endless", "good"]
    }
    agent = RunningAgent(tmp_path, broker.url, models=models, trust={"keys": ["keys"]})
    page = Subscriber(broker.port)
    agent.start()
    seen: set[str] = set()

    def refused(now: dict[str, Any]) -> bool:
        """Whether every package is decided; rows came since the last one was."""
        done = {name for name in sentences if now["models"][name]["state"] == "failed"}
        if done - seen:
            rows = len(page.values("data/arm/rows"))
            wait_until(lambda: len(page.values("data/arm/rows")) > rows, "rows arrive", GUARD_S)
            seen.update(done)
        return seen == sentences.keys() and now["models"]["good"].get("runs", 0) > 3

    found = agent.until(refused, "every hostile package is refused")["models"]
    given = {name: found[name]["why"] for name in sentences}
    assert {name: why for name, why in given.items() if sentences[name] not in why} == {}
    assert all(why.isprintable() and len(why) < 800 for why in given.values())
    assert found["endless"]["state"] in ("stopped", "failed")
    peak = [
        line for line in Path(f"/proc/{agent.child.pid}/status").read_text().splitlines() if "VmHWM" in line
    ]
    assert int(peak[0].split()[1]) / 1024 < MOST_MB
    values = page.values("data/arm/rows")
    assert values == list(range(int(values[0]), int(values[0]) + len(values))), "no row is lost"
    assert agent.child.stop() == 0
    paho_client.end(page.client)
