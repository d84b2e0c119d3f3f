"""Opens TCP and TLS connections."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time

from wire.mqtt.errors import NotConnected
from wire.mqtt.options import Login
from wire.socket_errors import why_no_connection, why_no_tls


class Dialler:
    """Opens one connection: `dial` blocks its thread, `abort` ends it from any other thread."""

    def __init__(self, login: Login, within_s: float) -> None:
        self._login = login
        self._within_s = within_s
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None
        self._is_aborted = False

    def dial(self) -> socket.socket:
        """A connected socket; it does not block.

        Raises:
            NotConnected: there is no connection within the time, or `abort` was called.
        """
        deadline_s = time.monotonic() + self._within_s
        try:
            return self._secured(self._connected(deadline_s), deadline_s)
        except NotConnected:
            self._drop()
            raise
        except (OSError, ValueError) as error:  # ValueError: IDNA or TLS does not accept the host name
            self._drop()
            why = "the connecting was ended" if self._is_aborted else why_no_connection(error)
            raise NotConnected(self._login.where, why) from error

    def abort(self) -> None:
        """End `dial`, or shut down the socket that it returned; returns at once.

        A thread that waits for the resolver of host names goes on until that answers; it then ends.
        """
        with self._lock:
            self._is_aborted = True
            if self._sock is not None:
                with contextlib.suppress(OSError):  # it may not be connected
                    socket.socket.shutdown(self._sock, socket.SHUT_RDWR)  # ssl's own is not for two threads

    def _connected(self, deadline_s: float) -> socket.socket:
        login = self._login
        failure: OSError = TimeoutError()
        found = socket.getaddrinfo(login.host, login.port, type=socket.SOCK_STREAM)
        for tried, (family, kind, number, _, address) in enumerate(found):
            try:
                sock = self._own(socket.socket(family, kind, number))
                # a share of the time for each address: one that is silent leaves the others some
                sock.settimeout(_left_s(deadline_s) / (len(found) - tried))
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                failure = error
                self._drop()
            else:
                sock.setblocking(False)
                return sock
        raise failure

    def _secured(self, sock: socket.socket, deadline_s: float) -> socket.socket:
        login = self._login
        if login.tls is None:
            return sock
        try:
            secured = login.tls.wrap_socket(sock, server_hostname=login.host, do_handshake_on_connect=False)
            self._own(secured)
            _shake_hands(secured, deadline_s)
        except OSError as error:
            if self._is_aborted:
                raise
            raise NotConnected(login.where, why_no_tls(error)) from error
        return secured

    def _own(self, sock: socket.socket) -> socket.socket:
        with self._lock:
            self._sock = sock
            if self._is_aborted:
                raise ConnectionAbortedError
        return sock

    def _drop(self) -> None:
        with self._lock:
            sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()


def _shake_hands(sock: ssl.SSLSocket, deadline_s: float) -> None:
    """Complete the handshake by the deadline, however slowly the peer sends."""
    waiter = select.poll()
    while True:
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            waiter.register(sock, select.POLLIN)
        except ssl.SSLWantWriteError:
            waiter.register(sock, select.POLLOUT)
        else:
            return
        waiter.poll(1_000 * _left_s(deadline_s))


def _left_s(deadline_s: float) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
