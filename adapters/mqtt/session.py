"""The base class of adapters that read MQTT topics, and one session with its silence limit and its queue.

These sessions publish nothing: only `set_point` does, one topic that the agent's own config allows.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from abc import abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Iterable
from typing import Any, ClassVar, NamedTuple, TypeVar

from adapters.base import (
    Adapter,
    AdapterError,
    DeviceStalled,
    DeviceUnreachable,
    OptionsError,
    ProtocolViolation,
    Reading,
    Value,
)
from adapters.device_time import checked_time, why_uncertain
from adapters.mqtt.options import MqttOptions, broker_of, check_filters, matches_any
from adapters.mqtt.payload import Unusable, as_declared, converted, wrong_type
from adapters.mqtt.payload_kinds import kind_of
from wire.broker import Broker
from wire.clock import Clock
from wire.errors import ConfigError
from wire.messages import Quality
from wire.mqtt.async_client import AsyncClient
from wire.mqtt.errors import MalformedPacket, MqttError
from wire.mqtt.options import ConnectOptions, Login, VersionChoice
from wire.mqtt.packet_socket import PublishPacket

KEEPALIVE_S = 10  # a dead connection is detected within twice this time
LARGEST_PACKET = 4 * 2**20  # bytes; a message that announces more ends the connection
_GOODBYE_S = 0.5
_HINT_S = 5.0  # after this time, or half of `silence_s`, without a message: subscribe the hint topics
_QUEUE_BYTES = 16 * 2**20  # of messages that wait for a slow reader


class TopicMessage(NamedTuple):
    """One message; `at_ns` is its time of receipt, Unix ns."""

    topic: str
    body: bytes
    retained: bool
    at_ns: int


MqttOptionsT = TypeVar("MqttOptionsT", bound=MqttOptions)


class MqttAdapter(Adapter[MqttOptionsT]):
    """Base class; a subclass names its topics (`topics`) and turns a message into readings (`rows`)."""

    time_cure: ClassVar[str] = ""  # what else helps where the device's times are off

    def __init__(self, options: MqttOptionsT, clock: Clock) -> None:
        super().__init__(options, clock)
        self._broker = broker_of(options)
        self._session: TopicSession | None = None
        check_filters(self.topics())

    @property
    def silence_s(self) -> float:
        """The option."""
        return self.options.silence_s

    @abstractmethod
    def topics(self) -> list[str]:
        """The topic filters; they depend on the options only."""

    @abstractmethod
    def rows(self, message: TopicMessage) -> Iterable[Reading]:
        """The readings of one message, if any.

        Raises:
            Unusable: the message is dropped and counted.
            AdapterError: another device sent it.
        """

    def alive(self, reading: Reading) -> bool:  # noqa: ARG002 - subclasses use it
        """Whether this reading shows that the device is alive."""
        return True

    def hint_topics(self) -> list[str]:
        """Topics that a device with wrong settings may use; subscribed only if no message comes."""
        return []

    def hint(self, topic: str) -> str:
        """What a message on one of `hint_topics` means, and what to do."""
        raise NotImplementedError(topic)

    def advice(self, kind: str) -> str:  # noqa: ARG002 - subclasses use it
        """What to do about a payload of this kind, "" if nothing is known."""
        return ""

    def last_report(self) -> str:
        """What the device last reported of itself, for the error text about its silence."""
        return ""

    async def open(self) -> None:
        """Connect and subscribe; do not wait for a message, because a slow topic may take long."""
        self._session = TopicSession(self, self._broker)
        await self._session.open()

    async def close(self) -> None:
        """Disconnect."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def readings(self) -> AsyncIterator[Reading]:
        """Yield the readings of each message, without end."""
        session = self._session
        if session is None:
            raise DeviceUnreachable(f"{self.options.url} is not open")
        now = self.clock.flowing_s
        while True:
            message = await session.next()
            found: list[Reading] = []
            try:
                found.extend(self.rows(message))
            except Unusable as error:
                self.counters[error.counter] += 1
                session.why = f"; the last message was not usable: {error}"
                self._unusable(message, error)
            else:
                if found and message.topic in self.unread:
                    self.was_read(message.topic)
            if any(map(self.alive, found)):
                session.restart_silence()
            else:
                session.check_silence()
            given_s = now()
            for reading in found:
                yield reading
            session.wait_longer(now() - given_s)  # the time that the reader took does not count as silence

    def device_time(
        self, device_ns: int | None, message: TopicMessage, *, needed: bool = False
    ) -> tuple[int, Quality]:
        """The time of a message, and its quality; the state names times that are off, or lack if `needed`."""
        part, max_skew_s = f"time of {message.topic}", self.options.max_skew_s
        why = why_uncertain(device_ns, message.at_ns, max_skew_s) if needed or device_ns is not None else ""
        if why and not message.retained:
            cure = f"set the clock of the device{self.time_cure}"
            self.not_read(f"the times on {message.topic} {why}; {cure}", part)
        elif self.unread:
            self.was_read(part)
        return checked_time(device_ns, message.at_ns, max_skew_s, self.counters)

    def typed(self, name: str, raw: object, declared: str, *, convert: bool) -> tuple[Value, Quality]:
        """A JSON value as its declared type; the state names a value of another type."""
        value, quality = converted(raw, declared) if convert else as_declared(raw, declared)
        if quality is Quality.WRONG_TYPE:
            self.not_read(f"field {name} {wrong_type(raw, declared)}", f"field {name}")
        elif self.unread and value is not None:
            self.was_read(f"field {name}")
        return value, quality

    def _unusable(self, message: TopicMessage, error: Unusable) -> None:
        if error.expected:
            return
        kind = kind_of(message.topic, message.body)
        text = kind.startswith(("JSON", "the "))
        advice = self.advice(kind) or (str(error) if text else "")
        # an empty message also deletes a retained one: it is shown only if nothing else comes
        self.not_read(
            f"{kind} on {message.topic}: not read" + (f"; {advice}" if advice else ""),
            message.topic if message.body else "",
        )


