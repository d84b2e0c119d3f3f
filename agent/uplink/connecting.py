"""How the uplink connects: its session, its will and its subscriptions."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from wire.broker import Broker
from wire.mqtt.async_client import AsyncClient
from wire.mqtt.options import ConnectOptions, Login, Version, Will

KEEPALIVE_S = 15
AGAIN_S = 300.0  # between two SUBSCRIBEs for the same topics
CONNECT_S = 10.0  # for TCP, TLS and CONNACK together
SESSION_S = 86_400  # a broker keeps commands for an absent node this long: the longest ttl
WILL_DELAY_S = 5  # a node that is back within this time was never lost


async def connect_options(
    broker: Broker, client_id: str, version: Version, will_topic: str, will_body: bytes
) -> ConnectOptions:
    """Read the password and the certificates; return how to connect.

    Raises:
        ConfigError: a file cannot be used.
    """
    login = await asyncio.to_thread(Login.read, broker, client_id)
    return ConnectOptions(
        login=login,
        version=version,
        will=Will(will_topic, will_body, delay_s=WILL_DELAY_S),
        clean_start=False,
        session_expiry_s=login.session_s(SESSION_S),
        keepalive_s=KEEPALIVE_S,
        connect_s=CONNECT_S,
        cuts_large=True,  # its session is kept: the broker would send the message again on each connection
    )


async def keep_listening(client: AsyncClient, filters: Sequence[tuple[str, int]]) -> None:
    """Subscribe again now and then, until cancelled: nothing else repairs a single dead subscription.

    A repeated SUBSCRIBE changes nothing (MQTT 5, section 3.8.4) and costs one packet.

    Raises:
        MqttError: the broker did not answer in time, or refuses.
    """
    while True:
        await asyncio.sleep(random.uniform(0.75, 1.25) * AGAIN_S)  # a thousand nodes spread out
        await client.subscribe(filters)
