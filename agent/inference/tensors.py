"""The tensors that onnxruntime declares: their types and shapes."""

from __future__ import annotations

from typing import Any

from agent.inference.decoders import Tensor

_WHOLE = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
# onnxruntime's name of a type -> numpy's
NUMBERS = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    **{f"tensor({name})": name for name in _WHOLE},
}
LABELS = {*(f"tensor({name})" for name in _WHOLE), "tensor(bool)", "tensor(string)"}


def tensor(node: Any) -> Tensor:
    """The tensor of an input or output of a session."""
    dtype = NUMBERS.get(node.type, str(node.type).removeprefix("tensor(").removesuffix(")"))
    shape = tuple(dim if isinstance(dim, int) and dim >= 0 else -1 for dim in node.shape)
    return Tensor(str(node.name), dtype, shape)


def fits(declared: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a tensor of this shape is one that was declared."""
    return len(declared) == len(shape) and all(
        have in (want, -1) for have, want in zip(declared, shape, strict=True)
    )
