"""A node whose rows and events are in a real store, and plans over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from collector.ingest.group_builder import GroupBuilder
from collector.ledger.ledger import Ledger
from collector.mqtt.received import Received
from collector.pilots.kpis.evaluate import PeriodValue, evaluate_all
from collector.store.clock_skew import Offset
from collector.store.pruned import sums
from collector.store.sqlite_source import SqliteSource
from collector.store.store import SqliteStore
from tests.unit.wire.pilot.plans import PLAN
from wire.clock import Clock
from wire.codec import encode
from wire.messages import Batch, Event
from wire.pilot.plan import Condition, Input, Kpi, Plan, parse
from wire.pilot.schedule import Period, Schedule
from wire.topics import parse as parse_topic

NODE, OTHER, EP = "acme/trial/hall/cell-01", "acme/trial/hall/cell-02", "00112233aabbccdd"
T0 = 1_795_356_000_000
HOUR = 3_600_000
Rows = dict[str, Sequence[Any]]


class Plant:
    """Nodes that number their messages; `lose` skips numbers, as a full outbox does."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.folder = folder
        self.store, self.ledger = SqliteStore(folder, clock), Ledger()
        self._seqs: dict[str, int] = {}
        self._rows: dict[tuple[str, str], int] = {}
        self.offset = Offset()
        self.ep = EP

    def new_outbox(self, ep: str) -> None:
        """The next messages are those of another outbox."""
        self.ep = ep
        self._seqs.clear()
        self._rows.clear()

    def _next(self, node: str) -> int:
        self._seqs[node] = self._seqs.get(node, 0) + 1
        return self._seqs[node]

    def data(
        self,
        start_ms: int,
        columns: Rows,
        *,
        node: str = NODE,
        per: int = 10_000,
        path: str = "cell/production",
        **more: Any,
    ) -> Received:
        """One message of rows every `per` ms."""
        rows = len(next(iter(columns.values())))
        seq, first = self._next(node), self._rows.get((node, path), 0) + 1
        self._rows[(node, path)] = first + rows - 1
        body = Batch(
            ep=self.ep,
            seq=seq,
            no=(1, first),
            t0=start_ms,
            per=per,
            n=rows,
            f={k: list(v) for k, v in columns.items()},
        )
        device, stream = path.split("/")
        topic = f"tb1/{node}/data/{device}/{stream}"
        return Received(
            topic,
            encode(replace(body, **more)),
            start_ms + rows * per,
            False,
            (1, 1),
            parsed=parse_topic(topic),
        )

    def event(self, at_ms: int, path: str, *, node: str = NODE, **more: Any) -> Received:
        """An event."""
        device, kind = path.split("/")
        topic = f"tb1/{node}/event/{device}/{kind}"
        name = (node, f"event/{path}")
        self._rows[name] = self._rows.get(name, 0) + 1
        no = 1, self._rows[name]
        body = encode(Event(ep=self.ep, seq=self._next(node), no=no, ts=at_ms, type=kind, **more))
        return Received(topic, body, at_ms + 50, False, (1, 1), parsed=parse_topic(topic))

    def gap(self, at_ms: int, first: int, last: int, *, node: str = NODE) -> Received:
        """The declaration of a loss."""
        return self.event(at_ms, "_/gap", node=node, lost=[(first, last)], why="quota")

    def series(
        self, columns: Rows, *, start_ms: int = T0, per: int = 10_000, batch: int = 60, **more: Any
    ) -> list[Received]:
        """Many messages of rows every `per` ms."""
        count = len(next(iter(columns.values())))
        return [
            self.data(
                start_ms + at * per,
                {name: each[at : at + batch] for name, each in columns.items()},
                per=per,
                **more,
            )
            for at in range(0, count, batch)
        ]

    def commit(self, several: Sequence[Received], now_ms: int = T0) -> None:
        """What the writer does with a group."""
        built = GroupBuilder(self.ledger, lambda _node: self.offset, now_ms).build(several)
        built.group.marks = self.ledger.marks(built.drafts)
        self.store.commit(built.group)
        self.ledger.accept(built.drafts, built.group.custody)

    def values(
        self, asked: Kpi, plan: Plan | None = None, hours: Sequence[float] = (0, 8), **more: Any
    ) -> list[PeriodValue]:
        """A KPI in periods between these hours after T0."""
        self.ledger.note_pruned(sums(self.folder))
        with closing(SqliteSource(self.folder)) as source:
            several = [(asked, more.pop("machine", ""))]
            found = evaluate_all(several, plan or a_plan(), periods(*hours), source, self.ledger, **more)
            return found[0]

    def value(
        self, asked: Kpi, plan: Plan | None = None, hours: Sequence[float] = (0, 8), **more: Any
    ) -> PeriodValue:
        """The same of one period."""
        (found,) = self.values(asked, plan, hours, **more)
        return found


def periods(*hours: float) -> Schedule:
    """Periods that follow each other, between these hours after T0."""
    edges = [T0 + round(each * HOUR) for each in hours]
    return Schedule(
        periods=tuple(
            Period(start, end, "trial", "on" if at % 2 else "off")
            for at, (start, end) in enumerate(pairwise(edges))
        )
    )


def a_plan(*nodes: str, **more: Any) -> Plan:
    """A plan without a wash-out."""
    found = parse(PLAN, "pilot.yaml")
    return replace(
        found,
        nodes=nodes or (NODE,),
        design=replace(found.design, washout_s=0.0),
        **more,
    )


def kpi(formula: str, unit: str = "1", *, given: dict[str, float] | None = None, **inputs: Any) -> Kpi:
    """A KPI over fields of cell/production, `name=unit`, or over `Input`s."""
    found = {
        name: each if isinstance(each, Input) else Input(field=f"cell/production/{name}", unit=each)
        for name, each in inputs.items()
    }
    return Kpi(
        id="asked",
        kpi_class="P",
        formula=formula,
        inputs=found,
        unit=unit,
        direction="increase",
        given=given or {},
    )


def condition(when: str, **inputs: str) -> Condition:
    """A condition over fields of cell/production."""
    return Condition(
        id="no-orders",
        when=when,
        inputs={name: Input(field=f"cell/production/{each}") for name, each in inputs.items()},
    )


Make = Callable[[], Plant]
