"""The fence of the uplink on a real connection: its rate is kept, and each kind gives way in its order."""

from __future__ import annotations

import socket

import msgspec
import pytest

from agent.fences.fences import Fences
from agent.fences.settings import FenceSettings
from agent.uplink.fence import UplinkFence
from wire.clock import Clock
from wire.mqtt.packet_socket import PacketSocket


class Time(Clock):
    """A clock that a test moves."""

    at_s = 100.0

    def flowing_s(self) -> float:
        return self.at_s


class Link:
    """What a client is for the fence: the bytes that its socket was given."""

    def __init__(self) -> None:
        self.ends = socket.socketpair()
        self.ends[0].setblocking(False)
        self.packets = PacketSocket(self.ends[0], 1_000_000, cuts_large=False)

    @property
    def taken(self) -> int:
        return self.packets.taken

    def close(self) -> None:
        for end in self.ends:
            end.close()


@pytest.fixture
def link():
    made = Link()
    yield made
    made.close()


def fence_of(time: Time, **settings: int) -> tuple[UplinkFence, Fences]:
    fences = Fences(msgspec.convert(settings, FenceSettings), time)
    return UplinkFence(fences), fences


def kinds(fence: UplinkFence) -> tuple[bool, bool, bool, bool]:
    """Which kinds may pass: backlog, picture, new message, live value."""
    return fence.backlog() > 0, fence.may_picture(), fence.may_send(), fence.may_live()


def test_the_less_is_left_the_fewer_kinds_pass(link: Link) -> None:
    time = Time()
    fence, _ = fence_of(time, uplink_kb_per_s=100)
    fence.opened(link)  # type: ignore[arg-type]
    assert kinds(fence) == (True, True, True, True)
    for sent, expected in (
        (60_000, (False, True, True, True)),
        (20_000, (False, False, True, True)),
        (30_000, (False, False, False, True)),
        (95_000, (False, False, False, False)),
    ):
        link.packets.send(b"x" * sent)
        assert kinds(fence) == expected, sent
    time.at_s += fence.wait_s()
    assert fence.may_send()
    time.at_s += fence.wait_s(backlog=True)
    assert fence.backlog() > 0


def test_the_rate_is_kept_over_connections(link: Link) -> None:
    time = Time()
    fence, _ = fence_of(time, uplink_kb_per_s=20)
    sent = 0
    for second in range(60):
        other = Link()
        fence.opened(other)  # type: ignore[arg-type]
        for _ in range(10):
            time.at_s += 0.1
            while fence.may_send():
                sent += other.packets.send(b"x" * 700)
        fence.closed()
        other.close()
        assert sent <= 20_000 * (second + 2) + 700
    assert fence.sent_bytes == sent
    assert sent >= 20_000 * 60


def test_without_a_limit_everything_passes_and_is_counted(link: Link) -> None:
    for fence in (UplinkFence(None), fence_of(Time())[0]):
        fence.opened(link)  # type: ignore[arg-type]
        before = fence.sent_bytes
        link.packets.send(b"x" * 10_000_000)
        assert kinds(fence) == (True, True, True, True)
        assert (fence.wait_s(), fence.wait_s(backlog=True)) == (0.0, 0.0)
        assert fence.sent_bytes - before == 10_000_000
        fence.held()
