"""An MQTT connection in an asyncio event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from wire.mqtt.connection import Connection, Handlers, ignore
from wire.mqtt.dialler import Dialler
from wire.mqtt.errors import ConnectionLost, MqttError, SubscribeRefused
from wire.mqtt.options import ConnectOptions
from wire.mqtt.packet_socket import PublishPacket


class AsyncClient:
    """One connection, used once: `await open()`, then always `await close()`.

    `on_message` is called for each message and must return at once; a message of QoS 1 is acknowledged after
    it returned. `on_end` is called once when the connection ended. `on_puback(mid, code)` is called for each
    PUBACK and must not publish.
    """

    def __init__(
        self,
        options: ConnectOptions,
        on_message: Callable[[PublishPacket], None] = ignore,
        on_end: Callable[[], None] = ignore,
        on_puback: Callable[[int, int], None] = ignore,
    ) -> None:
        self._options = options
        self._on_message = on_message
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._connection = Connection(options, Handlers(self._take, on_puback, self._on_suback, self._stop))
        self._is_writing = False  # the loop watches for room in the socket
        self._to_write: asyncio.Handle | None = None
        self._check: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()  # CONNACK, or the end
        self._ended = asyncio.Event()
        self._subscribing: dict[int, asyncio.Future[MqttError | None]] = {}

    @property
    def receive_maximum(self) -> int:
        """QoS 1 messages that the broker takes without a PUBACK."""
        return self._connection.receive_maximum

    @property
    def unsent(self) -> int:
        """Bytes that wait for the socket, from `open` on."""
        return self._connection.socket.unsent

    @property
    def taken(self) -> int:
        """Bytes that this connection was given to send, with those that wait; before TLS."""
        return self._connection.socket.taken

    @property
    def unanswered(self) -> int:
        """QoS 1 messages that wait for a PUBACK."""
        return self._connection.unanswered

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
            self._connection.end_late()
        except asyncio.CancelledError:
            await self.close()
            raise
        if (error := self.failure()) is not None:
            raise error

    async def close(self, goodbye_s: float = 0.0) -> None:
        """Close the connection; within `goodbye_s` with a DISCONNECT, so that no will is published."""
        connection = self._connection
        try:
            if goodbye_s and connection.is_connected and connection.ended is None:
                connection.disconnect()
                self._write()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(goodbye_s):
                        await self._ended.wait()  # else unread bytes would turn the end into a reset
        finally:
            connection.fail("this client closed the connection")

    async def subscribe(self, filters: Sequence[tuple[str, int]]) -> None:
        """Subscribe topic filters with their QoS, and wait for the SUBACK.

        Raises:
            SubscribeRefused: the broker refuses one of them; the connection stays open.
            MqttError: the connection ended, or the broker did not answer in time.
        """
        mid = self._connection.subscribe(filters)
        self._write_soon()
        answer = self._subscribing[mid] = self._loop.create_future()
        try:
            async with asyncio.timeout(self._options.connect_s):
                error = await answer
        except TimeoutError:
            raise ConnectionLost(
                self._options.login.where, f"it did not answer SUBSCRIBE within {self._options.connect_s:g} s"
            ) from None
        finally:
            self._subscribing.pop(mid, None)
        if error is not None:
            raise error

    def publish(
        self, topic: str, body: bytes, *, qos: int = 0, retain: bool = False, expiry_s: int = 0
    ) -> int:
        """Queue a message for the socket; returns its packet id, which `on_puback` gets for QoS 1.

        `expiry_s` is sent with MQTT 5 only.

        Raises:
            TooLarge: the broker takes no packets of this size; the connection stays open.
            MqttError: there is no connection.
        """
        mid = self._connection.publish(topic, body, qos=qos, retain=retain, expiry_s=expiry_s)
        self._write_soon()
        return mid

    def fail(self, why: str) -> None:
        """End the connection at once; `ended` raises an error with this reason."""
        self._connection.fail(why)

    def failure(self) -> MqttError | None:
        """Why the connection ended; None while it is open."""
        return self._connection.ended

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
        dialled: Future[socket.socket] = Future()
        dialled.set_running_or_notify_cancel()  # now only the thread ends it, also if this task is cancelled
        # A thread of its own, and a daemon: while the resolver of host names hangs, the loop's pool would
        # have no thread left for others, and the end of the process would wait for it.
        threading.Thread(target=_dial, args=(dialler, dialled), name="mqtt-dial", daemon=True).start()
        try:
            return await asyncio.wrap_future(dialled)
        except asyncio.CancelledError:
            dialler.abort()  # its thread then ends
            dialled.add_done_callback(_close_unused)
            raise

    def _start(self, sock: socket.socket) -> None:
        self._connection.start(sock)
        self._loop.add_reader(self._connection.socket.fileno(), self._read)
        self._write()
        self._check = self._loop.call_later(self._connection.check_in_s, self._check_keepalive)

    def _take(self, message: PublishPacket) -> None:
        self._on_message(message)
        if message.mid:
            self._connection.puback(message.mid)

    def _on_suback(self, mid: int, refused: SubscribeRefused | None) -> None:
        answer = self._subscribing.get(mid)
        if answer is not None and not answer.done():
            answer.set_result(refused)

    def _read(self) -> None:
        connection = self._connection
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
        connection.write()
        if connection.ended is not None:
            return
        must_wait = connection.socket.unsent > 0
        if must_wait and not self._is_writing:
            self._loop.add_writer(connection.socket.fileno(), self._write)
        elif self._is_writing and not must_wait:
            self._loop.remove_writer(connection.socket.fileno())
        self._is_writing = must_wait

    def _check_keepalive(self) -> None:
        connection = self._connection
        connection.check_keepalive()
        self._write()
        if connection.ended is None:
            self._check = self._loop.call_later(connection.check_in_s, self._check_keepalive)

    def _stop(self) -> None:
        """Take the socket out of the loop, before it is closed."""
        descriptor = self._connection.socket.fileno()
        self._loop.remove_reader(descriptor)
        self._loop.remove_writer(descriptor)
        for handle in (self._check, self._to_write):
            if handle is not None:
                handle.cancel()
        for answer in self._subscribing.values():
            if not answer.done():
                answer.set_result(self._connection.ended)
        self._changed.set()
        self._ended.set()
        self._on_end()


def _dial(dialler: Dialler, dialled: Future[socket.socket]) -> None:
    try:
        dialled.set_result(dialler.dial())
    except MqttError as error:
        dialled.set_exception(error)


def _close_unused(dialled: Future[socket.socket]) -> None:
    if dialled.exception() is None:
        dialled.result().close()
