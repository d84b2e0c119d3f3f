"""Finds out whether another collector with the same id is at work, without ending its connection.

MQTT allows one connection for a client id: a second collector with that id and the first would end each
other's connection without end, and each would store a part of the messages. So a collector leaves a retained
claim below `tb1/_sys/`, and before it connects it looks there under a client id of its own: for the claim of
another one, and then for the probes that prove that the other one is at work.
"""

from __future__ import annotations

import secrets
import ssl
import threading
import time
from typing import Any

import msgspec
import paho.mqtt.client as mqtt
from msgspec import Struct
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from collector.mqtt.login import set_login
from collector.mqtt.probe import SYSTEM
from wire.broker import Broker
from wire.errors import ConfigError

ALIVE_S = 12.0  # a collector that is connected sends a probe every 8 s
ANSWER_S = 3.0  # for the answers of the broker
CONNECT_S = 5.0


class Claim(Struct, omit_defaults=True):
    """Who has an id: `by` is random for each start of a process, `home` names its store."""

    by: str = ""
    home: str = ""


def claim_topic(name: str) -> str:
    """Where the retained claim of an id is."""
    return f"{SYSTEM}{name}/claim"


def in_words(name: str, url: str) -> str:
    """What the user reads when there is another one."""
    return (
        f"another client with the id {name!r} is connected to {url}: "
        "stop one of the two, or give this one another id"
    )


class Look:
    """One look at what is published with an id; `claim` is this collector's own."""

    def __init__(self, broker: Broker, name: str, username: str, claim: Claim) -> None:
        self._broker, self._name, self._username, self._claim = broker, name, username, claim
        self._nonce = secrets.token_hex(4)
        self._connected = False
        self._answered = False  # the broker has sent what it retained
        self._foreign = False  # there is a claim of another store
        self._alive = False  # another client publishes with this id

    def find(self, stopping: threading.Event, *, patient: bool) -> bool | None:
        """Whether another collector is at work; None if the broker could not be asked.

        It waits for the probes of the other one where a claim of another store is retained, or if `patient`.
        """
        client = self._client()
        try:
            client.connect(self._broker.host, self._broker.port, 20)
            began = time.monotonic()
            while not stopping.is_set() and not self._alive:
                if client.loop(0.1) != MQTTErrorCode.MQTT_ERR_SUCCESS:
                    break
                waited = time.monotonic() - began
                if self._answered and not (self._foreign or patient):
                    break
                if waited > (ALIVE_S if self._answered else ANSWER_S):
                    break
            client.disconnect()
        except (OSError, ValueError, ConfigError, ssl.SSLError):
            return None
        finally:
            sock = client.socket()
            if sock is not None:
                sock.close()
        return self._alive if self._connected else None

    def _client(self) -> mqtt.Client:
        broker = self._broker
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"{self._name}-look-{self._nonce}",
            clean_session=None if broker.protocol == "5" else True,
            protocol=MQTTProtocolVersion.MQTTv5 if broker.protocol == "5" else MQTTProtocolVersion.MQTTv311,
        )
        client.connect_timeout = CONNECT_S
        set_login(client, broker, self._username)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        return client

    def _on_connect(self, client: mqtt.Client, _user: Any, _flags: Any, code: Any, _props: Any) -> None:
        if not code.is_failure:
            self._connected = True
            client.subscribe(f"{SYSTEM}{self._name}/#", 0)

    def _on_subscribe(self, client: mqtt.Client, *_: Any) -> None:
        client.publish(f"{SYSTEM}{self._name}/look", self._nonce)  # comes back after what is retained

    def _on_message(self, _client: mqtt.Client, _user: Any, message: mqtt.MQTTMessage) -> None:
        if message.topic == f"{SYSTEM}{self._name}/look":
            self._answered = self._answered or message.payload == self._nonce.encode()
            return
        try:
            claim = msgspec.json.decode(message.payload, type=Claim)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            claim = Claim()
        if message.topic == claim_topic(self._name):
            self._foreign = bool(claim.by) and claim.home != self._claim.home
        if not message.retain and claim.by != self._claim.by and message.payload:
            self._alive = True
