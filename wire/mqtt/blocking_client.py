"""An MQTT connection in a thread of its own, which waits in `turn`."""

from __future__ import annotations

import contextlib
import select
import socket
import time

from wire.mqtt.connection import Connection, Handlers
from wire.mqtt.dialler import Dialler
from wire.mqtt.options import ConnectOptions

_TURN_S = 0.25


class BlockingClient(Connection):
    """A connection that is used once: `open`, then `turn` again and again, then always `close`.

    All calls are for one thread, except `abort`. `wake` is a socket: what arrives there ends a wait.
    """

    def __init__(
        self, options: ConnectOptions, handlers: Handlers, wake: socket.socket | None = None
    ) -> None:
        super().__init__(options, handlers)
        self._wake = wake
        self._dialler = Dialler(options.login, options.connect_s)

    def open(self) -> None:
        """Connect, and wait for the CONNACK.

        Raises:
            MqttError: it failed; the type and the text give the reason.
        """
        deadline_s = time.monotonic() + self._options.connect_s
        self.start(self._dialler.dial())
        while not self.is_connected and self.ended is None:
            if time.monotonic() >= deadline_s:
                self.end_late()
            self.turn()
        if self.ended is not None:
            raise self.ended

    def turn(self, within_s: float = _TURN_S) -> None:
        """Send what waits, wait until there is something to do, and do it."""
        self.write()
        if self.ended is not None:
            return
        sock, is_full = self.socket, self.is_full
        waiter = select.poll()
        waiter.register(sock, (0 if is_full else select.POLLIN) | (select.POLLOUT if sock.unsent else 0))
        if self._wake is not None:
            waiter.register(self._wake, select.POLLIN)
        is_pending = not is_full and sock.is_pending
        ready = dict(waiter.poll(0 if is_pending else 1_000 * within_s))
        events = ready.get(sock.fileno(), 0) & ~select.POLLOUT
        if is_full and events:
            self.hang_up()  # nothing was to be read: it is broken
        elif is_pending or events:
            self.read()
        if self._wake is not None and self._wake.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                self._wake.recv(4_096)
        self.write()
        self.check_keepalive()

    def abort(self) -> None:
        """End `open` from another thread."""
        self._dialler.abort()

    def close(self, goodbye_s: float = 0.0) -> None:
        """Close the connection; within `goodbye_s` with a DISCONNECT, so that no will is published."""
        deadline_s = time.monotonic() + goodbye_s
        if goodbye_s and self.is_connected:
            self.disconnect()
            while self.ended is None and (left_s := deadline_s - time.monotonic()) > 0:
                self.turn(min(_TURN_S, left_s))
        self.fail("this client closed the connection")
