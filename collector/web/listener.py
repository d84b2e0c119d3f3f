"""A listening socket that bounds its connections, also those that have not finished a TLS handshake."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterable
from typing import Any

from collector.web.connections import LEAVING, MOST, network_of

SPARE = 100  # connections that are in their handshake
MOST_SOCKETS = MOST + LEAVING + SPARE


class BoundedListener(socket.socket):
    """Accepts `MOST_SOCKETS` connections at most: more would take the files that the store needs.

    Of one address it accepts `share` and some more, which `Places` refuses with a sentence.
    """

    def __init__(self, family: int, kind: int, proto: int, *, share: int, proxies: Iterable[str]) -> None:
        super().__init__(family, kind, proto)
        self._share = share + LEAVING
        self._proxies = {network_of(proxy) for proxy in proxies}
        self._counts: Counter[str] = Counter()

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection.

        Raises:
            ConnectionAbortedError: there are too many; this one is closed.
        """
        connection, address = super().accept()
        network = network_of(str(address[0]))
        limit = MOST if network in self._proxies else self._share
        if self._counts.total() >= MOST_SOCKETS or self._counts[network] >= limit:
            connection.close()
            raise ConnectionAbortedError
        self._counts[network] += 1
        return _Counted(self._counts, network, connection.detach()), address


class _Counted(socket.socket):
    """A connection that is counted until it is closed."""

    def __init__(self, counts: Counter[str], network: str, descriptor: int) -> None:
        super().__init__(fileno=descriptor)
        self._counts: Counter[str] | None = counts
        self._network = network

    def close(self) -> None:
        """Close it, and count it no more."""
        super().close()
        if self._counts is not None:
            counts, self._counts = self._counts, None
            counts[self._network] -= 1
            if not counts[self._network]:
                del counts[self._network]
