"""The uplink: sends the outbox over MQTT until it is acknowledged, answers commands, and reconnects."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from agent.fences.fences import Fences
from agent.outbox import Outbox
from agent.uplink.ack_delay import AckDelay
from agent.uplink.broker_memory import BrokerMemory
from agent.uplink.collectors import Collectors
from agent.uplink.command_runner import CommandRunner, OnCommand
from agent.uplink.connecting import connect_options, keep_listening
from agent.uplink.encoder import Encoder, unpacked
from agent.uplink.fence import UplinkFence
from agent.uplink.in_flight import InFlightWindow, Sent
from agent.uplink.latest import Latest
from agent.uplink.liveness import STATUS_NEVER_RETURNED, SUBSCRIPTION_LOST, SubscriptionLiveness
from agent.uplink.mac_check import MacCheck
from agent.uplink.presence import NodeIdentity, Presence
from agent.uplink.refusal import Refusal
from wire.broker import Broker
from wire.clock import Clock
from wire.codec import decode, encode
from wire.errors import ConfigError, WireError
from wire.messages import MAX_BODY, Ack, Birth, ClockState, Cmd, Live, Refused, Reported, Snapshot, Status
from wire.mqtt.async_client import AsyncClient
from wire.mqtt.errors import MqttError, TooLarge
from wire.mqtt.packet_socket import PublishPacket
from wire.ranges import Ranges
from wire.reasons import NO_REASON, Reason
from wire.task_cancellation import end
from wire.topics import NODE_ITSELF, Topic, parse

__all__ = ["NodeHooks", "NodeIdentity", "OnCommand", "Uplink", "UplinkSettings"]

log = logging.getLogger(__name__)

PUBACK_S = 15.0  # a broker that owes a PUBACK and sends none for this time is gone
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.5, 15.0
_STEADY_S = 5.0  # a connection that lasted this long was good
_OFFLINE_S = 1.0
_RENEW_S = 0.5  # between two publications of status or birth
_MAX_UNANSWERED = 100  # answers without a PUBACK: more are dropped
_EARLY = 1_000  # commands that arrive before their answers can be published; more are dropped
_LIVE_EXPIRY_S, _BEAT_EXPIRY_S, _RES_EXPIRY_S = 300, 60, 3_600
_MAX_SESS = 2**52


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeHooks:
    """What an uplink asks of its node, in the uplink's event loop.

    `describe` gives the birth; the uplink overwrites its `ts`, `boot`, `sess` and `ep`. `status` gives the
    devices and models of the `online` status. Both are called for each publication. `on_command` gets
    device, name, Cmd and a function, as `agent.commands.Commands.handle` does. `on_desired` has for each
    document that the node takes, such as `config`, what gets each body on `desired/config`, and whether its
    mac was checked; `reported` gives what is published on `reported/config` and the like. `on_ahead` gets
    the id of a collector that has a higher number than this outbox ever gave: from then on nothing is sent,
    and acknowledgements release nothing.
    """

    describe: Callable[[], Birth]
    status: Callable[[], Status]
    clock_state: Callable[[], ClockState]
    on_command: OnCommand
    on_desired: Mapping[str, Callable[[bytes, bool], None]] = field(default_factory=dict)
    reported: Callable[[], Mapping[str, Reported]] = dict
    on_ahead: Callable[[str, int], None] | None = None


@dataclass(frozen=True, slots=True)
class UplinkSettings:
    """Folder of the uplink's state, what releases a message, how a backlog travels, and the fence."""

    state: Path
    ack: Literal["collector", "puback"] = "collector"
    drain_kb_per_s: int = 0
    packs: bool = True
    ack_from: tuple[str, ...] = ()
    fences: Fences | None = None


