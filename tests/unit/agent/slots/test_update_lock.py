"""The update lock: a file or a field of a device, with its age, whatever the clock does."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.base import Reading, Value
from agent.pipeline.settings import SlotConfig
from agent.slots.update_lock import UpdateLock
from wire.simulation_clock import SimulationClock

PLAIN = SlotConfig(package=Path("p"), input="arm/rows")
BY_FIELD = SlotConfig(package=Path("p"), input="arm/rows", hold="arm/state/moving")


@pytest.fixture
def clock() -> SimulationClock:
    return SimulationClock(0)


@pytest.fixture
def lock(tmp_path: Path, clock: SimulationClock) -> UpdateLock:
    return UpdateLock(tmp_path / "models", clock)


def test_a_file_holds_every_slot_and_stays(lock: UpdateLock, tmp_path: Path, clock: SimulationClock) -> None:
    assert lock.held({"eye": PLAIN}) == {}
    lock.hold("surgery\nsecond line")
    assert lock.held({"eye": PLAIN})["eye"][0].startswith("surgery")
    again = UpdateLock(tmp_path / "models", clock)
    assert again.held({"eye": PLAIN, "ear": PLAIN}).keys() == {"eye", "ear"}
    again.release()
    again.release()
    assert lock.held({"eye": PLAIN}) == {}
    (tmp_path / "models" / "hold").touch()
    assert lock.held({"eye": PLAIN}) == {"eye": ("file hold", 0.0)}
    (tmp_path / "models" / "hold").unlink()
    (tmp_path / "models" / "hold").mkdir()
    assert lock.held({"eye": PLAIN})["eye"][0] == "hold: Is a directory"


@pytest.mark.parametrize(
    ("value", "holds"),
    [(True, True), (False, False), (1, True), (0, False), (0.0, False), (float("nan"), True), (None, True)],
)
def test_a_field_holds_while_it_is_true_or_not_known(lock: UpdateLock, value: Value, holds: bool) -> None:
    assert lock.held({"eye": BY_FIELD, "ear": PLAIN})["eye"][0] == "arm/state/moving is not known yet"
    lock.take("arm", Reading("state", 0, {"moving": value}))
    assert ("eye" in lock.held({"eye": BY_FIELD, "ear": PLAIN})) == holds
