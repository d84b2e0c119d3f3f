"""The connection of a simulated device to its MQTT broker: paho in its own thread."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from wire.broker import Broker
from wire.errors import ConfigError, Unreachable

OnMessage = Callable[[str, bytes], None]

_CONNECT_S = 10.0
_GOODBYE_S = 1.0
_HEAD_START_S = 0.01
_RETRY_S = 1
_KEEPALIVE_S = 10
_WAITING = 1_000  # messages that wait while the broker is away


def broker_of(kind: str, broker_url: str, port: int) -> Broker:
    """Return the broker of a simulated device that is a client.

    Raises:
        ValueError: the URL is missing or wrong, or a port is given.
    """
    if not broker_url:
        raise ValueError(
            f"{kind} publishes to an MQTT broker: name it with --option broker_url=mqtt://127.0.0.1:1883"
        )
    if port:
        raise ValueError(f"{kind} takes no port: it publishes to broker_url")
    broker = Broker(url=broker_url)
    try:
        if broker.tls:
            raise ValueError(f"{kind} supports only plain mqtt://, not {broker_url!r}")
    except ConfigError as error:
        raise ValueError(str(error)) from error
    return broker


class Publisher:
    """One MQTT connection that reconnects by itself, with at most one last will and one subscription.

    `on_message` is called in the event loop. `on_connect` is called there after each CONNACK.
    """

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        *,
        will: tuple[str, bytes] | None = None,
        topic: str = "",
        on_message: OnMessage | None = None,
        on_connect: Callable[[], None] | None = None,
    ) -> None:
        self._broker = broker
        self._client_id = client_id
        self._will = will
        self._topic = topic
        self._call_on_message = on_message
        self._call_on_connect = on_connect
        self._client: mqtt.Client | None = None
        self._owed: mqtt.MQTTMessageInfo | None = None  # the last message that needs a PUBACK
        self._connected = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def open(self) -> None:
        """Connect.

        Raises:
            Unreachable: there is no broker.
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
        """Pass a message to the thread; while the broker is away, QoS 0 is lost, as on a real device."""
        if self._client is not None:
            info = self._client.publish(topic, body, qos, retain)
            self._owed = info if qos else self._owed

    async def close(self) -> None:
        """Disconnect in order: the broker does not send the will."""
        client, self._client = self._client, None
        if client is None:
            return
        if self._owed is not None:  # an unread PUBACK would turn the end into a reset, and the will is sent
            with contextlib.suppress(RuntimeError, ValueError):  # the message was never sent
                await asyncio.to_thread(self._owed.wait_for_publish, _GOODBYE_S)
        client.disconnect()
        await asyncio.to_thread(client.loop_stop)

    async def cut(self) -> None:
        """Cut the connection, as a vehicle that leaves the radio coverage: the broker sends the will."""
        client, self._client = self._client, None
        self._connected.clear()
        if client is None:
            return
        sock = client.socket()
        async with asyncio.TaskGroup() as group:
            # stop the thread first: if it loses its connection before that, it waits for a second
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
        self._call(self._connected_again)

    def _on_message(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        if self._call_on_message is not None:
            self._call(self._call_on_message, message.topic, bytes(message.payload))

    def _call(self, call: Callable[..., None], *values: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(call, *values)

    def _connected_again(self) -> None:
        self._connected.set()
        if self._call_on_connect is not None:
            self._call_on_connect()
