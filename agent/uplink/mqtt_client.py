"""MQTT client: aiomqtt with pipelined publishing and a clean end of the connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from adapters.base import why_no_connection
from wire.broker import Broker
from wire.errors import EdgebedError

Protocol = Literal["5", "3.1.1"]

_paho = logging.getLogger("agent.uplink.mqtt_client.paho")
_paho.setLevel(logging.CRITICAL)  # its messages also come as exceptions, which are logged once

KEEPALIVE_S = 15
AGAIN_S = 300.0  # between two SUBSCRIBEs for the same topics
CONNECT_S = 10.0  # for TCP, TLS and CONNACK together
SESSION_S = 86_400  # a broker keeps commands for an absent node this long: the longest ttl
_WILL_DELAY_S = 5  # a node that is back within this time was never lost
_VERSIONS = {"5": aiomqtt.ProtocolVersion.V5, "3.1.1": aiomqtt.ProtocolVersion.V311}
_WRONG_PROTOCOL = (1, 132)  # reason codes of a CONNACK: 3.1.1, 5
_UNSPECIFIED = 128  # paho's code for a connection that ended without a reason
_REFUSED = {
    133: "the broker does not accept this client id",
    134: "the broker does not know this user name and password",
    135: "the broker does not allow this client to connect",
}


class LinkDown(EdgebedError):
    """The connection could not be made, or it ended; the text states why. The uplink connects again."""


class WrongProtocol(LinkDown):
    """The broker reported that it does not speak this version of MQTT."""


class HungUp(LinkDown):
    """The broker closed the connection instead of answering CONNECT; some do so for a wrong version."""


@dataclass(frozen=True, slots=True)
class Login:
    """Address, client id and credentials for a connection."""

    host: str
    port: int
    client_id: str
    username: str | None
    password: str | None
    tls: ssl.SSLContext | None

    @classmethod
    def read(cls, broker: Broker, client_id: str) -> Login:
        """Read password and certificates: blocks on files.

        Raises:
            ConfigError: a file cannot be used.
        """
        password = broker.password()
        username = broker.username or (client_id if password else None)
        return cls(broker.host, broker.port, client_id, username, password, broker.ssl_context())


class MqttClient(aiomqtt.Client):
    """One connection, used once: `await link.open()`, then always `await link.shut()`.

    aiomqtt's `publish` waits for each PUBACK in its own task and hides the reason code; `send` does not wait
    and shows it. `on_puback(mid, reason)` is called for each PUBACK and must not publish.
    """

    def __init__(self, login: Login, protocol: Protocol, will: aiomqtt.Will) -> None:
        self.v5 = protocol == "5"
        persistent: dict[str, Any] = {"clean_session": False}
        if self.v5:
            persistent = {
                "clean_start": False,
                "properties": properties(PacketTypes.CONNECT, SessionExpiryInterval=SESSION_S),
            }
            delay = properties(PacketTypes.WILLMESSAGE, WillDelayInterval=_WILL_DELAY_S)
            will = aiomqtt.Will(will.topic, will.payload, will.qos, will.retain, delay)
        super().__init__(
            login.host,
            login.port,
            username=login.username,
            password=login.password,
            identifier=login.client_id,
            protocol=_VERSIONS[protocol],
            will=will,
            timeout=CONNECT_S,
            logger=_paho,
            keepalive=KEEPALIVE_S,
            max_queued_incoming_messages=1_000,
            max_inflight_messages=0,  # the window counts: paho's limit of 20 looks like a limit of the broker
            tls_context=login.tls,
            **persistent,
        )
        self.on_puback: Callable[[int, int], None] = _ignore
        self.receive_maximum = 65_535  # QoS 1 messages the broker accepts without a PUBACK

    @property
    def backlog(self) -> int:
        """The number of packets that wait for the socket."""
        return len(self._client._out_packet)

    @property
    def unanswered(self) -> int:
        """The number of QoS 1 messages that wait for a PUBACK."""
        return len(self._client._out_messages)

    async def open(self) -> None:
        """Connect.

        Raises:
            LinkDown: the connection failed, for any reason.
        """
        opening = asyncio.create_task(self.__aenter__(), name="mqtt-connect")
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The connecting thread cannot be cancelled: wait for it, or its socket stays open.
            while not opening.done():
                self._abort()
                if not self._connected.done():
                    self._connected.set_exception(_Closed("given up"))
                await asyncio.wait({opening}, timeout=0.05)
            if not opening.cancelled():
                opening.exception()  # read it, so that asyncio does not complain
            await self.shut()
            raise
        except aiomqtt.MqttError as error:
            await self.shut()
            raise self._down(error) from error
        except UnicodeError as error:  # a host name that IDNA cannot encode
            await self.shut()
            raise LinkDown(f"broker host {self._hostname!r}: {error}") from error

    async def shut(self, *, politely_s: float = 0.0) -> None:
        """End the connection: at once, or with a DISCONNECT, so that the broker does not send the Will."""
        if politely_s and not self._disconnected.done():
            with contextlib.suppress(aiomqtt.MqttError):
                self.timeout = politely_s
                await self.__aexit__(None, None, None)
        self._abort()
        if self._misc_task is not None:
            self._misc_task.cancel()
            await asyncio.wait({self._misc_task})
        if self._disconnected.done() and not self._disconnected.cancelled():
            self._disconnected.exception()  # read it: asyncio complains about exceptions that are never read

    async def ended(self) -> None:
        """Wait until the connection ends.

        Raises:
            LinkDown: always; the text states why.
        """
        await asyncio.wait({self._disconnected})
        error = self._disconnected.exception()
        raise _lost(error) from error

    async def read(self) -> aiomqtt.Message:
        """The next received message.

        Raises:
            LinkDown: the connection ended.
        """
        try:
            return await anext(self.messages)
        except aiomqtt.MqttError as error:
            raise _lost(error.__cause__ or error) from error

    async def listen(self, topics: list[str]) -> None:
        """Subscribe with QoS 1.

        Raises:
            LinkDown: the broker did not answer in time.
        """
        try:
            await self.subscribe([(topic, 1) for topic in topics])
        except aiomqtt.MqttError as error:
            raise LinkDown(f"subscribing failed: {error}") from error

    async def keep_listening(self, topics: list[str]) -> None:
        """Subscribe again now and then, until cancelled: nothing else repairs a single dead subscription.

        A repeated SUBSCRIBE changes nothing (MQTT 5, section 3.8.4) and costs one packet.

        Raises:
            LinkDown: the broker did not answer in time.
        """
        while True:
            await asyncio.sleep(random.uniform(0.75, 1.25) * AGAIN_S)  # a thousand nodes spread out
            await self.listen(topics)

    def send(self, topic: str, body: bytes, *, qos: int, retain: bool = False, expiry_s: int = 0) -> int:
        """Queue a message for the socket; returns its packet id, which `on_puback` gets for QoS 1.

        `expiry_s` is sent with MQTT 5 only.

        Raises:
            LinkDown: there is no connection.
        """
        expiry = None
        if self.v5 and expiry_s:
            expiry = properties(PacketTypes.PUBLISH, MessageExpiryInterval=expiry_s)
        info = self._client.publish(topic, body, qos, retain, expiry)
        if info.rc != 0:
            raise LinkDown(f"connection lost: {aiomqtt.MqttCodeError(info.rc)}")
        return info.mid

    def _down(self, error: aiomqtt.MqttError) -> LinkDown:
        code = getattr(error, "rc", None)
        number = getattr(code, "value", code)
        where = f"broker {self._hostname}:{self._port}"
        if number in _WRONG_PROTOCOL:
            return WrongProtocol(f"{where} does not speak MQTT {'5' if self.v5 else '3.1.1'}")
        if isinstance(error, _Closed):
            return HungUp(f"{where} closed the connection before it answered CONNECT")
        return LinkDown(f"{where}: {_REFUSED.get(number, error) if number else why_no_connection(error)}")

    def _abort(self) -> None:
        self._client._sock_close()

    def _on_connect(
        self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Any = None
    ) -> None:
        self.receive_maximum = getattr(properties, "ReceiveMaximum", self.receive_maximum)
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(
        self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Any = None
    ) -> None:
        if not self._connected.done():  # aiomqtt would wait for a CONNACK that can no longer come
            self._connected.set_exception(_Closed("closed before CONNACK"))
            self._connected.exception()  # read it, in case no task waits
            return
        super()._on_disconnect(client, userdata, flags, reason_code, properties)

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason_code: Any, properties: Any) -> None:
        self.on_puback(mid, reason_code.value)
        super()._on_publish(client, userdata, mid, reason_code, properties)


class _Closed(aiomqtt.MqttError):
    pass


def properties(packet: int, **values: Any) -> Properties:
    """MQTT 5 properties of one packet type."""
    made = Properties(packet)  # type: ignore[no-untyped-call]  # paho's are untyped
    for name, value in values.items():
        setattr(made, name, value)
    return made


def _ignore(_mid: int, _reason: int) -> None:
    pass


def _lost(error: BaseException | None) -> LinkDown:
    code = getattr(error, "rc", None)
    named = error and getattr(code, "value", code) != _UNSPECIFIED
    return LinkDown(f"connection lost: {error if named else 'the broker ended it'}")
