"""The packet socket: whole PUBLISH packets, all others for paho, whatever the pieces they arrive in."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire.mqtt.packets import LARGEST, Pair, encoded, framed, make_pair
from wire.mqtt.packet_socket import Malformed, PacketSocket, PublishPacket

publishes = st.builds(
    PublishPacket, st.binary(min_size=1, max_size=40), st.binary(max_size=400), st.integers(0, 65_535),
    st.booleans(), st.booleans(),
)  # fmt: skip


others = st.builds(framed, st.sampled_from([0x20, 0x40, 0x90, 0xD0]), st.binary(max_size=200))


@given(st.lists(publishes | others, max_size=12), st.lists(st.integers(1, 90), min_size=1), st.booleans())
def test_packets_are_whole_in_any_pieces(
    sent: list[PublishPacket | bytes], sizes: list[int], v5: bool
) -> None:
    """PUBLISH packets to the socket's user, all others to paho, in their order."""
    near, peer = make_pair()
    raw = b"".join(one if isinstance(one, bytes) else encoded(one, int(one.mid > 0), v5) for one in sent)
    found: list[PublishPacket | bytes] = []
    try:
        for size in itertools.cycle(sizes):
            if not raw:
                break
            peer.sendall(raw[:size])
            raw = raw[size:]
            near.fill()
            found += near.publishes(v5=v5)
            while (packet := near.packet()) is not None:
                near.release()
                found.append(all_of(near))
                assert found[-1] == framed(*packet)
                near.skip()
                found += near.publishes(v5=v5)
            assert not near.is_pending
        assert found == sent
        peer.close()
        near.fill()
        assert near.has_ended
    finally:
        near.shut()
        peer.close()


def all_of(near: PacketSocket) -> bytes:
    found = b""
    with contextlib.suppress(BlockingIOError):
        while piece := near.recv(7):
            found += piece
    return found


def test_the_beginning_of_a_huge_packet_is_kept_and_the_next_one_is_whole(pair: Pair) -> None:
    near, peer = pair
    after = PublishPacket(b"after", b"b", 8, False, False)
    peer.setblocking(False)
    huge = PublishPacket(b"huge", b"x" * 3_000_000, 7, False, False)
    raw = encoded(huge, 1, False) + encoded(after, 1, False)
    found: list[PublishPacket] = []
    while raw or len(found) < 2:
        with contextlib.suppress(BlockingIOError):
            raw = raw[peer.send(raw) :]
        near.fill()
        found += near.publishes(v5=False)
        assert len(near._held) <= LARGEST + 65_536
    assert [(one.topic, one.mid) for one in found] == [(b"huge", 7), (b"after", 8)]
    assert LARGEST - 20 <= len(found[0].body) < LARGEST + 65_536
    assert found[1] == after


@pytest.mark.parametrize(
    "raw",
    [
        b"\x32\x03\x00\x09a",  # a topic that ends behind its packet
        b"\x34\x06\x00\x01a\x00\x01x",  # QoS 2, without such a subscription
        b"\x32\x05\x00\x01a\x00\x00",  # packet id 0
        b"\x30\x00",
        b"\x30\xff\xff\xff\xff\x01",
        b"\xd0\xff\xff\xff\xff\x01",
        b"\x20\xff\xff\xff\x7f",  # 268 MB of CONNACK
    ],
)
def test_bytes_that_are_not_mqtt_end_the_connection(pair: Pair, raw: bytes) -> None:
    near, peer = pair
    peer.sendall(raw)
    near.fill()
    with pytest.raises(Malformed):
        list(near.publishes(v5=False)), near.packet()


@pytest.mark.parametrize("size", [200_000, 2_000_000])
def test_properties_that_are_too_large_are_cut_too(pair: Pair, size: int) -> None:
    """Else a broker would send the message again on each connection."""
    near, peer = pair
    peer.setblocking(False)
    properties = b"\x26\x00\x01k\xff\xff" + b"v" * (size - 6)  # user properties
    length = framed(0, properties)[1:]
    raw = framed(0x32, b"\x00\x01a\x00\x07" + length + b"body") + encoded(
        PublishPacket(b"after", b"b", 8, False, False), 1, True
    )
    found: list[PublishPacket] = []
    while raw or len(found) < 2:
        with contextlib.suppress(BlockingIOError):
            raw = raw[peer.send(raw) :]
        near.fill()
        found += near.publishes(v5=True)
    assert [(one.topic, one.mid) for one in found] == [(b"a", 7), (b"after", 8)]
    assert len(found[0].body) <= 4


def test_a_huge_message_ends_the_connection_unless_it_is_cut() -> None:
    near, peer = make_pair(cuts_large=False)
    peer.sendall(b"\x30\xff\xff\xff\x7f\x00\x01a")
    near.fill()
    with pytest.raises(Malformed, match="a message of 268435460 bytes; more than 131072 are never accepted"):
        list(near.publishes(v5=False))
    near.shut()
    peer.close()


def test_nothing_is_read_while_a_whole_packet_waits(pair: Pair) -> None:
    near, peer = pair
    peer.sendall(b"\xd0\x00")
    near.fill()
    peer.sendall(b"\xd0\x00")
    near.fill()
    assert near.first == b"\xd0\x00"
    near.skip()
    assert not near.is_pending
    near.fill()
    assert near.packet() == (0xD0, b"")


def test_paho_reads_what_is_released_and_not_more(pair: Pair) -> None:
    near, peer = pair
    peer.sendall(b"\xd0\x00\x40")
    near.fill()
    with pytest.raises(BlockingIOError):
        near.recv(1)
    near.release()
    assert (near.recv(1), near.recv(5)) == (b"\xd0", b"\x00")
    with pytest.raises(BlockingIOError):
        near.recv(1)


def test_sends_are_gathered_until_flushed(pair: Pair) -> None:
    near, peer = pair
    peer.settimeout(1)
    assert [near.send(b"one"), near.send(b"two")] == [3, 3]
    assert near.unsent == 6
    near.flush()
    assert (peer.recv(100), near.unsent) == (b"onetwo", 0)


def test_a_peer_that_does_not_read_loses_nothing(pair: Pair) -> None:
    near, peer = pair
    near.send(b"x" * 1_000_000)
    near.flush()
    assert 0 < near.unsent < 1_000_000
    peer.settimeout(5)
    got = 0
    while got < 1_000_000:
        got += len(peer.recv(65_536))
        near.flush()
    assert near.unsent == 0


def test_closing_sends_the_goodbye(pair: Pair) -> None:
    near, peer = pair
    near.send(b"bye")
    near.shut()
    assert peer.recv(10) == b"bye"
