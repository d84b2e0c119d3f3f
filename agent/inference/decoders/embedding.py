"""Embedding: a vector that stands for the picture or the window."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct

from agent.inference.decoders.base import Decoder, Outputs, Placement, Result, Tensor, flat, require_size
from wire.messages import Field

_MOST = 512  # numbers of a vector in a row


class EmbeddingOptions(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """`output` of a manifest with `decoder: embedding`."""

    size: Annotated[int, Meta(ge=1, le=_MOST, description="Numbers of the vector.")]
    normalise: Annotated[bool, Meta(description="Give the vector the length 1.")] = False
    dec: Annotated[int, Meta(ge=0, le=12, description="Decimals that are sent.")] = 4


class Embedding(Decoder):
    """One output; the row has it as a list in JSON."""

    Options = EmbeddingOptions

    def __init__(
        self, options: EmbeddingOptions, outputs: Sequence[Tensor], _size: tuple[int, int] | None
    ) -> None:
        require_size(outputs[0], options.size, "numbers of output.size")
        self._options = options

    def fields(self) -> dict[str, Field]:
        """`vector`."""
        return {"vector": Field(t="json", desc=f"list of {self._options.size} numbers")}

    def decode(self, outputs: Outputs, _placement: Placement | None) -> Result:
        """The vector; null where a number is not finite, or where it has no direction."""
        vector = flat(outputs[0], self._options.size).astype(np.float64)
        if self._options.normalise and np.isfinite(vector).all():
            # divided by its largest number first, so that no square overflows
            largest = float(np.abs(vector).max())
            vector = vector / largest if largest else np.full_like(vector, np.nan)
            vector /= np.linalg.norm(vector)
        if not np.isfinite(vector).all():
            return Result({"vector": None})
        return Result({"vector": json.dumps(vector.round(self._options.dec).tolist(), separators=(",", ":"))})
