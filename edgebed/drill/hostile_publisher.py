"""Hostile publishers: what any client that may publish can send to the collector's topics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from edgebed.drill.device import STREAM
from edgebed.drill.installation import BOXES, TENANT, DrillInstallation
from wire.mqtt.blocking_client import BlockingClient
from wire.mqtt.connection import Handlers
from wire.mqtt.options import ConnectOptions, Login

_TAILS = ("data/counter/rows", "event/counter/x", "status", "birth", "live/_/agent", "snap/a/b", "nonsense")
_FLOOD_S = (0.5, 2.0)
_UNANSWERED = 1_000
_PATIENCE_S = 10.0


async def publish_garbage(target: DrillInstallation) -> None:
    """Publish invalid bodies on the collector's topics."""
    await asyncio.to_thread(_send_garbage, target)


async def publish_used_numbers(target: DrillInstallation) -> None:
    """Publish invalid bodies with the numbers that a box uses now, several times.

    The collector must not give up any of these numbers: the box sends the real messages.
    """
    box = target.any_box()
    status = target.installation.agent_status(box)
    await asyncio.to_thread(_send_used_numbers, target, box, status)


async def publish_flood(target: DrillInstallation) -> None:
    """Publish valid, numbered messages of another node, thousands a second."""
    await asyncio.to_thread(_send_flood, target)


def _send_garbage(target: DrillInstallation) -> None:
    rng = target.rng
    base = f"tb1/{TENANT}/{rng.choice([*BOXES, 'ghost', '..', 'Ä'])}"
    bodies = [
        b"",
        b"{",
        b"\x00" * 1000,
        b"\x1f\x8b" + bytes(rng.randrange(256) for _ in range(300)),
        b"[" * 50_000,
        b'{"v":1,"ep":"0123456789abcdef","seq":1,"t0":0,"per":20,"n":3,"f":{"x":[1,2]}}',
        b'{"v":1,"ep":"0123456789abcdef","seq":9223372036854775807,"t0":0,"dt":[0],"f":{"x":[1]}}',
        rng.randbytes(59_000),
    ]
    with _publishing(target) as publish:
        for _ in range(60):
            publish(f"{base}/{rng.choice(_TAILS)}", rng.choice(bodies))


def _send_used_numbers(target: DrillInstallation, box: str, status: dict[str, Any]) -> None:
    topic = f"tb1/{TENANT}/{box}/data/counter/{STREAM}"
    first = int(status.get("acked", 0)) + 1
    bodies = [
        b'{"v":1,"ep":"%s","seq":%d,"t0":"never"}' % (str(status.get("ep", "")).encode(), first + ahead)
        for ahead in range(target.rng.randrange(5, 40))
    ]
    with _publishing(target) as publish:
        for _ in range(3):
            for body in bodies:
                publish(topic, body)


def _send_flood(target: DrillInstallation) -> None:
    rng = target.rng
    ep, until_s = f"{rng.getrandbits(64):016x}", time.monotonic() + rng.uniform(*_FLOOD_S)
    topic = f"tb1/{TENANT}/flood/data/counter/{STREAM}"
    with _publishing(target) as publish:
        seq = 0
        while time.monotonic() < until_s:
            seq += 1
            body = b'{"v":1,"ep":"%s","seq":%d,"t0":1795356000000,"dt":[0],"f":{"n":[%d]}}'
            publish(topic, body % (ep.encode(), seq, seq))


@contextmanager
def _publishing(target: DrillInstallation) -> Iterator[Callable[[str, bytes], None]]:
    """Connect an unknown client; yields its publish with QoS 1; on exit wait until all messages are sent."""
    login = Login("127.0.0.1", target.installation.broker.port, f"hostile-{target.rng.randrange(10**9)}")
    client = BlockingClient(ConnectOptions(login=login, version="3.1.1"), Handlers())

    def wait_for(unanswered: int) -> None:
        until_s = time.monotonic() + _PATIENCE_S
        while client.unanswered > unanswered and time.monotonic() < until_s:
            client.turn()
            if client.ended is not None:
                raise client.ended

    def publish(topic: str, body: bytes) -> None:
        client.publish(topic, body, qos=1)
        wait_for(_UNANSWERED)

    try:
        client.open()
        yield publish
        wait_for(0)
    finally:
        client.close(goodbye_s=1.0)
