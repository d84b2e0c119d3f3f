"""Packs: messages are unpacked unchanged and in order; a message that gains nothing is sent alone."""

from __future__ import annotations

import random

import msgspec

from agent.uplink.encoder import PLAIN_MAX, packed, unpacked
from wire.codec import decode, encode
from wire.messages import MAX_BODY, MAX_PACKED, Batch, Event, Pack

BASE, EP = "tb1/acme/trial/hall/box", "00112233aabbccdd"


def message(seq: int, size: int = 100) -> tuple[int, str, bytes]:
    dice = random.Random(seq)
    if seq % 5:
        body = encode(Batch(ep=EP, seq=seq, t0=1, per=1, n=1, f={"x": [dice.random()], "s": ["v" * size]}))
        return seq, "data/arm/joints", body
    return seq, "event/arm/alarm", encode(Event(ep=EP, seq=seq, ts=1, type="alarm", detail={"x": "v" * size}))


def test_every_message_comes_out_as_it_went_in() -> None:
    messages = [message(seq, seq * 37 % 9_000) for seq in range(1, 400)]
    sent = list(packed(BASE, messages, 20_000))
    out = [each for one in sent for each in (unpacked(one) if one.members else [one])]
    assert [(each.seq, each.topic) for each in out] == [(seq, f"{BASE}/{tail}") for seq, tail, _ in messages]
    assert [decode(each.body, Batch if each.seq % 5 else Event) for each in out] == [
        decode(body, Batch if seq % 5 else Event) for seq, _, body in messages
    ]
    assert all(each.overtaken for each in [*sent, *out])


def test_a_pack_fits_any_broker_and_any_reader() -> None:
    dice = random.Random(1)
    noise = [
        (seq, "data/a/b", b'{"seq":%d,"x":"%b"}' % (seq, dice.randbytes(60).hex().encode()))
        for seq in range(1, 5_000)
    ]
    for sent in packed(BASE, noise, PLAIN_MAX):
        assert len(sent.body) <= MAX_BODY
        assert len(decode(sent.body, Pack).m) == len(sent.members) <= MAX_PACKED
    tiny = [(seq, "data/a/b", b'{"seq":%d}' % seq) for seq in range(1, 2_500)]
    assert max(len(sent.members) for sent in packed(BASE, tiny, PLAIN_MAX)) == MAX_PACKED


def test_large_or_deep_or_single_messages_travel_alone() -> None:
    deep = b'{"seq":3,"x":' + b"[" * 600 + b"]" * 600 + b"}"
    messages = [message(1), message(2, 9_000), (3, "data/a/b", deep), message(4), message(6)]
    sent = list(packed(BASE, messages, PLAIN_MAX))
    assert [(each.seq, bool(each.members)) for each in sent] == [
        (1, False),
        (2, False),
        (3, False),
        (4, True),
    ]
    assert sent[-1].members == {4, 6}


def test_only_what_waits_is_unpacked() -> None:
    (pack,) = packed(BASE, [message(seq) for seq in (1, 2, 3, 4)], PLAIN_MAX)
    pack.members.difference_update({1, 3})
    assert [each.seq for each in unpacked(pack)] == [2, 4]


def test_a_backlog_of_small_messages_becomes_a_fraction() -> None:
    plain = [message(seq, 20) for seq in range(1, 301)]
    sent = list(packed(BASE, plain, PLAIN_MAX))
    assert len(sent) == 1
    assert sum(len(each.body) for each in sent) * 4 < sum(len(body) for _, _, body in plain)
    assert msgspec.json.decode(plain[0][2])["seq"] == 1
