"""A ledger and what the writer does with it, without a disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from collector.ingest.group_builder import GroupBuilder
from collector.ledger.accepted_keys import NodeKeys
from collector.ledger.ledger import Ledger
from collector.mqtt.received import Received
from collector.store.clock_skew import Offset
from tests.unit.collector.ledger.stating_node import T0

Take = Callable[..., Any]


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


class _Keys(NodeKeys):
    def __init__(self, accepted: Sequence[str], *, closed: bool) -> None:
        self._accepted, self._closed = accepted, closed

    def of(self, _node: str) -> Sequence[str]:
        return self._accepted

    def is_closed(self, _node: str) -> bool:
        return self._closed


@pytest.fixture
def take(ledger: Ledger) -> Take:
    """What the writer does with a group, without a disk."""

    def taken(messages: Sequence[Received], accepted: Sequence[str] = (), *, closed: bool = False) -> Any:
        builder = GroupBuilder(
            ledger,
            lambda _node: Offset(),
            T0,
            keys=_Keys(accepted, closed=closed),
        )
        made = builder.build(messages)
        ledger.marks(made.drafts)
        ledger.accept(made.drafts, made.group.custody)
        return made

    return taken
