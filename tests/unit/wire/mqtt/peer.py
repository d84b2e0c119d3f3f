"""A broker of a few bytes: it answers each connection as a test says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Play = Callable[[socket.socket], None]


@contextmanager
def playing(*plays: Play) -> Iterator[int]:
    """Accept one connection for each play; yields the port. A play ends when its socket is closed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_accept, args=(server, plays), name="peer")
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def answers(*pieces: bytes) -> Play:
    """Read the CONNECT, send the pieces, and wait until the client closes."""

    def play(peer: socket.socket) -> None:
        peer.recv(4_096)
        for piece in pieces:
            peer.sendall(piece)
        while peer.recv(4_096):
            pass

    return play


def hangs_up(*pieces: bytes) -> Play:
    """Read the CONNECT, send the pieces, and close."""

    def play(peer: socket.socket) -> None:
        peer.recv(4_096)
        for piece in pieces:
            peer.sendall(piece)

    return play


def _accept(server: socket.socket, plays: tuple[Play, ...]) -> None:
    for play in plays:
        try:
            peer, _ = server.accept()
        except OSError:  # the test has ended
            return
        with peer:
            peer.settimeout(30)
            with suppress(OSError):
                play(peer)
