"""The queue of received messages between the link's thread and the writer's; each sender has a share."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Sequence

from collector.mqtt.received import Received

QUEUE_MESSAGES = 5_000
QUEUE_BYTES = 32_000_000
# A node has 640 publications in flight, and after a reconnection 640 more that it sent before.
SENDER_MESSAGES = 1_600  # a pack counts as one
SENDER_BYTES = 8_000_000


class Inbox:
    """Thread-safe; for one thread that puts and one that takes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._items: deque[tuple[Received, str, int]] = deque()  # sender, what it frees of the share
        self._size = 0  # bytes
        self._shares: Counter[str] = Counter()
        self._sizes: Counter[str] = Counter()

    def __len__(self) -> int:
        """How many messages wait."""
        return len(self._items)

    @property
    def filled(self) -> float:
        """How much of the place is taken; 1 and more is full."""
        return max(len(self._items) / QUEUE_MESSAGES, self._size / QUEUE_BYTES)

    @property
    def is_full(self) -> bool:
        """Whether the link should stop receiving."""
        return self.filled >= 1

    def put(self, sender: str, some: Sequence[Received]) -> bool:
        """Take one publication of `sender`, which may be a pack; False beyond its share."""
        size = len(some[0].body) if len(some) == 1 else sum(len(one.body) for one in some)
        with self._lock:
            if self._shares[sender] >= SENDER_MESSAGES or self._sizes[sender] >= SENDER_BYTES:
                return False
            self._shares[sender] += 1
            self._sizes[sender] += size
            self._size += size
            for one in some[:-1]:
                self._items.append((one, sender, 0))
            self._items.append((some[-1], sender, 1))
        return True

    def take(self, most: int) -> list[Received]:
        """The oldest messages, at most `most` of them."""
        with self._lock:
            found = [self._items.popleft() for _ in range(min(len(self._items), most))]
            for one, sender, ended in found:
                size = len(one.body)
                self._size -= size
                self._sizes[sender] -= size
                self._shares[sender] -= ended
                if not self._shares[sender]:
                    del self._shares[sender], self._sizes[sender]
        return [one for one, _, _ in found]
