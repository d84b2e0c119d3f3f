"""Which bad body is proven to be its node's, and that the evidence is bounded."""

from __future__ import annotations

import gzip

import pytest

from collector.ingest import repeat_evidence
from collector.ingest.inbox import Received
from collector.ingest.repeat_evidence import AGAIN_MS, RepeatEvidence
from collector.mqtt.connection import Incoming
from wire.codec import encode
from wire.messages import MAX_BODY, Batch
from wire.topics import parse

NODE, EP, T0 = "acme/trial/hall/cobot-01", "00112233aabbccdd", 1_795_356_000_000


DATA = f"tb1/{NODE}/data/arm/joints"


BAD = {
    "not numbered": encode(Batch(t0=1, per=1, n=1, f={"x": [1]})),
    "truncated": b'{"t0":1,',
    "has 2 values for 1 rows": b'{"ep":"00112233","seq":5,"t0":1,"dt":[0],"f":{"x":[1,2]}}',
    "before 1970": b'{"ep":"00112233","seq":5,"t0":1,"dt":[-100],"f":{"x":[1]}}',
    "a batch without fields": b'{"ep":"00112233","seq":5,"t0":1,"dt":[0],"f":{}}',
    "not [a-z]": b'{"ep":"00112233","seq":5,"t0":1,"dt":[0],"f":{"X":[1]}}',
    "60000 are allowed": b" " * (MAX_BODY + 1),
    "unpacks to more": gzip.compress(b" " * 20_000_000),
}


def bad(recv: int, *, body: bytes = b"", topic: str = DATA, dup: bool = False) -> Received:
    return Received(
        Incoming(topic, body or BAD["a batch without fields"], recv, False, (1, 1), dup), parse(topic)
    )


def test_the_evidence_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeat_evidence, "PER_NODE", 20)
    monkeypatch.setattr(repeat_evidence, "NODES", 5)
    known = RepeatEvidence()
    for node in range(12):
        for number in range(50):
            assert not known.is_proven(str(node), bad(T0, body=b"%d" % number).message)
    assert len(known) == 5 * 20
    late = T0 + AGAIN_MS
    assert known.is_proven("11", bad(late, body=b"49").message)
    assert not known.is_proven("11", bad(late, body=b"0").message), "forgotten, so it counts as the first"
    assert not known.is_proven("0", bad(late, body=b"49").message)


def test_a_clock_that_is_set_back_starts_the_count_again() -> None:
    known = RepeatEvidence()
    hour = 3_600_000
    steps = [T0 + hour, T0, T0 + 5_000, T0 + AGAIN_MS]
    assert [known.is_proven(NODE, bad(at).message) for at in steps] == [False, False, False, True]
