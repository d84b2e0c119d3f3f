"""Whether what is addressed to this node still reaches it, told by its own status coming back."""

from __future__ import annotations

from typing import Literal

ASK_S = 60.0  # between two statuses that are published only to be heard again
ANSWER_S = 45.0  # more than a slow link needs for everything that may be on its way
DEAF = "connected, but not even its own status comes back any more"
NEVER_HEARD = "its own status does not come back: without rights on ack, cmd/# and status nothing is settled"


class Hearing:
    """PUBACKs and pings also come over a connection whose subscriptions are dead; acks and commands do not.

    A broker may not let a node read its own status: where it never came back, nothing is concluded. Times are
    seconds of any steady clock.
    """

    def __init__(self) -> None:
        self._able = False  # it came back once, over whatever connection
        self._warned = False
        self._asked_s: float | None = None
        self._quiet_s = 0.0  # since when nothing was asked or heard

    def connected(self, now_s: float) -> None:
        """A new connection: nothing is owed on it yet."""
        self._asked_s = None
        self._quiet_s = now_s

    def heard(self, now_s: float) -> None:
        """The node's own status of this session came back."""
        self._able = True
        self.connected(now_s)

    def next(self, now_s: float) -> Literal["ask", "deaf", "warn", ""]:
        """What is to be done: publish the status, end the connection, or warn, which it says once."""
        if self._asked_s is None:
            if now_s - self._quiet_s < ASK_S:
                return ""
            self._asked_s = now_s
            return "ask"
        if now_s - self._asked_s < ANSWER_S:
            return ""
        self.connected(now_s)
        if self._able:
            return "deaf"
        warned, self._warned = self._warned, True
        return "" if warned else "warn"
