"""The types and shapes that onnxruntime declares."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from agent.inference.tensors import fits, tensor


def test_a_dimension_with_a_name_or_without_one_is_not_known() -> None:
    node = SimpleNamespace(name="x", type="tensor(double)", shape=["batch", None, 3])
    assert str(tensor(node)) == "x float64[?, ?, 3]"


@pytest.mark.parametrize(
    ("declared", "shape", "good"),
    [((1, -1), (1, 7), True), ((1, 2), (1, 3), False), ((1,), (1, 1), False), ((), (), True)],
)
def test_a_shape_fits(declared: tuple[int, ...], shape: tuple[int, ...], good: bool) -> None:
    assert fits(declared, shape) is good
