"""The installation that a drill tests: two boxes with numbered devices, and the source of random choices."""

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
from edgebed.drill.against import ExistingInstallation, ExistingSite
from edgebed.drill.clock import step
from edgebed.drill.device import FIELD, STREAM, NumberedDevice
from edgebed.installation import AgentSetup, Installation
from edgebed.processes import Child
from simulators.faults import FaultProxy
from wire.clock import Clock

BOXES = ("box-1", "box-2")
TENANT = "acme/drill/bench"


@dataclass
class Allowed:
    """The losses that the faults so far explain; every other message must be stored."""

    reasons: set[str] = field(default_factory=set)  # of declared gaps
    forgotten: dict[str, set[int]] = field(default_factory=dict)  # box -> numbers a restored store lacks


class DrillInstallation:
    """Two boxes on one broker and collector. Use as `async with`."""

    def __init__(
        self,
        folder: Path,
        *,
        broker: Kind,
        seed: int,
        outbox_mb: int = 64,
        against: ExistingSite | None = None,
    ) -> None:
        self.folder = folder
        self.rng = random.Random(seed)
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
            setups = [self._setup(box) for box in BOXES]
            self.installation = (
                Installation(self.folder, setups, broker=self._broker, seed=self._seed)
                if self.against is None
                else ExistingInstallation(self.folder, setups, self.against, seed=self._seed)
            )
            await self._stack.enter_async_context(self.installation)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def _setup(self, box: str) -> AgentSetup:
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
        return AgentSetup(box, config, "counter", arguments=("--clock-file", str(self.clock_file(box))))

    # --- the parts that faults use

    def clock_file(self, box: str) -> Path:
        """Return the file that steps the clock of a box's agent."""
        return self.folder / f"{box}-clock.json"

    def state(self, box: str) -> Path:
        """Return the state folder of a box's agent."""
        return self.folder / f"state-{box}"

    def agent(self, box: str) -> Child:
        """Return the process of a box's agent."""
        return self.installation.agents[box]

    def link(self, box: str) -> FaultProxy:
        """Return the link between a box's agent and the broker."""
        return self.installation.links[box]

    def any_box(self) -> str:
        """Return one of the boxes, by chance."""
        return self.rng.choice(BOXES)

    async def pause(self, low_s: float = 0.2, high_s: float = 1.0) -> None:
        """Wait a random time while the fault lasts."""
        await asyncio.sleep(self.rng.uniform(low_s, high_s))

    # --- the state of the installation

    async def entries(self) -> dict[str, dict[str, Any]]:
        """Return the ledger's entry of each box's newest outbox."""
        found: dict[str, dict[str, Any]] = {}
        for entry in (await self.installation.api("/api/v1/ledger"))["entries"]:
            box = entry["node"].rpartition("/")[2]
            if (
                entry["node"] == f"{self.prefix}/{box}"
                and box in BOXES
                and entry["ep"] == self.installation.agent_status(box).get("ep", entry["ep"])
            ):
                found[box] = entry
        return found

    async def stored(self) -> dict[str, int]:
        """Return how many messages of each box are stored."""
        return {box: entry["stored"] for box, entry in (await self.entries()).items()}

    async def numbers(self, box: str) -> list[int]:
        """Return every row number of a box that the collector's API gives, in order of time."""
        found: list[int] = []
        start_ms, end_ms = self.began_ms - 7_200_000, Clock().now_ms() + 7_200_000  # clocks were stepped
        route = f"/api/v1/nodes/{self.prefix}/{box}/devices/counter/rows?stream={STREAM}"
        while start_ms < end_ms:
            to_ms = start_ms + 120_000
            rows = await self.installation.api(f"{route}&from={start_ms}&to={to_ms}")
            found += rows["f"].get(FIELD, [])
            start_ms = to_ms
        return [number for number in found if number is not None]

    async def recovers(self, deadline_s: float = 90.0) -> None:
        """Wait until new data of every box are stored: the next fault must start from a working system."""
        before = await self.installation.until("the collector answers", self.stored)

        async def more() -> bool:
            now = await self.stored()
            return all(now.get(box, 0) >= before.get(box, 0) + 2 for box in BOXES)

        await self.installation.until("new data of every box are stored", more, deadline_s)

    async def settle(self) -> dict[str, dict[str, Any]]:
        """Stop the agents when their outboxes are empty; return the last status of each box."""
        last = {}
        for box in BOXES:
            step(self.clock_file(box))
            for _ in range(10):
                await asyncio.to_thread(self.agent(box).stop)
                last[box] = self.installation.agent_status(box)
                if last[box]["depth"] == 0:
                    break
                self.agent(box).start()
                await self.installation.until(f"{box} is back", partial(self._back, box))
        return last

    def _back(self, box: str) -> bool:
        status = self.installation.agent_status(box)
        return bool(status.get("running") and status.get("connected"))
