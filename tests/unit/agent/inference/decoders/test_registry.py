"""The registry of decoders."""

from __future__ import annotations

import pytest

from agent.inference import decoders
from agent.inference.decoders import ModelError


def test_an_unknown_decoder_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match="known are anomaly, classification, detection, embedding"):
        decoders.load("segmentation")
