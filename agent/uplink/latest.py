"""Latest values: QoS 0 bodies, sent at once; while the socket is busy only the newest of a topic waits."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter

from wire.codec import encode, seal
from wire.messages import MAX_BODY, Live, Snapshot
from wire.mqtt.async_client import AsyncClient
from wire.mqtt.errors import MqttError, TooLarge

log = logging.getLogger(__name__)

_BACKLOG = 65_536  # bytes waiting for the socket: beyond it these bodies wait
_TOPICS = 1_000


class Latest:
    """Holds at most `_TOPICS` bodies of at most `MAX_BODY` bytes; `counters` counts the dropped ones."""

    def __init__(self, counters: Counter[str]) -> None:
        self._counters = counters
        self._waiting: dict[str, tuple[str, bytes, bool, int]] = {}  # topic -> kind, body, retained, expiry

    def __bool__(self) -> bool:
        """Whether something waits for the socket."""
        return bool(self._waiting)

    def put(
        self,
        link: AsyncClient | None,
        topic: str,
        body: Live | Snapshot,
        *,
        retain: bool = False,
        expiry_s: int = 0,
        sealed: bool = False,
    ) -> None:
        """Publish a body now or when the socket is free; drop it without a link. `sealed` adds a checksum."""
        what = "snap" if isinstance(body, Snapshot) else "live"
        if link is None:
            self._counters[f"{what}_dropped"] += 1
            return
        try:
            raw = seal(encode(body)) if sealed else encode(body)
        except (TypeError, ValueError, OverflowError) as error:
            self._counters[f"{what}_refused"] += 1
            log.debug("%s cannot be encoded: %s", topic, error)
            return
        if len(raw) > MAX_BODY or len(self._waiting) >= _TOPICS:
            self._counters[f"{what}_refused"] += 1
            return
        if topic in self._waiting:
            self._counters[f"{what}_dropped"] += 1
        self._waiting[topic] = (what, raw, retain, expiry_s)
        with contextlib.suppress(MqttError):
            self.send(link)

    def send(self, link: AsyncClient) -> None:
        """Send waiting bodies as far as the socket accepts them.

        Raises:
            MqttError: there is no connection.
        """
        while self._waiting and link.unsent < _BACKLOG:
            topic = next(iter(self._waiting))
            what, body, retain, expiry_s = self._waiting.pop(topic)
            try:
                link.publish(topic, body, qos=0, retain=retain, expiry_s=expiry_s)
            except TooLarge as error:
                self._counters[f"{what}_refused"] += 1
                log.debug("%s", error)

    def clear(self) -> None:
        """Drop what waits: it is old when the link is back."""
        self._waiting.clear()
