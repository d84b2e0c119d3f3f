"""Decoders of other packages import their base from the module that 0.1.0 documented."""

from __future__ import annotations

from agent import decoders
from agent.inference import decoders as present


def test_the_old_module_has_the_classes_of_the_present_one() -> None:
    assert decoders.Decoder is present.Decoder
    for name in decoders.__all__:
        assert getattr(decoders, name) is getattr(present, name)