class TopicSession:
    """One connection with its subscriptions and a bounded queue of messages."""

    def __init__(self, adapter: MqttAdapter[Any], broker: Broker) -> None:
        self.why = ""  # why the last message was not usable
        self._adapter = adapter
        self._options: MqttOptions = adapter.options
        self._broker = broker
        self._topics = topics = adapter.topics()
        self._hint_topics = adapter.hint_topics()
        self._hints = frozenset(self._hint_topics)
        self._hint_s = 0.0  # when they are subscribed
        self._was_asked = matches_any(topics)
        self._clock = adapter.clock
        self._counters = adapter.counters
        self._client: AsyncClient | None = None
        self._waiting: deque[TopicMessage] = deque()
        self._bytes = 0
        self._changed = asyncio.Event()  # a message came, or the connection ended
        self._deadline_s = 0.0

    async def open(self) -> None:
        """Connect and subscribe.

        Raises:
            OptionsError: a file of the options cannot be used.
            DeviceUnreachable: no connection, or the broker refuses.
        """
        try:
            async with asyncio.timeout(self._options.timeout_s):
                await self._connect()
        except TimeoutError as error:
            await self.close()
            raise DeviceUnreachable(
                f"{self._options.url} does not answer within {self._options.timeout_s:g} s"
            ) from error
        except BaseException:
            await self.close()
            raise
        self.restart_silence()
        self._hint_s = self._clock.flowing_s() + min(_HINT_S, self._options.silence_s / 2)

    async def close(self) -> None:
        """Close the connection; never raises."""
        client, self._client = self._client, None
        if client is not None:
            await client.close(_GOODBYE_S)
        while self._waiting:  # for the broker they are delivered
            self._drop()

    def restart_silence(self) -> None:
        """A usable message came: the silence counts from now."""
        self._deadline_s = self._clock.flowing_s() + self._options.silence_s
        self.why = ""

    def wait_longer(self, seconds: float) -> None:
        """Move the end of the allowed silence."""
        self._deadline_s += seconds

    def check_silence(self) -> None:
        """Raise DeviceStalled if no usable message came for too long, even if other messages came."""
        if self._clock.flowing_s() >= self._deadline_s:
            raise DeviceStalled(
                f"{self._options.url}: nothing usable on {', '.join(self._topics[:3])} for"
                f" {self._options.silence_s:g} s{self._adapter.last_report()}{self.why}"
            )

    async def next(self) -> TopicMessage:
        """The next message.

        Raises:
            DeviceStalled: no usable message for too long.
            DeviceUnreachable: the connection ended.
            ProtocolViolation: it ended because a message was far too large.
        """
        while not self._waiting:
            if self._client is None:
                raise DeviceUnreachable(f"{self._options.url} is not open")
            if (failure := self._client.failure()) is not None:
                raise _as_adapter_error(failure)
            self._changed.clear()
            until_s = min(self._deadline_s, self._hint_s) if self._hint_topics else self._deadline_s
            with contextlib.suppress(TimeoutError):
                async with self._clock.timeout_at(until_s):
                    await self._changed.wait()
            if self._hint_topics and not self._waiting and self._clock.flowing_s() >= self._hint_s:
                await self._listen_for_hints()
            if not self._waiting and self._client is not None and self._client.failure() is None:
                # a message that came while the whole process was paused is in time: it is in `_waiting` now
                self.check_silence()
        message = self._waiting.popleft()
        self._bytes -= len(message.body)
        self._hint_topics = []  # the device sends on its own topics
        return message

    async def _listen_for_hints(self) -> None:
        """Subscribe the hint topics; a broker may refuse them, which changes nothing."""
        topics, self._hint_topics = self._hint_topics, []
        if self._client is not None:
            with contextlib.suppress(MqttError):
                await self._client.subscribe([(topic, 0) for topic in topics])  # one that comes is enough

    async def _connect(self) -> None:
        client_id = self._options.client_id or f"edgebed-{secrets.token_hex(8)}"
        try:
            login = await asyncio.to_thread(Login.read, self._broker, client_id)
        except ConfigError as error:
            raise OptionsError(str(error)) from error
        choice = VersionChoice(self._options.protocol, first="3.1.1")
        try:
            client = await self._opened(login, choice)
            await client.subscribe([(topic, self._options.qos) for topic in self._topics])
        except MqttError as error:
            raise _as_adapter_error(error) from error

    async def _opened(self, login: Login, choice: VersionChoice) -> AsyncClient:
        options = ConnectOptions(
            login=login,
            version=choice.version,
            keepalive_s=KEEPALIVE_S,
            connect_s=self._options.timeout_s,
            largest=LARGEST_PACKET,
        )
        client = self._client = AsyncClient(options, self._arrived, self._changed.set)
        try:
            await client.open()
        except MqttError as error:
            if choice.failed(error):
                return await self._opened(login, choice)
            raise
        return client

    def _arrived(self, message: PublishPacket) -> None:
        body = message.body
        try:
            topic = message.topic.decode()
        except UnicodeDecodeError:
            self._counters["bad_topic"] += 1
            return
        if topic in self._hints:
            hint = self._adapter.hint(topic)
            self.why = f"; {hint}"
            self._adapter.not_read(hint)
            return
        if not self._was_asked(topic):
            self._counters["unasked_topic"] += 1
            return
        if len(body) > self._options.max_message_bytes:
            self._counters["too_large"] += 1
            self.why = f"; the last message had {len(body)} bytes, see max_message_bytes"
            self._adapter.not_read(f"{len(body)} bytes on {topic}: not read; see max_message_bytes", topic)
            return
        while len(self._waiting) >= self._options.queue or self._bytes + len(body) > _QUEUE_BYTES:
            self._drop()
        self._waiting.append(TopicMessage(topic, body, message.retained, self._clock.now_ns()))
        self._bytes += len(body)
        self._changed.set()

    def _drop(self) -> None:
        self._bytes -= len(self._waiting.popleft().body)
        self._counters["dropped"] += 1


def _as_adapter_error(error: MqttError) -> AdapterError:
    if isinstance(error, MalformedPacket):
        return ProtocolViolation(str(error))
    return DeviceUnreachable(str(error)).at(error.where, error)
