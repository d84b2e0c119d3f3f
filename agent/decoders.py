"""The decoder API under its 0.1.0 name, which decoders of other packages import."""

from agent.inference.decoders import (
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

__all__ = [
    "Decoder",
    "Label",
    "Labelled",
    "ModelError",
    "Outputs",
    "Placement",
    "Result",
    "Tensor",
    "flat",
    "require_size",
    "slugs",
]
