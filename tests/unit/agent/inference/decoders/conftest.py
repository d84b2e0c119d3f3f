"""Makes a decoder as a manifest does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agent.inference import decoders
from agent.inference.decoders import Decoder, Tensor


@pytest.fixture
def make() -> Callable[..., Decoder]:
    """Makes the decoder for a word, the shapes of its outputs and its options."""

    def made(word: str, shapes: list[tuple[int, ...]], **options: Any) -> Decoder:
        kind = decoders.load(word)
        tensors = [Tensor(f"y{i}", "float32", shape) for i, shape in enumerate(shapes)]
        return kind(kind.Options(**options), tensors, None)

    return made