class Uplink:
    """The MQTT side of a node.

    `run` is one task; the other methods return at once, in the same event loop.
    """

    def __init__(
        self,
        identity: NodeIdentity,
        broker: Broker,
        outbox: Outbox,
        clock: Clock,
        node: NodeHooks,
        settings: UplinkSettings,
    ) -> None:
        self._address = identity.address
        self._broker = broker
        self._outbox = outbox
        self._clock = clock
        self._broker_memory = BrokerMemory(settings.state / "uplink.json", broker.protocol)
        self._in_flight = InFlightWindow(
            puback_is_enough=settings.ack == "puback",
            drain_per_s=1_000 * settings.drain_kb_per_s,
            unpacked=unpacked if settings.packs else None,
        )
        self._fence = UplinkFence(settings.fences)
        self._encoder = Encoder(outbox, self._address, clock, node.clock_state, self._fence)
        self._presence = Presence(identity, outbox.ep, self._broker_memory, clock, node.describe, node.status)
        self._counters: Counter[str] = Counter()
        # The highest number that this outbox can have sent: those up to its head were given earlier.
        self._highest = outbox.head
        self._on_ahead = node.on_ahead
        self._stands_still = False  # until the outbox has another ep
        self._command_runner = CommandRunner(
            self._address, clock, self._counters, node.on_command, self._send_answer
        )
        self._on_desired, self._reported = node.on_desired, node.reported
        self._macs = MacCheck(broker, clock, self._counters)
        self._mac_problem = NO_REASON  # in the status that was sent last
        self._clock_state = node.clock_state
        self._ack_delay = AckDelay()
        self._collectors = Collectors(settings.ack_from)
        self._take_packs: set[str] = set()  # the collectors that announced packs on this connection
        self._refusal = Refusal(clock)
        self._liveness = SubscriptionLiveness()
        self._client: AsyncClient | None = None
        self._link: AsyncClient | None = None  # the client while it is online
        self._commands: asyncio.TaskGroup  # of `run`
        self._early: deque[tuple[Topic, Cmd]] = deque(maxlen=_EARLY)
        self._lost = False  # true: the loss was logged
        self._wake = asyncio.Event()
        self._latest = Latest(self._counters)
        self._to_renew: set[Literal["status", "birth", "reported"]] = set()
        self._renewed_s = 0.0

    @property
    def connected(self) -> bool:
        """Whether a connection to the broker is open."""
        return self._link is not None

    @property
    def sess(self) -> int:
        """The number of CONNECTs so far, over restarts."""
        return self._broker_memory.sess

    @property
    def ack_ms(self) -> int | None:
        """The smallest delay of an acknowledgement in five minutes, by the collector's and this clock."""
        return self._ack_delay.least(self._clock)

    @property
    def refused(self) -> Refused | None:
        """Why a collector refuses messages of this node now; None when it takes them."""
        return self._refusal.current

    @property
    def behind(self) -> tuple[str, float] | None:
        """The collector of `ack_from` that acknowledges nothing while another does, and its seconds."""
        return self._collectors.behind(asyncio.get_running_loop().time())

    @property
    def mac_problem(self) -> Reason:
        """Why messages to this node are refused now."""
        return self._macs.problem

    @property
    def sent_bytes(self) -> int:
        """Bytes that were sent since the start, of every kind, before TLS."""
        return self._fence.sent_bytes

    @property
    def counters(self) -> dict[str, int]:
        """The counters since the start, by name."""
        return {**self._counters, "resent": self._in_flight.resent, "refused": self._in_flight.refused}

    async def run(self) -> None:
        """Connect, send and reconnect until cancelled; never raises for network reasons.

        When cancelled, publishes `status: offline` and disconnects, within about 2 s on a live connection.
        """
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._broker_memory.load)
        self._outbox.on_commit(partial(loop.call_soon_threadsafe, self._on_commit))
        try:
            async with asyncio.TaskGroup() as self._commands:
                pause_s = _FIRST_PAUSE_S
                while True:
                    began_s = loop.time()
                    await self._connection()
                    if loop.time() - began_s > _STEADY_S:
                        pause_s = _FIRST_PAUSE_S
                    await asyncio.sleep(random.uniform(pause_s / 2, pause_s))
                    pause_s = min(pause_s * 2, _MAX_PAUSE_S)
        finally:
            self._outbox.on_commit(_nothing)
            self._encoder.close()

    def live(self, device: str, stream: str, body: Live) -> None:
        """Publish the newest values, QoS 0, retained; dropped while offline, and by the fence."""
        itself = device == NODE_ITSELF
        if not itself and self._link is not None and not self._fence.may_live():
            self._counters["live_fenced"] += 1
            self._fence.held()
            return
        topic = self._address.topic("live", device, stream)
        expiry_s = _BEAT_EXPIRY_S if itself else _LIVE_EXPIRY_S
        self._latest.put(self._link, topic, body, retain=True, expiry_s=expiry_s, sealed=itself)

    def snap(self, device: str, stream: str, body: Snapshot) -> None:
        """Publish the newest picture, QoS 0; dropped while offline or too large, and by the fence."""
        if self._link is not None and not self._fence.may_picture():
            self._counters["snap_fenced"] += 1
            self._fence.held()
            return
        self._latest.put(self._link, self._address.topic("snap", device, stream), body)

    def renew_status(self) -> None:
        """Publish the status again soon: a device or model changed."""
        self._to_renew.add("status")
        self._wake.set()

    def renew_birth(self) -> None:
        """Publish the birth again soon: for `cmd/_/rebirth`, or because the schema changed."""
        self._to_renew.add("birth")
        self._wake.set()

    def renew_reported(self) -> None:
        """Publish again soon what became of the desired documents."""
        self._to_renew.add("reported")
        self._wake.set()

    # One connection, from CONNECT to its end

    async def _connection(self) -> None:
        try:
            link = await self._open()
        except (MqttError, ConfigError) as error:
            self._down(error)
            return
        try:
            await self._use(link)
        except MqttError as error:
            self._down(error)
        finally:
            self._link = None
            self._latest.clear()
            self._early.clear()
            await link.close()
            self._fence.closed()

    async def _open(self) -> AsyncClient:
        await asyncio.to_thread(self._macs.load)
        await asyncio.to_thread(self._broker_memory.next)
        will = self._address.topic("status"), self._presence.state("lost")
        version = self._broker_memory.version
        options = await connect_options(self._broker, self._address.client_id, version, *will)
        link = self._client = AsyncClient(options, self._take, on_puback=self._puback)
        try:
            await link.open()
            self._fence.opened(link)
        except MqttError as error:
            if self._broker_memory.failed(error):  # this broker is older
                log.info("%s; connecting with MQTT %s", error, self._broker_memory.version)
                return await self._open()
            raise
        self._broker_memory.works()
        return link

    async def _use(self, link: AsyncClient) -> None:
        # Not a task group: if it is cancelled while its tasks fail, it raises the failure only.
        tasks: list[asyncio.Task[None]] = []
        try:
            # Subscribe first: publishing would replace what the broker retained of this node.
            tails = [("ack",), ("status",), ("cmd", "+", "+")]
            tails += [("desired", what) for what in self._on_desired]
            topics = [self._address.topic(*tail) for tail in tails]
            filters = [(topic, 1) for topic in topics]
            await link.subscribe(filters)
            tasks += [
                asyncio.create_task(link.ended(), name="uplink-end"),
                asyncio.create_task(keep_listening(link, filters), name="uplink-subscriptions"),
                asyncio.create_task(self._drain(link), name="uplink-drain"),
            ]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await end(tasks)
        except asyncio.CancelledError:
            await end(tasks)
            await self._say_offline(link)
            raise
        for task in done:
            task.result()  # none of these tasks returns: this raises

    def _down(self, error: Exception) -> None:
        self._counters["lost_connections"] += 1
        if not self._lost:
            log.warning("offline: %s; retrying, messages wait in the outbox", error)
        else:
            log.debug("still offline: %s", error)
        self._lost = True

    async def _say_offline(self, link: AsyncClient) -> None:
        """Publish `offline`, so that readers do not take the end for a loss."""
        with contextlib.suppress(MqttError, TimeoutError):
            self._latest.send(link)
            self._publish_state(link, "offline", "stopped")
            async with asyncio.timeout(_OFFLINE_S):
                while link.unanswered:
                    self._wake.clear()
                    await self._wake.wait()  # `_puback` sets it
        await link.close(_OFFLINE_S)

    # What comes in

    def _take(self, message: PublishPacket) -> None:
        try:
            topic = parse(message.topic_name)
            if topic.address != self._address:
                raise WireError("the message is for another node")
            body = self._macs.opened(topic, message.topic_name, message.body)
            if topic.cls == "desired" and (take := self._on_desired.get(topic.name)) is not None:
                take(body, self._macs.has_key)
                return
            if len(body) > MAX_BODY:
                raise WireError(f"the body is larger than {MAX_BODY} bytes")
            if message.retained and topic.cls in ("ack", "cmd"):
                raise WireError("the broker retained it")
            if topic.cls == "ack":
                self._acked(decode(body, Ack))
            elif topic.cls == "status":
                self._own_status(decode(body, Status), retained=message.retained)
            elif topic.cls == "cmd":
                command = decode(body, Cmd)
                if self._link is None:
                    self._early.append((topic, command))
                else:
                    self._command_runner.take(topic, command, self._commands)
        except WireError as error:
            self._counters["ignored"] += 1
            log.debug("ignored %s: %s", message.topic_name, error)

    def _acked(self, ack: Ack) -> None:
        if ack.ep != self._outbox.ep:
            return  # an acknowledgement of an earlier outbox of this node
        if not self._collectors.counts(ack.by):
            self._counters["foreign_acks"] += 1
            return
        if isinstance(ack.ahead, int) and ack.ahead > self._highest and self._on_ahead is not None:
            # The messages with these numbers that it has are others: this ack must release nothing.
            self._stands_still = True
            self._on_ahead(ack.by, ack.ahead)
        if self._stands_still:
            return
        if ack.packs:
            self._take_packs.add(ack.by)
            if self._take_packs.issuperset(self._collectors.names):
                self._in_flight.takes_packs()
        self._ack_delay.add(self._clock.now_ms() - ack.ts, self._clock)
        ranges, now_s = Ranges(ack.ok), self._now()
        done = self._outbox.ack_by(ack.by, ranges)
        if done.waiting:
            ranges = ranges.without(done.waiting)
            self._in_flight.held(done.waiting, now_s)
        if ack.ok:
            self._collectors.acked(ack.by, done.lacking, now_s)
        self._counters["acked"] += len(self._in_flight.acked(ranges, now_s))
        if self._macs.is_fresh(ack.by, ack.ts, self._clock_state()) and isinstance(ack.refused, Refused):
            self._refused(ack.by, ack.refused, ack.ts)
        self._wake.set()

    def _refused(self, by: str, refused: Refused, ts: int) -> None:
        if self._refusal.current is None:
            why = refused.why or refused.code
            log.warning("the collector refuses messages: %s; they wait in the outbox", why)
        self._counters["refusals"] += 1
        wait_s = self._collectors.refused(by, self._refusal.note(refused, ts), self._now())
        if wait_s:  # not all nodes of a tenant at the same moment
            self._in_flight.hold(wait_s * random.uniform(1.0, 1.25), self._now())

    def _own_status(self, status: Status, *, retained: bool) -> None:
        self._presence.report_double(status)
        if self.sess < status.sess < _MAX_SESS and retained:
            # The state folder is newer than what the broker retained: readers would ignore this node.
            self._broker_memory.at_least(status.sess)
            self._fail(f"it retained session {status.sess} of this node; continuing from that number")
            return
        if status.sess == self.sess and not retained:
            self._liveness.returned(self._now())
        if status.state == "lost" and status.sess <= self.sess:
            self.renew_status()

    def _send_answer(self, topic: str, body: bytes) -> None:
        link = self._link
        if link is not None and link.unanswered - self._in_flight.on_wire < _MAX_UNANSWERED:
            with contextlib.suppress(MqttError):
                link.publish(topic, body, qos=1, expiry_s=_RES_EXPIRY_S)

    # What goes out

    async def _drain(self, link: AsyncClient) -> None:
        self._in_flight.connected(self._now())
        self._take_packs.clear()
        self._liveness.connected(self._now())
        self._publish_state(link, "online")
        self._publish_birth(link)
        self._publish_reported(link)
        self._to_renew.clear()
        self._link = link
        while self._early:
            self._command_runner.take(*self._early.popleft(), self._commands)
        self._encoder.read_on()
        self._counters["connects"] += 1
        log.log(
            logging.INFO if not self._lost else logging.WARNING,
            "online, MQTT %s",
            self._broker_memory.version,
        )
        self._lost = False
        while True:
            self._wake.clear()
            if self._mac_problem != self._macs.problem:
                self._mac_problem = self._macs.problem
                self._to_renew.add("status")
            self._publish_renewed(link)
            self._latest.send(link)
            if self._collectors.names:
                self._set_aside()
            await self._encoder.fill(self._in_flight, self._now())
            await self._send_window(link)
            silent_s = self._in_flight.silent_s(self._now())
            if silent_s > PUBACK_S:
                self._fail(f"no answer to a message for {silent_s:.0f} s")
            self._check_subscription()
            with contextlib.suppress(TimeoutError):
                # not wait_for: before Python 3.12 it loses a cancellation that comes with the event
                async with asyncio.timeout(self._patience_s()):
                    await self._wake.wait()

    def _set_aside(self) -> None:
        """Let what only some collectors have wait on disk; read it again when the others are back."""
        now_s = self._now()
        self._outbox.set_aside(self._in_flight.set_aside(now_s, away=self._collectors.is_away(now_s)))
        if self._collectors.is_rewind_due(now_s, aside=self._outbox.aside):
            self._in_flight.clear()
            self._encoder.rewind()

    def _fail(self, why: str) -> None:
        """End the connection: `link.ended` then raises."""
        if self._client is not None:
            self._client.fail(why)

    def _check_subscription(self) -> None:
        match self._liveness.next(self._now()):
            case "ask":
                self.renew_status()
            case "reconnect":
                self._fail(SUBSCRIPTION_LOST)
            case "warn":
                log.warning(STATUS_NEVER_RETURNED)

    def _patience_s(self) -> float:
        if self._latest or self._to_renew:
            return 0.1
        calm_s = min(self._in_flight.idle_s(self._now()) or 5.0, 1.0 if self._in_flight.on_wire else 5.0)
        fenced_s = self._fence.wait_s() if self._in_flight.waits and not self._fence.may_send() else calm_s
        return min(calm_s, fenced_s, self._encoder.wait_s(self._in_flight))

    async def _send_window(self, link: AsyncClient) -> None:
        if self._stands_still:
            return
        while self._may_send():
            sent = self._in_flight.next(self._now(), link.receive_maximum)
            if sent is None:
                return
            try:
                mid = link.publish(sent.topic, sent.body, qos=1)
            except TooLarge as error:
                self._too_large(sent, error)
                continue
            self._in_flight.sent(sent, mid, self._now())
            self._highest = max(self._highest, *sent.numbers)
            self._counters["sent"] += 1
            self._counters["packs"] += bool(sent.members)
            self._counters["sent_bytes"] += len(sent.topic) + len(sent.body)
            if self._counters["sent"] % 32 == 0:
                await asyncio.sleep(0)  # let the devices' tasks run

    def _may_send(self) -> bool:
        """Whether the fence lets a message pass now."""
        if self._fence.may_send():
            return True
        if self._in_flight.waits:
            self._fence.held()
        return False

    def _too_large(self, sent: Sent, error: TooLarge) -> None:
        refused = self._in_flight.refused
        self._in_flight.too_large(sent, self._now())
        if refused == 0 < self._in_flight.refused:
            log.warning("%s; it stays in the outbox", error)

    def _puback(self, mid: int, reason: int) -> None:
        refused = self._in_flight.refused
        seq = self._in_flight.puback(mid, reason, self._now())
        if refused == 0 < self._in_flight.refused:
            log.warning("the broker refuses messages (reason code %d): they stay in the outbox", reason)
        if seq:
            self._outbox.ack([(seq, seq)])
            self._counters["acked"] += 1
        self._wake.set()

    def _publish_renewed(self, link: AsyncClient) -> None:
        if self._to_renew and self._now() >= self._renewed_s + _RENEW_S:
            self._renewed_s = self._now()
            if "status" in self._to_renew:
                self._publish_state(link, "online")
            if "birth" in self._to_renew:
                self._publish_birth(link)
            if "reported" in self._to_renew:
                self._publish_reported(link)
            self._to_renew.clear()

    def _publish_state(
        self, link: AsyncClient, state: Literal["online", "offline"], reason: str = ""
    ) -> None:
        body = self._presence.state(state, reason)
        link.publish(self._address.topic("status"), body, qos=1, retain=True)

    def _publish_birth(self, link: AsyncClient) -> None:
        body = self._presence.birth()
        if body is not None:
            try:
                link.publish(self._address.topic("birth"), body, qos=1, retain=True)
            except TooLarge as error:
                log.warning("%s; the birth is not sent", error)

    def _publish_reported(self, link: AsyncClient) -> None:
        for what, reported in self._reported().items():
            link.publish(self._address.topic("reported", what), encode(reported), qos=1, retain=True)

    def _on_commit(self) -> None:
        self._encoder.read_on()
        self._wake.set()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _nothing() -> None:
    pass
