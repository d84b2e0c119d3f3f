"""A device that sends rows without a value, or input that is not read, shows that in its state."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection
from typing import ClassVar

import pytest

from adapters.base import Adapter, Options, Reading, Unread, Value
from agent.pipeline.device_problems import DeviceProblems
from agent.pipeline.source import Source
from agent.pipeline.validation import Validator
from tests.plans import plan_of
from tests.polling import until
from wire.clock import Clock
from wire.messages import DeviceState, Field, Stream

FIELDS = {"x": Field(), "y": Field(), "word": Field(t="str")}
STREAMS = {"s": Stream(fields=FIELDS), "other": Stream(fields=FIELDS)}
GOOD: dict[str, Value] = {"x": 1.0, "y": 2.0, "word": "a"}
STALL_S = 1.0


class Scripted(Adapter):
    """An adapter that gives rows with `values` every few milliseconds."""

    Options = Options
    kind = "scripted"
    values: ClassVar[dict[str, dict[str, Value]]]
    optional: ClassVar[set[str]]
    newest: ClassVar[Scripted]

    def __init__(self) -> None:
        super().__init__(None, Clock())
        self.may_be_null |= self.optional
        Scripted.newest = self

    def streams(self) -> dict[str, Stream]:
        return STREAMS

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def readings(self) -> AsyncIterator[Reading]:
        while True:
            for stream, values in self.values.items():
                yield Reading(stream, self.clock.now_ns(), values)
            await asyncio.sleep(0.003)


class Running:
    """A source that runs, and every state it had."""

    def __init__(self, may_be_null: Collection[str] = ()) -> None:
        self.states: list[DeviceState] = []
        self.source = Source(
            "dev",
            plan_of(Scripted, STREAMS, stall_s=STALL_S, may_be_null=may_be_null),
            lambda _: None,
            clock=Clock(),
            changed=lambda: self.states.append(self.source.state),
        )

    async def __aenter__(self) -> Running:
        self._task = asyncio.create_task(self.source.run())
        await until(lambda: self.source.readings > 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})

    async def stays_ok(self) -> None:
        """Wait until a problem would have been shown: ten times as many rows, and three times as long."""
        rows, looks = self.source.readings, asyncio.get_running_loop().time() + 3 * STALL_S
        await until(lambda: self.source.readings > rows + 100)
        await until(lambda: asyncio.get_running_loop().time() > looks)
        assert {state.state for state in self.states} == {"ok"}

    async def shows(self, code: str) -> DeviceState:
        await until(lambda: self.source.state.code == code)
        assert self.source.state.state == ("degraded" if code else "ok")
        return self.source.state


@pytest.fixture(autouse=True)
def healthy() -> None:
    Scripted.values, Scripted.optional = {"s": GOOD}, set()


async def test_a_healthy_device_is_ok() -> None:
    async with Running() as running:
        await running.stays_ok()


@pytest.mark.parametrize("value", [None, float("nan"), "text", 10**400])
async def test_a_field_that_never_has_a_value_is_a_problem_until_one_comes(value: Value) -> None:
    Scripted.values = {"s": {**GOOD, "y": value}}
    async with Running() as running:
        state = await running.shows("field-null")
        assert state.args["field"] == "y"
        assert int(state.args["rows"] or 0) >= 10
        assert state.why == f"null in each of the last {state.args['rows']} rows: y"
        Scripted.values = {"s": GOOD}
        await running.shows("")
        assert running.source.counters["lost"] == 0, "the device was read all the time"
        assert len(running.states) == 3, "ok, degraded, ok: the number of rows is not a new state"


async def test_a_field_that_loses_its_value_is_a_problem() -> None:
    async with Running() as running:
        Scripted.values = {"s": {**GOOD, "word": None, "x": None}}
        state = await running.shows("field-null")
        assert state.args["field"] == "x, word"


async def test_the_reason_of_the_adapter_is_shown_beside_the_field() -> None:
    async with Running() as running:
        Scripted.newest.why_null["x"] = "it is 15 = 'SNA'"
        Scripted.values = {"s": {**GOOD, "word": None, "x": None}}
        state = await running.shows("field-null")
        assert state.args["field"] == "x (it is 15 = 'SNA'), word"


async def test_a_field_that_is_null_now_and_then_is_no_problem() -> None:
    Scripted.values = {"s": GOOD, "other": GOOD}
    async with Running() as running:
        for _ in range(8):
            Scripted.values = {"s": {**GOOD, "y": None}}
            rows = running.source.readings
            await until(lambda rows=rows: running.source.readings > rows + 3)  # type: ignore[misc]
            Scripted.values = {"s": GOOD}
            await until(lambda rows=rows: running.source.readings > rows + 8)  # type: ignore[misc]
        assert {state.state for state in running.states} == {"ok"}


async def test_a_field_that_a_row_does_not_have_is_not_null() -> None:
    Scripted.values = {"s": {"x": 1.0, "y": 2.0}}
    async with Running() as running:
        await running.stays_ok()


async def test_streams_are_named_if_the_device_has_several_with_a_problem() -> None:
    Scripted.values = {"s": {**GOOD, "y": None}, "other": {**GOOD, "y": None}}
    async with Running() as running:
        await until(lambda: running.source.state.args.get("field") == "s/y, other/y")


@pytest.mark.parametrize("may_be_null", [["y"], ["*"]])
async def test_the_config_can_allow_it(may_be_null: list[str]) -> None:
    Scripted.values = {"s": {**GOOD, "y": None}}
    async with Running(may_be_null) as running:
        await running.stays_ok()


async def test_a_field_that_the_adapter_need_not_give_is_no_problem_but_an_empty_stream_is() -> None:
    Scripted.values, Scripted.optional = {"s": {**GOOD, "y": None}}, {"x", "y", "word"}
    async with Running() as running:
        await running.stays_ok()
        Scripted.values = {"s": dict.fromkeys(FIELDS)}
        assert (await running.shows("field-null")).args["field"] == "y, x, word"


@pytest.mark.parametrize("part", ["hall/b", ""])
async def test_input_of_a_part_that_is_not_read_is_shown_while_other_rows_come(part: str) -> None:
    async with Running() as running:
        Scripted.newest.not_read("Sparkplug B payload on hall/b: not read", part)
        if not part:  # the rows of the device show that it is read
            await running.stays_ok()
            return

        def is_shown() -> bool:  # each adapter says it: a pause of the machine may have replaced one
            Scripted.newest.not_read("Sparkplug B payload on hall/b: not read", part)
            return running.source.state.code == "part-not-read"

        await until(is_shown)
        state = running.source.state
        assert state.why == "a part of its data is not read: Sparkplug B payload on hall/b: not read"
        assert state.args == {"what": "Sparkplug B payload on hall/b: not read", "others": 0}
        Scripted.newest.not_read("noise", "hall/c")
        await until(lambda: running.source.state.args.get("others") == 1)
        Scripted.newest.was_read("hall/b")
        Scripted.newest.was_read("hall/c")
        await running.shows("")


async def test_a_part_that_is_read_again_at_once_is_no_problem() -> None:
    adapter, problems = Scripted(), DeviceProblems(Validator(STREAMS, Clock(), Counter()), stall_s=10)
    for number in range(40):
        adapter.unread["hall/b"] = Unread("noise", number, number)
        assert problems.find(adapter, number + 4.9) is None
        adapter.was_read("hall/b")
        assert problems.find(adapter, number + 5.1) is None


async def test_a_part_that_is_silent_for_an_hour_is_forgotten() -> None:
    adapter, problems = Scripted(), DeviceProblems(Validator(STREAMS, Clock(), Counter()), stall_s=10)
    adapter.unread["hall/b"] = Unread("noise", 100.0, 0.0)
    assert problems.find(adapter, 3600.0) is not None
    assert problems.find(adapter, 3701.0) is None
