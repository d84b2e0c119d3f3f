"""The regression gate: events are paired by time, numbers by tolerance, and the differences are listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.offline.regression import ExpectedEvent, compare, load, of_events, save
from wire.errors import ConfigError
from wire.messages import Event


def test_events_pair_by_time_and_numbers_by_tolerance() -> None:
    def event(ts: int, score: float = 1.0, **detail: Any) -> ExpectedEvent:
        return ExpectedEvent(ts=ts, device="arm", slot="a", type="anomaly", score=score, detail=detail)

    assert not compare([event(1000)], [event(1040)], within_ms=50)
    assert compare([event(1000)], [event(1060)], within_ms=50).missing == [event(1000)]
    assert not compare([event(1000, 1.0)], [event(1000, 1.01)])
    moved = compare([event(1000, part="j1")], [event(1000, part="j2")])
    assert moved.changed[0][2] == "part j1 -> j2"
    assert len(compare([], [event(1), event(2)]).unexpected) == 2


def test_numbers_in_the_detail_are_compared_with_the_tolerance_too() -> None:
    expected, found = (
        ExpectedEvent(ts=1, device="arm", type="anomaly", detail={"score": score, "n": 1})
        for score in (100.0, 101.0)
    )
    assert not compare([expected], [found], tolerance=0.02)
    assert compare([expected], [found], tolerance=0.001).changed[0][2] == "score 100 -> 101"


def test_events_of_other_devices_slots_and_types_are_not_paired() -> None:
    one = ExpectedEvent(ts=1000, device="arm", slot="a", type="anomaly")
    for other in (
        ExpectedEvent(ts=1000, device="leg", slot="a", type="anomaly"),
        ExpectedEvent(ts=1000, device="arm", slot="b", type="anomaly"),
        ExpectedEvent(ts=1000, device="arm", slot="a", type="anomaly-end"),
    ):
        difference = compare([one], [other])
        assert (difference.missing, difference.unexpected) == ([one], [other])


def test_the_list_of_differences_is_by_source_and_time() -> None:
    late = ExpectedEvent(ts=2000, device="arm", slot="a", type="anomaly", top="j3", score=1.5)
    early = ExpectedEvent(ts=1000, device="arm", slot="a", type="anomaly-end")
    other = ExpectedEvent(ts=3000, device="aaa", type="clock-step")
    lines = compare([late, other], [early]).lines()
    assert lines == [
        "aaa",
        "  - 00:00:03.000 clock-step",
        "arm/a",
        "  + 00:00:01.000 anomaly-end",
        "  - 00:00:02.000 anomaly j3 score 1.5",
    ]


def test_the_duration_of_an_inference_is_not_expected() -> None:
    event = Event(ts=5, type="anomaly", slot="a", top="j1", score=0.12345, infer_ms=7.0)
    event.detail = {"infer_ms": 7.0, "score": 0.123456}
    assert of_events([("arm", event)]) == [
        ExpectedEvent(
            ts=5, device="arm", slot="a", type="anomaly", top="j1", score=0.123, detail={"score": 0.1235}
        )
    ]


def test_a_saved_file_is_loaded_again(tmp_path: Path) -> None:
    events = [ExpectedEvent(ts=at, device="arm", type="anomaly", score=0.5) for at in (1, 2)]
    save(tmp_path / "e.jsonl", events)
    assert load(tmp_path / "e.jsonl") == events


def test_a_line_that_is_not_an_event_is_named(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text('{"ts": 1, "device": "arm", "type": "anomaly"}\n\n{"ts": "x"}\n')
    with pytest.raises(ConfigError, match=r"e\.jsonl:3: not an expected event"):
        load(path)
    with pytest.raises(ConfigError, match="--update writes it"):
        load(tmp_path / "nowhere")
