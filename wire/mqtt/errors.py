"""Why an MQTT connection failed or ended: one type and one sentence for each cause."""

from __future__ import annotations

from wire.errors import Unreachable

TAKEN_OVER = 0x8E

_UNSUPPORTED_VERSION = 0x84
_MQTT3_CONNACK = {1: 0x84, 2: 0x85, 3: 0x88, 4: 0x86, 5: 0x87}
_REASONS = {  # MQTT 5, section 2.4
    0x80: "it gives no reason",
    0x81: "it cannot read a packet of this client",
    0x82: "it takes a packet of this client for a violation of the protocol",
    0x83: "it does not accept a valid packet of this client",
    0x84: "it does not support this version of MQTT",
    0x85: "it does not accept this client id",
    0x86: "the user name or the password is wrong; see username and password_file",
    0x87: "it does not allow this client to do so; see username, password_file and its access rules",
    0x88: "it is not available",
    0x89: "it is busy",
    0x8A: "it has banned this client",
    0x8B: "it shuts down",
    0x8C: "it does not support this authentication method",
    0x8D: "it received nothing from this client for too long",
    0x8E: "another client connected with the same client id",
    0x8F: "it does not accept this topic filter",
    0x90: "it does not accept this topic",
    0x91: "the packet id is in use",
    0x92: "the packet id is unknown",
    0x93: "this client sent more messages than the broker takes at once",
    0x94: "the topic alias is invalid",
    0x95: "a packet of this client is too large",
    0x96: "this client sends too many messages",
    0x97: "a quota is used up",
    0x98: "an administrator ended it",
    0x99: "the payload has another format than declared",
    0x9A: "it does not support retained messages, which edgebed needs: allow them there",
    0x9B: "it does not support QoS 1, which edgebed needs: allow it there",
    0x9C: "another server is to be used for now",
    0x9D: "it has moved to another server",
    0x9E: "it does not support shared subscriptions",
    0x9F: "this client connects too often",
    0xA0: "the connection reached its maximum duration",
    0xA1: "it does not support subscription identifiers",
    0xA2: "it does not support wildcards in subscriptions",
}


class MqttError(Unreachable):
    """An MQTT connection failed or ended; `why` is the sentence without `where`, the broker.

    `code` is the reason code of MQTT 5 where the broker sent one.
    """

    def __init__(self, where: str, why: str, code: int = 0) -> None:
        super().__init__(f"{where}: {why}")
        self.where = where
        self.why = why
        self.code = code


class NotConnected(MqttError):
    """There is no TCP or TLS connection; `__cause__` is the OSError, if there was one."""


class ConnectRefused(MqttError):
    """The broker refuses this client by a CONNACK."""


class UnsupportedVersion(ConnectRefused):
    """The broker does not support this version of MQTT."""


class NoConnack(MqttError):
    """The broker hung up or was silent instead of answering CONNECT; some do so for a wrong version."""


class SubscribeRefused(MqttError):
    """The broker refuses a subscription; the connection stays open."""


class TooLarge(MqttError):
    """The broker takes no packets of the size of a message; the connection stays open."""


class MalformedPacket(MqttError):
    """The broker broke the protocol, or sent a packet that is too large."""


class ConnectionLost(MqttError):
    """The connection ended."""


def is_defined(code: int) -> bool:
    """Whether a reason code of a failure is one that MQTT 5 defines."""
    return code in _REASONS


def reason_text(code: int) -> str:
    """The meaning of a reason code of MQTT 5 as one clause, with the code."""
    text = _REASONS.get(code, "MQTT does not define this reason code")
    return f"{text} (reason code 0x{code:02X})"


def connect_refused(where: str, code: int, version: str) -> ConnectRefused:
    """The error for a CONNACK with this code."""
    if version == "3.1.1" or code == 1:  # old brokers answer 1 to MQTT 5 too
        code = _MQTT3_CONNACK.get(code, code)
    if code == _UNSUPPORTED_VERSION:
        return UnsupportedVersion(where, f"it does not support MQTT {version}", code)
    return ConnectRefused(where, f"it refuses the connection: {reason_text(code)}", code)


def too_large(where: str, topic: str, size: int, limit: int) -> TooLarge:
    """The error for a message to `topic` whose packet exceeds the limit of the broker."""
    why = f"it takes packets of at most {limit} bytes, a message on {topic} needs {size}: raise its limit"
    return TooLarge(where, why)


def disconnected(where: str, code: int, client_id: str) -> ConnectionLost:
    """The error for a DISCONNECT with this code."""
    if code == TAKEN_OVER:
        why = f"another client connected as {client_id!r} (0x8E, session taken over)"
    else:
        why = "it ended the connection" + (f": {reason_text(code)}" if code else "")
    return ConnectionLost(where, why, code)


def subscribe_refused(where: str, refused: dict[str, int]) -> SubscribeRefused:
    """The error for a SUBACK; `refused` has the code of each refused topic filter."""
    topic, code = next(iter(refused.items()))
    which = topic if len(refused) == 1 else f"{len(refused)} topics, such as {topic}"
    return SubscribeRefused(
        where, f"it refuses the subscription to {which}: {reason_text(code)}; allow it there", code
    )
