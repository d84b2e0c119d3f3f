"""TCP and TLS connections: they end when they are aborted, and at their deadline."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from typing import Any

import pytest

from tests.polling import wait_until
from tests.unit.wire.mqtt.peer import playing
from wire.mqtt.dialler import Dialler
from wire.mqtt.errors import NotConnected
from wire.mqtt.options import Login


def tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def wait_for_end(peer: socket.socket) -> None:
    while peer.recv(4_096):
        pass


def trickles(peer: socket.socket) -> None:
    peer.sendall(b"\x16\x03\x03\x3f\xff")  # the head of a large TLS record, then a byte now and then
    while True:
        time.sleep(0.05)
        peer.sendall(b"x")


def speaks_plain(peer: socket.socket) -> None:
    peer.recv(4_096)
    peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def hangs_up(peer: socket.socket) -> None:
    peer.recv(4_096)


@pytest.mark.parametrize(
    ("play", "text"),
    [
        (trickles, "no answer to the TLS handshake: is the port right?"),
        (wait_for_end, "no answer to the TLS handshake: is the port right?"),
        (speaks_plain, "it does not use TLS: is the port right?"),
        (
            hangs_up,
            "it ended the TLS handshake without a reason: is the port right, does it accept",
        ),
    ],
)
def test_a_handshake_ends_at_the_deadline_and_has_a_sentence(play: Any, text: str) -> None:
    with playing(play) as port, pytest.raises(NotConnected) as caught:
        Dialler(Login("localhost", port, "x", tls=tls()), 0.5).dial()
    assert caught.value.why.startswith(text)


@pytest.mark.parametrize("context", [tls(), None])
def test_an_abort_ends_a_dial(context: ssl.SSLContext | None) -> None:
    """With TLS it waits in the handshake, without it for a server whose queue is full."""
    failures: list[str] = []
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        others = [socket.socket() for _ in range(0 if context else 4)]
        for other in others:
            other.setblocking(False)
            other.connect_ex(server.getsockname())
        dialler = Dialler(Login("127.0.0.1", server.getsockname()[1], "x", tls=context), 60.0)

        def dial() -> None:
            try:
                dialler.dial()
            except NotConnected as error:
                failures.append(error.why)

        thread = threading.Thread(target=dial)
        thread.start()
        wait_until(lambda: dialler._sock is not None)
        time.sleep(0.05)
        dialler.abort()
        thread.join(30)
        for other in others:
            other.close()
    assert failures == ["the connecting was ended"]


def test_an_abort_after_the_dial_ends_the_connection() -> None:
    with playing(wait_for_end) as port:
        dialler = Dialler(Login("127.0.0.1", port, "x"), 10.0)
        with dialler.dial() as sock:
            dialler.abort()
            assert sock.recv(1) == b""
            assert sock.fileno() != -1, "only its owner closes it: the number may belong to another file then"
        with pytest.raises(NotConnected, match="was ended"):
            dialler.dial()


def test_a_silent_address_leaves_time_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent, playing(wait_for_end) as port:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        others = [socket.socket() for _ in range(4)]
        for other in others:  # its queue is full: it does not answer further ones
            other.setblocking(False)
            other.connect_ex(silent.getsockname())
        both = silent.getsockname(), ("127.0.0.1", port)
        addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in both]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        Dialler(Login("two-addresses", 1883, "x"), 3.0).dial().close()
        for other in others:
            other.close()


def test_a_name_that_does_not_exist_has_a_sentence() -> None:
    with pytest.raises(NotConnected, match="the host name is unknown: is it spelled right"):
        Dialler(Login("no-such-host.invalid", 1883, "x"), 10.0).dial()
