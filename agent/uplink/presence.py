"""Builds the bodies that describe a node: status, Will and birth."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from msgspec.structs import replace

from agent.uplink.broker_memory import BrokerMemory
from wire.clock import Clock
from wire.codec import encode, seal
from wire.messages import MAX_BODY, Birth, Status
from wire.topics import Address

log = logging.getLogger(__name__)

_CODES = {"offline": "agent-stopped", "lost": "connection-lost"}


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """What stays the same while the daemon runs: its address, its boot id and its version."""

    address: Address
    boot: str  # random for each start of the daemon, lower-case hex
    agent: str  # the agent's version


class Presence:
    """Gives bodies ready to be published; calls `describe` and `status` for each of them."""

    def __init__(
        self,
        identity: NodeIdentity,
        ep: str,
        broker_memory: BrokerMemory,
        clock: Clock,
        describe: Callable[[], Birth],
        status: Callable[[], Status],
    ) -> None:
        self._identity = identity
        self._ep = ep
        self._broker_memory = broker_memory
        self._clock = clock
        self._describe = describe
        self._status = status
        self._online_ms = 0  # time of the first online status
        self._reported = False

    def state(self, state: Literal["online", "offline", "lost"], reason: str = "") -> bytes:
        """A status body; only `online` includes devices and models."""
        now = Status(
            state=state,
            ts=self._clock.now_ms(),
            boot=self._identity.boot,
            sess=self._broker_memory.sess,
            agent=self._identity.agent,
            reason=reason,
            code=_CODES.get(state, ""),
        )
        if state == "online":
            self._online_ms = self._online_ms or now.ts
            known = self._status()
            now.devices, now.models = known.devices, known.models
            now.reason, now.code, now.args = known.reason, known.code, known.args
        return seal(encode(now))

    def report_double(self, status: Status) -> None:
        """Log once if another process published `online` under this node's name after this one did.

        An MQTT 3.1.1 broker does not state why it ends a connection: without this log line one would only see
        the connection lost and made again every two seconds.
        """
        after = 0 < self._online_ms < status.ts
        if self._reported or not after or status.boot == self._identity.boot:
            return
        self._reported = True
        log.error(
            "another agent is connected as %s, and each ends the other's connection: stop one, "
            "or give it its own `node`",
            self._identity.address,
        )

    def birth(self) -> bytes | None:
        """The birth body; None if it is too large to be sent."""
        birth = replace(
            self._describe(),
            ts=self._clock.now_ms(),
            boot=self._identity.boot,
            sess=self._broker_memory.sess,
            ep=self._ep,
        )
        body = seal(encode(birth))
        if len(body) > MAX_BODY:
            log.warning(
                "the birth has %d bytes, %d are allowed: it is not sent; use fewer streams",
                len(body),
                MAX_BODY,
            )
            return None
        return body
