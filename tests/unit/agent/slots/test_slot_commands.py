"""The commands for slots: what is refused before anything is offered, and that each argument arrives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.commands import Rejected
from agent.slots.model_store import ModelStore
from agent.slots.slot_commands import actions
from agent.slots.slot_state import Confirm
from agent.slots.slots import Slots
from wire.clock import Clock
from wire.reasons import NO_REASON, Reason, because

DIGEST = "a" * 64


class Offered(Slots):
    """Slots that keep what was offered, and refuse the slot `no`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(ModelStore(folder), Clock(), lambda: None)
        self.offers: list[tuple[Any, ...]] = []

    async def offer(self, slot: str, digest: str, attempt: int, confirm: Confirm) -> Reason:
        self.offers.append((slot, digest, attempt, confirm))
        return because("there is no slot 'no'", "slot-unknown", slot=slot) if slot == "no" else NO_REASON


async def test_an_offer_has_its_arguments(tmp_path: Path) -> None:
    slots = Offered(tmp_path)
    offer = actions(slots)["model-offer"]
    await offer("_", {"slot": "eye", "package": f"sha256:{DIGEST}"})
    await offer("_", {"slot": "eye", "package": DIGEST, "attempt": 2, "results": 5, "nan": 0.5, "shadow": 3})
    assert slots.offers == [
        ("eye", DIGEST, 1, Confirm()), ("eye", DIGEST, 2, Confirm(results=5, nan=0.5, shadow=3)),
    ]  # fmt: skip
    with pytest.raises(Rejected, match="there is no slot") as caught:
        await offer("_", {"slot": "no", "package": DIGEST})
    assert caught.value.reason_code == "slot-unknown"


BAD: list[tuple[str, dict[str, Any]]] = [
    ("_", {}),
    ("arm", {"slot": "eye", "package": DIGEST}),
    ("_", {"slot": "eye"}),
    ("_", {"slot": "eye", "package": "../x"}),
    ("_", {"slot": 3, "package": DIGEST}),
    ("_", {"slot": "eye", "package": DIGEST, "attempt": 0}),
    ("_", {"slot": "eye", "package": DIGEST, "results": 0}),
    ("_", {"slot": "eye", "package": DIGEST, "nan": 2}),
    ("_", {"slot": "eye", "package": DIGEST, "soak_s": 0}),
    ("_", {"slot": "eye", "package": DIGEST, "confirm": {}}),
]


@pytest.mark.parametrize(("device", "args"), BAD)
async def test_half_an_offer_is_refused(tmp_path: Path, device: str, args: dict[str, Any]) -> None:
    slots = Offered(tmp_path)
    with pytest.raises(Rejected):
        await actions(slots)["model-offer"](device, args)
    assert slots.offers == []


async def test_the_update_lock_by_command(tmp_path: Path) -> None:
    slots = Offered(tmp_path)
    found = actions(slots)
    await found["model-hold"]("_", {"why": "moving"})
    assert (tmp_path / "models" / "hold").read_text() == "moving\n"
    await found["model-release"]("_", {})
    assert not (tmp_path / "models" / "hold").exists()
    for name, args in (("model-hold", {"why": 1}), ("model-release", {"x": 1}), ("model-undo", {})):
        with pytest.raises(Rejected):
            await found[name]("_", args)
