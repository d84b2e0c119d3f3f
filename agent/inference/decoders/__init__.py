"""Decoders turn output tensors into values and alarms; one module for each family, `registry` finds them."""

from agent.inference.decoders.base import (
    Decoder,
    Label,
    Labelled,
    ModelError,
    Outputs,
    Placement,
    Result,
    Tensor,
    flat,
    require_size,
    slugs,
)
from agent.inference.decoders.registry import BUILT_IN, installed, load, names

__all__ = [
    "BUILT_IN",
    "Decoder",
    "Label",
    "Labelled",
    "ModelError",
    "Outputs",
    "Placement",
    "Result",
    "Tensor",
    "flat",
    "installed",
    "load",
    "names",
    "require_size",
    "slugs",
]
