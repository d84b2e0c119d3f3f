"""What a site notes about its enrolled nodes, in a file of its folder that is read again when it changes."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from wire.custody import key_id
from wire.log_rate_limit import LogRateLimit
from wire.mac import CLASSES, node_key, signed

log = logging.getLogger(__name__)

_LINE = re.compile(r"(\S+) ([1-9][0-9]{0,5}) (-|removed|[0-9a-f]{64})")
_MAX_BYTES = 16_000_000
_LOOK_S = 1.0
_MAX_KEPT = 20_000  # keys of nodes


class EnrolledNode(NamedTuple):
    """One line; `custody` is the key of its statements, "" where the site knows none."""

    generation: int
    custody: str
    is_removed: bool = False

    @property
    def custody_id(self) -> str:
        """The id of this key."""
        return key_id(self.custody) if self.custody else ""


class EnrolledNodes:
    """The file has `node generation key` in each line; `-` stands for no key, `removed` for a removal.

    Any thread.
    """

    def __init__(self, path: Path | None, now: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._now = now
        self._looked_s = -_LOOK_S
        self._read_of: tuple[int, int] | None = None  # time and size of the file that was read
        self._nodes: dict[str, EnrolledNode] = {}
        self._log_limit = LogRateLimit()

    def of(self, node: str) -> EnrolledNode | None:
        """What the site notes about a node; None where it notes nothing."""
        self._follow()
        return self._nodes.get(node)

    def is_removed(self, node: str) -> bool:
        """Whether the site has removed a node."""
        found = self.of(node)
        return found is not None and found.is_removed

    def generation(self, node: str) -> int:
        """The generation of a node's key; the first one where the site notes nothing about it."""
        found = self.of(node)
        return 1 if found is None else found.generation

    @property
    def version(self) -> object:
        """A value that changes with the file."""
        self._follow()
        return self._read_of

    def _follow(self) -> None:
        if self._path is not None and self._now() - self._looked_s >= _LOOK_S:
            self._looked_s = self._now()
            self._look(self._path)

    def _look(self, path: Path) -> None:
        """Read the file if it changed; if it cannot be read, what was read last stays."""
        try:
            found = path.stat()
            version = (found.st_mtime_ns, found.st_size)
            if version != self._read_of:
                with path.open("rb") as file:
                    text = file.read(_MAX_BYTES).decode("ascii", "replace")
                lines = filter(None, map(_LINE.fullmatch, text.splitlines()))
                self._nodes = {line[1]: _node(int(line[2]), line[3]) for line in lines}
                self._read_of = version
        except OSError as error:
            if self._log_limit.since("unreadable") is not None:
                log.warning("enrolled_file %s cannot be read: %s", path, error.strerror)


def _node(generation: int, word: str) -> EnrolledNode:
    return EnrolledNode(generation, word if len(word) == 64 else "", word == "removed")


class NodeKeys:
    """The keys of the nodes, from the secret of their site. Any thread."""

    def __init__(self, secret: bytes, enrolled: EnrolledNodes) -> None:
        self._secret = secret
        self._enrolled = enrolled
        self._keys: dict[tuple[str, int], bytes] = {}

    def of(self, node: str) -> bytes:
        """The key of a node."""
        which = node, self._enrolled.generation(node)
        key = self._keys.get(which)
        if key is None:
            if len(self._keys) >= _MAX_KEPT:
                self._keys.clear()
            key = self._keys[which] = node_key(self._secret, *which)
        return key

    def sign(self, topic: str, body: bytes) -> bytes:
        """The body of a message to a node, with its mac."""
        parts = topic.split("/", 6)
        if len(parts) < 6 or parts[5] not in CLASSES:
            return body
        return signed(self.of("/".join(parts[1:5])), topic, body)
