"""An MQTT connection in a thread of its own, which waits in `turn`."""

from __future__ import annotations

import contextlib
import select
import socket
import time

from wire.mqtt.connection import Connection, Handlers
from wire.mqtt.dialler import Dialler
from wire.mqtt.errors import ConnectionLost, MqttError, NoConnack
from wire.mqtt.options import ConnectOptions

_TURN_S = 0.25


class BlockingClient:
    """One connection, used once: `open`, then `turn` again and again, then always `close`.

    All calls are for one thread, except `abort`. `wake` is a socket: what arrives there ends a wait.
    """

    def __init__(
        self, options: ConnectOptions, handlers: Handlers, wake: socket.socket | None = None
    ) -> None:
        self._options = options
        self._handlers = handlers
        self._wake = wake
        self._dialler = Dialler(options.login, options.connect_s)
        self._is_aborted = False
        self._connection: Connection | None = None

    @property
    def connection(self) -> Connection:
        """The connection; it exists from `open` on."""
        if self._connection is None:
            raise RuntimeError("open() was not called")
        return self._connection

    @property
    def ended(self) -> MqttError | None:
        """Why the connection ended; None while it is open."""
        return self._connection.ended if self._connection is not None else None

    def open(self) -> None:
        """Connect, and wait for the CONNACK.

        Raises:
            MqttError: it failed; the type and the text give the reason.
        """
        options = self._options
        deadline_s = time.monotonic() + options.connect_s
        connection = self._connection = Connection(options, self._dialler.dial(), self._handlers)
        while not connection.is_connected and connection.ended is None:
            if time.monotonic() >= deadline_s or self._is_aborted:
                within = f"within {options.connect_s:g} s"
                connection.end(NoConnack(options.login.where, f"it did not answer CONNECT {within}"))
            self.turn(_TURN_S)
        if connection.ended is not None:
            raise connection.ended

    def turn(self, within_s: float = _TURN_S) -> None:
        """Send what waits, wait until there is something to do, and do it."""
        connection = self.connection
        connection.write()
        if connection.ended is not None:
            return
        sock, is_full = connection.socket, connection.is_full
        waiter = select.poll()
        waiter.register(sock, (0 if is_full else select.POLLIN) | (select.POLLOUT if sock.unsent else 0))
        if self._wake is not None:
            waiter.register(self._wake, select.POLLIN)
        is_pending = not is_full and sock.is_pending
        ready = dict(waiter.poll(0 if is_pending else 1_000 * within_s))
        events = ready.get(sock.fileno(), 0) & ~select.POLLOUT
        if is_full and events:
            connection.hang_up()  # nothing was to be read: it is broken
        elif is_pending or events:
            connection.read()
        if self._wake is not None and self._wake.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                self._wake.recv(4_096)
        connection.write()
        connection.check_keepalive()

    def abort(self) -> None:
        """End `open` from another thread."""
        self._is_aborted = True
        self._dialler.abort()

    def close(self, goodbye_s: float = 0.0) -> None:
        """Close the connection; within `goodbye_s` with a DISCONNECT, so that no will is published."""
        connection = self._connection
        if connection is None:
            return
        deadline_s = time.monotonic() + goodbye_s
        if goodbye_s:
            connection.disconnect()
        while connection.ended is None and (left_s := deadline_s - time.monotonic()) > 0:
            self.turn(min(_TURN_S, left_s))
        connection.end(ConnectionLost(self._options.login.where, "this client closed the connection"))
