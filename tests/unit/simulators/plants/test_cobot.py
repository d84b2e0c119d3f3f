"""The cobot: the same numbers for any block, and faults that show where they should."""

from __future__ import annotations

import numpy as np
import pytest

from simulators.faults.fault import Fault, parse
from simulators.plants.cobot import FAULT_KINDS, FAULTS, RATE_HZ, SIGNALS, Cobot
from wire.topics import FIELD

MINUTE = 60 * RATE_HZ


def test_any_cut_of_the_time_line_gives_the_same_samples() -> None:
    faults = [Fault("friction", "2", 3, 9), Fault("spike", "4", 0, 30), Fault("stuck-sensor", "1", 5.03, 8)]
    whole = Cobot(7, faults).block(0, 1500)
    for size in (1, 7, 299, 512):
        other = Cobot(7, faults)
        starts = range(0, 1500, size)
        cut = np.concatenate(
            [other.block(start, min(size, 1500 - start)) for start in reversed(starts)][::-1]
        )
        np.testing.assert_array_equal(cut, whole)
    assert Cobot(7, faults).sample(1234) == dict(zip(SIGNALS, whole[1234].tolist(), strict=True))


def test_seeds_differ_and_names_fit_the_wire() -> None:
    assert not np.array_equal(Cobot(1).block(0, 600), Cobot(2).block(0, 600))
    assert len(SIGNALS) == 18
    assert all(FIELD.fullmatch(name) for name in SIGNALS)


def test_velocity_is_the_slope_of_position_across_cycles() -> None:
    data = Cobot(3).block(0, MINUTE)
    slope = np.gradient(data[:, 0::3], 1 / RATE_HZ, axis=0)
    assert np.abs(slope - data[:, 1::3])[1:-1].max() < 2.0  # deg/s, of up to 150


def test_torque_carries_the_payload() -> None:
    data = Cobot(3).block(0, 10 * MINUTE)
    at_pick = np.abs(data[:, 0] + 48) < 5
    at_place = np.abs(data[:, 0] - 55) < 5
    assert (
        data[at_place, 5].std() > 2 * data[at_pick, 5][:50].std()
    )  # joint 2 lifts what differs part to part


@pytest.mark.parametrize("kind", FAULT_KINDS)
@pytest.mark.parametrize("joint", [1, 5])
def test_a_fault_shows_on_its_joint_in_its_time_only(kind: str, joint: int) -> None:
    fault = Fault(kind, str(joint), 10, 40)
    healthy, faulty = Cobot(5).block(0, MINUTE), Cobot(5, [fault]).block(0, MINUTE)
    changed = (healthy != faulty).any(axis=1)
    assert not changed[: 10 * RATE_HZ].any()
    assert not changed[40 * RATE_HZ :].any()
    assert changed[10 * RATE_HZ : 40 * RATE_HZ].any()
    columns = {SIGNALS[c] for c in np.flatnonzero((healthy != faulty).any(axis=0))}
    assert columns <= {f"j{joint}_{quantity}" for quantity in ("position", "velocity", "torque")}


def test_a_stuck_sensor_stands_still_while_the_motor_works() -> None:
    data = Cobot(5, [Fault("stuck-sensor", "1", 2, 20)]).block(0, MINUTE)
    during = data[2 * RATE_HZ : 20 * RATE_HZ]
    assert np.unique(during[:, 0]).size == 1
    assert not during[:, 1].any()
    assert during[:, 2].std() > 5


def test_truth_names_the_faulty_joint() -> None:
    truth = Cobot(5, [Fault("spike", "6", 1, 2)]).labels(0, 3 * RATE_HZ)
    assert truth.tolist() == [0] * 50 + [6] * 50 + [0] * 50


@pytest.mark.parametrize(
    "wrong",
    [
        {"part": "7", "kind": "spike"},
        {"part": "1", "kind": "rust"},
        {"part": "1", "kind": "spike", "start_s": 5, "end_s": 5},
        {"part": "1", "kind": "spike", "start_s": -1},
        {"part": "1", "kind": "spike", "size": float("nan")},
        {"part": "1", "kind": "spike", "size": 0},
    ],
)
def test_impossible_faults_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="fault"):
        Cobot(1, [Fault(**wrong)])  # type: ignore[arg-type]  # wrong on purpose


def test_time_before_the_start_is_refused() -> None:
    with pytest.raises(ValueError, match="count from 0"):
        Cobot(1).block(-1, 2)


def test_faults_are_written_in_one_word() -> None:
    assert parse("stuck-sensor:6", FAULTS) == Fault("stuck-sensor", "6")
    assert parse("friction:3@20.5-40x1.5", FAULTS) == Fault("friction", "3", 20.5, 40, 1.5)
    assert parse("spike:1@7", FAULTS) == Fault("spike", "1", 7)


@pytest.mark.parametrize("text", ["", "friction", "friction:9", "rust:1", "spike:1@9-3", "spike:1x0"])
def test_faults_written_wrong_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="fault"):
        parse(text, FAULTS)
