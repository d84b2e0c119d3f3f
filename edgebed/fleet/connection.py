"""One MQTT connection of a fleet; thousands of them share the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from wire.mqtt.async_client import AsyncClient
from wire.mqtt.errors import MqttError
from wire.mqtt.options import ConnectOptions, Login, Will
from wire.mqtt.packet_socket import PublishPacket

KEEPALIVE_S = 60
GOODBYE_S = 2.0
_FILTERS = 300  # in one SUBSCRIBE: brokers limit the size of a packet
_CONNECT_S = 30.0  # a broker that thousands of clients connect to at once takes its time

OnPuback = Callable[[int, float], None]


class Connection:
    """A connection that is used once, with a clean session; it never sends a message again by itself.

    `on_up` is called when the subscriptions are confirmed, `on_down` with the reason when the connection
    fails or ends, unless `cut` or `close` ended it. `on_message` gets topic and body.
    """

    def __init__(
        self,
        login: Login,
        topics: Iterable[str],
        will: tuple[str, bytes] | None,
        on_up: Callable[[], None],
        on_down: Callable[[str], None],
        on_message: Callable[[str, bytes], None],
    ) -> None:
        self.up = False
        self._topics = [(topic, 1) for topic in topics]
        self._on_up, self._on_down, self._call_on_message = on_up, on_down, on_message
        self._loop = asyncio.get_running_loop()
        self._owed: dict[int, OnPuback] = {}  # by packet id
        options = ConnectOptions(
            login=login,
            version="3.1.1",  # every broker supports it
            will=None if will is None else Will(*will),
            keepalive_s=KEEPALIVE_S,
            connect_s=_CONNECT_S,
        )
        self._client = AsyncClient(options, self._on_message, self._on_end, self._on_puback)
        self._opening = self._loop.create_task(self._open(), name=f"fleet-{login.client_id}")

    @property
    def owed(self) -> int:
        """The number of QoS 1 publications without a PUBACK."""
        return len(self._owed)

    def publish(
        self,
        topic: str,
        body: bytes,
        on_puback: OnPuback | None = None,
        *,
        qos: int = 1,
        retain: bool = False,
    ) -> int:
        """Send a message; returns its packet id, which `on_puback` gets with the time of the loop."""
        mid = self._client.publish(topic, body, qos=qos, retain=retain)
        if qos:
            self._owed[mid] = on_puback or _nothing
        return mid

    def cut(self) -> None:
        """End the connection without DISCONNECT: the broker sends the Will."""
        self._down("")
        self._opening.cancel()
        self._client.fail("this client cut the connection")

    async def close(self) -> None:
        """Send DISCONNECT and end the connection."""
        self._down("")
        self._opening.cancel()
        await asyncio.wait({self._opening})
        await self._client.close(GOODBYE_S)

    async def _open(self) -> None:
        try:
            await self._client.open()
            for first in range(0, len(self._topics), _FILTERS):
                await self._client.subscribe(self._topics[first : first + _FILTERS])
        except MqttError as error:
            await self._client.close()
            self._down(str(error))
        else:
            self.up = True
            self._on_up()

    def _on_end(self) -> None:
        if self.up:  # else `_open` raises the reason
            self._down(str(self._client.failure()))

    def _down(self, why: str) -> None:
        self.up = False
        on_down, self._on_down = self._on_down, _nothing
        if why:
            on_down(why)

    def _on_message(self, message: PublishPacket) -> None:
        self._call_on_message(message.topic_name, message.body)

    def _on_puback(self, mid: int, _code: int) -> None:
        if (on_puback := self._owed.pop(mid, None)) is not None:
            on_puback(mid, self._loop.time())


def _nothing(*_: Any) -> None:
    pass
