"""The OPC UA server of a cobot cell with its production: a joint wears out once a period and stops the cell.

    Objects/Production/Running   Boolean
                      /Planned   Boolean, true
                      /Parts     Int64, counts from the start
                      /Energy    Double, kW.h, counts from the start

The shift hears the alarms of the agent on the broker, as people do who carry a pager: when a joint is named
while it runs hard, they grease it, and the stop that follows is shorter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self

import msgspec
from asyncua import Server, ua

from simulators.devices.mqtt.publisher import Publisher, broker_of
from simulators.devices.opcua import VENDOR_URI, CobotCell
from simulators.faults.fault import Fault
from simulators.plants.trial import PERIOD_S, Comparison, TrialRun
from simulators.plants.trial_plants import ProductionCell
from simulators.simulator import Value
from wire.clock import NS_PER_MS, NS_PER_S, Clock

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_NS = 86_400 * NS_PER_S
_JOINT, _FRICTION = "3", 3.0
_LEAST_S = 1.0  # before the stop; a later call comes too late
_GREASED_S = 2.0  # from the call until the joint runs well again
_KEPT = 100  # wears that the robot remembers
_NODES = {
    "Running": ua.Variant(False, ua.VariantType.Boolean),
    "Planned": ua.Variant(True, ua.VariantType.Boolean),
    "Parts": ua.Variant(0, ua.VariantType.Int64),
    "Energy": ua.Variant(0.0, ua.VariantType.Double),
}


class _Call(msgspec.Struct):
    """What an event of a model says."""

    ts: int
    type: str


class ProductionCobot(CobotCell):
    """Use: `async with ProductionCobot(broker_url="mqtt://127.0.0.1:1883") as cell: cell.url`.

    Without `broker_url` no alarm reaches the shift. The agent's device must be named `arm`.
    """

    listens = "tb1/+/+/+/+/event/arm/+"

    def __init__(
        self,
        *,
        seed: int = 0,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Clock | None = None,
        faults: Sequence[Fault | str] = (),
        broker_url: str = "",
        trial_s: float = PERIOD_S,
        effect: float = -1.0,
    ) -> None:
        super().__init__(seed=seed, host=host, port=port, clock=clock, faults=faults)
        self.plant = ProductionCell(seed, period_s=trial_s, effect=None if effect < 0 else effect)
        self._broker = broker_of("opcua-cell", broker_url, 0) if broker_url else None
        self._pager: Publisher | None = None
        self._production: TrialRun | None = None
        self._wears: dict[int, Fault] = {}  # period -> the joint while it runs hard
        self._called: dict[int, float] = {}  # period -> when the joint runs well again, s since the start
        self._production_nodes: dict[str, ua.NodeId] = {}

    def truth(self, at_ns: int) -> dict[str, float]:
        """The joints as `opcua` has them, and at a step of the production `running` and `planned`."""
        found = {**super().truth(at_ns)}
        if self.start_ns and at_ns >= self.start_ns and at_ns % self._step_ns == 0:
            index = self._step_at(at_ns)
            found |= {"running": self.plant.is_running(index, self._acts(index)), "planned": True}
        return found

    def compare(self, from_ns: int, to_ns: int) -> Comparison:
        """What the cell did between two times, and would have done in each arm."""
        if self._production is None:
            raise ValueError("the device has not started")
        return self._production.compare(self._step_at(from_ns), self._step_at(to_ns))

    async def __aenter__(self) -> Self:
        if self._broker is not None:
            self._pager = Publisher(
                self._broker, f"pager-{id(self):x}"[:23], topic=self.listens, on_message=self._hear
            )
            await self._pager.open()
        return await super().__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await super().__aexit__(kind, error, trace)
        finally:
            pager, self._pager = self._pager, None
            if pager is not None:
                await pager.close()

    # --- the shift

    def _hear(self, _topic: str, body: bytes) -> None:
        try:
            call = msgspec.json.decode(body, type=_Call)
        except msgspec.MsgspecError:
            return
        if call.type != "anomaly" or not self.start_ns:
            return
        midnight_ms = self.start_ns // _DAY_NS * _DAY_NS // NS_PER_MS
        period, within_ms = divmod(call.ts - midnight_ms, round(self.plant.period_s * 1_000))
        wear = self.plant.wear(period)
        if wear.from_s <= within_ms / 1_000 <= wear.stop_s - _LEAST_S:
            greased_s = (call.ts * NS_PER_MS - self.start_ns) / NS_PER_S + _GREASED_S
            self._called.setdefault(period, greased_s)

    def _acts(self, index: int) -> bool:
        return index // self.plant.steps in self._called

    # --- the production

    @property
    def _step_ns(self) -> int:
        return NS_PER_S // self.plant.rate_hz

    def _step_at(self, at_ns: int) -> int:
        return self.plant.step_at(at_ns, self.start_ns)

    def _wear_out(self, period: int) -> None:
        """Let a joint run hard in a period, as the plant has it."""
        if period in self._wears:
            return
        wear, midnight_ns = self.plant.wear(period), self.start_ns // _DAY_NS * _DAY_NS
        from_s = period * self.plant.period_s - (self.start_ns - midnight_ns) / NS_PER_S
        start_s, end_s = from_s + wear.from_s, from_s + wear.stop_s + wear.length_s
        if end_s > 0:
            self._wears[period] = Fault("friction", _JOINT, max(start_s, 0.0), end_s, _FRICTION)
        while len(self._wears) > _KEPT:
            del self._wears[next(iter(self._wears))]

    def _hard_runs(self) -> Iterator[Fault]:
        """The joints while they run hard: until their stop, or until they are greased."""
        for period, fault in self._wears.items():
            yield replace(fault, end_s=min(fault.end_s, self._called.get(period, fault.end_s)))

    async def _write(self, server: Server, index: int, row: list[float]) -> None:
        await super()._write(server, index, row)
        at_ns = self.start_ns + round(index * NS_PER_S / 50)
        if at_ns % self._step_ns:
            return
        step = self._step_at(at_ns)
        if self._production is None:
            self._production = TrialRun(self.plant, step)
        totals = self._production.advance(step, self._acts)
        for period in (step // self.plant.steps, step // self.plant.steps + 1):
            self._wear_out(period)
        self.cobot.faults = (*self._faults.of_plant, *self._hard_runs())
        shown: dict[str, Value] = {
            "Running": self.plant.is_running(step, self._acts(step)),
            "Planned": True,
            "Parts": int(totals["run_s"] / self.plant.PART_S),
            "Energy": totals["energy"],
        }
        at = _EPOCH + timedelta(microseconds=at_ns // 1_000)
        for name, node in self._production_nodes.items():
            value = ua.DataValue(
                ua.Variant(shown[name], _NODES[name].VariantType), SourceTimestamp=at, ServerTimestamp=at
            )
            await server.iserver.write_attribute_value(node, value)

    async def _build_nodes(self, server: Server) -> None:
        await super()._build_nodes(server)
        vendor = await server.get_namespace_index(VENDOR_URI)
        where = await server.nodes.objects.add_object(
            ua.NodeId("Production", vendor), ua.QualifiedName("Production", vendor)
        )
        for name, first in _NODES.items():
            node = ua.NodeId(f"Production.{name}", vendor)
            await where.add_variable(node, ua.QualifiedName(name, vendor), first)
            self._production_nodes[name] = node
