"""The collector's durable link to the broker: one thread, a persistent session, acknowledged by hand."""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from collector.mqtt.connection import CONNECT_S, Connection
from collector.mqtt.received import Receiver
from collector.mqtt.rival import Claim, Look, in_words
from wire.broker import Broker
from wire.clock import Clock
from wire.errors import ConfigError
from wire.mqtt.errors import MqttError
from wire.mqtt.options import Login, Version, VersionChoice

log = logging.getLogger(__name__)

BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)
ACK_BACKOFF_S = (1.0, 5.0, 30.0, 300.0)
_FREE = 1_000  # acks that wait for their own link; more of them go over the receiving link
_TAKEN_OVER_S = 3.0
_STRIKES = 2
_EARLY = 3  # connections; two of them may be ended by the own link for acks
_STEADY_S = 60.0
_OUTGOING = 20_000  # acks that wait for a connection; the node sends again what loses its ack here


@dataclass(frozen=True, slots=True)
class LinkState:
    """The connection for people and monitors; `since` in ms."""

    state: Literal["connecting", "online", "offline", "stopped"]
    since: int
    why: str = ""
    protocol: str = ""
    connects: int = 0
    rebuilt: int = 0  # connections ended because nothing came through them


@dataclass(frozen=True, slots=True)
class LinkIdentity:
    """The MQTT client id, the user name of the password (""=the id), the name of the store, the signer."""

    client_id: str
    username: str = ""
    home: str = ""
    sign: Callable[[str, bytes], bytes] | None = None  # gives the body of a message with its mac


class Link:
    """Connects and receives in its own thread, without end.

    Acks go over `acks` while that is online. Without a receiver it carries acks alone, for `ack_link`.
    `sign` gives the body of a message with its mac.
    """

    def __init__(
        self,
        broker: Broker,
        identity: LinkIdentity,
        clock: Clock,
        receiver: Receiver | None,
        acks: AckLink | None = None,
        ack_link: AckLink | None = None,
    ) -> None:
        self._sign = identity.sign
        self.broker = broker
        self.client_id = identity.client_id
        self.claim = Claim(secrets.token_hex(8), identity.home)
        self.refused: ConfigError | None = None  # why it must not connect: another one has its client id
        self.state = LinkState("connecting", clock.now_ms())
        # what a connection uses, in the link's own thread: see `collector.mqtt.connection.Owner`
        self.clock = clock
        self.receiver = receiver
        self.acks = acks
        self.username = identity.username or identity.client_id
        self.connections = 0
        self.settled: deque[tuple[int, int]] = deque()
        self.outgoing: deque[tuple[str, bytes]] = deque(maxlen=_OUTGOING)
        self.stopping = threading.Event()
        self.wake_in, self._wake_out = socket.socketpair()
        self.versions = VersionChoice(broker.protocol)
        self._connection: Connection | None = None
        self._pauses_s = BACKOFF_S if receiver else ACK_BACKOFF_S
        self._ack_link = ack_link
        self._held = threading.Event()
        self.wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="collector-link", daemon=True)
        self._looked = receiver is None  # whether another one was looked for
        self._early: deque[float] = deque(maxlen=_EARLY)  # when connections ended soon after they came online
        self._reported = ""  # the last loss that the watcher got as new

    def start(self) -> None:
        """Start to connect."""
        self._thread.start()

    def settle(self, tokens: Iterable[tuple[int, int]], acks: Iterable[tuple[str, bytes]] = ()) -> None:
        """Publish acks, then acknowledge messages to the broker; any thread, returns at once."""
        if self._sign is not None:
            sign = self._sign
            acks = [(topic, sign(topic, body)) for topic, body in acks]
        self.settled.extend(tokens)
        if self.acks is not None and self.acks.is_free:
            self.acks.link.settle((), acks)
        else:
            self.outgoing.extend(acks)
        with contextlib.suppress(BlockingIOError):  # full of wake-ups: the thread is awake
            self._wake_out.send(b"w")

    def take_back(self) -> None:
        """Queue here the acks that the link for acks cannot send."""
        if self.acks is not None and not self.acks.is_free:
            self.outgoing.extend(self.acks.waiting())

    def hold(self) -> None:
        """Stop receiving but go on sending: the first half of stopping."""
        self._held.set()

    @property
    def has_started(self) -> bool:
        """Whether `start` was called."""
        return self._thread.ident is not None

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def is_holding(self) -> bool:
        """Whether nothing is to be received now; the end waits for PUBACKs."""
        return not self.stopping.is_set() and (
            self._held.is_set() or (self.receiver is not None and self.receiver.is_full())
        )

    def stop(self) -> None:
        """Send what is settled, disconnect, end the thread; the session stays at the broker."""
        if self.acks is not None:
            self.acks.link.stop()
        self.stopping.set()
        self.settle(())
        if self._connection is not None and self.state.state != "online":
            self._connection.abort()
        if self.has_started:
            self._thread.join(2 * CONNECT_S)
        self.wake_in.close()
        self._wake_out.close()
        self.note("stopped", "")

    def _run(self) -> None:
        failures = 0
        while not self.stopping.is_set():
            if not self._may_connect():
                return
            is_at_once, why = self._connect()
            if self.stopping.is_set():
                return
            was_online = self._connection is not None and self._connection.was_online
            if is_at_once:
                self._fall_back(why)
                continue
            failures = 0 if was_online else failures + 1
            self._lost(why)
            self.stopping.wait(self._pauses_s[min(failures, len(self._pauses_s) - 1)])

    def _connect(self) -> tuple[bool, str]:
        """Use one connection to its end; returns whether to try another version at once, and the reason."""
        connection = self._connection = None
        try:
            login = Login.read(self.broker, self.client_id, self.username)
            self.connections += 1
            connection = Connection(self, self.connections, login, self.versions.version)
            self._connection = connection
            connection.serve()
        except MqttError as error:
            return self.versions.failed(error), error.why
        except ConfigError as error:
            return False, str(error)
        except Exception as error:  # a fault of this program must not end the link
            why = f"{type(error).__name__}: {error}"
            if why != self._reported:
                log.exception("the MQTT connection failed with an unexpected error: please report this")
            return False, why
        finally:
            if connection is not None:
                connection.close()
                self._after(connection)
        return False, ""

    def _may_connect(self) -> bool:
        """Look for another collector with this id at the start, and when connections keep ending early."""
        is_suspect = len(self._early) == _EARLY and time.monotonic() - self._early[0] < _STEADY_S
        if self.receiver is None or (self._looked and not is_suspect):
            return True
        look = Look(self.broker, self.client_id, self.username, self.claim)
        try:
            found = look.find(self.stopping, patient=is_suspect)
        except ConfigError:
            return True  # the connection reports it
        if found:
            why = in_words(self.client_id, self.broker.url)
            self.refused = ConfigError(f"{why} (MQTT reason 0x8E, session taken over)")
            self.note("stopped", str(self.refused))
            return False
        if found is not None:
            self._looked = True
            self._early.clear()
        return True

    def _after(self, connection: Connection) -> None:
        """Note a connection that another client may have ended."""
        self._looked = self._looked or connection.was_online
        if connection.was_online and connection.online_s < _STEADY_S:
            self._early.append(time.monotonic())

    def note(self, state: Literal["connecting", "online", "offline", "stopped"], why: str) -> None:
        """Set the state that people and monitors see."""
        before = self.state
        since = before.since if before.state == state else self.clock.now_ms()
        self.state = LinkState(
            state,
            since,
            why,
            self.versions.version,
            before.connects + (state == "online"),
            before.rebuilt,
        )

    def _lost(self, why: str) -> None:
        is_new, self._reported = self._reported != why, why
        self.note("offline", why)
        if self._ack_link is not None:
            self._ack_link.was_lost(why, is_new=is_new)
            return
        if is_new:
            log.warning("no broker at %s: %s; retrying", self.broker.url, why)
        if self.acks is not None:
            self.acks.main_lost()

    def _fall_back(self, why: str) -> None:
        # nats-server always causes this. A broker that is away is reported after the next attempt.
        if not self._reported:
            self._reported = "MQTT 5 was refused"
            log.info("broker %s does not take MQTT 5 (%s): trying MQTT 3.1.1", self.broker.url, why)
            self.note("connecting", "")

    def came_online(self) -> None:
        """The connection is subscribed."""
        self.versions.works()
        self.note("online", "")
        self._reported = ""
        if self._ack_link is not None:
            self._ack_link.came_online()
            return
        log.info("connected to %s with MQTT %s", self.broker.url, self.versions.version)
        if self.acks is not None:
            self.acks.main_online(self.versions.version)

    def count_rebuilt(self) -> None:
        """The connection ends itself because nothing comes through it."""
        self.state = replace(self.state, rebuilt=self.state.rebuilt + 1)


