"""Sends the events of models: what changed in their results, and summaries of their inputs."""

from __future__ import annotations

from collections import OrderedDict

from msgspec import UNSET

from agent.clock_sync import Stamp
from agent.outbox import Message
from agent.pipeline.events import EventReporter
from agent.pipeline.input_watch import InputSummary
from agent.pipeline.model_run import Inference
from agent.pipeline.model_runner import ModelRunner
from agent.pipeline.sinks import Sinks
from wire.clock import NS_PER_MS
from wire.messages import Event

_INPUT_SEVERITY = 2
_MOST_FOLLOWED = 256  # things in crops whose last result is kept


class ModelEvents:
    """Keeps what compares each result of a slot with the one before, and sends the events to `sinks`."""

    def __init__(self, sinks: Sinks) -> None:
        self._sinks = sinks
        self._slots: dict[str, EventReporter] = {}
        self._crops: OrderedDict[tuple[str, int], EventReporter] = OrderedDict()
        self._withheld: frozenset[str] = frozenset()  # slots without events: they act on nothing

    def add(self, runner: ModelRunner, decoder: str) -> None:
        """Report the results of an open model from now on."""
        made = EventReporter(runner.name, runner.label, decoder, runner.settings.events)
        self._slots.setdefault(runner.name, made)

    def remove(self, slot: str) -> None:
        """Forget the last results of a slot."""
        self._slots.pop(slot, None)
        self._forget_crops(slot)

    def withhold(self, slots: frozenset[str]) -> None:
        """Send no events of the results of these slots. A slot that acts again reports its state again."""
        for name in (self._withheld - slots) & self._slots.keys():
            self._slots[name] = self._slots[name].another()
            self._forget_crops(name)
        self._withheld = slots

    def results(self, runner: ModelRunner, inference: Inference) -> None:
        """Send the events of one result."""
        clk, offset_ns = inference.stamp
        reporter = self._reporter(runner, inference)
        if runner.name in self._withheld:
            return
        for event in (reporter.event(inference, clk), *reporter.happenings(inference, clk)):
            if event is not None:
                self._send(runner, event, offset_ns)

    def summary(self, runner: ModelRunner, summary: InputSummary, stamp: Stamp) -> None:
        """Send a summary of what a model saw."""
        clk, offset_ns = stamp
        event = Event(
            ts=summary.at_ns // NS_PER_MS,
            type="model-input",
            sev=_INPUT_SEVERITY if summary.reason.why else 0,
            clk=UNSET if clk is None else clk.value,
            model=runner.label,
            slot=runner.name,
            detail=summary.detail,
            **summary.reason.fields(),
        )
        self._send(runner, event, offset_ns)

    def _forget_crops(self, slot: str) -> None:
        for key in [key for key in self._crops if key[0] == slot]:
            del self._crops[key]

    def _send(self, runner: ModelRunner, event: Event, offset_ns: int | None) -> None:
        self._sinks.send(Message("event", runner.settings.device, event.type, event, offset_ns))

    def _reporter(self, runner: ModelRunner, inference: Inference) -> EventReporter:
        """What compares an inference with the one before: of the slot, or of the same thing in crops."""
        whole = self._slots[runner.name]
        if inference.crop is None:
            return whole
        key = runner.name, inference.crop.key
        mine = self._crops.setdefault(key, whole.another())
        self._crops.move_to_end(key)
        if len(self._crops) > _MOST_FOLLOWED:
            self._crops.popitem(last=False)
        return mine
