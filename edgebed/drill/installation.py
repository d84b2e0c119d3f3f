"""What a drill harms: an installation on loopback with numbered devices, and the dice that choose."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from edgebed.broker import Kind
from edgebed.drill.against import Against, Installed
from edgebed.drill.clock import step
from edgebed.drill.device import FIELD, STREAM, NumberedDevice
from edgebed.installation import Site, Stand
from edgebed.processes import Child
from simulators.faults import FaultProxy
from wire.clock import Clock

BOXES = ("box-1", "box-2")
TENANT = "acme/drill/bench"


@dataclass
class Allowed:
    """What the harms done so far may have cost; everything else must be there."""

    reasons: set[str] = field(default_factory=set)  # of declared gaps
    forgotten: dict[str, set[int]] = field(default_factory=dict)  # box -> numbers a restored store lacks


class Bench:
    """Two boxes on one broker and collector. Use as `async with`."""

    def __init__(
        self, folder: Path, *, broker: Kind, seed: int, outbox_mb: int = 64, against: Against | None = None
    ) -> None:
        self.folder = folder
        self.dice = random.Random(seed)
        self.allowed = Allowed()
        self.devices = {box: NumberedDevice() for box in BOXES}
        self._broker, self._seed, self._outbox_mb = broker, seed, outbox_mb
        self.against = against
        self.prefix = TENANT if against is None else against.node
        self.began_ms = Clock().now_ms()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            for device in self.devices.values():
                await self._stack.enter_async_context(device)
            sites = [self._site(box) for box in BOXES]
            self.stand = (
                Stand(self.folder, sites, broker=self._broker, seed=self._seed)
                if self.against is None
                else Installed(self.folder, sites, self.against, seed=self._seed)
            )
            await self._stack.enter_async_context(self.stand)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def _site(self, box: str) -> Site:
        step(self.clock_file(box))
        config = self.folder / f"{box}-drill.yaml"
        document = {
            "node": f"{self.prefix}/{box}",
            "broker": {"url": "mqtt://127.0.0.1:1"},
            "state": "state",
            "outbox": {"max_mb": self._outbox_mb},
            "devices": {"counter": {"adapter": "serial", "options": self.devices[box].options()}},
        }
        config.write_text(yaml.safe_dump(document))
        return Site(box, config, "counter", arguments=("--clock-file", str(self.clock_file(box))))

    # --- what harms reach for

    def clock_file(self, box: str) -> Path:
        """Steps the clock of a box's agent."""
        return self.folder / f"{box}-clock.json"

    def state(self, box: str) -> Path:
        """The state folder of a box's agent."""
        return self.folder / f"state-{box}"

    def agent(self, box: str) -> Child:
        """The agent's process."""
        return self.stand.agents[box]

    def link(self, box: str) -> FaultProxy:
        """Between the agent and the broker."""
        return self.stand.links[box]

    def any_box(self) -> str:
        """One of the boxes."""
        return self.dice.choice(BOXES)

    async def pause(self, low_s: float = 0.2, high_s: float = 1.0) -> None:
        """Let the harm last."""
        await asyncio.sleep(self.dice.uniform(low_s, high_s))

    # --- how it is

    async def entries(self) -> dict[str, dict[str, Any]]:
        """The ledger's entry of each box's newest outbox."""
        found: dict[str, dict[str, Any]] = {}
        for entry in (await self.stand.api("/api/v1/ledger"))["entries"]:
            box = entry["node"].rpartition("/")[2]
            if (
                entry["node"] == f"{self.prefix}/{box}"
                and box in BOXES
                and entry["ep"] == self.stand.agent_status(box).get("ep", entry["ep"])
            ):
                found[box] = entry
        return found

    async def stored(self) -> dict[str, int]:
        """How many messages of each box are stored."""
        return {box: entry["stored"] for box, entry in (await self.entries()).items()}

    async def numbers(self, box: str) -> list[int]:
        """Every row number of a box the collector's API gives, in order of time."""
        found: list[int] = []
        start_ms, end_ms = self.began_ms - 7_200_000, Clock().now_ms() + 7_200_000  # clocks were stepped
        route = f"/api/v1/nodes/{self.prefix}/{box}/devices/counter/rows?stream={STREAM}"
        while start_ms < end_ms:
            to_ms = start_ms + 120_000
            rows = await self.stand.api(f"{route}&from={start_ms}&to={to_ms}")
            found += rows["f"].get(FIELD, [])
            start_ms = to_ms
        return [number for number in found if number is not None]

    async def recovers(self, deadline_s: float = 90.0) -> None:
        """Wait until new data of every box are stored: the next harm must not meet a system that is down."""
        before = await self.stand.until("the collector answers", self.stored)

        async def more() -> bool:
            now = await self.stored()
            return all(now.get(box, 0) >= before.get(box, 0) + 2 for box in BOXES)

        await self.stand.until("new data of every box are stored", more, deadline_s)

    async def settle(self) -> dict[str, dict[str, Any]]:
        """Stop the agents when nothing waits, and return their last status by box."""
        last = {}
        for box in BOXES:
            step(self.clock_file(box))
            for _ in range(10):
                await asyncio.to_thread(self.agent(box).stop)
                last[box] = self.stand.agent_status(box)
                if last[box]["depth"] == 0:
                    break
                self.agent(box).start()
                await self.stand.until(f"{box} is back", partial(self._back, box))
        return last

    def _back(self, box: str) -> bool:
        status = self.stand.agent_status(box)
        return bool(status.get("running") and status.get("connected"))


__all__ = ["BOXES", "STREAM", "Allowed", "Bench"]
