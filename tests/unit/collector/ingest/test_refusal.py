"""A refused node learns why and until when, at most once a second; an unknown client cannot multiply that."""

from __future__ import annotations

import gzip
import json

import pytest
from msgspec import Raw

from collector.ingest.fair_rate import Wait
from collector.ingest.refusal import ANSWERS_PER_S, Answers, Refusal, epoch_in
from collector.ingest.share_limits import NodeShares, TenantShares
from wire.codec import decode, encode
from wire.messages import Ack, Batch, Pack, Refused
from wire.reasons import CODES
from wire.topics import parse

EP, BASE = "00112233aabbccdd", b"tb1/acme/trial/hall/arm"
BODY = encode(Batch(ep=EP, seq=1, t0=1, per=1, n=1, f={"x": [1.0]}))
REFUSAL = Refusal.after(Wait("node", 2.5), "values_per_s", 1_000)


def test_the_answer_names_the_share_and_the_time() -> None:
    answers = Answers("collector-1")
    answer = answers.answer(BASE, BODY, REFUSAL, 1_000, 50.0)
    assert answer is not None
    topic, body = answer
    assert parse(topic).cls == "ack"
    ack = decode(body, Ack)
    assert (ack.ep, ack.ok, ack.ts) == (EP, [], 1_000)
    assert ack.refused == Refused(
        code="share-values", until=3_500, why="it exceeds shares.node.values_per_s of the collector"
    )


def test_it_is_sent_once_a_second_to_each_node_and_counted_each_time() -> None:
    answers = Answers("c")
    sent = [answers.answer(BASE, BODY, REFUSAL, 0, at / 100) for at in range(300)]
    assert sum(each is not None for each in sent) == 3
    assert answers.counts == {("node", "values_per_s"): 300}


def test_invented_names_get_a_bounded_number_of_answers() -> None:
    answers = Answers("c")
    sent = [answers.answer(BASE + b"%d" % n, BODY, REFUSAL, 0, 7.0) for n in range(10_000)]
    assert sum(each is not None for each in sent) == ANSWERS_PER_S


def test_the_outbox_of_a_body_is_found_without_decoding_it() -> None:
    many = Batch(ep=EP, seq=1, t0=1, per=1, n=5_000, f={"x": [1.5] * 5_000})
    pack = encode(Pack(m=[("data/arm/joints", Raw(encode(many)))]))
    spaced = json.dumps({"v": 1, "ep": EP, "seq": 1}).encode()
    last = json.dumps({"f": {"x": [1.5] * 5_000}, "n": 5_000, "ep": EP}, indent=2).encode()
    for body in (BODY, encode(many), gzip.compress(encode(many)), gzip.compress(BODY), spaced, last, pack):
        assert epoch_in(body) == EP
    for body in (b"", b"{}", b"\x1f\x8b", gzip.compress(b"{}"), b'{"ep":"XYZ"}', gzip.compress(BODY)[:15]):
        assert epoch_in(body) == ""
    assert Answers("c").answer(BASE, b"{}", REFUSAL, 0, 0.0) is None


@pytest.mark.parametrize("key", sorted({*NodeShares.__struct_fields__, *TenantShares.__struct_fields__}))
def test_every_share_has_a_code(key: str) -> None:
    assert Refusal("tenant", key, 0).code in CODES
