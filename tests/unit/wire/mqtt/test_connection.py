"""paho under the client: the one private name, and who loads it."""

from __future__ import annotations

import inspect
import socket
import subprocess
import sys

import paho.mqtt.client as paho
import pytest

from wire.mqtt.connection import Connection, Handlers
from wire.mqtt.options import ConnectOptions, Login


def test_paho_takes_its_socket_from_create_socket() -> None:
    """If this fails, a release of paho changed the one private name that `wire.mqtt.connection` overrides."""
    assert list(inspect.signature(paho.Client._create_socket).parameters) == ["self"]
    near, peer = socket.socketpair()
    near.setblocking(False)
    with peer:
        connection = Connection(ConnectOptions(login=Login("nowhere.invalid", 1, "me")), Handlers())
        connection.start(near)
        assert connection._paho.socket() is connection.socket
        connection.write()
        assert peer.recv(4_096).startswith(b"\x10"), "a CONNECT packet goes over the socket that was given"
        near.close()


@pytest.mark.parametrize(
    "module", ["wire.messages", "wire.topics", "wire.codec", "wire.broker", "wire.errors"]
)
def test_the_messages_load_no_paho(module: str) -> None:
    program = f"import sys, {module}; sys.exit(any(name.split('.')[0] == 'paho' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
