"""A socket that reads ahead."""

from __future__ import annotations

import socket
import ssl
from typing import Any

_AHEAD = 65_536


class Buffered:
    """A non-blocking socket whose `recv` is served from what was read ahead; the rest is the socket's own."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._held = b""
        self._at = 0

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

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)
