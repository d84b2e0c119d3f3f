"""The commands of offers: what they refuse. tests/integration/test_rollout.py has what they do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.commands import Rejected
from agent.slots.download import Download
from agent.slots.model_store import ModelStore
from agent.slots.offers import Offers
from agent.slots.settings import VersionSettings
from agent.slots.slots import Slots
from wire.clock import Clock
from wire.model_offer import OFFER, UNDO
from wire.topics import Address

DIGEST = "a" * 64


def offers(folder: Path, url: str = "http://127.0.0.1:9") -> Offers:
    store, clock = ModelStore(folder), Clock()
    slots = Slots(store, clock, lambda: None)
    if url:
        node = Address.parse("t/p/s/n")
        slots.fetch = Download(VersionSettings(url=url), node, None, store, clock)
    return Offers(slots)


def test_an_agent_without_a_collector_has_no_such_commands(tmp_path: Path) -> None:
    assert offers(tmp_path, "").actions() == {}
    assert offers(tmp_path).actions().keys() == {OFFER, UNDO}


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"slot": "m", "digest": DIGEST},
        {"slot": "m", "digest": "../x", "attempt": 1},
        {"slot": "m", "digest": DIGEST, "attempt": 0},
        {"slot": "m", "digest": DIGEST, "attempt": 1, "url": "http://a"},
        {"slot": "m", "digest": DIGEST, "attempt": 1, "confirm": {"results": 0}},
        {"slot": "m" * 99, "digest": DIGEST, "attempt": 1},
    ],
)
async def test_wrong_args_are_rejected(tmp_path: Path, args: dict[str, Any]) -> None:
    with pytest.raises(Rejected, match="the args are wrong"):
        await offers(tmp_path).actions()[OFFER]("_", args)


async def test_only_the_version_that_was_offered_is_taken_back(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="is not the version"):
        await offers(tmp_path).actions()[UNDO]("_", {"slot": "m", "digest": DIGEST})
    with pytest.raises(Rejected, match="to device _"):
        await offers(tmp_path).actions()[UNDO]("arm", {"slot": "m", "digest": DIGEST})
