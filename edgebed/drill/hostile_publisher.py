"""Harm by strangers: what anybody can publish who may publish at all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edgebed.drill.device import STREAM
from edgebed.drill.installation import BOXES, TENANT, Bench

if TYPE_CHECKING:
    from paho.mqtt.client import Client

_TAILS = ("data/counter/rows", "event/counter/x", "status", "birth", "live/_/agent", "snap/a/b", "nonsense")
_FLOOD_S = (0.5, 2.0)


async def rubbish(bench: Bench) -> None:
    """Bodies that are none, on topics that are some."""
    await asyncio.to_thread(_publish_rubbish, bench)


async def numbers(bench: Bench) -> None:
    """Rubbish with the numbers that a box gives just now, again and again: none of them may be given up."""
    box = bench.any_box()
    status = bench.stand.agent_status(box)
    await asyncio.to_thread(_publish_numbers, bench, box, status)


async def flood(bench: Bench) -> None:
    """A node of its own, numbered as it should be, thousands of messages a second."""
    await asyncio.to_thread(_publish_flood, bench)


def _publish_rubbish(bench: Bench) -> None:
    dice = bench.dice
    base = f"tb1/{TENANT}/{dice.choice([*BOXES, 'ghost', '..', 'Ä'])}"
    bodies = [
        b"",
        b"{",
        b"\x00" * 1000,
        b"\x1f\x8b" + bytes(dice.randrange(256) for _ in range(300)),
        b"[" * 50_000,
        b'{"v":1,"ep":"0123456789abcdef","seq":1,"t0":0,"per":20,"n":3,"f":{"x":[1,2]}}',
        b'{"v":1,"ep":"0123456789abcdef","seq":9223372036854775807,"t0":0,"dt":[0],"f":{"x":[1]}}',
        dice.randbytes(59_000),
    ]
    with _stranger(bench) as client:
        for _ in range(60):
            client.publish(f"{base}/{dice.choice(_TAILS)}", dice.choice(bodies), qos=1, retain=False)


def _publish_numbers(bench: Bench, box: str, status: dict[str, Any]) -> None:
    topic = f"tb1/{TENANT}/{box}/data/counter/{STREAM}"
    first = int(status.get("acked", 0)) + 1
    bodies = [
        b'{"v":1,"ep":"%s","seq":%d,"t0":"never"}' % (str(status.get("ep", "")).encode(), first + ahead)
        for ahead in range(bench.dice.randrange(5, 40))
    ]
    with _stranger(bench) as client:
        for _ in range(3):
            for body in bodies:
                client.publish(topic, body, qos=1)


def _publish_flood(bench: Bench) -> None:
    dice = bench.dice
    ep, until_s = f"{dice.getrandbits(64):016x}", time.monotonic() + dice.uniform(*_FLOOD_S)
    topic = f"tb1/{TENANT}/flood/data/counter/{STREAM}"
    with _stranger(bench) as client:
        seq = 0
        while time.monotonic() < until_s:
            seq += 1
            body = b'{"v":1,"ep":"%s","seq":%d,"t0":1795356000000,"dt":[0],"f":{"n":[%d]}}'
            client.publish(topic, body % (ep.encode(), seq, seq), qos=1)


@contextmanager
def _stranger(bench: Bench) -> Iterator[Client]:
    """A client that nobody knows; what it published has left when this ends."""
    from paho.mqtt import client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion

    name = f"stranger-{bench.dice.randrange(10**9)}"
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name)
    client.max_inflight_messages_set(1_000)
    client.connect("127.0.0.1", bench.stand.broker.port)
    client.loop_start()
    try:
        yield client
        until_s = time.monotonic() + 10.0
        while client._out_messages and time.monotonic() < until_s:
            time.sleep(0.02)
    finally:
        client.disconnect()
        client.loop_stop()
