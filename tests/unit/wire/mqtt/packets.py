"""A pair of sockets and encoded MQTT packets for the tests of this room."""

from __future__ import annotations

import socket

from wire.mqtt.packet_socket import PacketSocket, PublishPacket

LARGEST = 131_072

Pair = tuple[PacketSocket, socket.socket]


def make_pair(*, cuts_large: bool = True) -> Pair:
    near, peer = socket.socketpair()
    near.setblocking(False)
    return PacketSocket(near, LARGEST, cuts_large=cuts_large), peer


def encoded(packet: PublishPacket, qos: int, v5: bool) -> bytes:
    """MQTT 3.1.1, section 3.3; MQTT 5 has properties after the packet id."""
    rest = len(packet.topic).to_bytes(2) + packet.topic + (packet.mid.to_bytes(2) if qos else b"")
    rest += (b"\x05\x02\x00\x00\x00\x3c" if v5 else b"") + packet.body  # the expiry interval
    return framed(0x30 | packet.dup << 3 | qos << 1 | packet.retained, rest)


def framed(kind: int, rest: bytes) -> bytes:
    size, length = len(rest), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([kind, *length, size]) + rest
