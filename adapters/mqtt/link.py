"""One MQTT connection that only reads: aiomqtt with a limit on message size and a complete close."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import aiomqtt
from paho.mqtt.client import MQTTMessage

from adapters.base import AdapterError, DeviceUnreachable, ProtocolViolation, why_no_connection
from wire.broker import Broker

Protocol = Literal["3.1.1", "5"]

_paho = logging.getLogger("edgebed.adapters.mqtt.paho")
_paho.setLevel(logging.CRITICAL)  # paho also raises what it logs

KEEPALIVE_S = 10  # a dead connection is detected within twice this time
LARGEST_PACKET = 4 * 2**20  # bytes; a message that announces more ends the connection
_TCP_S = 3.0  # a connecting thread cannot be cancelled, so it must end within this time
_GOODBYE_S = 0.5
_VERSIONS = {"5": aiomqtt.ProtocolVersion.V5, "3.1.1": aiomqtt.ProtocolVersion.V311}
_WRONG_PROTOCOL = (1, 132)  # reason codes of a CONNACK: 3.1.1, 5
_NOT_ALLOWED = {134: "the user name or password is wrong", 135: "this client is not allowed"}


class UnsupportedMqttVersion(DeviceUnreachable):
    """The broker does not support this MQTT version, or hung up during the greeting, as some then do."""


class Secrets(NamedTuple):
    """The contents of files: the password, and the context that verifies the broker."""

    password: str | None
    tls: ssl.SSLContext | None

    @classmethod
    def read(cls, broker: Broker) -> Secrets:
        """Read the files; blocks.

        Raises:
            ConfigError: one of the files cannot be used.
        """
        return cls(broker.password(), broker.ssl_context())


class ReadOnlyClient(aiomqtt.Client):
    """A connection to use once: `await client.open()`, then always `await client.close()`.

    `arrived` is called for each message that is read from the socket, `ended` once when the connection has
    ended. Both must return at once.
    """

    def __init__(
        self,
        broker: Broker,
        secrets: Secrets,
        client_id: str,
        protocol: Protocol,
        arrived: Callable[[MQTTMessage], None],
        ended: Callable[[], None],
    ) -> None:
        super().__init__(
            broker.host,
            broker.port,
            username=broker.username or (client_id if secrets.password else None),
            password=secrets.password,
            identifier=client_id,
            protocol=_VERSIONS[protocol],
            timeout=3600.0,  # the caller has its own, shorter limits
            logger=_paho,
            keepalive=KEEPALIVE_S,
        )
        self._tls = secrets.tls
        self._dialled: socket.socket | None = None
        self._where = f"broker {broker.host}:{broker.port}"
        self._arrived = arrived
        self._ended = ended
        self._announced = 0  # bytes of a message that was too large
        self._receive = self._client._sock_recv
        setattr(self._client, "_sock_recv", self._receive_bounded)  # noqa: B010 - paho has no limit
        setattr(self._client, "_create_socket", self._dial)  # noqa: B010 - paho's own leaks a refused TLS socket

    async def open(self) -> None:
        """Connect.

        Raises:
            UnsupportedMqttVersion: the other version of MQTT may work.
            DeviceUnreachable: it failed for another reason.
        """
        self._disconnected.add_done_callback(self._lost)
        opening = asyncio.create_task(self.__aenter__(), name="mqtt-connect")
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            while not opening.done():  # its thread cannot be cancelled; without the wait its socket leaks
                self._abort()
                self._fail_greeting("cancelled")
                await asyncio.wait({opening}, timeout=0.05)
            if not opening.cancelled():
                opening.exception()  # marks the exception as retrieved
            raise
        except aiomqtt.MqttError as error:
            raise self._refused(error) from error
        except ValueError as error:  # a host name that IDNA or TLS does not accept
            raise DeviceUnreachable(f"{self._where}: {error}") from error

    async def listen(self, topics: Sequence[str], qos: int) -> None:
        """Subscribe, and check that the broker granted it.

        Raises:
            DeviceUnreachable: the broker refused, or the connection ended.
        """
        try:
            codes = await self.subscribe([(topic, qos) for topic in topics])
        except (aiomqtt.MqttError, ValueError) as error:
            raise DeviceUnreachable(f"{self._where}: subscribing failed: {error}") from error
        granted = [getattr(code, "value", code) for code in codes]
        refused = [topic for topic, code in zip(topics, granted, strict=False) if code >= 128]
        if refused or len(granted) != len(topics):
            names = ", ".join(refused[:3]) or "some topics"
            raise DeviceUnreachable(
                f"{self._where} refuses the subscription to {names}: allow this client to read it"
            )

    def failure(self) -> AdapterError | None:
        """The error that ended the connection; None while it is open."""
        if self._announced:
            return ProtocolViolation(
                f"{self._where} announced a message of {self._announced} bytes: more than"
                f" {LARGEST_PACKET} are never accepted"
            )
        if not self._disconnected.done():
            return None
        error = self._disconnected.exception()
        return DeviceUnreachable(f"{self._where}: connection lost: {error or 'closed'}")

    async def close(self) -> None:
        """Close the connection: with a DISCONNECT if it can be sent, else at once; never raises."""
        if self._connected.done() and not self._disconnected.done():
            with contextlib.suppress(aiomqtt.MqttError, TimeoutError):
                async with asyncio.timeout(_GOODBYE_S):
                    await self.__aexit__(None, None, None)
        self._abort()
        if self._misc_task is not None:
            self._misc_task.cancel()
            await asyncio.wait({self._misc_task})
        for future in (self._connected, self._disconnected):
            if future.done() and not future.cancelled():
                future.exception()  # asyncio warns of exceptions that are not retrieved

    # --- called by paho

    def _dial(self) -> socket.socket:
        dialled = self._dialled = socket.create_connection((self._hostname, self._port), _TCP_S)
        if self._tls is not None:
            dialled = self._dialled = self._tls.wrap_socket(dialled, server_hostname=self._hostname)
        return dialled

    def _receive_bounded(self, size: int) -> bytes:
        if size > LARGEST_PACKET:
            self._announced = size
            raise OSError("the message is too large")  # paho then ends the connection
        return self._receive(size)

    def _on_message(self, _client: Any, _userdata: Any, message: MQTTMessage) -> None:
        self._arrived(message)

    def _on_disconnect(
        self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Any = None
    ) -> None:
        self._fail_greeting("closed before CONNACK")
        super()._on_disconnect(client, userdata, flags, reason_code, properties)

    def _lost(self, disconnected: asyncio.Future[None]) -> None:
        if not disconnected.cancelled():
            disconnected.exception()  # marks the exception as retrieved
        self._fail_greeting("the answer is not MQTT")
        self._ended()

    def _fail_greeting(self, why: str) -> None:
        if not self._connected.done():  # aiomqtt would wait for a CONNACK that can no longer come
            self._connected.set_exception(_ClosedInGreeting(why))
            self._connected.exception()  # marks the exception as retrieved, in case no task waits

    def _refused(self, error: aiomqtt.MqttError) -> DeviceUnreachable:
        code = getattr(error, "rc", None)
        number = getattr(code, "value", code)
        if number in _WRONG_PROTOCOL or isinstance(error, _ClosedInGreeting):
            return UnsupportedMqttVersion(f"{self._where} hung up during the greeting: {error}")
        if number in _NOT_ALLOWED:
            why = f"{_NOT_ALLOWED[number]}; see username and password_file"
            return DeviceUnreachable(f"{self._where} refuses this client: {why}")
        return DeviceUnreachable(f"{self._where}: {why_no_connection(error)}").at(self._where, error)

    def _abort(self) -> None:
        self._client._sock_close()
        if self._dialled is not None:  # wakes a thread that waits for this socket
            with contextlib.suppress(OSError):
                self._dialled.shutdown(socket.SHUT_RDWR)


class _ClosedInGreeting(aiomqtt.MqttError):
    pass
