"""What an MQTT connection needs, and which version of MQTT to try next."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Self

from wire.broker import Broker
from wire.mqtt.errors import MqttError, NoConnack, UnsupportedVersion

Version = Literal["5", "3.1.1"]

_WITHOUT_END_S = 0xFFFF_FFFF  # as a session expiry interval
_HANG_UPS = 3  # before the other version is tried although this one worked before


@dataclass(frozen=True, slots=True)
class Login:
    """Address, client id and credentials."""

    host: str
    port: int
    client_id: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    has_certificate: bool = False

    @classmethod
    def read(cls, broker: Broker, client_id: str, username: str = "") -> Self:
        """Read the password and the certificates; blocks on files.

        A password without a user name in the config belongs to `username`, or else to the client id.

        Raises:
            ConfigError: a file cannot be used.
        """
        password = broker.password()
        user = broker.username or ((username or client_id) if password else None)
        has_certificate = broker.cert_file is not None
        return cls(broker.host, broker.port, client_id, user, password, broker.ssl_context(), has_certificate)

    def session_s(self, usual_s: int) -> int:
        """How long the broker keeps the session of this client while it is away; it counts with MQTT 5 alone.

        Without end for a client with a certificate: a mosquitto 2.0.11 that reads its files again enters
        absent clients with certificates twice into its list of sessions that end, and crashes later.
        """
        return _WITHOUT_END_S if self.has_certificate else usual_s

    @property
    def where(self) -> str:
        """The broker as errors name it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"broker {host}:{self.port}"


class Will(NamedTuple):
    """The message that the broker publishes when the connection breaks; the delay is for MQTT 5 only."""

    topic: str
    body: bytes
    qos: int = 1
    retain: bool = True
    delay_s: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """How to connect; fields that are absent from MQTT 3.1.1 have no effect there.

    A PUBLISH packet of more than `largest` bytes ends the connection. With `cuts_large` its beginning is
    passed on instead, so that it can be acknowledged: otherwise a broker would send it again without end.
    """

    login: Login
    version: Version = "5"
    will: Will | None = None
    clean_start: bool = True
    session_expiry_s: int = 0
    receive_maximum: int = 65_535  # QoS 1 messages that the broker may send without a PUBACK
    keepalive_s: int = 20
    connect_s: float = 10.0  # for TCP, TLS and CONNACK together
    largest: int = 131_072  # more than any message of the wire contract
    cuts_large: bool = False


class VersionChoice:
    """Chooses the version of MQTT for each attempt to connect.

    `protocol` is the config's; with `auto` it starts with `worked`, or else with `first`, and changes after a
    failure that a wrong version can cause.
    """

    def __init__(
        self, protocol: Literal["auto", "3.1.1", "5", 5], first: Version = "5", worked: Version | None = None
    ) -> None:
        self._fixed = protocol != "auto"
        self._first: Version = first if protocol == "auto" else "3.1.1" if protocol == "3.1.1" else "5"
        self._hang_ups = 0
        self.worked = worked
        self.version: Version = self._first if self._fixed else worked or first

    def works(self) -> None:
        """Note that the broker accepted a connection with this version."""
        self.worked, self._hang_ups = self.version, 0

    def failed(self, error: MqttError) -> bool:
        """Choose the version after a failed attempt; True: it differs from the first, so try it at once.

        A broker can state that it does not support a version. One that hangs up or is silent may do so for
        that reason: the other version is then tried at once if none ever worked, else after some times.
        """
        if self._fixed or not isinstance(error, NoConnack | UnsupportedVersion):
            return False
        self._hang_ups += 1
        if isinstance(error, NoConnack) and self.worked and self._hang_ups % _HANG_UPS:
            return False
        self.version = "3.1.1" if self.version == "5" else "5"
        return self.version != self._first
