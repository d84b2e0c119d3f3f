"""Runs the nodes of a fleet: connects them, follows their plan, waits for what is not acknowledged."""

from __future__ import annotations

import asyncio
import gc
import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgebed.fleet.connection import GOODBYE_S, Connection
from edgebed.fleet.figures import Costs, Figures
from edgebed.fleet.node import FleetNode
from edgebed.fleet.plan import FleetPlan
from wire.broker import Broker
from wire.clock import Clock
from wire.errors import Unreachable
from wire.mqtt.options import Login

STATUS_S = 60.0
MAX_WAITING = 500_000  # messages of all nodes without an acknowledgement: more would fill the memory
_HANDSHAKES = 64  # connections that are opened at the same time
_STUCK_S = 30.0  # without a further connection
_SETTLE_S = 1.0
_TURN_S = 0.005  # between two looks at the plan
_BATCH = 100  # steps of the plan between two looks at the network
_SWEEP_S, _SWEEPS = 0.1, 10
_RETRY_S = (0.5, 1.5)
_SHORT_DRAIN_S = 0.5  # after a signal

Kind = Literal["message", "beat", "status", "statement", "cut"]


@dataclass(frozen=True, kw_only=True)
class FleetOptions:
    """How a fleet runs, beside what it sends."""

    site: str  # tenant/pilot/site of every node
    broker: Broker
    seconds: float
    drain_s: float
    heartbeat_s: float  # 0: none
    custody_s: float  # 0: no statements
    connections: int  # 0: one a node


class Fleet:
    """One run. `stop` ends it early; `figures` holds what it measured."""

    def __init__(self, plan: FleetPlan, options: FleetOptions, pids: dict[str, int], clock: Clock) -> None:
        self._plan = plan
        self._options = options
        self._stopped = False
        self.figures = Figures(Costs(pids))
        run = f"{plan.seed} {clock.now_ns()} {random.SystemRandom().getrandbits(64)}"  # numbers begin again
        signs = options.custody_s > 0
        self.nodes = [
            FleetNode(plan.node(number), options.site, run, self.figures, clock, signs=signs)
            for number in range(plan.nodes)
        ]
        self._links: list[_Link] = []
        self._began_s = 0.0
        self._swept = 0
        self._swept_s = 0.0

    def stop(self) -> None:
        """End the run soon, with what there is."""
        self._stopped = True

    async def run(self) -> None:
        """Connect, send for the time of the options, wait for acknowledgements, disconnect.

        Raises:
            Unreachable: the broker does not take the connections.
        """
        loop = asyncio.get_running_loop()
        self._links = self._make_links()
        try:
            await self._connect()
            await asyncio.sleep(_SETTLE_S)
            gc.collect()
            gc.freeze()  # scanning the nodes and connections again and again would delay messages
            self._began_s = loop.time()
            self.figures.costs.begin()
            await self._send()
            self.figures.sending_s = loop.time() - self._began_s
            self.figures.end_of_sending()
            await self._drain()
            self.figures.costs.end()
            await self._leave()
        finally:
            await asyncio.gather(*(link.end() for link in self._links))
            self.figures.unacknowledged = self.figures.offered - self.figures.acknowledged

    # The stages

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        waiting, count, moved_s = iter(self._links), 0, loop.time()
        opened: list[_Link] = []
        while not self._stopped:
            up = sum(link.up for link in opened)
            if up == len(self._links):
                return
            if up > count:
                count, moved_s = up, loop.time()
            why = next((link.why for link in opened if link.why), "")
            if (why and not count) or loop.time() - moved_s > _STUCK_S:
                why = why or "it does not answer"
                raise Unreachable(f"the broker took {up:,} of {len(self._links):,} connections: {why}")
            while len(opened) - up < _HANDSHAKES and (link := next(waiting, None)) is not None:
                link.open()
                opened.append(link)
            await asyncio.sleep(_TURN_S)

    async def _send(self) -> None:
        loop = asyncio.get_running_loop()
        steps = [
            (due_s, number, kind, 0)
            for number, node in enumerate(self.nodes)
            for kind in self._kinds()
            if (due_s := self._due_s(kind, node, 0)) is not None
        ]
        heapq.heapify(steps)
        while not self._stopped and (now_s := loop.time() - self._began_s) < self._options.seconds:
            for _ in range(_BATCH):
                if not steps or steps[0][0] > now_s:
                    break
                due_s, number, kind, count = steps[0]
                self._step(kind, number, now_s - due_s)
                following = self._due_s(kind, self.nodes[number], count + 1)
                if following is None:
                    heapq.heappop(steps)
                else:
                    heapq.heapreplace(steps, (following, number, kind, count + 1))
            behind = steps and steps[0][0] <= now_s
            self._sweep(loop.time())
            await asyncio.sleep(0 if behind else _TURN_S)

    async def _drain(self) -> None:
        """Bring absent nodes back, and wait until all is acknowledged."""
        loop = asyncio.get_running_loop()
        ended_s = loop.time()
        for link in self._links:
            link.come_back()
        while self.figures.acknowledged < self.figures.offered:
            limit_s = min(self._options.drain_s, _SHORT_DRAIN_S if self._stopped else float("inf"))
            if loop.time() - ended_s > limit_s:
                break
            self._sweep(loop.time())
            await asyncio.sleep(_TURN_S)
        self.figures.drain_s = loop.time() - ended_s

    async def _leave(self) -> None:
        loop = asyncio.get_running_loop()
        for at, node in enumerate(self.nodes):
            node.publish_status("offline")
            if at % _BATCH == 0:
                await asyncio.sleep(0)
        until_s = loop.time() + GOODBYE_S
        while any(link.owed for link in self._links):
            if loop.time() > until_s:
                return
            await asyncio.sleep(_TURN_S)

    # The steps

    def _kinds(self) -> list[Kind]:
        kinds: list[Kind] = ["message", "status", "cut"]
        if self._options.heartbeat_s:
            kinds.append("beat")
        if self._options.custody_s:
            kinds.append("statement")
        return kinds

    def _due_s(self, kind: Kind, node: FleetNode, count: int) -> float | None:
        if kind == "message":
            return node.plan.message_s(count)
        if kind == "cut":
            return node.plan.cut_s(count)
        every_s = {
            "beat": self._options.heartbeat_s,
            "status": STATUS_S,
            "statement": self._options.custody_s,
        }[kind]
        return node.plan.first_s(every_s) + count * every_s

    def _step(self, kind: Kind, number: int, late_s: float) -> None:
        node, now_s = self.nodes[number], asyncio.get_running_loop().time()
        if kind == "message":
            self.figures.late.add(late_s)
            if self.figures.offered - self.figures.acknowledged >= MAX_WAITING:
                self.figures.not_taken += 1
            else:
                node.take()
                node.send(now_s)
        elif kind == "beat":
            node.beat(now_s)
        elif kind == "status":
            node.publish_status("online")
        elif kind == "statement":
            node.state()
            node.send(now_s)
        else:
            self._links[number].cut(node.plan.away_s)

    def _sweep(self, now_s: float) -> None:
        """Send what is due again; a part of the nodes at each call."""
        if now_s - self._swept_s < _SWEEP_S:
            return
        self._swept_s = now_s
        self._swept += 1
        for node in self.nodes[self._swept % _SWEEPS :: _SWEEPS]:
            if node.depth:
                node.send(now_s)

    def _make_links(self) -> list[_Link]:
        dice = random.Random(self._plan.seed)
        count = self._options.connections or len(self.nodes)
        groups = [self.nodes[first::count] for first in range(min(count, len(self.nodes)))]
        own = not self._options.connections
        return [
            _Link(
                self._options.broker,
                nodes,
                nodes[0].address.client_id if own else f"{nodes[0].address.client_id}-shared",
                self.figures,
                dice,
                own=own,
            )
            for nodes in groups
        ]


