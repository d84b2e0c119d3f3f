"""Messages and clocks for the collector's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from collector.ledger.ledger import Draft, Ledger
from collector.mqtt.received import Received
from collector.store import landed
from collector.store.clock_skew import Offset
from collector.store.group import Group
from wire.clock import NS_PER_MS, Clock
from wire.codec import encode
from wire.messages import Batch, Event
from wire.topics import parse

NODE = "acme/trial/hall/cobot-01"
EP = "00112233aabbccdd"
T0 = 1_795_356_000_000


class SetClock(Clock):
    """A clock whose time the test sets."""

    def __init__(self, now_ms: int = T0) -> None:
        super().__init__()
        self.ms = now_ms

    def now_ns(self) -> int:
        return self.ms * NS_PER_MS

    def monotonic_ns(self) -> int:
        return self.ms * NS_PER_MS


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def batch() -> Callable[..., Received]:
    """`batch(seq, values, t0=..., node=...)`: a received data message of stream arm/joints."""

    def make(
        seq: int,
        values: dict[str, list[Any]] | None = None,
        *,
        t0: int = T0,
        node: str = NODE,
        ep: str = EP,
        recv: int = 0,
        stream: str = "joints",
        per: int = 20,
    ) -> Received:
        columns = values or {"j1": [float(seq)]}
        rows = len(next(iter(columns.values())))
        body = encode(Batch(ep=ep, seq=seq, t0=t0, per=per, n=rows, f=columns))
        topic = f"tb1/{node}/data/arm/{stream}"
        return Received(topic, body, recv or t0 + 100, False, (1, seq % 65_535 + 1), parsed=parse(topic))

    return make


@pytest.fixture
def event() -> Callable[..., Received]:
    """`event(seq, type, ts=..., **fields)`: a received event of device arm."""

    def make(
        seq: int, kind: str = "alarm", *, ts: int = T0, device: str = "arm", ep: str = EP, **fields: Any
    ) -> Received:
        body = encode(Event(ep=ep, seq=seq, ts=ts, type=kind, **fields))
        topic = f"tb1/{NODE}/event/{device}/{kind}"
        return Received(topic, body, ts + 50, False, (1, seq), parsed=parse(topic))

    return make


@pytest.fixture
def commit() -> Callable[..., Any]:
    """`commit(store, ledger, received, now)`: what the writer thread does with a group."""
    from collector.ingest.group_builder import GroupBuilder

    def make(store: Any, ledger: Ledger, received: list[Received], now: int = T0) -> Any:
        built = GroupBuilder(ledger, lambda _node: Offset(), now).build(received)
        built.group.marks = ledger.marks(built.drafts)
        store.commit(built.group)
        ledger.accept(built.drafts, built.group.custody)
        return built

    return make


@pytest.fixture
def packed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every commit packs its rows: none lands as it came."""
    monkeypatch.setattr(landed, "PACK_MESSAGES", 1)


@pytest.fixture
def empty_group() -> Callable[[], Group]:
    return lambda: Group(T0)


@pytest.fixture
def numbers() -> Callable[..., Ledger]:
    """`numbers([1, 2, 5])`: a ledger that has stored these."""

    def make(seqs: list[int], node: str = NODE, ep: str = EP) -> Ledger:
        ledger = Ledger()
        draft = Draft(ledger)
        for seq in seqs:
            draft.add(node, ep, seq, 10, T0 + seq)
        ledger.accept(draft.accounts.values())
        return ledger

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"
