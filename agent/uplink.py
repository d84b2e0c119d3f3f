"""The durable MQTT connection of a node: drains the outbox, answers commands, comes back for ever."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agent.outbox import Outbox
from wire.broker import Broker
from wire.clock import Clock
from wire.messages import Birth, ClockState, Cmd, Live, Res, Snapshot, Status
from wire.topics import Address

OnCommand = Callable[[str, str, Cmd], Awaitable[Res]]


@dataclass(frozen=True, slots=True)
class Identity:
    """What stays the same while the daemon runs: who it is and what `status` says about it."""

    address: Address
    boot: str  # random per daemon start, lower-case hex
    agent: str  # the agent's version


class Uplink:
    """Use: `run` as one task; everything else is called from the same event loop and returns at once.

    `describe` gives the birth; `ts`, `boot`, `sess` and `ep` are filled in here, so it may leave them at
    anything valid. `status` gives the devices and models of the `online` status. Both are asked anew for
    each publication. `on_command` is `agent.commands.Commands.handle` or alike; it gets device, name, Cmd.
    """

    connected: bool  # now
    sess: int  # +1 per CONNECT, persisted in `state`

    def __init__(
        self,
        identity: Identity,
        broker: Broker,
        outbox: Outbox,
        clock: Clock,
        *,
        state: Path,
        ack: Literal["collector", "puback"] = "collector",
        describe: Callable[[], Birth],
        status: Callable[[], Status],
        clock_state: Callable[[], ClockState],
        on_command: OnCommand,
    ) -> None: ...

    async def run(self) -> None:
        """Connect, drain and reconnect for ever; never raises for network reasons.

        When cancelled, publishes `status: offline` and disconnects, within about 2 s.
        """
        raise NotImplementedError

    def live(self, device: str, stream: str, body: Live) -> None:
        """Publish newest values, QoS 0 retained; dropped while offline, newest wins."""

    def snap(self, device: str, stream: str, body: Snapshot) -> None:
        """Publish the newest picture, QoS 0; dropped while offline or too large, newest wins."""

    def renew_status(self) -> None:
        """Publish the status again: a device or model changed."""

    def renew_birth(self) -> None:
        """Publish the birth again: `cmd/_/rebirth`, or the schema changed."""

    @property
    def counters(self) -> dict[str, int]:
        """What happened since the start: sent, acked, resent, reconnects, live_dropped, cmd_refused, ..."""
        raise NotImplementedError
