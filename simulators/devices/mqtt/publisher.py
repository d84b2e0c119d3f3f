"""The connection of a simulated device to its MQTT broker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable

from simulators.devices.running import stopped
from wire.broker import Broker
from wire.errors import ConfigError, Unreachable
from wire.mqtt.async_client import AsyncClient
from wire.mqtt.errors import MqttError
from wire.mqtt.options import ConnectOptions, Login, Will
from wire.mqtt.packet_socket import PublishPacket

log = logging.getLogger(__name__)

_Message = tuple[str, bytes, bool]  # topic, body, retain
OnMessage = Callable[[str, bytes], None]

_CONNECT_S = 10.0
_GOODBYE_S = 1.0
_RETRY_S = 1.0
_KEEPALIVE_S = 10
_WAITING = 1_000  # messages of QoS 1 without a PUBACK; more are dropped
_IN_FLIGHT = 20  # of them on the wire
_UNSENT_BYTES = 4 * 2**20  # beyond it messages of QoS 0 are lost


def _ignore(*_: object) -> None:
    pass


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

    `on_message` is called with topic and body, `on_connect` after each connection.
    """

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        *,
        will: tuple[str, bytes] | None = None,
        topic: str = "",
        on_message: OnMessage = _ignore,
        on_connect: Callable[[], None] = _ignore,
    ) -> None:
        self._broker = broker
        self._client_id = client_id
        self._will = Will(*will) if will is not None else None
        self._filters = [(topic, 1)] if topic else []
        self._on_message = on_message
        self._on_connect = on_connect
        self._client: AsyncClient | None = None  # while it is connected
        self._task: asyncio.Task[None] | None = None
        self._waiting: deque[_Message] = deque()  # of QoS 1, not sent on this connection
        self._owed: dict[int, _Message] = {}  # packet id -> sent, without a PUBACK
        self._settled = asyncio.Event()  # nothing of QoS 1 waits
        self._settled.set()

    async def open(self) -> None:
        """Connect.

        Raises:
            Unreachable: there is no broker, or it does not accept this client.
        """
        try:
            client = await self._connected()
        except MqttError as error:
            raise Unreachable(
                f"no MQTT broker at {self._broker.url}: {error.why}; start one, e.g. with `edgebed broker`"
            ) from error
        self._task = asyncio.create_task(self._stay_connected(client), name="mqtt-publisher")

    def publish(self, topic: str, body: bytes, *, qos: int = 0, retain: bool = False) -> None:
        """Send a message; while the broker is away, QoS 0 is lost, as on a real device."""
        if qos:
            if len(self._waiting) + len(self._owed) < _WAITING:
                self._waiting.append((topic, body, retain))
                self._settled.clear()
                self._send_waiting()
        elif self._client is not None and self._client.unsent < _UNSENT_BYTES:
            with contextlib.suppress(MqttError):
                self._client.publish(topic, body, retain=retain)

    async def close(self) -> None:
        """Disconnect in order: the broker does not send the will."""
        await self._end(_GOODBYE_S)

    async def cut(self) -> None:
        """Cut the connection, as a vehicle that leaves the radio coverage: the broker sends the will."""
        await self._end(0.0)

    async def _end(self, goodbye_s: float) -> None:
        task, self._task = self._task, None
        await stopped(task)
        if self._client is not None and goodbye_s:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(goodbye_s):
                    await self._settled.wait()
        client, self._client = self._client, None
        if client is not None:
            await client.close(goodbye_s)

    async def _stay_connected(self, client: AsyncClient) -> None:
        while True:
            try:
                await client.ended()
            except MqttError as error:
                log.warning("%s: %s; connecting again", self._client_id, error)
            self._client = None
            while self._client is None:
                await asyncio.sleep(_RETRY_S)
                try:
                    client = await self._connected()
                except MqttError as error:
                    log.debug("%s: %s", self._client_id, error)

    async def _connected(self) -> AsyncClient:
        login = Login(self._broker.host, self._broker.port, self._client_id)
        options = ConnectOptions(
            login=login, version="3.1.1", will=self._will, keepalive_s=_KEEPALIVE_S, connect_s=_CONNECT_S
        )
        client = AsyncClient(options, self._take, on_puback=self._acknowledged)
        try:
            await client.open()
            if self._filters:
                await client.subscribe(self._filters)
        except BaseException:
            await client.close()
            raise
        self._client = client
        self._waiting.extendleft(reversed(self._owed.values()))
        self._owed.clear()
        self._send_waiting()
        self._on_connect()
        return client

    def _send_waiting(self) -> None:
        client = self._client
        while client is not None and self._waiting and len(self._owed) < _IN_FLIGHT:
            topic, body, retain = message = self._waiting.popleft()
            try:
                self._owed[client.publish(topic, body, qos=1, retain=retain)] = message
            except MqttError:
                self._waiting.appendleft(message)
                return

    def _acknowledged(self, mid: int, _code: int) -> None:
        self._owed.pop(mid, None)
        if not self._owed and not self._waiting:
            self._settled.set()
        elif self._waiting:
            asyncio.get_running_loop().call_soon(self._send_waiting)

    def _take(self, message: PublishPacket) -> None:
        self._on_message(message.topic_name, message.body)
