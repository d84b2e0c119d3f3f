"""One MQTT connection of a fleet, driven by the event loop; thousands of them need no thread."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from wire.errors import Unreachable

KEEPALIVE_S = 60
_CONNECT_S = 5.0

OnPuback = Callable[[int, float], None]


class Connection:
    """A connection that is used once, with clean session; it never sends a message again by itself.

    `on_up` is called when the subscriptions are confirmed, `on_down` with the reason when the broker or the
    network ends the connection, `on_message` with topic and body.
    """

    def __init__(self, client_id: str, topics: Iterable[str], *, will: tuple[str, bytes] | None) -> None:
        self.up = False
        self.on_up: Callable[[], None] = _nothing
        self.on_down: Callable[[str], None] = _nothing
        self.on_message: Callable[[str, bytes], None] = _nothing
        self._topics = [(topic, 1) for topic in topics]
        self._loop = asyncio.get_running_loop()
        self._writing = self._inside = False
        self._owed: dict[int, OnPuback] = {}  # by packet id
        self._client = client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id)
        client.max_inflight_messages_set(0)  # the window of the node limits them
        client.connect_timeout = _CONNECT_S
        if will is not None:
            client.will_set(will[0], will[1], qos=1, retain=True)
        client.on_connect = self._connected
        client.on_subscribe = self._subscribed
        client.on_message = self._received
        client.on_publish = self._published
        client.on_disconnect = self._ended
        client.on_socket_close = self._closed

    def open(self, host: str, port: int) -> None:
        """Connect; `on_up` or `on_down` follows.

        Raises:
            Unreachable: no TCP connection.
        """
        try:
            self._client.connect(host, port, KEEPALIVE_S)
        except OSError as error:
            raise Unreachable(f"no MQTT broker at {host}:{port}: {error.strerror or error}") from error
        sock = self._client.socket()
        if sock is not None:
            self._loop.add_reader(sock.fileno(), self._read)
        self._flush()

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
        mid = self._client.publish(topic, body, qos, retain).mid
        if qos:
            self._owed[mid] = on_puback or _nothing
        self._flush()
        return mid

    def tick(self) -> None:
        """Keep the connection alive; call it every few seconds."""
        self._inside = True
        self._client.loop_misc()
        self._inside = False
        self._flush()

    def cut(self) -> None:
        """End the connection without DISCONNECT: the broker sends the Will. `on_down` is not called."""
        self.up = False
        client, sock = self._client, self._client.socket()
        self.on_down = _nothing
        client.on_socket_close = None
        if isinstance(sock, socket.socket):
            self._closed(None, None, sock)
            sock.close()

    def close(self) -> None:
        """Send DISCONNECT and end the connection."""
        self.on_down = _nothing
        self._client.disconnect()
        self._flush()
        self.cut()

    def _flush(self) -> None:
        """Write now what paho holds; the rest when the socket has room.

        Inside a callback of paho nothing is written: paho would wait for itself.
        """
        client = self._client
        if self._inside:
            return
        self._inside = True
        if client.want_write():
            client.loop_write()
        self._inside = False
        sock = client.socket()
        if sock is not None and client.want_write() != self._writing:
            self._writing = not self._writing
            if self._writing:
                self._loop.add_writer(sock, self._flush)
            else:
                self._loop.remove_writer(sock)

    def _read(self) -> None:
        self._inside = True
        self._client.loop_read()
        self._inside = False
        self._flush()

    # Called by paho

    def _connected(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._ended(None, None, None, f"the broker refuses the connection: {reason}", None)
        else:
            self._client.subscribe(self._topics)

    def _subscribed(self, _client: Any, _data: Any, _mid: int, reasons: Any, _properties: Any) -> None:
        if refused := [reason for reason in reasons if reason.is_failure]:
            self._ended(None, None, None, f"the broker refuses the subscriptions: {refused[0]}", None)
        else:
            self.up = True
            self.on_up()

    def _received(self, _client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        self.on_message(message.topic, bytes(message.payload))

    def _published(self, _client: Any, _data: Any, mid: int, _reason: Any, _properties: Any) -> None:
        if (on_puback := self._owed.pop(mid, None)) is not None:
            on_puback(mid, self._loop.time())

    def _ended(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self.up = False
        self.on_down(str(reason))

    def _closed(self, _client: Any, _data: Any, sock: Any) -> None:
        if isinstance(sock, socket.socket):
            self._loop.remove_reader(sock)
            self._loop.remove_writer(sock)


def _nothing(*_: Any) -> None:
    pass
