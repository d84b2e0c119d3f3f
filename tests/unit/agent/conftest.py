"""Builds small model packages for tests: a few operators and a manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper


def _value(name: str, shape: Sequence[int | str], types: dict[str, int] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, (types or {}).get(name, TensorProto.FLOAT), list(shape))


class Packages:
    """Writes packages under a folder; `model` makes the bytes, `write` the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    def model(
        nodes: Sequence[onnx.NodeProto],
        *,
        inputs: dict[str, Sequence[int | str]],
        outputs: dict[str, Sequence[int | str]],
        constants: dict[str, np.ndarray] | None = None,
        opset: int = 17,
        types: dict[str, int] | None = None,
    ) -> bytes:
        """An ONNX file of tensors, of floats but for `types`; a dimension given as text is not declared."""
        graph = helper.make_graph(
            list(nodes),
            "test",
            [_value(name, shape, types) for name, shape in inputs.items()],
            [_value(name, shape, types) for name, shape in outputs.items()],
            [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        return made.SerializeToString()

    def constant(self, *outputs: np.ndarray, shape: Sequence[int | str] = (1, 4, 2)) -> bytes:
        """A model that always gives `outputs`; each goes through `x * 0`."""
        nodes = [
            helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        ]
        constants = {"zero": np.float32(0) * np.ones((), np.float32)}
        named = {}
        for at, output in enumerate(outputs):
            constants[f"c{at}"] = output.astype(np.float32)
            nodes.append(helper.make_node("Add", [f"c{at}", "nothing"], [f"y{at}"]))
            named[f"y{at}"] = output.shape
        return self.model(nodes, inputs={"x": shape}, outputs=named, constants=constants)

    def hanging(self, *, above: float = -1e30) -> bytes:
        """A model of a window of 4 rows of 2 signals that never answers if a number is above `above`."""
        body = helper.make_graph(
            [
                helper.make_node("Identity", ["again"], ["still"]),
                helper.make_node("Identity", ["v"], ["w"]),
            ],
            "body",
            [
                helper.make_tensor_value_info("i", TensorProto.INT64, []),
                helper.make_tensor_value_info("again", TensorProto.BOOL, []),
                helper.make_tensor_value_info("v", TensorProto.FLOAT, [1, 4, 2]),
            ],
            [
                helper.make_tensor_value_info("still", TensorProto.BOOL, []),
                helper.make_tensor_value_info("w", TensorProto.FLOAT, [1, 4, 2]),
            ],
        )
        nodes = [
            helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
            helper.make_node("Greater", ["largest", "limit"], ["large"]),
            helper.make_node("Where", ["large", "forever", "once"], ["times"]),
            helper.make_node("Loop", ["times", "true", "x"], ["last"], body=body),
            helper.make_node("ReduceMax", ["last"], ["y"], keepdims=0),
        ]
        constants = {
            "limit": np.float32(above) * np.ones((), np.float32),
            "forever": np.array(2**62),
            "once": np.array(1),
            "true": np.array(True),
        }
        return self.model(nodes, inputs={"x": (1, 4, 2)}, outputs={"y": ()}, constants=constants)

    def write(self, body: bytes, *, name: str = "m", **changes: Any) -> Path:
        """A package for `body`: a window of two signals into a regression, except for `changes`."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        (folder / "model.onnx").write_bytes(body)
        manifest: dict[str, Any] = {
            "name": name,
            "version": "1.0",
            "licence": "CC0-1.0",
            "sha256": hashlib.sha256(body).hexdigest(),
            "input": {"kind": "window", "name": "x", "signals": ["a", "b"], "rate_hz": 10, "length": 4},
            "output": {"decoder": "regression", "fields": {"power": {"unit": "W", "dec": 1}}},
        }
        manifest.update(changes)
        (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))
        return folder


@pytest.fixture
def packages(tmp_path: Path) -> Packages:
    """Makes model packages in the test's folder."""
    return Packages(tmp_path)


@pytest.fixture
def frame_input() -> Callable[..., dict[str, Any]]:
    """The manifest's `input` of a 32x32 frame model whose input is `x`."""
    return lambda **changes: {"kind": "frame", "name": "x", "size": [32, 32], **changes}
