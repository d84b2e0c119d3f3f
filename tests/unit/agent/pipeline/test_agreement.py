"""How two results are compared, by hand."""

from __future__ import annotations

import json

import pytest

from agent.inference.decoders import Result
from agent.pipeline.agreement import BLOCK_NS, Agreement, Compared, Tally, compare
from wire.messages import Box


def box(label: str, x: float, y: float = 0.0, size: float = 0.2) -> Box:
    return Box(label=label, cls=0, score=0.9, box=(x, y, size, size))


@pytest.mark.parametrize(
    ("ones", "others", "share", "diff"),
    [
        ([], [], 1.0, 0),
        ([box("car", 0)], [], 0.0, 1),
        ([box("car", 0)], [box("car", 0)], 1.0, 0),
        ([box("car", 0)], [box("bus", 0)], 0.0, 0),
        ([box("car", 0)], [box("car", 0.06)], 1.0, 0),  # 0.14 of 0.26 in common: 0.54
        ([box("car", 0)], [box("car", 0.07)], 0.0, 0),  # 0.13 of 0.27: 0.48
        ([box("car", 0), box("car", 0.5)], [box("car", 0.5)], 2 / 3, 1),
        # the second fits both, and its better partner takes it
        ([box("car", 0), box("car", 0.04)], [box("car", 0.04), box("car", 0.9)], 0.5, 0),
        ([box("car", 0, size=0.0)], [box("car", 0, size=0.0)], 0.0, 0),
    ],
)
def test_detections_agree_by_the_share_of_boxes_with_a_partner(
    ones: list[Box], others: list[Box], share: float, diff: float
) -> None:
    found = compare("detection", Result({}, ones), Result({}, others), 0.05)
    assert (found.share, found.diff) == (pytest.approx(share), diff)


def classed(top: str, score: float = 0.5, **more: object) -> Result:
    return Result({"label": top, **more}, top=top, score=score)  # type: ignore[dict-item]


def test_classes_agree_by_label_whatever_the_score() -> None:
    found = compare("classification", classed("a", 0.5), classed("a", 0.9), 0.05)
    assert (found.share, found.diff) == (1.0, pytest.approx(0.4))
    assert compare("classification", classed("a"), classed("b"), 0.05).share == 0
    several = [classed("a", found=text) for text in ('["a"]', '["a","b"]')]
    assert compare("classification", several[0], several[1], 0.05).share == 0


@pytest.mark.parametrize("decoder", ["anomaly", "reconstruction"])
def test_anomalies_agree_by_the_side_of_the_threshold(decoder: str) -> None:
    low, mid, high = (Result({}, score=score, alarm=score > 10) for score in (1.0, 9.0, 11.0))
    assert compare(decoder, low, mid, 0.0) == Compared(1.0, 8.0)
    assert compare(decoder, mid, high, 0.5) == Compared(0.0, 2.0)
    assert compare(decoder, low, Result({}), 0.0) == Compared(1.0, None)


@pytest.mark.parametrize(
    ("one", "other", "share", "diff"),
    [
        ({"w": 100.0}, {"w": 95.0}, 1.0, 5.0),
        ({"w": 100.0}, {"w": 94.9}, 0.0, 5.1),
        ({"w": 100.0, "v": 1.0}, {"w": 100.0, "v": 2.0}, 0.0, 0.5),
        ({"w": 0.0}, {"w": 0.0}, 1.0, 0.0),
        ({"w": None}, {"w": None}, 1.0, None),
        ({"w": None}, {"w": 1.0}, 0.0, None),
        ({"w": 1.0}, {"v": 1.0}, 0.0, None),
        ({"text": "AB"}, {"text": "AB"}, 1.0, None),
        ({"text": "AB"}, {"text": "AC"}, 0.0, None),
    ],
)
def test_numbers_agree_within_a_share_of_the_larger(
    one: dict[str, float], other: dict[str, float], share: float, diff: float | None
) -> None:
    found = compare("regression", Result(dict(one)), Result(dict(other)), 0.05)
    assert found.share == share
    assert found.diff == (diff if diff is None else pytest.approx(diff))


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [
        ([1, 0], [2, 0], 1.0),
        ([1, 0], [1, 0.2], 1.0),  # cosine 0.98
        ([1, 0], [1, 0.5], 0.0),  # cosine 0.89
        ([1, 0], [0, 0], 0.0),
        ([1, 0], [1, 0, 0], 0.0),
        ([1, 0], None, 0.0),
        ([1, 0], "x", 0.0),
        ([1, 0], [1e200, 1e200], 0.0),
    ],
)
def test_vectors_agree_by_their_cosine(one: object, other: object, share: float) -> None:
    results = [Result({"vector": None if each is None else json.dumps(each)}) for each in (one, other)]
    assert compare("embedding", results[0], results[1], 0.05).share == share


def test_results_with_nan_agree_only_with_each_other() -> None:
    good, bad = Result({"w": 1.0}), Result({"w": None}, nan=True)
    assert [compare("regression", *pair, 0.05).share for pair in ((good, bad), (bad, good), (bad, bad))] == [
        0.0,
        0.0,
        1.0,
    ]


def test_results_close_in_time_count_once_for_the_interval() -> None:
    crowded, spread = Agreement(), Agreement()
    for number in range(100):
        crowded.add(number * BLOCK_NS // 100, Compared(1.0))
        spread.add(number * BLOCK_NS, Compared(1.0))
    assert (crowded.n, crowded.blocks, spread.blocks) == (100, 1, 100)
    assert crowded.interval == (pytest.approx(0.2065, abs=1e-4), 1.0)
    assert spread.interval == (pytest.approx(0.9630, abs=1e-4), 1.0)


def test_a_clock_that_was_set_back_begins_a_block() -> None:
    found = Agreement()
    for at_ns in (10 * BLOCK_NS, 10 * BLOCK_NS + 1, 0, 1):
        found.add(at_ns, Compared(0.5, 1e300))
    assert (found.blocks, found.share) == (2, 0.5)
    assert found.diff == 1e15, "it fits a status"


def test_the_latency_is_that_of_the_newest_thousand() -> None:
    tally = Tally()
    for number in range(3_000):
        tally.add(Result({}, infer_ms=float(number), cpu_ms=2.0, alarm=number % 2 == 0, nan=number == 5))
    shown = tally.shown()
    assert (shown.n, shown.alarms, shown.nan, shown.cpu_s) == (3_000, 1_500, 1, 6.0)
    assert (shown.p50_ms, shown.p99_ms) == (2_499.0, 2_989.0)


def test_a_clock_that_goes_to_and_fro_adds_no_cases() -> None:
    found, hour_ns = Agreement(), 3_600 * 10**9
    for at_s in range(600):  # ten minutes, a case each ten seconds
        found.add(10**18 + at_s * 10**9, Compared(1.0))
    assert found.blocks == 60
    for at_s in range(600):  # set back to the same ten minutes
        found.add(10**18 + at_s * 10**9, Compared(1.0))
    assert found.blocks == 60
    for at_s in range(100):  # each input by another hour
        found.add(10**18 + (at_s % 2) * hour_ns + at_s * 10**9, Compared(1.0))
    assert found.blocks == 70
