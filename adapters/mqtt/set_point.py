"""A topic that may be written: on a connection of its own, with the safe number as its will."""

from __future__ import annotations

import asyncio
import math
import secrets

from adapters.base import AdapterError, DeviceUnreachable, OptionsError
from adapters.mqtt.options import MqttOptions, MqttWrite
from adapters.set_point import SetPoint
from wire.broker import Broker
from wire.errors import ConfigError
from wire.mqtt.async_client import AsyncClient
from wire.mqtt.errors import MqttError
from wire.mqtt.options import ConnectOptions, Login, VersionChoice, Will
from wire.mqtt.packet_socket import PublishPacket
from wire.topics import ROOT

_KEEPALIVE_S = 10
_LONGEST = 64  # bytes of a number
_GOODBYE_S = 0.5
_REFUSED = 0x80  # reason codes of MQTT 5 from here on


class MqttSetPoint(SetPoint):
    """One topic. Messages are not retained: a device that comes later does not get an old number.

    If the connection breaks, also because the agent was killed, the broker sends the safe number (the will).
    The topic is subscribed too: a broker that forbids to publish may acknowledge all the same, and other
    clients may write there. So the login needs the right to write and to read it.
    """

    def __init__(self, write: MqttWrite, options: MqttOptions, broker: Broker) -> None:
        super().__init__(write.topic, write)
        if any(sign in write.topic for sign in "+#\0") or write.topic.startswith("$"):
            raise OptionsError(
                f"write.topic {write.topic!r} is not one topic: + and # and $ stand for others"
            )
        if write.topic.split("/")[0] == ROOT:
            raise OptionsError(f"write.topic {write.topic!r} belongs to edgebed: name a topic of the device")
        self._options, self._broker = options, broker
        self._client: AsyncClient | None = None
        self._is_back = False  # the number that was written last came back
        self._seen: float | None = None  # newest number on the topic
        self._written: float | None = None
        self._changed = asyncio.Event()
        self._answers: dict[int, int] = {}

    async def open(self) -> None:
        """Connect with the safe number as will, and subscribe the topic."""
        options, self._written = self._options, None
        try:
            async with asyncio.timeout(options.timeout_s):
                await self._connect()
        except TimeoutError as error:
            await self.close()
            raise DeviceUnreachable(
                f"{options.url} does not answer within {options.timeout_s:g} s"
            ) from error
        except MqttError as error:
            await self.close()
            raise DeviceUnreachable(str(error)).at(error.where, error) from error
        except ConfigError as error:
            raise OptionsError(str(error)) from error
        except BaseException:
            await self.close()
            raise

    async def _connect(self) -> None:
        options = self._options
        name = f"{options.client_id}-write" if options.client_id else f"edgebed-{secrets.token_hex(8)}"
        login = await asyncio.to_thread(Login.read, self._broker, name, options.client_id)
        choice = VersionChoice(options.protocol, first="3.1.1")
        while True:
            connect = ConnectOptions(
                login=login,
                version=choice.version,
                will=Will(self.name, _body(self.limits.safe), retain=False),
                keepalive_s=_KEEPALIVE_S,
                connect_s=options.timeout_s,
            )
            client = self._client = AsyncClient(connect, self._arrived, self._changed.set, self._acknowledged)
            try:
                await client.open()
                break
            except MqttError as error:
                if not choice.failed(error):
                    raise
        await client.subscribe([(self.name, 1)])

    async def close(self) -> None:
        """Disconnect; the will is sent unless the safe number was the newest one that was written."""
        client, self._client = self._client, None
        if client is not None:
            await client.close(_GOODBYE_S if self._written in (None, self.limits.safe) else 0.0)

    async def write(self, number: float) -> None:
        """Publish with QoS 1; done when the broker has acknowledged it and passed it on."""
        client = self._open_client
        self._is_back, self._written = False, number
        self._answers.clear()
        try:
            mid = client.publish(self.name, _body(number), qos=1)
            async with asyncio.timeout(self._options.timeout_s):
                while not self._is_done(mid):
                    self._require_open(client)
                    self._changed.clear()
                    await self._changed.wait()
        except MqttError as error:
            raise DeviceUnreachable(str(error)).at(error.where, error) from error
        except TimeoutError as error:
            what = "passes on" if mid in self._answers else "acknowledges"
            raise AdapterError(
                f"{self._options.url} {what} no message on {self.name}: has this login the right to publish?"
            ) from error

    async def read(self) -> float | None:
        """The newest number on the topic, from any client."""
        self._require_open(self._open_client)
        return self._seen

    def _is_done(self, mid: int) -> bool:
        code = self._answers.get(mid)
        if code is not None and code >= _REFUSED:
            raise AdapterError(
                f"{self._options.url} refuses {self.name}: has this login the right to publish?"
            )
        return code is not None and self._is_back

    @property
    def _open_client(self) -> AsyncClient:
        if self._client is None:
            raise DeviceUnreachable(f"{self._options.url} is not open")
        return self._client

    def _require_open(self, client: AsyncClient) -> None:
        if (error := client.failure()) is not None:
            raise DeviceUnreachable(str(error)).at(error.where, error)

    def _arrived(self, message: PublishPacket) -> None:
        self._seen = _number(message.body)
        self._is_back |= self._seen == self._written
        self._changed.set()

    def _acknowledged(self, mid: int, code: int) -> None:
        self._answers[mid] = code
        self._changed.set()


def _body(number: float) -> bytes:
    """40 for 40.0, else the shortest digits that read back."""
    return repr(float(number)).removesuffix(".0").encode()


def _number(body: bytes) -> float | None:
    try:
        found = float(body) if len(body) <= _LONGEST else math.nan
    except ValueError:
        return None
    return found if math.isfinite(found) else None
