"""Refuses `ack`, `cmd` and `desired` that are not of this node's site, once the node is enrolled."""

from __future__ import annotations

import logging
from collections import Counter

from agent.identity import folder_of, mac_key
from wire.broker import Broker
from wire.clock import Clock
from wire.errors import WireError
from wire.log_rate_limit import LogRateLimit
from wire.mac import CLASSES, MacMissing, MacWrong, checked
from wire.messages import ClockState
from wire.printable import printable
from wire.reasons import NO_REASON, Reason, because
from wire.topics import Topic

log = logging.getLogger(__name__)

SHOWN_S = 120.0  # how long a refused message stays a problem
OLD_MS = 600_000  # a refusal that is older, by a synchronised clock, was sent before
_MAX_NAMES = 100  # collectors


class MacCheck:
    """Checks messages with the key in the folder of the certificate; without one it lets everything pass."""

    def __init__(self, broker: Broker, clock: Clock, counters: Counter[str]) -> None:
        self._folder = folder_of(broker)
        self._clock = clock
        self._counters = counters
        self._key: bytes | None = None
        self._newest: dict[str, int] = {}  # collector -> the highest `ts` of its acks
        self._problem = NO_REASON
        self._until_s = 0.0
        self._log_limit = LogRateLimit()

    def load(self) -> None:
        """Read the key: a renewal may have brought one.

        Raises:
            ConfigError: the key cannot be used.
        """
        self._key = mac_key(self._folder)

    @property
    def has_key(self) -> bool:
        """Whether this node was enrolled and has a key."""
        return self._key is not None

    @property
    def problem(self) -> Reason:
        """Why messages are refused now."""
        return self._problem if self._clock.monotonic() < self._until_s else NO_REASON

    def opened(self, topic: Topic, name: str, body: bytes) -> bytes:
        """The body of a message on the topic `name`, without its mac.

        Raises:
            WireError: this node has a key, and the mac is absent or wrong.
        """
        if self._key is None or topic.cls not in CLASSES:
            return body
        try:
            return checked(self._key, name, body)
        except (MacMissing, MacWrong) as error:
            self._refused(name.split("/", 5)[-1], error)
            raise

    def is_fresh(self, by: str, ts: int, clock_state: ClockState) -> bool:
        """Whether an ack is not one of before: only then it may ask this node to wait.

        What an old ack releases is stored all the same.
        """
        if self._key is None:
            return True
        if len(self._newest) >= _MAX_NAMES and by not in self._newest:
            return False
        is_newer = ts > self._newest.get(by, -1)
        self._newest[by] = max(ts, self._newest.get(by, -1))
        is_dated = clock_state is not ClockState.UNSYNCED
        return is_newer and not (is_dated and self._clock.now_ms() - ts > OLD_MS)

    def _refused(self, tail: str, error: WireError) -> None:
        where = printable(tail, 100)
        if isinstance(error, MacMissing):
            self._counters["mac_missing"] += 1
            text = (
                f"messages on {where} have no mac and are refused: set mac_file in the config of the "
                "collector, unless another client forges them"
            )
            self._problem = because(text, "mac-missing", topic=where)
        else:
            self._counters["mac_wrong"] += 1
            text = (
                f"messages on {where} have a wrong mac and are refused: check mac_file and enrolled_file in "
                "the config of the collector, unless another client forges them"
            )
            self._problem = because(text, "mac-wrong", topic=where)
        self._until_s = self._clock.monotonic() + SHOWN_S
        if self._log_limit.since(self._problem.code) is not None:
            log.warning("%s", text)
