"""A builder for ONNX graphs whose code looks like the formula."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, np.dtype[Any]]


class Graph:
    """Collects nodes and constants, named by their order; `shape` is that of the input x."""

    def __init__(self, shape: list[int]) -> None:
        self._shape = shape
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def __call__(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def real(self, numbers: Any) -> str:
        return self._constant(np.asarray(numbers, np.float32))

    def whole(self, numbers: Iterable[int]) -> str:
        return self._constant(np.asarray(list(numbers), np.int64))

    def cut(self, name: str, axis: int, start: int, end: int) -> str:
        return self("Slice", name, self.whole([start]), self.whole([end]), self.whole([axis]))

    def linear(self, name: str, weights: Array) -> str:
        """A linear layer; the first row of `weights` belongs to the constant feature."""
        return self("Add", self("MatMul", name, self.real(weights[1:])), self.real(weights[0]))

    def model(self, outputs: list[tuple[str, str, list[int]]]) -> bytes:
        for wanted, name, _ in outputs:
            self._nodes.append(helper.make_node("Identity", [name], [wanted]))
        graph = helper.make_graph(
            self._nodes,
            "joint-anomaly",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self._shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, _, shape in outputs],
            self._constants,
        )
        model = helper.make_model(
            graph, producer_name="edgebed", opset_imports=[helper.make_opsetid("", 17)], ir_version=8
        )
        onnx.checker.check_model(model, full_check=True)
        body: bytes = model.SerializeToString(deterministic=True)
        return body

    def _constant(self, numbers: Array) -> str:
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(numbers, name))
        return name
