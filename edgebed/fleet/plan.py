"""What a fleet sends and when: the same seed gives the same values, schedule and faults."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

DEVICE, STREAM = "sensor", "readings"
FIELDS = tuple(f"value_{number}" for number in range(1, 7))
FLOOD_FACTOR = 20  # how many times as often a flooding node sends
AWAY_S, DROP_EVERY_S = 10.0, 30.0
RECONNECT_EVERY_S = 5.0
_VALUES = 4_096  # of a field, before they repeat
_STEP = 7_919  # a prime: neighbouring nodes do not send the same values

Fault = Literal["drop", "reconnect", "flood"]


@dataclass(frozen=True, kw_only=True)
class FleetPlan:
    """The nodes of a fleet. `drop`, `reconnect` and `flood` are shares of the nodes, from 0 to 1."""

    nodes: int
    rate: float = 1.0  # messages a second of each node
    samples: int = 1  # rows a message
    seed: int = 1
    drop: float = 0.0
    reconnect: float = 0.0
    flood: float = 0.0
    faults: dict[int, Fault] = field(init=False)  # by number of the node

    def __post_init__(self) -> None:
        shares: dict[Fault, float] = {
            "drop": self.drop,
            "reconnect": self.reconnect,
            "flood": self.flood,
        }
        # a share above 0 is one node at least
        counts = {fault: max(round(share * self.nodes), share > 0) for fault, share in shares.items()}
        if sum(counts.values()) > self.nodes:
            raise ValueError(
                f"{' and '.join(fault for fault, count in counts.items() if count)} need"
                f" {sum(counts.values())} nodes together, and the fleet has {self.nodes}"
            )
        chosen = iter(random.Random(f"{self.seed} faults").sample(range(self.nodes), sum(counts.values())))
        faults = {next(chosen): fault for fault, count in counts.items() for _ in range(count)}
        object.__setattr__(self, "faults", faults)

    def node(self, number: int) -> NodePlan:
        """The plan of one node, from 0."""
        return NodePlan(self, number)

    @cached_property
    def _table(self) -> list[list[float]]:
        """A random walk of each field, long enough for a message that begins anywhere in it."""
        dice, table = random.Random(f"{self.seed} values"), []
        for _ in FIELDS:
            value, walk = dice.uniform(-50, 50), []
            for _ in range(_VALUES):
                value += dice.gauss(0, 0.5) - value / 500
                walk.append(round(value, 3))
            table.append(walk + walk[: self.samples])
        return table

    def columns(self, number: int, message: int) -> dict[str, list[float]]:
        """The values of a node's message; both numbers count from 0."""
        at = (number * _STEP + message * self.samples) % _VALUES
        return {name: walk[at : at + self.samples] for name, walk in zip(FIELDS, self._table, strict=True)}


class NodePlan:
    """The schedule of one node, in seconds from the start of the measurement."""

    def __init__(self, fleet: FleetPlan, number: int) -> None:
        self.fleet = fleet
        self.number = number
        self.name = f"node-{number:05}"
        self.fault: Fault | None = fleet.faults.get(number)
        self.period_s = 1 / (fleet.rate * (FLOOD_FACTOR if self.fault == "flood" else 1))
        dice = random.Random(f"{fleet.seed} node {number}")
        self._phase = dice.random()
        self._fault_phase = dice.random()

    def message_s(self, message: int) -> float:
        """The time of a message, from 0."""
        return (self._phase + message) * self.period_s

    def first_s(self, every_s: float) -> float:
        """The first time of something that the node does every `every_s` seconds."""
        return self._phase * every_s

    def cut_s(self, count: int) -> float | None:
        """The time at which the connection of the node breaks for the `count`-th time, from 0."""
        if self.fault == "drop":
            return self._fault_phase * RECONNECT_EVERY_S + count * DROP_EVERY_S
        if self.fault == "reconnect":
            return (self._fault_phase + count) * RECONNECT_EVERY_S
        return None

    @property
    def away_s(self) -> float:
        """How long the node stays away after its connection broke."""
        return AWAY_S if self.fault == "drop" else 0.0
