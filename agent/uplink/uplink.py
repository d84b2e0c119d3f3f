"""The durable MQTT connection of a node: drains the outbox, answers commands, comes back for ever."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import aiomqtt

from agent.outbox import Outbox
from agent.uplink.ack_delay import Delays
from agent.uplink.broker_memory import Session
from agent.uplink.command_runner import Answers, OnCommand
from agent.uplink.encoder import Feed, unpacked
from agent.uplink.in_flight import Flight
from agent.uplink.latest import Latest
from agent.uplink.liveness import DEAF, NEVER_HEARD, Hearing
from agent.uplink.mqtt_client import HungUp, Link, LinkDown, Login, WrongProtocol
from agent.uplink.presence import NodeIdentity, Presence
from wire.broker import Broker
from wire.clock import Clock
from wire.codec import decode
from wire.errors import ConfigError, WireError
from wire.messages import MAX_BODY, Ack, Birth, ClockState, Cmd, Live, Snapshot, Status
from wire.ranges import Ranges
from wire.task_cancellation import end
from wire.topics import NODE_ITSELF, parse

__all__ = ["NodeIdentity", "OnCommand", "Uplink"]

log = logging.getLogger(__name__)

PUBACK_S = 15.0  # a broker that owes one and sends none for so long is not there any more
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.5, 15.0
_STEADY_S = 5.0  # a connection that lasted so long was a good one
_FAREWELL_S = 1.0
_NEWS_S = 0.5  # between two publications of the status
_ANSWERS = 100  # without a PUBACK; who asks faster than that hears nothing
_LIVE_EXPIRY_S, _BEAT_EXPIRY_S, _RES_EXPIRY_S = 300, 60, 3_600
_MAX_SESS = 2**52


class Uplink:
    """Use: `run` as one task; everything else is called from the same event loop and returns at once.

    `describe` gives the birth; `ts`, `boot`, `sess` and `ep` are filled in here, so it may leave them at
    anything valid. `status` gives the devices and models of the `online` status. Both are asked anew for
    each publication. `on_command` is `agent.commands.Commands.handle` or alike; it gets device, name, Cmd.
    """

    def __init__(
        self,
        identity: NodeIdentity,
        broker: Broker,
        outbox: Outbox,
        clock: Clock,
        *,
        state: Path,
        ack: Literal["collector", "puback"] = "collector",
        drain_kb_per_s: int = 0,
        packs: bool = True,
        describe: Callable[[], Birth],
        status: Callable[[], Status],
        clock_state: Callable[[], ClockState],
        on_command: OnCommand,
    ) -> None:
        self._address = identity.address
        self._broker = broker
        self._outbox = outbox
        self._clock = clock
        self._session = Session(state / "uplink.json", broker.protocol)
        self._flight = Flight(
            puback_is_enough=ack == "puback",
            drain_per_s=1_000 * drain_kb_per_s,
            unpacked=unpacked if packs else None,
        )
        self._feed = Feed(outbox, self._address, clock, clock_state)
        self._presence = Presence(identity, outbox.ep, self._session, clock, describe, status)
        self._counters: Counter[str] = Counter()
        self._answers = Answers(self._address, clock, self._counters, on_command, self._send_answer)
        self._delays = Delays()
        self._hearing = Hearing()
        self._link: Link | None = None
        self._lost = False  # the loss was logged
        self._wake = asyncio.Event()
        self._latest = Latest(self._counters)
        self._news: set[Literal["status", "birth"]] = set()
        self._news_at = 0.0

    @property
    def connected(self) -> bool:
        """Whether the broker is there now."""
        return self._link is not None

    @property
    def sess(self) -> int:
        """Rises with each CONNECT, over restarts too."""
        return self._session.sess

    @property
    def ack_ms(self) -> int | None:
        """The least that an acknowledgement took in five minutes, by the collector's clock and ours."""
        return self._delays.least(self._clock)

    @property
    def counters(self) -> dict[str, int]:
        """What happened since the start, by name."""
        return {**self._counters, "resent": self._flight.resent, "refused": self._flight.refused}

    async def run(self) -> None:
        """Connect, drain and reconnect for ever; never raises for network reasons.

        When cancelled, publishes `status: offline` and disconnects, within about 2 s of a live connection.
        """
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._session.load)
        self._outbox.on_commit(lambda: loop.call_soon_threadsafe(self._read_on))
        try:
            async with asyncio.TaskGroup() as commands:
                pause_s = _FIRST_PAUSE_S
                while True:
                    began_s = loop.time()
                    await self._connection(commands)
                    if loop.time() - began_s > _STEADY_S:
                        pause_s = _FIRST_PAUSE_S
                    await asyncio.sleep(random.uniform(pause_s / 2, pause_s))
                    pause_s = min(pause_s * 2, _MAX_PAUSE_S)
        finally:
            self._outbox.on_commit(_nothing)

    def live(self, device: str, stream: str, body: Live) -> None:
        """Publish newest values, QoS 0 retained; dropped while offline, newest wins."""
        itself = device == NODE_ITSELF
        topic = self._address.topic("live", device, stream)
        expiry_s = _BEAT_EXPIRY_S if itself else _LIVE_EXPIRY_S
        self._latest.put(self._link, topic, body, retain=True, expiry_s=expiry_s, sealed=itself)

    def snap(self, device: str, stream: str, body: Snapshot) -> None:
        """Publish the newest picture, QoS 0; dropped while offline or too large, newest wins."""
        self._latest.put(self._link, self._address.topic("snap", device, stream), body)

    def renew_status(self) -> None:
        """Publish the status again: a device or model changed."""
        self._news.add("status")
        self._wake.set()

    def renew_birth(self) -> None:
        """Publish the birth again: `cmd/_/rebirth`, or the schema changed."""
        self._news.add("birth")
        self._wake.set()

    # One connection, from CONNECT to its end

    async def _connection(self, commands: asyncio.TaskGroup) -> None:
        try:
            link = await self._open()
        except (LinkDown, ConfigError) as error:
            self._down(error)
            return
        try:
            await self._talk(link, commands)
        except LinkDown as error:
            self._down(error)
        finally:
            self._link = None
            self._latest.clear()
            await link.shut()

    async def _open(self) -> Link:
        await asyncio.to_thread(self._session.next)
        login = await asyncio.to_thread(Login.read, self._broker, self._address.client_id)
        will = aiomqtt.Will(self._address.topic("status"), self._presence.state("lost"), qos=1, retain=True)
        protocol = self._session.protocol
        link = Link(login, protocol, will)
        try:
            await link.open()
        except (WrongProtocol, HungUp) as error:
            self._session.refused(certain=isinstance(error, WrongProtocol))
            if self._session.protocol == "3.1.1" != protocol:  # nothing is wrong: this broker is older
                log.info("%s: trying MQTT 3.1.1", error)
                return await self._open()
            raise
        self._session.works()
        return link

    async def _talk(self, link: Link, commands: asyncio.TaskGroup) -> None:
        # No task group: one that is cancelled while its tasks fail tells only of the failure.
        tasks: list[asyncio.Task[None]] = []
        try:
            # Subscribed before anything is published: what the broker retained of us would be gone.
            topics = [self._address.topic(*tail) for tail in (("ack",), ("status",), ("cmd", "+", "+"))]
            await link.listen(topics)
            tasks += [
                asyncio.create_task(link.ended(), name="uplink-end"),
                asyncio.create_task(link.keep_listening(topics), name="uplink-subscriptions"),
                asyncio.create_task(self._receive(link, commands), name="uplink-receive"),
                asyncio.create_task(self._drain(link), name="uplink-drain"),
            ]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await end(tasks)
        except asyncio.CancelledError:
            await end(tasks)
            await self._farewell(link)
            raise
        for task in done:
            task.result()  # none of them returns: this raises

    def _down(self, error: Exception) -> None:
        self._counters["lost_connections"] += 1
        if not self._lost:
            log.warning("offline: %s; trying again, messages wait in the outbox", error)
        else:
            log.debug("still offline: %s", error)
        self._lost = True

    async def _farewell(self, link: Link) -> None:
        """Say `offline`, so that nobody takes this for a loss."""
        said = asyncio.Event()
        mids: set[int] = set()
        link.on_puback = lambda mid, _: said.set() if mid in mids else None
        with contextlib.suppress(LinkDown, TimeoutError):
            self._latest.send(link)
            mids.add(self._publish_state(link, "offline", "stopped"))
            async with asyncio.timeout(_FAREWELL_S):
                await said.wait()
        await link.shut(politely_s=_FAREWELL_S)

    # What comes in

    async def _receive(self, link: Link, commands: asyncio.TaskGroup) -> None:
        while True:
            message = await link.read()
            body = message.payload
            try:
                topic = parse(message.topic.value)
                if not isinstance(body, bytes) or len(body) > MAX_BODY:
                    raise WireError("no body of this contract")
                if topic.cls == "ack":
                    self._acked(decode(body, Ack))
                elif topic.cls == "status":
                    self._heard_of_itself(decode(body, Status), retained=message.retain)
                elif topic.cls == "cmd" and not message.retain:
                    self._answers.take(topic, decode(body, Cmd), commands)
            except WireError as error:
                self._counters["ignored"] += 1
                log.debug("ignored %s: %s", message.topic, error)

    def _acked(self, ack: Ack) -> None:
        if ack.ep != self._outbox.ep:
            return  # of an outbox that was here before
        if ack.packs:
            self._flight.takes_packs()
        self._delays.add(self._clock.now_ms() - ack.ts, self._clock)
        ranges = Ranges(ack.ok)
        self._outbox.ack(ranges)
        self._counters["acked"] += len(self._flight.acked(ranges, self._now()))
        self._wake.set()

    def _heard_of_itself(self, status: Status, *, retained: bool) -> None:
        self._presence.meets(status)
        if self.sess < status.sess < _MAX_SESS and retained:
            # Our state folder is younger than what the broker keeps: readers would ignore us.
            self._session.at_least(status.sess)
            raise LinkDown(f"the broker knows session {status.sess} of this node, going on from there")
        if status.sess == self.sess and not retained:
            self._hearing.heard(self._now())
        if status.state == "lost" and status.sess <= self.sess:
            self.renew_status()

    def _send_answer(self, topic: str, body: bytes) -> None:
        link = self._link
        if link is not None and link.unanswered - self._flight.on_wire < _ANSWERS:
            with contextlib.suppress(LinkDown):
                link.send(topic, body, qos=1, expiry_s=_RES_EXPIRY_S)

    # What goes out

    async def _drain(self, link: Link) -> None:
        self._flight.connected(self._now())
        self._hearing.connected(self._now())
        link.on_puback = self._puback
        self._publish_state(link, "online")
        self._publish_birth(link)
        self._news.clear()
        self._link = link
        self._feed.look()
        self._counters["connects"] += 1
        log.log(
            logging.INFO if not self._lost else logging.WARNING, "online, MQTT %s", self._session.protocol
        )
        self._lost = False
        while True:
            self._wake.clear()
            self._publish_news(link)
            self._latest.send(link)
            await self._feed.fill(self._flight, self._now())
            await self._send_window(link)
            silent_s = self._flight.silent_s(self._now())
            if silent_s > PUBACK_S:
                raise LinkDown(f"the broker answers nothing for {silent_s:.0f} s")
            self._listen_for_itself()
            with contextlib.suppress(TimeoutError):
                # not wait_for: before 3.12 it loses a cancellation that comes together with the event
                async with asyncio.timeout(self._patience_s()):
                    await self._wake.wait()

    def _listen_for_itself(self) -> None:
        match self._hearing.next(self._now()):
            case "ask":
                self.renew_status()
            case "deaf":
                raise LinkDown(DEAF)
            case "warn":
                log.warning(NEVER_HEARD)

    def _patience_s(self) -> float:
        if self._latest or self._news:
            return 0.1
        calm_s = min(self._flight.idle_s(self._now()) or 5.0, 1.0 if self._flight.on_wire else 5.0)
        return min(calm_s, self._feed.wait_s(self._flight))

    async def _send_window(self, link: Link) -> None:
        while (sent := self._flight.next(self._now(), link.receive_maximum)) is not None:
            self._flight.sent(sent, link.send(sent.topic, sent.body, qos=1), self._now())
            self._counters["sent"] += 1
            self._counters["packs"] += bool(sent.members)
            self._counters["sent_bytes"] += len(sent.topic) + len(sent.body)
            if self._counters["sent"] % 32 == 0:
                await asyncio.sleep(0)  # the devices' tasks are not to wait for a whole window

    def _puback(self, mid: int, reason: int) -> None:
        refused = self._flight.refused
        seq = self._flight.puback(mid, reason, self._now())
        if refused == 0 < self._flight.refused:
            log.warning("the broker refuses messages (reason %d): they stay in the outbox", reason)
        if seq:
            self._outbox.ack([(seq, seq)])
            self._counters["acked"] += 1
        self._wake.set()

    def _publish_news(self, link: Link) -> None:
        if self._news and self._now() >= self._news_at + _NEWS_S:
            self._news_at = self._now()
            if "status" in self._news:
                self._publish_state(link, "online")
            if "birth" in self._news:
                self._publish_birth(link)
            self._news.clear()

    def _publish_state(self, link: Link, state: Literal["online", "offline"], reason: str = "") -> int:
        body = self._presence.state(state, reason)
        return link.send(self._address.topic("status"), body, qos=1, retain=True)

    def _publish_birth(self, link: Link) -> None:
        body = self._presence.birth()
        if body is not None:
            link.send(self._address.topic("birth"), body, qos=1, retain=True)

    def _read_on(self) -> None:
        self._feed.look()
        self._wake.set()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _nothing() -> None:
    pass
