"""A site's mosquitto with the configuration that `edgebed site init` wrote, and clients of the site."""

from __future__ import annotations

import getpass
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import paho.mqtt.client as mqtt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgebed.broker import find, free_port, is_listening
from edgebed.processes import Child, edgebed_command
from edgebed.site.certificates import key_pem, new_key, utc
from edgebed.site.layout import Layout
from edgebed.site.make import make
from edgebed.site.nodes import issue
from edgebed.site.settings import Site, load, text
from tests import paho_client
from tests.polling import wait_until
from wire.clock import Clock
from wire.errors import Unreachable
from wire.topics import Address

HOST = "127.0.0.1"


def new_site(folder: Path, made: datetime | None = None, **changes: Any) -> Layout:
    """A site of this machine, whose broker runs as the user of the test."""
    values = {"hosts": [HOST], "listen": HOST, "port": free_port(), "collector_port": free_port()}
    site = Site(**{**values, "broker_user": getpass.getuser(), **changes})
    folder.mkdir(exist_ok=True)
    (folder / "site.yaml").write_text(text(site))
    layout = Layout(folder, load(folder))
    make(layout, made or now(), lambda _line: None)
    return layout


def now() -> datetime:
    """The time now, as certificates have it."""
    return utc(Clock().now_ms())


def node_credential(layout: Layout, node: Address) -> tuple[Path, Path]:
    """The certificate and key of a node."""
    key: ec.EllipticCurvePrivateKey = new_key()
    folder = layout.folder.parent / f"device-{node.client_id}"
    folder.mkdir(exist_ok=True)
    certificate, key_path = folder / "node.pem", folder / "node.key"
    certificate.write_bytes(issue(layout, node, key.public_key(), now()))
    key_path.write_bytes(key_pem(key))
    return certificate, key_path


class Done(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    text: str


def edgebed(*words: str) -> Done:
    """Run a command in a process of its own."""
    done = subprocess.run(edgebed_command(*words), capture_output=True, text=True)
    return Done(done.returncode, done.stdout + done.stderr)


@contextmanager
def running(layout: Layout) -> Iterator[Child]:
    """The broker of the site with the written configuration, unchanged."""
    site, config = layout.site, layout.path(layout.broker_config)
    try:
        program = find(site.broker)
    except Unreachable as error:
        if os.environ.get("EDGEBED_REQUIRE_ALL") == "1":
            raise
        pytest.skip(str(error))
    child = Child(site.broker, [program, "-c", str(config)], layout.folder / "broker.log")
    with child:
        for port in (site.port, site.collector_port):
            wait_until(lambda: is_listening(HOST, port) or not child.pid, f"port {port}")  # noqa: B023
        assert child.pid, child.tail(20)
        yield child


def reload(child: Child) -> None:
    """Have the broker read its files again."""
    os.kill(child.pid, 1)


class Client:
    """A client with a certificate; `heard` has what arrived, as (topic, payload)."""

    def __init__(
        self,
        layout: Layout,
        credential: tuple[Path, Path],
        client_id: str = "",
        *,
        port: int = 0,
        v5: bool = True,
        clean: bool = True,
        will: tuple[str, bytes] | None = None,
        user: str = "",
    ) -> None:
        version = MQTTProtocolVersion.MQTTv5 if v5 else MQTTProtocolVersion.MQTTv311
        options = {} if v5 else {"clean_session": clean}
        self._paho = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id, protocol=version, reconnect_on_failure=False, **options
        )
        context = ssl.create_default_context(cafile=str(layout.path("ca.pem")))
        context.load_cert_chain(*credential)
        self._paho.tls_set_context(context)
        self.heard: list[tuple[str, bytes]] = []
        self._changed = threading.Condition()
        self.connected, self.ended = threading.Event(), threading.Event()
        self.refused = ""
        self._answers: dict[int, list[Any]] = {}
        self._paho.on_connect = self._on_connect
        self._paho.on_socket_open = _no_delay
        self._paho.on_disconnect = self._on_end
        self._paho.on_message = self._on_message
        self._paho.on_subscribe = self._on_answer
        self._paho.on_publish = lambda _c, _u, mid, reason, _p: self._on_answer(_c, _u, mid, [reason], _p)
        if user:
            self._paho.username_pw_set(user, "")
        if will is not None:
            self._paho.will_set(*will, qos=1, retain=True)
        if v5:
            self._paho.connect(HOST, port or layout.site.port, clean_start=clean, properties=_session(clean))
        else:
            self._paho.connect(HOST, port or layout.site.port)
        self._paho.loop_start()

    def __enter__(self) -> Client:
        assert self.is_accepted(), f"the broker refuses it: {self.refused}"
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def is_accepted(self) -> bool:
        """Wait for the answer to CONNECT; whether the broker takes this client."""
        self._until(lambda: self.connected.is_set() or self.ended.is_set(), "an answer to CONNECT")
        return not self.ended.is_set()

    def close(self) -> None:
        """Disconnect."""
        paho_client.end(self._paho)
        del self._paho  # it closes a pair of sockets of its own then

    def cut(self) -> None:
        """Break the connection off without a DISCONNECT, so that the broker publishes the Will."""
        sock = self._paho.socket()
        assert sock is not None
        sock.shutdown(2)
        self._until(self.ended.is_set, "the end of the connection")

    def subscribe(self, *filters: str) -> list[int]:
        """Subscribe with QoS 1; returns the reason codes."""
        _, mid = self._paho.subscribe([(each, 1) for each in filters])
        assert mid is not None
        return [reason.value for reason in self._answer(mid)]

    def publish(
        self, topic: str, body: bytes = b"x", *, retain: bool = False, properties: Properties | None = None
    ) -> int:
        """Publish with QoS 1; returns the reason code of the answer, -1 if the connection ended instead."""
        mid = self._paho.publish(topic, body, 1, retain, properties).mid
        answer = self._answer(mid)
        return answer[0].value if answer else -1

    def wait_for(self, topic: str, body: bytes) -> None:
        """Wait until this message has arrived."""
        self._until(lambda: (topic, body) in self.heard, f"{body!r} on {topic}")

    def topics(self) -> set[str]:
        """The topics of what arrived."""
        return {topic for topic, _ in self.heard}

    def _answer(self, mid: int) -> list[Any]:
        self._until(lambda: mid in self._answers or self.ended.is_set(), "an answer of the broker")
        return self._answers.get(mid, [])

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, 60), f"not within 60 s: {what}"

    def _on_connect(self, _client: Any, _user: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        with self._changed:
            if reason.is_failure:
                self.refused = str(reason)
                self.ended.set()
            else:
                self.connected.set()
            self._changed.notify_all()

    def _on_end(self, *_: Any) -> None:
        with self._changed:
            self.ended.set()
            self._changed.notify_all()

    def _on_message(self, _client: Any, _user: Any, message: mqtt.MQTTMessage) -> None:
        with self._changed:
            self.heard.append((message.topic, message.payload))
            self._changed.notify_all()

    def _on_answer(self, _client: Any, _user: Any, mid: int, reasons: list[Any], _properties: Any) -> None:
        with self._changed:
            self._answers[mid] = reasons
            self._changed.notify_all()


def _no_delay(_client: Any, _user: Any, sock: Any) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _session(clean: bool) -> Properties:
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 0 if clean else 600
    return properties
