"""Keys that people accepted, in a file in the store's folder that is read again when it changes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from collector.ledger.enrolled import EnrolledNodes
from wire.errors import EdgebedError

FILE = "accepted-keys"
_MAX_BYTES = 1_000_000


class NodeKeys:
    """The keys that count for the statements of a node besides the first that was seen: here none."""

    def of(self, _node: str) -> Iterable[str]:
        """The key ids of a node."""
        return ()

    def is_closed(self, _node: str) -> bool:
        """Whether the first key that was seen does not count either."""
        return False


class AcceptedKeys(NodeKeys):
    """The file has `node key-id` in each line; `#` starts a remark. Any thread.

    The key that a node was enrolled with is accepted too.
    """

    def __init__(self, folder: Path, enrolled: EnrolledNodes | None = None) -> None:
        self._enrolled = EnrolledNodes(None) if enrolled is None else enrolled
        self._path = folder / FILE
        self._read_of: tuple[int, int] | None = None  # time and size of the file that was read
        self._keys: dict[str, frozenset[str]] = {}

    def of(self, node: str) -> frozenset[str]:
        """The accepted key ids of a node."""
        try:
            stat = self._path.stat()
            version = (stat.st_mtime_ns, stat.st_size)
            if version != self._read_of:
                with self._path.open("rb") as file:
                    self._keys = _parsed(file.read(_MAX_BYTES).decode("ascii", "replace"))
                self._read_of = version
        except FileNotFoundError:
            self._keys, self._read_of = {}, None
        except OSError:  # keep what was read last
            pass
        found = self._keys.get(node, frozenset())
        noted = self._enrolled.of(node)
        return found if noted is None or not noted.custody else found | {noted.custody_id}

    def is_closed(self, node: str) -> bool:
        """Whether no other key counts, not even the first that was seen: the node was enrolled or removed."""
        noted = self._enrolled.of(node)
        return noted is not None and (noted.is_removed or bool(noted.custody))


def accept(folder: Path, node: str, key: str, remark: str) -> None:
    """Add a key to the file; a running collector uses it with the node's next statement.

    Raises:
        EdgebedError: the file is not writable.
    """
    path = folder / FILE
    try:
        with path.open("ab+") as file:
            size = file.seek(0, os.SEEK_END)
            # an editor may leave the last line without an end
            open_line = size and os.pread(file.fileno(), 1, size - 1) != b"\n"
            file.write(b"\n" * bool(open_line) + f"{node} {key}  # {remark}\n".encode("ascii", "replace"))
    except OSError as error:
        raise EdgebedError(
            f"{path} cannot be written: {error.strerror}; run this as the collector's user"
        ) from error


def _parsed(text: str) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if len(words) == 2:
            found.setdefault(words[0], set()).add(words[1])
    return {node: frozenset(keys) for node, keys in found.items()}
