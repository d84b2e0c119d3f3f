"""How a simulated device reaches the MQTT broker it publishes to: paho in its own thread."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from wire.broker import Broker
from wire.errors import ConfigError, Unreachable

Heard = Callable[[str, bytes], None]

_CONNECT_S = 10.0
_GOODBYE_S = 1.0
_HEAD_START_S = 0.01
_RETRY_S = 1
_KEEPALIVE_S = 10
_WAITING = 1_000  # messages that wait for a broker which is away


def broker_of(kind: str, broker_url: str, port: int) -> Broker:
    """The broker of a simulated device that has no port of its own.

    Raises:
        ValueError: no broker is named, or none that can be.
    """
    if not broker_url:
        raise ValueError(
            f"{kind} publishes to an MQTT broker: say which: --option broker_url=mqtt://127.0.0.1:1883"
        )
    if port:
        raise ValueError(f"{kind} listens on no port: broker_url says where it publishes")
    broker = Broker(url=broker_url)
    try:
        if broker.tls:
            raise ValueError(f"{kind} speaks plain mqtt:// only, not {broker_url!r}")
    except ConfigError as error:
        raise ValueError(str(error)) from error
    return broker


class Publisher:
    """One MQTT connection that comes back by itself, with a last will and one subscription at most.

    `heard` is called in the event loop. `back` is called there after each CONNACK, the first included.
    """

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        *,
        will: tuple[str, bytes] | None = None,
        topic: str = "",
        heard: Heard | None = None,
        back: Callable[[], None] | None = None,
    ) -> None:
        self._broker = broker
        self._client_id = client_id
        self._will = will
        self._topic = topic
        self._heard = heard
        self._back = back
        self._client: mqtt.Client | None = None
        self._owed: mqtt.MQTTMessageInfo | None = None  # the last message that wants a PUBACK
        self._connected = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def open(self) -> None:
        """Connect.

        Raises:
            Unreachable: no broker there.
        """
        client = self._client = mqtt.Client(CallbackAPIVersion.VERSION2, self._client_id)
        if self._will is not None:
            client.will_set(self._will[0], self._will[1], qos=1, retain=True)
        client.max_queued_messages_set(_WAITING)
        client.reconnect_delay_set(_RETRY_S, _RETRY_S)
        client.on_connect = self._on_connect
        client.on_message = self._on_message
        try:
            await asyncio.to_thread(client.connect, self._broker.host, self._broker.port, _KEEPALIVE_S)
            client.loop_start()
            async with asyncio.timeout(_CONNECT_S):
                await self._connected.wait()
        except (OSError, TimeoutError) as error:
            await self.close()
            raise Unreachable(
                f"no MQTT broker at {self._broker.url}: {error or 'no answer'}; start one, e.g. with"
                " `edgebed broker`"
            ) from error

    def publish(self, topic: str, body: bytes, *, qos: int = 0, retain: bool = False) -> None:
        """Hand a message to the thread; while the broker is away, QoS 0 is lost as it is on a real device."""
        if self._client is not None:
            info = self._client.publish(topic, body, qos, retain)
            self._owed = info if qos else self._owed

    async def close(self) -> None:
        """Say goodbye: the broker then keeps the will to itself."""
        client, self._client = self._client, None
        if client is None:
            return
        if self._owed is not None:  # unread, it would make a reset of our end, which is no goodbye
            with contextlib.suppress(RuntimeError, ValueError):  # it was never sent
                await asyncio.to_thread(self._owed.wait_for_publish, _GOODBYE_S)
        client.disconnect()
        await asyncio.to_thread(client.loop_stop)

    async def cut(self) -> None:
        """Go without a goodbye, as a vehicle that drives out of the radio: the broker sends the will."""
        client, self._client = self._client, None
        self._connected.clear()
        if client is None:
            return
        sock = client.socket()
        async with asyncio.TaskGroup() as group:
            # its thread first: one that loses its connection before it is told to end waits for a second
            group.create_task(asyncio.to_thread(client.loop_stop), name="mqtt-stop")
            await asyncio.sleep(_HEAD_START_S)
            if isinstance(sock, socket.socket):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        if isinstance(sock, socket.socket):
            sock.close()

    # --- in paho's thread

    def _on_connect(
        self, client: mqtt.Client, _data: object, _flags: object, reason: object, _p: object
    ) -> None:
        if getattr(reason, "is_failure", False):
            return
        if self._topic:
            client.subscribe(self._topic, 1)
        self._tell(self._on_back)

    def _on_message(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        if self._heard is not None:
            self._tell(self._heard, message.topic, bytes(message.payload))

    def _tell(self, call: Callable[..., None], *values: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(call, *values)

    def _on_back(self) -> None:
        self._connected.set()
        if self._back is not None:
            self._back()
