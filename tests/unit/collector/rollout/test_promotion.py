"""What a node must show before its second model is promoted."""

from __future__ import annotations

from typing import Any

import pytest

from collector.rollout.packages import Kept
from collector.rollout.promotion import Least, lack
from wire.messages import Arm, Evidence, ModelSlot, ModelState

KEPT = Kept("acme", "d" * 64, "m", "2", 1, False, "a" * 64)
GOOD: dict[str, Any] = {"state": "ok", "n": 1_000, "low": 0.95, "b": Arm(name="m", ver="2", sha256="a" * 64)}


def shown(**more: Any) -> ModelState:
    return ModelState(state="ok", name="m", ver="1", evidence=Evidence(**{**GOOD, **more}))


@pytest.mark.parametrize(
    ("more", "code", "why"),
    [
        ({}, "", ""),
        ({"n": 999}, "promote-few", "both models answered 999 inputs, and 1,000 are needed"),
        ({"n": 0, "low": 0.0}, "promote-few", "both models answered 0 inputs"),
        ({"low": 0.9499}, "promote-agreement", "the agreement is at least 0.9499, and 0.95 is needed"),
        ({"agreed": 1_000.0, "low": 0.2}, "promote-agreement", "at least 0.2, and 0.95"),
        ({"state": "opening"}, "promote-state", "its second model is opening"),
        ({"state": "failed", "why": "it hangs"}, "promote-state", "its second model is failed: it hangs"),
        ({"mode": "ab"}, "promote-none", "no second model is in shadow"),
        ({"b": Arm(name="x", ver="3", sha256="b" * 64)}, "promote-other", "x@3 is in shadow there"),
        (
            {"b": Arm(name="m", ver="2", sha256="a" * 64, digest="e" * 64)},
            "promote-other",
            "with other files",
        ),
        ({"b": Arm(name="m", ver="2", sha256="a" * 64, digest="d" * 64)}, "", ""),
        ({"b": Arm(name="m", ver="2")}, "promote-other", "m@2 is in shadow there"),
    ],
)
def test_what_evidence_must_show(more: dict[str, Any], code: str, why: str) -> None:
    found = lack(shown(**more), KEPT, Least(), online=True)
    assert (found.code, why in found.why) == (code, True), found


def test_nodes_without_evidence() -> None:
    bare = ModelState(state="ok", name="m", ver="1")
    assert lack(bare, KEPT, Least(), online=True).code == "promote-none"
    assert lack(None, KEPT, Least(), online=True).code == "promote-none"
    assert lack(shown(), KEPT, Least(), online=False).code == "promote-offline"


def test_a_package_without_onnx_file_fits_no_evidence() -> None:
    empty = Kept("acme", "d" * 64, "m", "2", 1, False)
    assert lack(shown(b=Arm(name="m", ver="2")), empty, Least(), online=True).code == "promote-other"


def test_a_version_that_was_offered_with_shadow_runs_has_evidence_too() -> None:
    slot = ModelSlot(state="shadow", evidence=Evidence(**GOOD))
    other = Evidence(state="ok", n=5_000, low=0.99, b=Arm(name="x", ver="3", sha256="b" * 64))
    model = ModelState(state="ok", name="m", ver="1", evidence=other, slot=slot)
    assert lack(model, KEPT, Least(), online=True).why == ""
    model.slot = ModelSlot(state="shadow")
    assert lack(model, KEPT, Least(), online=True).code == "promote-other"


def test_other_limits() -> None:
    assert lack(shown(n=10, low=0.5), KEPT, Least(min_n=10, min_agreement=0.5), online=True).why == ""
