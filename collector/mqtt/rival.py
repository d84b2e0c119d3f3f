"""Finds out whether another collector with the same id is at work, without ending its connection.

MQTT allows one connection for a client id: a second collector with that id and the first would end each
other's connection without end, and each would store a part of the messages. So a collector leaves a retained
claim below `tb1/_sys/`, and before it connects it looks there under a client id of its own: for the claim of
another one, and then for the probes that prove that the other one is at work.
"""

from __future__ import annotations

import secrets
import threading
import time

import msgspec
from msgspec import Struct

from collector.mqtt.probe import SYSTEM
from wire.broker import Broker
from wire.mqtt.blocking_client import BlockingClient
from wire.mqtt.connection import Handlers
from wire.mqtt.errors import MqttError
from wire.mqtt.options import ConnectOptions, Login, VersionChoice
from wire.mqtt.packet_socket import PublishPacket

ALIVE_S = 12.0  # a collector that is connected sends a probe every 8 s
ANSWER_S = 3.0  # for the answers of the broker
CONNECT_S = 5.0
GOODBYE_S = 0.5


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
        self._answered = False  # the broker has sent what it retained
        self._foreign = False  # there is a claim of another store
        self._alive = False  # another client publishes with this id

    def find(self, stopping: threading.Event, *, patient: bool) -> bool | None:
        """Whether another collector is at work; None if the broker could not be asked.

        It waits for the probes of the other one where a claim of another store is retained, or if `patient`.

        Raises:
            ConfigError: a file of the config cannot be used.
        """
        login = Login.read(self._broker, f"{self._name}-look-{self._nonce}", self._username)
        version = VersionChoice(self._broker.protocol, first="3.1.1").version
        options = ConnectOptions(login=login, version=version, connect_s=CONNECT_S, cuts_large=True)
        client = BlockingClient(options, Handlers(on_message=self._take, on_suback=self._ask))
        self._client = client
        try:
            client.open()
            client.subscribe([(f"{SYSTEM}{self._name}/#", 0)])
            began = time.monotonic()
            while client.ended is None and not stopping.is_set() and not self._alive:
                client.turn(0.1)
                waited = time.monotonic() - began
                if self._answered and not (self._foreign or patient):
                    break
                if waited > (ALIVE_S if self._answered else ANSWER_S):
                    break
        except MqttError:
            return None
        finally:
            client.close(GOODBYE_S)
        return self._alive

    def _ask(self, _mid: int, _refused: object) -> None:
        # it comes back after what is retained
        self._client.publish(f"{SYSTEM}{self._name}/look", self._nonce.encode())

    def _take(self, packet: PublishPacket) -> None:
        topic = packet.topic_name
        if not topic.startswith(f"{SYSTEM}{self._name}/"):
            return  # not asked for: it says nothing about another collector
        if topic == f"{SYSTEM}{self._name}/look":
            self._answered = self._answered or packet.body == self._nonce.encode()
            return
        try:
            claim = msgspec.json.decode(packet.body, type=Claim)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            claim = Claim()
        if topic == claim_topic(self._name):
            self._foreign = bool(claim.by) and claim.home != self._claim.home
        if not packet.retained and claim.by != self._claim.by and packet.body:
            self._alive = True
