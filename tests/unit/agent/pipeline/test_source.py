"""A source reads its device again after every failure, logs each loss once, and survives bugs of adapters."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import ClassVar

import pytest

from adapters.base import Adapter, DeviceStalled, DeviceUnreachable, Options, Reading
from agent.pipeline.source import Source
from tests import polling
from tests.plans import plan_of
from wire.clock import Clock
from wire.messages import DeviceState, Field, Stream

STREAMS = {"s": Stream(fields={"x": Field()})}
T0 = 1_760_000_000 * 10**9


class Scripted(Adapter):
    """An adapter that lives through one line of a script each time it is opened.

    A number is a reading, "stall" silence, "hang" an open that never ends, an exception is raised.
    """

    Options = Options
    kind = "scripted"
    opened: ClassVar[int] = 0
    closed: ClassVar[int] = 0

    def __init__(self, script: list[object]) -> None:
        super().__init__(None, Clock())
        self._script = script

    def streams(self) -> dict[str, Stream]:
        return STREAMS

    async def open(self) -> None:
        Scripted.opened += 1
        if self._script and self._script[0] == "hang":
            await asyncio.Event().wait()

    async def close(self) -> None:
        Scripted.closed += 1

    async def readings(self) -> AsyncIterator[Reading]:
        for step in self._script:
            if isinstance(step, BaseException):
                raise step
            if step == "stall":
                await asyncio.Event().wait()
            assert isinstance(step, int)
            self.counters["steps"] = self.counters.get("steps", 0) + 1
            yield Reading("s", T0 + step, {"x": float(step)})


class Follower:
    """A source over a list of scripts, what it gave and how its state went."""

    def __init__(
        self, *scripts: list[object], stall_s: float = 5.0, backoff_s: tuple[float, float] = (0.001, 0.01)
    ) -> None:
        Scripted.opened = Scripted.closed = 0
        self.scripts: Iterator[list[object]] = iter(scripts)
        self.make: Callable[[], Adapter] = lambda: Scripted(next(self.scripts))
        self.given: list[float] = []
        self.states: list[tuple[str, str]] = []
        self.wait: Callable[[], Awaitable[None] | None] = lambda: None
        self.source = Source(
            "dev",
            plan_of(lambda: self.make(), STREAMS, stall_s=stall_s),  # noqa: PLW0108 - a test may set it
            self._take,
            clock=Clock(),
            changed=lambda: self.states.append((self.source.state.state, self.source.state.why)),
            backoff_s=backoff_s,
        )

    def _take(self, reading: Reading) -> Awaitable[None] | None:
        value = reading.values["x"]
        assert isinstance(value, float)
        self.given.append(value)
        return self.wait()

    async def runs(self) -> None:
        async with asyncio.timeout(60):
            await self.source.run()


async def test_a_device_that_ends_by_itself_is_stopped() -> None:
    follower = Follower([1, 2, 3])
    await follower.runs()
    assert follower.given == [1.0, 2.0, 3.0]
    assert [state for state, _ in follower.states] == ["ok", "stopped"]
    assert (Scripted.opened, Scripted.closed) == (1, 1)
    assert follower.source.counters == {"steps": 3}
    assert follower.source.readings == 3


async def test_what_closing_counts_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def close(self: Scripted) -> None:
        self.counters["left_behind"] = 1

    monkeypatch.setattr(Scripted, "close", close)
    follower = Follower([1, DeviceUnreachable("gone")], [2])
    await follower.runs()
    assert follower.source.counters == {"steps": 2, "left_behind": 2, "lost": 1}


async def test_loss_and_return_are_each_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "edgebed.source")
    follower = Follower(
        [1, DeviceUnreachable("gone")],
        [DeviceUnreachable("still gone")],
        [DeviceStalled("still gone")],
        [2],
    )
    await follower.runs()
    assert follower.states == [
        ("ok", ""),
        ("degraded", "gone"),
        ("degraded", "still gone"),
        ("ok", ""),
        ("stopped", "the recording has ended"),
    ]
    messages = [record.getMessage() for record in caplog.records]
    assert sum("degraded" in line for line in messages) == 1
    assert sum("back after" in line for line in messages) == 1
    assert follower.source.counters["lost"] == 1
    assert (Scripted.opened, Scripted.closed) == (4, 4)


async def test_since_is_the_time_of_the_last_change() -> None:
    follower = Follower([DeviceUnreachable("a")], [DeviceUnreachable("b")], [1])
    since: list[int] = []
    follower.source._changed = lambda: since.append(follower.source.state.since)
    await follower.runs()
    assert since[0] == since[1] <= since[2], "still degraded: the time of the loss stays"


@pytest.mark.parametrize(
    "bug", [ValueError("oops"), KeyError("x"), TimeoutError(), RuntimeError("generator")]
)
async def test_a_bug_in_an_adapter_is_one_lost_device(bug: Exception) -> None:
    follower = Follower([1, bug], [2])
    await follower.runs()
    assert follower.given == [1.0, 2.0]
    assert follower.states[1][0] == "degraded"
    assert type(bug).__name__ in follower.states[1][1]


async def test_a_silent_device_is_degraded_and_opened_again() -> None:
    follower = Follower([1, "stall"], [2], stall_s=0.05)
    await follower.runs()
    assert follower.given == [1.0, 2.0]
    assert ("degraded", "no reading for 0.05 s") in follower.states
    assert (Scripted.opened, Scripted.closed) == (2, 2)


async def test_an_open_that_hangs_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.pipeline.source.OPEN_S", 0.05)
    follower = Follower(["hang"], [1], stall_s=0.05)
    await follower.runs()
    assert ("degraded", "opening took longer than 0.05 s") in follower.states
    assert follower.given == [1.0]


async def test_a_device_that_is_held_back_is_not_silent() -> None:
    follower = Follower([1, 2, 3], stall_s=0.05)
    follower.wait = lambda: asyncio.sleep(0.12)
    await follower.runs()
    assert [state for state, _ in follower.states] == ["ok", "stopped"]


async def test_failures_in_a_row_wait_longer_and_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    monkeypatch.setattr("agent.pipeline.source.asyncio.sleep", note)
    monkeypatch.setattr("agent.pipeline.source.random.uniform", lambda low, high: (low + high) / 2)
    follower = Follower(*[[DeviceUnreachable("no")] for _ in range(6)], [1], backoff_s=(10.0, 100.0))
    await follower.runs()
    assert waits == [10.0, 20.0, 40.0, 80.0, 100.0, 100.0]


async def test_a_cancelled_source_ends_although_the_adapter_raises_a_failure() -> None:
    class Swallows(Scripted):
        async def readings(self) -> AsyncIterator[Reading]:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._fails_when_cancelled())
                yield Reading("s", T0, {"x": 1.0})
                await asyncio.Event().wait()

        async def _fails_when_cancelled(self) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise DeviceUnreachable("gone while being cancelled") from None

    follower = Follower()
    follower.make = lambda: Swallows([])
    given = asyncio.Event()
    follower.wait = given.set
    task = asyncio.create_task(follower.source.run())
    async with asyncio.timeout(60):
        await given.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert Scripted.closed == 1


async def test_an_adapter_with_a_task_group_that_fails_is_opened_again() -> None:
    class Grouped(Scripted):
        async def open(self) -> None:
            await super().open()
            if Scripted.opened < 3:
                # its body has ended when the task fails: Python 3.11 then marks the outer task as cancelled
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._fails())

        async def _fails(self) -> None:
            await asyncio.sleep(0)
            raise DeviceUnreachable("a part of it is gone")

    follower = Follower()
    follower.make = lambda: Grouped([1, 2])
    await follower.runs()
    assert follower.given == [1, 2]
    assert Scripted.opened == 3


async def test_an_adapter_that_cancels_itself_is_opened_again() -> None:
    follower = Follower([asyncio.CancelledError()], [1])
    await follower.runs()
    assert follower.given == [1]


async def test_a_cancelled_source_closes_its_device() -> None:
    follower = Follower([1, "stall"])
    task = asyncio.create_task(follower.source.run())
    given = asyncio.Event()
    follower.wait = given.set
    async with asyncio.timeout(60):
        await given.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert Scripted.closed == 1


async def test_the_state_has_the_code_and_args_of_the_error() -> None:
    refused = DeviceUnreachable("nothing listens").coded("connection-refused", where="tcp://10.0.0.7:1")
    follower = Follower(
        [refused], [DeviceStalled("silent")], ["stall"], [ValueError("oops")], [1], stall_s=0.05
    )
    seen: list[tuple[str, object]] = []
    follower.source._changed = lambda: seen.append((follower.source.state.code, follower.source.state.args))
    await follower.runs()
    assert seen == [
        ("connection-refused", {"where": "tcp://10.0.0.7:1"}),
        ("device-stalled", {}),
        ("device-silent", {"seconds": 0.05}),
        ("adapter-failed", {}),
        ("", {}),
        ("recording-ended", {}),
    ]


async def test_a_silent_device_names_what_arrived_instead() -> None:
    class Refusing(Scripted):
        async def readings(self) -> AsyncIterator[Reading]:
            self.not_read("a line\nthat is not a number")
            await asyncio.Event().wait()
            yield Reading("x", 0)

    follower = Follower(["stall"], stall_s=0.05)
    follower.make = lambda: Refusing(["stall"])
    reasons: asyncio.Queue[DeviceState] = asyncio.Queue()
    follower.source._changed = lambda: reasons.put_nowait(follower.source.state)
    task = asyncio.create_task(follower.source.run())
    async with asyncio.timeout(60):
        state = await reasons.get()
    task.cancel()
    assert state.why == r"no reading for 0.05 s: a line\nthat is not a number"
    assert (state.code, state.args["what"]) == ("device-not-read", r"a line\nthat is not a number")


async def test_a_device_that_may_be_silent_for_long_shows_soon_that_it_is_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agent.pipeline.source._UNREAD_S", 0.05)
    monkeypatch.setattr("agent.pipeline.source._LOOK_S", 0.01)
    better = asyncio.Event()

    class Improving(Scripted):
        async def readings(self) -> AsyncIterator[Reading]:
            self.not_read("a message of another version")
            await better.wait()
            yield Reading("s", T0, {"x": 1.0})
            await asyncio.Event().wait()

    follower = Follower(stall_s=3_600.0)
    follower.make = lambda: Improving([])
    task = asyncio.create_task(follower.source.run())
    await polling.until(lambda: follower.source.state.code == "device-not-read")
    assert "a message of another version" in follower.source.state.why
    better.set()
    await polling.until(lambda: follower.source.state.state == "ok")
    assert Scripted.opened == 1, "it was not opened again"
    task.cancel()
    await asyncio.wait({task})


async def test_a_device_that_answers_without_a_reading_is_not_silent() -> None:
    class Still(Scripted):
        async def readings(self) -> AsyncIterator[Reading]:
            yield Reading("s", T0, {"x": 1.0})
            self.is_alive()
            assert abs(self.alive_s - self.clock.flowing_s()) < 60
            self.alive_s = math.inf  # it goes on to answer; a busy machine may stop this test for long
            await asyncio.sleep(0.5)

    follower = Follower(stall_s=0.05)
    follower.make = lambda: Still([])
    await follower.runs()
    assert [state for state, _ in follower.states] == ["ok", "stopped"]
