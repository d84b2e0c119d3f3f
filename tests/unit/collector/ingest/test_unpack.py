"""Packs: each message counts as if it had arrived alone, also in a hostile client's pack."""

from __future__ import annotations

import gzip
from collections.abc import Callable

import pytest

from collector.ingest.group_builder import GroupBuilder
from collector.ingest.unpack import unpack
from collector.ledger.ledger import Ledger
from collector.mqtt.received import Received
from collector.store.clock_skew import Offset
from wire.codec import encode
from wire.errors import WireError
from wire.messages import MAX_PACKED, Batch, Event
from wire.topics import parse

NODE, EP, T0 = "acme/trial/hall/cobot-01", "00112233aabbccdd", 1_795_356_000_000
TOPIC = parse(f"tb1/{NODE}/pack")
Message = Callable[..., Received]


def pack(*parts: tuple[str, bytes]) -> bytes:
    return b'{"v":1,"m":[' + b",".join(b'["%b",%b]' % (tail.encode(), body) for tail, body in parts) + b"]}"


def came(body: bytes) -> Received:
    return Received(f"tb1/{NODE}/pack", body, T0 + 100, False, (1, 9))


def data(seq: int) -> tuple[str, bytes]:
    return "data/arm/joints", encode(Batch(ep=EP, seq=seq, t0=T0 + seq, per=1, n=1, f={"x": [1.0]}))


def event(seq: int) -> tuple[str, bytes]:
    return "event/arm/alarm", encode(Event(ep=EP, seq=seq, ts=T0, type="alarm"))


def test_each_message_as_if_alone_and_the_last_settles_the_pack() -> None:
    found = unpack(came(gzip.compress(pack(data(1), event(2), data(3)))), TOPIC)
    assert [one.topic.rpartition(NODE)[2] for one in found] == [
        "/data/arm/joints",
        "/event/arm/alarm",
        "/data/arm/joints",
    ]
    assert [one.token for one in found] == [None, None, (1, 9)]
    assert {one.recv_ms for one in found} == {T0 + 100}
    ledger = Ledger()
    built = GroupBuilder(ledger, lambda _: Offset(), T0).build(found)
    assert (built.stored, built.rows, list(built.acked[(NODE, EP)])) == (3, 3, [(1, 3)])


def test_a_message_that_arrived_alone_is_a_duplicate_in_a_pack() -> None:
    ledger = Ledger()
    tail, body = data(2)
    alone = Received(f"tb1/{NODE}/{tail}", body, T0, False, (1, 1), parsed=parse(f"tb1/{NODE}/{tail}"))
    built = GroupBuilder(ledger, lambda _: Offset(), T0).build(
        [alone, *unpack(came(pack(data(1), data(2), data(3))), TOPIC)]
    )
    assert (built.stored, built.duplicates) == (3, 1)


def test_a_bad_message_does_not_affect_others() -> None:
    parts = [data(1), ("data/arm/joints", b'{"ep":"zz"}'), ("data/arm/joints", b"7"), data(4)]
    built = GroupBuilder(Ledger(), lambda _: Offset(), T0).build(unpack(came(pack(*parts)), TOPIC))
    assert (built.stored, len(built.group.quarantine)) == (2, 2)
    assert list(built.acked[(NODE, EP)]) == [(1, 1), (4, 4)]


@pytest.mark.parametrize(
    "tail",
    [
        "pack",
        "status",
        "birth",
        "cmd/_/ping",
        "ack",
        "live/_/agent",
        "data/arm",
        "../other/data/arm/joints",
        "",
        "data/Ä/x",
    ],
)
def test_only_data_and_events_of_the_node_itself(tail: str) -> None:
    found = unpack(came(pack(data(1), (tail, data(2)[1]))), TOPIC)
    assert not found[0].fault
    assert found[1].fault
    built = GroupBuilder(Ledger(), lambda _: Offset(), T0).build(found)
    assert (built.stored, len(built.group.quarantine)) == (1, 1)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"v":1,"m":[]}',
        b'{"v":1,"m":[["data/arm/joints"]]}',
        b'{"v":1,"m":[["data/arm/joints",{]]}',
        b'{"v":1,"m":[[7,{}]]}',
        pack(*[data(1)] * (MAX_PACKED + 1)),
        gzip.compress(bytes(40_000_000)),
        gzip.compress(pack(data(1)))[:-5],
        b"[" * 50_000,
        pack(data(1)).ljust(60_001),
    ],
    ids=range(11),
)
def test_a_body_that_is_not_a_pack_is_one_error(body: bytes) -> None:
    with pytest.raises(WireError):
        unpack(came(body), TOPIC)
