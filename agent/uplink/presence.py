"""What a node says about itself: the status, the Will that says it is lost, and the birth."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from msgspec.structs import replace

from agent.uplink.broker_memory import Session
from wire.clock import Clock
from wire.codec import encode, seal
from wire.messages import MAX_BODY, Birth, Status
from wire.topics import Address

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """What stays the same while the daemon runs: who it is and what `status` says about it."""

    address: Address
    boot: str  # random per daemon start, lower-case hex
    agent: str  # the agent's version


class Presence:
    """Bodies ready to be published; `describe` and `status` are asked anew for each."""

    def __init__(
        self,
        identity: NodeIdentity,
        ep: str,
        session: Session,
        clock: Clock,
        describe: Callable[[], Birth],
        status: Callable[[], Status],
    ) -> None:
        self._identity = identity
        self._ep = ep
        self._session = session
        self._clock = clock
        self._describe = describe
        self._status = status
        self._online_ms = 0  # when it first said so
        self._met = False

    def state(self, state: Literal["online", "offline", "lost"], reason: str = "") -> bytes:
        """A status; `online` tells of devices and models."""
        now = Status(
            state=state,
            ts=self._clock.now_ms(),
            boot=self._identity.boot,
            sess=self._session.sess,
            agent=self._identity.agent,
            reason=reason,
        )
        if state == "online":
            self._online_ms = self._online_ms or now.ts
            known = self._status()
            now.devices, now.models = known.devices, known.models
        return seal(encode(now))

    def meets(self, status: Status) -> None:
        """Say once that somebody else said `online` under this name after this process did.

        With MQTT 3.1.1 a broker does not tell a client why it ends the connection, and all that shows is a
        connection that is lost and found every two seconds.
        """
        after = 0 < self._online_ms < status.ts
        if self._met or not after or status.boot == self._identity.boot:
            return
        self._met = True
        log.error(
            "another agent is connected as %s, and each takes the connection from the other: stop one, "
            "or give it a `node` of its own",
            self._identity.address,
        )

    def birth(self) -> bytes | None:
        """The birth; None where it is too large to be sent."""
        birth = replace(
            self._describe(),
            ts=self._clock.now_ms(),
            boot=self._identity.boot,
            sess=self._session.sess,
            ep=self._ep,
        )
        body = seal(encode(birth))
        if len(body) > MAX_BODY:
            log.warning("the birth has %d bytes, %d are allowed: not sent", len(body), MAX_BODY)
            return None
        return body
