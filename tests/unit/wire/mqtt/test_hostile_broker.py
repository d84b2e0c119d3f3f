"""The client against a server that breaks the protocol: it ends the connection with one sentence."""

from __future__ import annotations

import asyncio
import gc
import re
import tracemalloc

import pytest

from tests.hostile_broker import GREETING, ONLINE, PUBLISHING, SUBSCRIBING, Attack, HostileBroker
from wire.mqtt.async_client import AsyncClient
from wire.mqtt.errors import MqttError
from wire.mqtt.options import ConnectOptions, Login, Version

MEMORY = 8 * 2**20  # bytes
# a server that closes with a ping unread resets the connection
BY_SERVER = ("it ended the connection", "the connection broke: Connection reset by peer")


async def provoked(port: int, version: Version) -> MqttError:
    """The error of a client that subscribes, publishes and waits for the end."""
    login = Login("127.0.0.1", port, "client")
    client = AsyncClient(ConnectOptions(login=login, version=version, connect_s=1.0, keepalive_s=1))
    try:
        await client.open()
        await client.subscribe([("a", 1), ("b", 1)])
        client.publish("topic", b"x", qos=1)
        async with asyncio.timeout(30):
            await client.ended()
    except MqttError as error:
        return error
    finally:
        await client.close()
    raise AssertionError("ended() returns never")


async def fault_of(attack: Attack, version: Version) -> str:
    """What is wrong with the reaction to an attack; "" if nothing is."""
    async with HostileBroker(attack, 1) as hostile:
        error = await provoked(hostile.port, version)
        if not hostile.attacked or hostile.held:
            return "the client did not end the connection" if hostile.held else "there was no attack"
    if attack.stays and error.why not in BY_SERVER:
        return f"the client ended the connection: {error}"
    sentence = str(error)
    is_one = sentence.startswith(f"broker 127.0.0.1:{hostile.port}: it ") and sentence.isprintable()
    if not is_one or len(sentence) > 250 or re.search(r"(Error|Exception)\b|Traceback|<\w|None", sentence):
        return f"not one clear sentence: {sentence!r}"
    return ""


MOMENTS = {"connect": GREETING, "subscribe": SUBSCRIBING, "online": ONLINE, "publish": PUBLISHING}


@pytest.mark.parametrize("version", ["5", "3.1.1"])
@pytest.mark.parametrize("moment", MOMENTS)
async def test_each_attack_is_one_sentence(moment: str, version: Version) -> None:
    attacks = [each for each in MOMENTS[moment] if each.only in ("", version) and each.then != "flood"]
    faults = await asyncio.gather(*(fault_of(each, version) for each in attacks))
    found = {each.name: fault for each, fault in zip(attacks, faults, strict=True) if fault}
    assert not found
    gc.collect()


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_a_packet_of_maximum_size_costs_no_memory(version: Version) -> None:
    attacks = [each for group in MOMENTS.values() for each in group if each.then == "flood"]
    tracemalloc.start()
    try:
        for attack in attacks:
            if attack.only in ("", version):
                tracemalloc.reset_peak()
                assert await fault_of(attack, version) == "", attack.name
                assert tracemalloc.get_traced_memory()[1] < MEMORY, attack.name
    finally:
        tracemalloc.stop()
