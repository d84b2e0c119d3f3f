"""An MQTT connection in an asyncio event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence

from wire.mqtt.connection import Connection, Handlers
from wire.mqtt.dialler import Dialler
from wire.mqtt.errors import ConnectionLost, MqttError, NoConnack, NotConnected, SubscribeRefused
from wire.mqtt.options import ConnectOptions
from wire.mqtt.packet_socket import PublishPacket
from wire.socket_errors import why_no_connection


def _ignore(*_: object) -> None:
    pass


class AsyncClient:
    """One connection, used once: `await open()`, then always `await close()`.

    `on_message` is called for each message and must return at once; a message of QoS 1 is acknowledged after
    it returned. `on_puback(mid, code)` is called for each PUBACK and must not publish. `on_end` is called
    once when the connection ended.
    """

    def __init__(
        self,
        options: ConnectOptions,
        on_message: Callable[[PublishPacket], None] = _ignore,
        on_end: Callable[[], None] = _ignore,
    ) -> None:
        self.on_puback: Callable[[int, int], None] = _ignore
        self._options = options
        self._on_message = on_message
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._is_writing = False  # the loop watches for room in the socket
        self._to_write: asyncio.Handle | None = None
        self._check: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()  # CONNACK, or the end
        self._ended = asyncio.Event()
        self._subscribing: dict[int, asyncio.Future[None]] = {}

    @property
    def receive_maximum(self) -> int:
        """QoS 1 messages that the broker takes without a PUBACK."""
        return self._open_connection().receive_maximum

    @property
    def unsent(self) -> int:
        """Bytes that wait for the socket."""
        return self._connection.unsent if self._connection is not None else 0

    @property
    def unanswered(self) -> int:
        """QoS 1 messages that wait for a PUBACK."""
        return self._connection.unanswered if self._connection is not None else 0

    async def open(self) -> None:
        """Connect.

        Raises:
            MqttError: it failed; the type and the text give the reason.
        """
        try:
            async with asyncio.timeout(self._options.connect_s):
                self._start(await self._dial())
                await self._changed.wait()
        except TimeoutError:
            within = f"within {self._options.connect_s:g} s"
            where = self._options.login.where
            if self._connection is None:
                raise NotConnected(where, why_no_connection(TimeoutError())) from None
            self._connection.end(NoConnack(where, f"it did not answer CONNECT {within}"))
        except asyncio.CancelledError:
            await self.close()
            raise
        if (error := self.failure()) is not None:
            raise error

    async def close(self, goodbye_s: float = 0.0) -> None:
        """Close the connection; within `goodbye_s` with a DISCONNECT, so that no will is published."""
        connection = self._connection
        if connection is None:
            return
        try:
            if goodbye_s and connection.ended is None:
                connection.disconnect()
                self._write()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(goodbye_s):
                        await self._ended.wait()  # else unread bytes would turn the end into a reset
        finally:
            connection.end(ConnectionLost(self._options.login.where, "this client closed the connection"))

    async def subscribe(self, filters: Sequence[tuple[str, int]]) -> None:
        """Subscribe topic filters with their QoS, and wait for the SUBACK.

        Raises:
            SubscribeRefused: the broker refuses one of them; the connection stays open.
            MqttError: the connection ended, or the broker did not answer in time.
        """
        mid = self._open_connection().subscribe(filters)
        self._write_soon()
        answer = self._subscribing[mid] = self._loop.create_future()
        try:
            async with asyncio.timeout(self._options.connect_s):
                await answer
        except TimeoutError:
            raise ConnectionLost(
                self._options.login.where, f"it did not answer SUBSCRIBE within {self._options.connect_s:g} s"
            ) from None
        finally:
            self._subscribing.pop(mid, None)

    def publish(
        self, topic: str, body: bytes, *, qos: int = 0, retain: bool = False, expiry_s: int = 0
    ) -> int:
        """Queue a message for the socket; returns its packet id, which `on_puback` gets for QoS 1.

        `expiry_s` is sent with MQTT 5 only.

        Raises:
            MqttError: there is no connection.
        """
        mid = self._open_connection().publish(topic, body, qos=qos, retain=retain, expiry_s=expiry_s)
        self._write_soon()
        return mid

    def fail(self, why: MqttError) -> None:
        """End the connection at once; `ended` raises this error."""
        if self._connection is not None:
            self._connection.end(why)

    def failure(self) -> MqttError | None:
        """Why the connection ended; None while it is open."""
        return self._connection.ended if self._connection is not None else None

    async def ended(self) -> None:
        """Wait until the connection ends.

        Raises:
            MqttError: always; the text gives the reason.
        """
        await self._ended.wait()
        raise self.failure() or ConnectionLost(self._options.login.where, "there is no connection")

    # In the event loop

    async def _dial(self) -> socket.socket:
        dialler = Dialler(self._options.login, self._options.connect_s)
        dialling = self._loop.run_in_executor(None, dialler.dial)
        try:
            return await asyncio.shield(dialling)
        except asyncio.CancelledError:
            dialler.abort()  # its thread then ends, and closes the socket
            dialling.add_done_callback(lambda done: None if done.cancelled() else done.exception())
            raise

    def _start(self, sock: socket.socket) -> None:
        handlers = Handlers(
            on_message=self._take,
            on_puback=self._on_puback,
            on_suback=self._on_suback,
            on_end=self._stop,
        )
        self._connection = Connection(self._options, sock, handlers)
        self._loop.add_reader(self._connection.socket.fileno(), self._read)
        self._write()
        self._check = self._loop.call_later(self._connection.check_in_s, self._check_keepalive)

    def _take(self, message: PublishPacket) -> None:
        self._on_message(message)
        if message.mid and self._connection is not None:
            self._connection.puback(message.mid)

    def _on_puback(self, mid: int, code: int) -> None:
        self.on_puback(mid, code)

    def _on_suback(self, mid: int, refused: SubscribeRefused | None) -> None:
        answer = self._subscribing.get(mid)
        if answer is not None and not answer.done():
            if refused is None:
                answer.set_result(None)
            else:
                answer.set_exception(refused)

    def _read(self) -> None:
        connection = self._connection
        if connection is None or connection.ended is not None:
            return
        connection.read()
        if connection.is_connected:
            self._changed.set()
        self._write()
        if connection.ended is None and connection.socket.is_pending:
            self._loop.call_soon(self._read)

    def _write_soon(self) -> None:
        """Write at the end of this turn of the loop: everything that is published in it goes at once."""
        if self._to_write is None:
            self._to_write = self._loop.call_soon(self._write)

    def _write(self) -> None:
        if self._to_write is not None:
            self._to_write.cancel()
            self._to_write = None
        connection = self._connection
        if connection is None or connection.ended is not None:
            return
        connection.write()
        is_writing = connection.ended is None and connection.unsent > 0
        if is_writing and not self._is_writing:
            self._loop.add_writer(connection.socket.fileno(), self._write)
        elif self._is_writing and connection.ended is None and not is_writing:
            self._loop.remove_writer(connection.socket.fileno())
        self._is_writing = is_writing

    def _check_keepalive(self) -> None:
        connection = self._connection
        if connection is not None and connection.ended is None:
            connection.check_keepalive()
            self._write()
            self._check = self._loop.call_later(connection.check_in_s, self._check_keepalive)

    def _stop(self) -> None:
        """Take the socket out of the loop, before it is closed."""
        connection = self._connection
        if connection is None or connection.ended is None:
            return
        descriptor = connection.socket.fileno()
        self._loop.remove_reader(descriptor)
        self._loop.remove_writer(descriptor)
        for handle in (self._check, self._to_write):
            if handle is not None:
                handle.cancel()
        for answer in self._subscribing.values():
            if not answer.done():
                answer.set_exception(connection.ended)
        self._changed.set()
        self._ended.set()
        self._on_end()

    def _open_connection(self) -> Connection:
        if self._connection is None:
            raise ConnectionLost(self._options.login.where, "there is no connection")
        return self._connection