class AckLink:
    """A second link, for acks alone: a broker handles the packets of each connection in order.

    On the receiving connection acks wait behind a PUBACK for each message of a flood. Where the broker does
    not give a second connection, acks go over the receiving one.
    """

    def __init__(self, broker: Broker, client_id: str, clock: Clock) -> None:
        identity = LinkIdentity(f"{client_id}-acks", username=client_id)
        self.link = Link(broker, identity, clock, None, ack_link=self)
        self._client_id = client_id
        self._online_at = 0.0
        self._strikes = 0

    @property
    def is_free(self) -> bool:
        """Whether it takes more acks now."""
        return self.link.state.state == "online" and len(self.link.outgoing) < _FREE

    def waiting(self) -> Iterator[tuple[str, bytes]]:
        """Take away the acks that wait here, the oldest first."""
        with contextlib.suppress(IndexError):  # its own thread takes from the same end
            while True:
                yield self.link.outgoing.popleft()

    def main_online(self, version: Version) -> None:
        """The receiving link is online with this protocol: start."""
        if not self.link.has_started and not self.link.stopping.is_set():
            self.link.versions = VersionChoice(self.link.broker.protocol, worked=version)
            self.link.start()

    def main_lost(self) -> None:
        """The receiving link lost its connection.

        Twice just after this one came online: the broker gives both connections one client id.
        """
        if self.is_free and time.monotonic() - self._online_at < _TAKEN_OVER_S:
            self._strikes += 1
            if self._strikes == _STRIKES:
                self.link.stopping.set()
                self.link.note("stopped", "the broker takes it for the receiving connection")
                log.warning(
                    "broker %s gives every connection of %r one client id: acks go over the receiving one",
                    self.link.broker.url, self._client_id,
                )  # fmt: skip

    def came_online(self) -> None:
        """It is connected."""
        self._online_at = time.monotonic()

    def was_lost(self, why: str, *, is_new: bool) -> None:
        """It is not connected; `is_new` unless the reason is the same as before."""
        if is_new:
            log.info("acks have no connection of their own: %s", why)
