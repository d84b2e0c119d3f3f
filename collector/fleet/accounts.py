"""The ledger's sums of each node and since when messages of it are missing, made again where it changed."""

from __future__ import annotations

import threading

from collector.ledger.balance import Totals, sum_up
from collector.ledger.ledger import Ledger


class NodeAccounts:
    """Any thread may call every method; none holds the lock for longer than one node takes."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._lock = threading.Lock()
        self._sums: dict[str, tuple[Totals, int | None]] = {}
        self._unjudged: set[str] = set()  # since the last judgement
        self._unshown: set[str] = set()  # since `take_changed`
        self._missing: dict[str, int] = {}  # node -> since when messages of it are missing, ms
        self._judged_ms = 0  # when that was judged last

    def take_changed(self) -> set[str]:
        """The nodes whose accounts changed since the last call."""
        with self._lock:
            self._note()
            found, self._unshown = self._unshown, set()
        return found

    def _note(self) -> None:
        changed = self._ledger.take_changed()
        for node in changed:
            self._sums.pop(node, None)
        self._unjudged |= changed
        self._unshown |= changed

    def of(self, node: str) -> tuple[Totals, int | None]:
        """The sums over a node's outboxes; since when (ms, 0 unknown) messages are missing, or None."""
        with self._lock:
            self._note()
            found, absent_ms = self._sum(node)
            return found, self._since(node, absent_ms)

    def _sum(self, node: str) -> tuple[Totals, int | None]:
        found = self._sums.get(node)
        if found is None:
            outboxes = self._ledger.known_of(node)
            found = sum_up(outboxes)
            if outboxes:
                self._sums[node] = found
        return found

    def _since(self, node: str, absent_ms: int | None) -> int | None:
        if absent_ms is None:
            return None
        known = self._missing.get(node)
        return max(absent_ms, self._judged_ms) if known is None else known

    def judge(self, now: int) -> None:
        """Note since when messages of each node are missing.

        The ledger knows when the message before the missing one was stored. That may be long ago, so a
        message that was not missing at the last judgement counts from there.
        """
        with self._lock:
            self._note()
            nodes, self._unjudged = self._unjudged, set()
        for node in nodes:
            with self._lock:
                self._note()
                since = self._since(node, self._sum(node)[1])
                if since is None:
                    self._missing.pop(node, None)
                else:
                    self._missing[node] = since
        with self._lock:
            self._missing = {node: min(since, now) for node, since in self._missing.items()}
            self._judged_ms = now

    def forget(self, node: str) -> None:
        """Forget since when messages of a node are missing."""
        with self._lock:
            self._missing.pop(node, None)
