"""Which bad body is proven to be its node's, and that the evidence is bounded."""

from __future__ import annotations

import pytest

from collector.ingest import repeat_evidence
from collector.ingest.repeat_evidence import AGAIN_MS, RepeatEvidence
from collector.mqtt.received import Received

NODE, T0 = "acme/trial/hall/cobot-01", 1_795_356_000_000


def bad(recv: int, body: bytes = b"{}") -> Received:
    """A message that cannot be read."""
    return Received(f"tb1/{NODE}/data/arm/joints", body, recv, False, (1, 1), False)


def test_the_evidence_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeat_evidence, "PER_NODE", 20)
    monkeypatch.setattr(repeat_evidence, "NODES", 5)
    known = RepeatEvidence()
    for node in range(12):
        for number in range(50):
            assert not known.is_proven(str(node), bad(T0, b"%d" % number))
    assert len(known) == 5 * 20
    late = T0 + AGAIN_MS
    assert known.is_proven("11", bad(late, b"49"))
    assert not known.is_proven("11", bad(late, b"0")), "forgotten, so it counts as the first"
    assert not known.is_proven("0", bad(late, b"49"))


def test_a_clock_that_is_set_back_starts_the_count_again() -> None:
    known = RepeatEvidence()
    hour = 3_600_000
    steps = [T0 + hour, T0, T0 + 5_000, T0 + AGAIN_MS]
    assert [known.is_proven(NODE, bad(at)) for at in steps] == [False, False, False, True]
