"""The durable MQTT connection of the collector: one thread, a persistent session, acknowledged by hand."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from paho.mqtt.enums import MQTTProtocolVersion

from collector.mqtt.connection import CONNECT_S, Connection, Incoming
from wire.broker import Broker
from wire.clock import Clock
from wire.errors import ConfigError

log = logging.getLogger(__name__)

__all__ = ["Incoming", "Link", "LinkState"]

BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)
_FREE = 1_000  # acks that wait for the connection of their own; more go over the other
_TAKEN_OVER_S = 3.0
_STRIKES = 2
_OUTGOING = 20_000  # acks that wait for a connection; what falls out comes again from its node


@dataclass(frozen=True, slots=True)
class LinkState:
    """The connection for people and monitors; `since` in ms."""

    state: Literal["connecting", "online", "offline", "stopped"]
    since: int
    why: str = ""
    protocol: str = ""
    connects: int = 0
    rebuilt: int = 0  # connections ended because nothing came through them


class Link:
    """Receives in its own thread, for ever: `on_message` must not block and is called from there.

    While `is_full()` nothing is read, so that what waits, waits at the broker. Acks go over `acks` while that
    is there; `turn` and `admits` are those of `collector.mqtt.node_quota.Quota`.
    """

    receives = True
    pauses_s: Sequence[float] = BACKOFF_S

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        clock: Clock,
        *,
        on_message: Callable[[Incoming], None],
        is_full: Callable[[], bool],
        admits: Callable[[bytes], bool] = lambda _topic: True,
        turn: Callable[[float], None] = lambda _now_s: None,
        acks: AckLink | None = None,
    ) -> None:
        self.broker = broker
        self.client_id = client_id
        self.state = LinkState("connecting", clock.now_ms())
        # what a connection works with, in the link's own thread
        self.clock = clock
        self.on_message = on_message
        self.admits = admits
        self.turn = turn
        self.acks = acks
        self.username = client_id
        self.connections = 0  # how many there were
        self.settled: deque[tuple[int, int]] = deque()
        self.outgoing: deque[tuple[str, bytes]] = deque(maxlen=_OUTGOING)
        self.stopping = threading.Event()
        self.wake_in, self._wake_out = socket.socketpair()
        self._is_full = is_full
        self._version = (
            MQTTProtocolVersion.MQTTv311 if broker.protocol == "3.1.1" else MQTTProtocolVersion.MQTTv5
        )
        self._held = threading.Event()
        self.wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="collector-link", daemon=True)
        self._told = ""  # the last loss that was logged

    def start(self) -> None:
        """Begin connecting."""
        self._thread.start()

    def settle(self, tokens: Iterable[tuple[int, int]], acks: Iterable[tuple[str, bytes]] = ()) -> None:
        """Acknowledge messages to the broker, then publish acks; any thread, returns at once."""
        self.settled.extend(tokens)
        if self.acks is not None and self.acks.is_free:
            self.acks.settle((), acks)
        else:
            self.outgoing.extend(acks)
        with contextlib.suppress(BlockingIOError):  # full of wake-ups: it is awake
            self._wake_out.send(b"w")

    def take_back(self) -> None:
        """What the connection for acks cannot send goes over this one."""
        if self.acks is not None and not self.acks.is_free:
            with contextlib.suppress(IndexError):
                while True:
                    self.outgoing.append(self.acks.outgoing.popleft())

    def hold(self) -> None:
        """Receive nothing more, but go on sending: the first half of stopping."""
        self._held.set()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def is_holding(self) -> bool:
        """Whether nothing is to be received now."""
        return self._held.is_set() or self._is_full()

    def stop(self) -> None:
        """Send what is settled, disconnect, end the thread; the session stays at the broker."""
        if self.acks is not None:
            self.acks.stop()
        self.stopping.set()
        self.settle(())
        if self._thread.ident is not None:
            self._thread.join(2 * CONNECT_S)
        self.wake_in.close()
        self._wake_out.close()
        self._note("stopped", "")

    def _run(self) -> None:
        failures = 0
        while not self.stopping.is_set():
            connection = Connection(self, self._version)
            try:
                why = connection.serve()
            except (OSError, ValueError, ConfigError) as error:
                why = _reason(error)
            except Exception as error:  # whatever paho makes of a peer's bytes: the next connection is new
                why = f"{type(error).__name__}: {error}"
                if why != self._told:
                    log.exception("the MQTT connection failed in an unforeseen way")
            finally:
                connection.close()
            if self.stopping.is_set():
                return
            failures = 0 if connection.was_online else failures + 1
            if not connection.was_online and connection.refused_version and self.broker.protocol == "auto":
                self._version = _other(self._version)
                if not self._told and self._version == MQTTProtocolVersion.MQTTv311:
                    self._fall_back(why)
                    continue
            self._lost(why)
            self.stopping.wait(self.pauses_s[min(failures, len(self.pauses_s) - 1)])

    def _note(self, state: Literal["connecting", "online", "offline", "stopped"], why: str) -> None:
        before = self.state
        since = before.since if before.state == state else self.clock.now_ms()
        self.state = LinkState(
            state,
            since,
            why,
            "5" if self._version == MQTTProtocolVersion.MQTTv5 else "3.1.1",
            before.connects + (state == "online"),
            before.rebuilt,
        )

    def _lost(self, why: str) -> None:
        if self._told != why:
            log.warning("no broker at %s: %s; trying on", self.broker.url, why)
            self._told = why
        self._note("offline", why)
        if self.acks is not None:
            self.acks.main_lost()

    def _fall_back(self, why: str) -> None:
        # what nats-server always does; that nothing answers at all is told after the next attempt
        self._told = "MQTT 5 was not taken"
        log.info("broker %s does not take MQTT 5 (%s): trying MQTT 3.1.1", self.broker.url, why)
        self._note("connecting", "")

    def came_online(self) -> None:
        """The connection is subscribed."""
        self._note("online", "")
        log.info("connected to %s with MQTT %s", self.broker.url, self.state.protocol)
        self._told = ""
        if self.acks is not None:
            self.acks.main_online(self._version)

    def count_rebuilt(self) -> None:
        """The connection ends itself, because nothing comes through it."""
        self.state = replace(self.state, rebuilt=self.state.rebuilt + 1)


class AckLink(Link):
    """A connection for acks alone: a broker takes each connection's packets in turn.

    On the receiving one they stand behind a PUBACK for each message of a flood. Where the broker does not
    give a second connection, they go over that one all the same.
    """

    receives = False
    pauses_s = (1.0, 5.0, 30.0, 300.0)

    def __init__(self, broker: Broker, client_id: str, clock: Clock) -> None:
        super().__init__(
            broker, f"{client_id}-acks", clock, on_message=lambda _message: None, is_full=lambda: False
        )
        self.username = client_id
        self._online_at = 0.0
        self._strikes = 0

    @property
    def is_free(self) -> bool:
        """Whether it takes more now."""
        return self.state.state == "online" and len(self.outgoing) < _FREE

    def main_online(self, version: MQTTProtocolVersion) -> None:
        """The receiving connection is there, with this protocol: begin."""
        if self._thread.ident is None and not self.stopping.is_set():
            self._version = version
            self.start()

    def main_lost(self) -> None:
        """The receiving connection ended. Twice just after this one came: both have one client id there."""
        if self.is_free and time.monotonic() - self._online_at < _TAKEN_OVER_S:
            self._strikes += 1
            if self._strikes == _STRIKES:
                self.stopping.set()
                self._note("stopped", "the broker takes it for the receiving connection")
                log.warning(
                    "broker %s gives every connection of %r one client id: acks go over the other",
                    self.broker.url, self.username,
                )  # fmt: skip

    def came_online(self) -> None:
        """It is connected."""
        self._online_at = time.monotonic()
        self._note("online", "")
        self._told = ""

    def _lost(self, why: str) -> None:
        if self._told != why:
            log.info("no connection of their own for acks: %s", why)
            self._told = why
        self._note("offline", why)

    def _fall_back(self, why: str) -> None:
        self._lost(why)


def _other(version: MQTTProtocolVersion) -> MQTTProtocolVersion:
    v5, v311 = MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311
    return v311 if version == v5 else v5


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLEOFError):  # some brokers hang up without an alert
        return "it ended the TLS connection without saying why; does it trust our certificate?"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return str(error)
