"""Turns inferences into events."""

from __future__ import annotations

from copy import copy
from typing import Literal

import msgspec
from msgspec import UNSET

from agent.pipeline.model_run import Inference
from wire.clock import NS_PER_MS
from wire.messages import Box, ClockState, Event, is_id

MAX_BOXES_SIZE = 48_000  # bytes of JSON: with the rest of the event it fits a message
_ALARM, _ALARM_ENDED = 3, 1  # severities


class EventReporter:
    """Turns the inferences of one slot into events: on `each` inference, on `change`, or `never`.

    A change is, for an anomaly model, an alarm that begins or ends; for a detector, other counts; for a
    classifier, another class. A regression never changes. Counts and classes flicker at a threshold from
    picture to picture: they count as changed when two inferences in a row agree.
    """

    def __init__(self, slot: str, model: str, decoder: str, mode: Literal["change", "each", "never"]) -> None:
        self._slot = slot
        self._model = model
        self._decoder = decoder if is_id(decoder) else "inference"
        self._mode = mode
        self._reported: object = False if decoder == "anomaly" else None
        self._before: object = self._reported
        self._alarmed = False  # whether the newest event was an alarm

    def another(self) -> EventReporter:
        """A new one for the same slot."""
        new = copy(self)
        new._reported = new._before = False if self._decoder == "anomaly" else None
        new._alarmed = False
        return new

    def event(self, inference: Inference, clk: ClockState | None) -> Event | None:
        """The event for this inference, or None."""
        if self._mode == "never":
            return None
        now = self._compared(inference)
        steady = self._decoder == "anomaly" or now == self._before
        changed, self._before = steady and now != self._reported, now
        if changed:
            self._reported = now
        elif self._mode == "change":
            return None
        ended = self._alarmed and not inference.result.alarm
        self._alarmed = inference.result.alarm
        severity = _ALARM if self._alarmed else _ALARM_ENDED if ended else 0
        return self._compose(inference, self._type(inference, changed), severity, clk)

    def happenings(self, inference: Inference, clk: ClockState | None) -> list[Event]:
        """An event for each zone that something entered or left, and each line that it crossed."""
        if self._mode == "never":
            return []
        return [
            msgspec.structs.replace(
                self._compose(inference, each.kind, 0, clk),
                n=len(each.boxes),
                top=each.boxes[0].label,
                score=each.boxes[0].score,
                boxes=_fitting(each.boxes)[0],
                detail={
                    each.kind.partition("-")[0]: each.name,
                    **{name: value for name, value in inference.result.values.items() if name in each.counts},
                },
            )
            for each in inference.happened
        ]

    def _compared(self, inference: Inference) -> object:
        """The part of the result that is compared to detect a change."""
        result = inference.result
        match self._decoder:
            case "anomaly":
                return result.alarm
            case "detection":
                counts = {name: value for name, value in result.values.items() if isinstance(value, int)}
                return counts or len(result.boxes)
            case "regression":
                return None
            case _:
                return (result.top, result.alarm)

    def _type(self, inference: Inference, changed: bool) -> str:
        if self._decoder != "anomaly":
            return self._decoder
        if inference.result.alarm:
            return "anomaly"
        return "anomaly-end" if changed else "normal"

    def _compose(self, inference: Inference, kind: str, severity: int, clk: ClockState | None) -> Event:
        result = inference.result
        boxes, left_out = _fitting(result.boxes)
        return Event(
            ts=inference.reading.at_ns // NS_PER_MS,
            type=kind,
            sev=severity,
            clk=UNSET if clk is None else clk.value,
            model=inference.label or self._model,
            slot=self._slot,
            infer_ms=round(result.infer_ms, 3),
            n=len(result.boxes) if self._decoder in ("detection", "regions") else UNSET,
            top=result.top,
            score=UNSET if result.score is None else round(result.score, 4),
            frame=UNSET if inference.window else inference.reading.index,
            boxes=boxes,
            detail={
                **result.values,
                **({"boxes_left_out": left_out} if left_out else {}),
                **({"input_quality": int(inference.quality)} if inference.quality else {}),
            },
        )


def _fitting(boxes: list[Box]) -> tuple[list[Box], int]:
    """The boxes that fit a message, best first, and the number of boxes that do not."""
    if len(msgspec.json.encode(boxes)) <= MAX_BOXES_SIZE and len(boxes) <= 1000:
        return boxes, 0
    kept: list[Box] = []
    room = MAX_BOXES_SIZE
    for box in sorted(boxes, key=lambda box: box.score, reverse=True):
        room -= len(msgspec.json.encode(box)) + 1
        if room < 0 or len(kept) == 1000:
            break
        kept.append(box)
    return kept, len(boxes) - len(kept)
