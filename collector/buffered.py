"""A socket that reads ahead and writes in one go."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Any

_AHEAD = 65_536
_GATHER = 262_144


class Buffered:
    """A non-blocking socket: `recv` is served from what was read ahead, `send` gathers until `flush`.

    paho asks for single bytes and sends each acknowledgement by itself: four system calls a message, which
    at thousands of messages a second cost more than the messages.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._held = b""
        self._at = 0
        self._unsent = bytearray()

    def recv(self, size: int) -> bytes:
        """Up to `size` bytes.

        Raises:
            BlockingIOError: nothing is there now.
        """
        if self._at >= len(self._held):
            try:
                self._held, self._at = self._sock.recv(_AHEAD), 0
            except ssl.SSLWantReadError as error:
                raise BlockingIOError from error
            if not self._held:
                return b""
        piece = self._held[self._at : self._at + size]
        self._at += len(piece)
        return piece

    def pending(self) -> int:
        """Bytes that `recv` gives although poll sees nothing."""
        held = len(self._held) - self._at
        if not held and isinstance(self._sock, ssl.SSLSocket):
            return self._sock.pending()
        return held

    def send(self, data: bytes | bytearray) -> int:
        """Take all of `data`, to be sent by `flush`.

        Raises:
            BlockingIOError: too much is waiting.
        """
        if len(self._unsent) >= _GATHER:
            self.flush()
            if len(self._unsent) >= _GATHER:
                raise BlockingIOError
        self._unsent += data
        return len(data)

    @property
    def unsent(self) -> int:
        """Bytes that wait for `flush`."""
        return len(self._unsent)

    def flush(self) -> None:
        """Send what the peer takes now.

        Raises:
            OSError: the connection is broken.
        """
        while self._unsent:
            try:
                sent = self._sock.send(self._unsent)
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                return
            del self._unsent[:sent]

    def close(self) -> None:
        """Send what can be sent, and close."""
        with contextlib.suppress(OSError):  # the peer may be gone
            self.flush()
        self._sock.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)
