"""What the adapters that read MQTT topics share: the broker's options, one session, its silence and limits.

No adapter here publishes anything: a device or a fleet is never commanded from this side.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from abc import abstractmethod
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from paho.mqtt.client import MQTTMessage
from paho.mqtt.matcher import MQTTMatcher

from adapters.base import Adapter, DeviceStalled, DeviceUnreachable, OptionsError, Reading
from adapters.mqtt.link import Protocol, ReadOnlyClient, Secrets, UnsupportedMqttVersion
from adapters.mqtt.options import MqttOptions, bare_filter, broker_of, check_filters
from adapters.mqtt.payload import Unusable
from wire.broker import Broker
from wire.clock import Clock
from wire.errors import ConfigError

_QUEUE_BYTES = 16 * 2**20  # of messages that wait for a slow reader


class TopicMessage(NamedTuple):
    """One message and when it came, Unix ns."""

    topic: str
    body: bytes
    retained: bool
    at_ns: int


MqttOptionsT = TypeVar("MqttOptionsT", bound=MqttOptions)


class MqttAdapter(Adapter[MqttOptionsT]):
    """Subclasses say which topics they read (`topics`) and what a message means (`rows`)."""

    def __init__(self, options: MqttOptionsT, clock: Clock) -> None:
        super().__init__(options, clock)
        self._broker = broker_of(options)
        self._session: TopicSession | None = None
        check_filters(self.topics())

    @abstractmethod
    def topics(self) -> list[str]:
        """Topic filters, from the options alone."""

    @abstractmethod
    def rows(self, message: TopicMessage) -> Iterable[Reading]:
        """The readings of one message, which may be none.

        Raises:
            Unusable: it is dropped and counted.
            AdapterError: this is not the device.
        """

    def alive(self, reading: Reading) -> bool:  # noqa: ARG002 - what subclasses decide by
        """Whether this reading shows that the device lives."""
        return True

    def last_words(self) -> str:
        """What the device said of itself, for the error that tells its silence."""
        return ""

    async def open(self) -> None:
        """Connect and subscribe: a slow topic may say nothing for long, so nothing more is asked for."""
        self._session = TopicSession(
            self.options, self._broker, self.topics(), self.clock, self.counters, self.last_words
        )
        await self._session.open()

    async def close(self) -> None:
        """Disconnect."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def readings(self) -> AsyncIterator[Reading]:
        """Readings of messages as they come, for ever."""
        session = self._session
        if session is None:
            raise DeviceUnreachable(f"{self.options.url} is not open")
        now = asyncio.get_running_loop().time
        while True:
            message = await session.next()
            found: list[Reading] = []
            try:
                found.extend(self.rows(message))
            except Unusable as error:
                self.counters[error.counter] += 1
                session.why = f"; the last message was of no use: {error}"
            if any(map(self.alive, found)):
                session.heard()
            else:
                session.check_silence()
            given_s = now()
            for reading in found:
                yield reading
            session.wait_longer(now() - given_s)  # that the reader took its time is no silence


class TopicSession:
    """One connection with its subscriptions and a bounded queue of what came."""

    def __init__(
        self,
        options: MqttOptions,
        broker: Broker,
        topics: list[str],
        clock: Clock,
        counters: Counter[str],
        said: Callable[[], str],
    ) -> None:
        self.why = ""  # the last message was of no use
        self._said = said  # the device's last words
        self._options = options
        self._broker = broker
        self._topics = topics
        self._asked: Any = MQTTMatcher()  # type: ignore[no-untyped-call]  # paho's is untyped
        for topic in topics:
            self._asked[bare_filter(topic)] = True
        self._clock = clock
        self._counters = counters
        self._link: ReadOnlyClient | None = None
        self._waiting: deque[TopicMessage] = deque()
        self._bytes = 0
        self._news = asyncio.Event()
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
                f"{self._options.url} gives no answer within {self._options.timeout_s:g} s"
            ) from error
        except BaseException:
            await self.close()
            raise
        self.heard()

    async def close(self) -> None:
        """End it; never raises."""
        link, self._link = self._link, None
        if link is not None:
            await link.shut()
        while self._waiting:  # the broker counts them as delivered
            self._drop()

    def heard(self) -> None:
        """Something usable came: silence counts from now."""
        self._deadline_s = asyncio.get_running_loop().time() + self._options.silence_s
        self.why = ""

    def wait_longer(self, seconds: float) -> None:
        """Move the end of the allowed silence."""
        self._deadline_s += seconds

    def check_silence(self) -> None:
        """Raise DeviceStalled where nothing usable came for too long, however much else did."""
        if asyncio.get_running_loop().time() >= self._deadline_s:
            raise DeviceStalled(
                f"{self._options.url}: nothing usable on {', '.join(self._topics[:3])} for"
                f" {self._options.silence_s:g} s{self._said()}{self.why}"
            )

    async def next(self) -> TopicMessage:
        """The next message.

        Raises:
            DeviceStalled: nothing usable for too long.
            DeviceUnreachable: the connection ended.
            ProtocolViolation: it ended because no MQTT came.
        """
        while not self._waiting:
            if self._link is None:
                raise DeviceUnreachable(f"{self._options.url} is not open")
            if (failure := self._link.failure()) is not None:
                raise failure
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._deadline_s):
                    await self._news.wait()
            if not self._waiting and self._link is not None and self._link.failure() is None:
                self.check_silence()  # what came while the whole process stood still has come in time
        message = self._waiting.popleft()
        self._bytes -= len(message.body)
        return message

    async def _connect(self) -> None:
        client_id = self._options.client_id or f"edgebed-{secrets.token_hex(8)}"
        try:
            read = await asyncio.to_thread(Secrets.read, self._broker)
        except ConfigError as error:
            raise OptionsError(str(error)) from error
        wanted = str(self._options.protocol)
        tries: list[Protocol] = ["3.1.1", "5"] if wanted == "auto" else ["5" if wanted == "5" else "3.1.1"]
        for protocol in tries:
            await self.close()
            self._link = ReadOnlyClient(
                self._broker, read, client_id, protocol, self._arrived, self._news.set
            )
            try:
                await self._link.open()
            except UnsupportedMqttVersion:
                if protocol == tries[-1]:
                    raise
            else:
                break
        await self._link.listen(self._topics, self._options.qos)  # type: ignore[union-attr]  # opened above

    def _arrived(self, message: MQTTMessage) -> None:
        body = bytes(message.payload)
        try:
            topic = message.topic
        except UnicodeDecodeError:
            self._counters["bad_topic"] += 1
            return
        if next(self._asked.iter_match(topic), None) is None:
            self._counters["unasked_topic"] += 1
            return
        if len(body) > self._options.max_message_bytes:
            self._counters["too_large"] += 1
            self.why = f"; the last message had {len(body)} bytes, see max_message_bytes"
            return
        while len(self._waiting) >= self._options.queue or self._bytes + len(body) > _QUEUE_BYTES:
            self._drop()
        self._waiting.append(TopicMessage(topic, body, message.retain, self._clock.now_ns()))
        self._bytes += len(body)
        self._news.set()

    def _drop(self) -> None:
        self._bytes -= len(self._waiting.popleft().body)
        self._counters["dropped"] += 1
