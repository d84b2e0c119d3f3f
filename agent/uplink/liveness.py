"""Subscription liveness: detects that messages to this node no longer arrive, by its own status."""

from __future__ import annotations

from typing import Literal

ASK_S = 60.0  # between two statuses that are published only to come back
ANSWER_S = 45.0  # more than a slow link needs for everything in flight
SUBSCRIPTION_LOST = "connected, but the node's own status no longer comes back: connecting again"
STATUS_NEVER_RETURNED = (
    "the node's own status never came back: give it read rights on ack, cmd/# and status, "
    "or its messages are never acknowledged"
)


class SubscriptionLiveness:
    """Asks for the node's own status now and then, and reports when it stops coming back.

    PUBACKs and pings also arrive over a connection whose subscriptions are dead; acks and commands do not.
    A broker may deny a node its own status: if it never came back, nothing follows from silence. Times are
    seconds of any steady clock.
    """

    def __init__(self) -> None:
        self._returned_once = False  # the status came back once, on any connection
        self._warned = False
        self._asked_s: float | None = None
        self._quiet_s = 0.0  # time since which nothing was asked and nothing came back

    def connected(self, now_s: float) -> None:
        """Start again on a new connection."""
        self._asked_s = None
        self._quiet_s = now_s

    def returned(self, now_s: float) -> None:
        """Note that the node's own status of this session came back."""
        self._returned_once = True
        self.connected(now_s)

    def next(self, now_s: float) -> Literal["ask", "reconnect", "warn", ""]:
        """What to do now: publish the status (ask), reconnect, or warn; "warn" is returned once only."""
        if self._asked_s is None:
            if now_s - self._quiet_s < ASK_S:
                return ""
            self._asked_s = now_s
            return "ask"
        if now_s - self._asked_s < ANSWER_S:
            return ""
        self.connected(now_s)
        if self._returned_once:
            return "reconnect"
        warned, self._warned = self._warned, True
        return "" if warned else "warn"