class _Link:
    """The connection of one node, or of several; it is opened again when it ends."""

    def __init__(
        self,
        broker: Broker,
        nodes: Sequence[FleetNode],
        client_id: str,
        figures: Figures,
        dice: random.Random,
        *,
        own: bool,
    ) -> None:
        self.why = ""  # the reason of the last end
        self._broker = broker
        self._nodes = nodes
        self._client_id = client_id
        self._figures = figures
        self._dice = dice
        self._own = own
        self._by_topic = {node.address.topic("ack"): node for node in nodes}
        self._connection: Connection | None = None
        self._again: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def up(self) -> bool:
        """Whether it is connected and subscribed."""
        return self._connection is not None and self._connection.up

    @property
    def owed(self) -> int:
        """The number of publications without a PUBACK."""
        return self._connection.owed if self._connection is not None and self._connection.up else 0

    def open(self) -> None:
        """Connect; a failure is tried again later."""
        self._again = None
        wills = [node.next_session() for node in self._nodes]
        topics = [topic for node in self._nodes for topic in node.topics]
        self._connection = Connection(
            Login.read(self._broker, self._client_id),
            topics,
            wills[0] if self._own else None,
            self._on_up,
            self._on_down,
            self._on_message,
        )

    def cut(self, away_s: float) -> None:
        """Break the connection as a node that loses its network; connect again after `away_s`."""
        if self.up:
            self._drop()
            self._open_in(away_s)

    def come_back(self) -> None:
        """Connect now if the node is away."""
        if self._again is not None:
            self._again.cancel()
            self.open()

    async def end(self) -> None:
        """Disconnect for good."""
        if self._again is not None:
            self._again.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        for node in self._nodes:
            node.connection = None
        if connection is not None:
            connection.cut()

    def _open_in(self, seconds: float) -> None:
        self._again = self._loop.call_later(seconds, self.open)

    def _on_up(self) -> None:
        if self._connection is not None:
            for node in self._nodes:
                node.went_up(self._connection, self._loop.time())

    def _on_down(self, why: str) -> None:
        self.why = why
        self._figures.lost_connections += 1
        self._drop()
        self._open_in(self._dice.uniform(*_RETRY_S))

    def _on_message(self, topic: str, body: bytes) -> None:
        node = self._by_topic.get(topic)
        if node is not None:
            node.on_ack(body, self._loop.time())
