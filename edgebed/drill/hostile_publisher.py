"""Hostile publishers: what any client that may publish can send to the collector's topics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edgebed.drill.device import STREAM
from edgebed.drill.installation import BOXES, TENANT, DrillInstallation

if TYPE_CHECKING:
    from paho.mqtt.client import Client

_TAILS = ("data/counter/rows", "event/counter/x", "status", "birth", "live/_/agent", "snap/a/b", "nonsense")
_FLOOD_S = (0.5, 2.0)


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
    with _hostile_client(target) as client:
        for _ in range(60):
            client.publish(f"{base}/{rng.choice(_TAILS)}", rng.choice(bodies), qos=1, retain=False)


def _send_used_numbers(target: DrillInstallation, box: str, status: dict[str, Any]) -> None:
    topic = f"tb1/{TENANT}/{box}/data/counter/{STREAM}"
    first = int(status.get("acked", 0)) + 1
    bodies = [
        b'{"v":1,"ep":"%s","seq":%d,"t0":"never"}' % (str(status.get("ep", "")).encode(), first + ahead)
        for ahead in range(target.rng.randrange(5, 40))
    ]
    with _hostile_client(target) as client:
        for _ in range(3):
            for body in bodies:
                client.publish(topic, body, qos=1)


def _send_flood(target: DrillInstallation) -> None:
    rng = target.rng
    ep, until_s = f"{rng.getrandbits(64):016x}", time.monotonic() + rng.uniform(*_FLOOD_S)
    topic = f"tb1/{TENANT}/flood/data/counter/{STREAM}"
    with _hostile_client(target) as client:
        seq = 0
        while time.monotonic() < until_s:
            seq += 1
            body = b'{"v":1,"ep":"%s","seq":%d,"t0":1795356000000,"dt":[0],"f":{"n":[%d]}}'
            client.publish(topic, body % (ep.encode(), seq, seq), qos=1)


@contextmanager
def _hostile_client(target: DrillInstallation) -> Iterator[Client]:
    """Connect an unknown client; on exit wait until all its messages are sent."""
    from paho.mqtt import client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion

    name = f"hostile-{target.rng.randrange(10**9)}"
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name)
    client.max_inflight_messages_set(1_000)
    client.connect("127.0.0.1", target.installation.broker.port)
    client.loop_start()
    try:
        yield client
        until_s = time.monotonic() + 10.0
        while client._out_messages and time.monotonic() < until_s:
            time.sleep(0.02)
    finally:
        client.disconnect()
        client.loop_stop()
