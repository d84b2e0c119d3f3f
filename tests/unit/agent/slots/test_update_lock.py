"""The update lock: a file or a field of a device, with its age, whatever the clock does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from adapters.base import Reading, Value
from agent.pipeline.settings import SlotConfig
from agent.slots.update_lock import UpdateLock
from agent.slots.update_window import UpdateWindow
from tests.unit.agent.slots.sites import SteppedClock
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
    assert lock.held({"eye": PLAIN})["eye"].why.startswith("held back: surgery")
    again = UpdateLock(tmp_path / "models", clock)
    assert again.held({"eye": PLAIN, "ear": PLAIN}).keys() == {"eye", "ear"}
    again.release()
    again.release()
    assert lock.held({"eye": PLAIN}) == {}
    (tmp_path / "models" / "hold").touch()
    assert lock.held({"eye": PLAIN})["eye"].args == {"what": "file hold", "seconds": 0}
    (tmp_path / "models" / "hold").unlink()
    (tmp_path / "models" / "hold").mkdir()
    assert lock.held({"eye": PLAIN})["eye"].args["what"] == "hold is not a regular file"
    (tmp_path / "models" / "hold").rmdir()
    os.mkfifo(tmp_path / "models" / "hold")  # a program that opens it waits for another that writes
    assert lock.held({"eye": PLAIN})["eye"].args["what"] == "hold is not a regular file"


@pytest.mark.parametrize(
    ("value", "holds"),
    [(True, True), (False, False), (1, True), (0, False), (0.0, False), (float("nan"), True), (None, True)],
)
def test_a_field_holds_while_it_is_true_or_not_known(lock: UpdateLock, value: Value, holds: bool) -> None:
    assert (
        lock.held({"eye": BY_FIELD, "ear": PLAIN})["eye"].args["what"] == "arm/state/moving is not known yet"
    )
    lock.take("arm", Reading("state", 0, {"moving": value}))
    assert ("eye" in lock.held({"eye": BY_FIELD, "ear": PLAIN})) == holds


def test_the_age_of_a_lock_is_not_that_of_the_clock(tmp_path: Path) -> None:
    clock = SteppedClock()
    lock = UpdateLock(tmp_path / "models", clock)
    lock.hold("surgery")
    for step_s in (0, 7_200, -14_400):
        clock.step_s = step_s
        assert lock.held({"eye": PLAIN})["eye"].args["seconds"] < 600


def test_a_window_holds_versions_back_until_it_opens(tmp_path: Path) -> None:
    clock = SimulationClock(1_796_040_000 * 10**9)  # Monday 2026-11-30 12:00 UTC, 21:00 in Seoul
    window = UpdateWindow(times=("22:00-05:00",), timezone="Asia/Seoul")
    lock = UpdateLock(tmp_path / "models", clock, window)
    found = lock.held({"eye": PLAIN})["eye"]
    assert (found.code, found.args) == ("slot-window", {"until": "2026-11-30 22:00 Asia/Seoul"})
    assert found.why == "outside of the time window for versions until 2026-11-30 22:00 Asia/Seoul"
    lock.hold("surgery")
    assert lock.held({"eye": PLAIN})["eye"].code == "slot-held", "the lock is there by itself"
    lock.release()
    later = UpdateLock(tmp_path / "models", SimulationClock(1_796_044_000 * 10**9), window)
    assert later.held({"eye": PLAIN}) == {}
