"""Which inferences become events, with which type, severity and content."""

from __future__ import annotations

import pytest
from msgspec import UNSET

from adapters.base import Reading
from agent.inference.decoders import Result
from agent.pipeline.events import MAX_BOXES_SIZE, EventReporter
from agent.pipeline.model_run import Inference
from wire.codec import encode
from wire.messages import MAX_BODY, Box, ClockState, Event, Quality


def inference(result: Result, *, window: bool = True, quality: Quality = Quality.GOOD) -> Inference:
    reading = Reading("s", 1_760_000_000_123_000_000, index=7)
    return Inference(reading, result, window, quality, (ClockState.NTP, None))


def events(decoder: str, results: list[Result], mode: str = "change") -> list[Event | None]:
    reporter = EventReporter("slot", "m@1", decoder, mode)  # type: ignore[arg-type]
    return [reporter.event(inference(result), ClockState.NTP) for result in results]


def kinds(found: list[Event | None]) -> list[tuple[str, int] | None]:
    return [None if event is None else (event.type, event.sev) for event in found]


def test_an_anomaly_is_an_event_when_it_begins_and_when_it_ends() -> None:
    results = [Result({}, alarm=alarm) for alarm in (False, True, True, False, False)]
    assert kinds(events("anomaly", results)) == [None, ("anomaly", 3), None, ("anomaly-end", 1), None]
    assert kinds(events("anomaly", results, "each")) == [
        ("normal", 0),
        ("anomaly", 3),
        ("anomaly", 3),
        ("anomaly-end", 1),
        ("normal", 0),
    ]
    assert kinds(events("anomaly", results, "never")) == [None] * 5


def test_a_class_has_changed_when_two_inferences_agree() -> None:
    found = events("classification", [Result({}, top=top) for top in "aabaabbb"])
    assert [event and event.top for event in found] == [None, "a", None, None, None, None, "b", None]


def test_counts_of_a_detector_are_compared_not_places() -> None:
    def seen(n: int, x: float) -> Result:
        return Result({"n": n}, [Box(label="car", cls=0, score=0.9, box=(x, 0, 0.1, 0.1))] * n)

    found = events("detection", [seen(1, 0.1), seen(1, 0.2), seen(1, 0.3), seen(2, 0.3), seen(2, 0.4)])
    assert [None if event is None else event.n for event in found] == [None, 1, None, None, 2]


def test_a_regression_never_changes() -> None:
    assert events("regression", [Result({"x": float(i)}) for i in range(5)]) == [None] * 5


def test_the_decoder_of_a_plugin_gives_the_type_if_it_is_an_id() -> None:
    for decoder, kind in (("my-decoder", "my-decoder"), ("My decoder", "inference")):
        found = events(decoder, [Result({}, top="a")], "each")[0]
        assert found is not None
        assert found.type == kind


@pytest.mark.parametrize("window", [True, False])
def test_an_event_has_its_model_time_and_quality(window: bool) -> None:
    reporter = EventReporter("slot", "m@1", "classification", "each")
    result = Result({"label": "a"}, top="a", score=0.123456, infer_ms=1.23456)
    event = reporter.event(inference(result, window=window, quality=Quality.UNCERTAIN), None)
    assert event is not None
    assert (event.ts, event.model, event.slot) == (1_760_000_000_123, "m@1", "slot")
    assert (event.score, event.infer_ms, event.clk) == (0.1235, 1.235, UNSET)
    assert event.frame == (UNSET if window else 7)
    assert event.detail == {"label": "a", "input_quality": 3}


def test_the_best_boxes_that_fit_a_message_are_kept() -> None:
    boxes = [Box(label="x" * 100, cls=0, score=i / 1000, box=(0, 0, 0.1, 0.1)) for i in range(1000)]
    found = events("detection", [Result({"n": 1000}, boxes)], "each")[0]
    assert found is not None
    assert found.n == 1000
    assert found.detail["boxes_left_out"] == 1000 - len(found.boxes)
    assert [box.score for box in found.boxes[:2]] == [0.999, 0.998]
    assert MAX_BOXES_SIZE * 0.9 < len(encode(found)) <= MAX_BODY
