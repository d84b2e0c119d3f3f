"""The simulation clock: exact, as fast as allowed, held by working tasks, but not without end."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator

import pytest

from tests.polling import until
from wire.clock import NS_PER_MS, NS_PER_S
from wire.simulation_clock import SimulationClock

START = 1_800_000_000 * NS_PER_S


class Wall:
    """Real time that a test sets."""

    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns

    def pass_s(self, seconds: float) -> None:
        self.ns += round(seconds * NS_PER_S)

    async def pass_in_turns(self, seconds: float) -> None:
        """Let time pass as for a process that runs: the clock turns every 20 ms at least."""
        for _ in range(round(seconds / 0.02)):
            self.pass_s(0.02)
            await asyncio.sleep(0.01)  # later than the next turn of the clock, so that turn comes first


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
async def clock(wall: Wall) -> AsyncIterator[SimulationClock]:
    async with SimulationClock(START, wall_ns=wall, patience_s=1.0) as governed:
        yield governed


async def idle() -> None:
    """Wait until the clock has checked its conditions several times."""
    for _ in range(30):
        await asyncio.sleep(0.001)


async def test_it_stands_still_until_it_is_let_go(clock: SimulationClock, wall: Wall) -> None:
    wall.pass_s(100)
    await idle()
    assert clock.now_ns() == START
    assert clock.monotonic_ns() == 0
    assert not clock.real


async def test_it_runs_at_its_pace_and_no_faster(clock: SimulationClock, wall: Wall) -> None:
    clock.pace = 10
    for step in range(1, 6):
        wall.pass_s(0.01)
        await until(lambda step=step: clock.now_ns() == START + step * 100 * NS_PER_MS)  # type: ignore[misc]
    clock.pace = 0
    wall.pass_s(1)
    await idle()
    assert clock.monotonic_ns() == 500 * NS_PER_MS


async def test_sleepers_wake_in_order_at_their_very_nanosecond(clock: SimulationClock, wall: Wall) -> None:
    woken: list[tuple[int, int]] = []

    async def sleep(until_ns: int) -> None:
        await clock.sleep_until(until_ns)
        woken.append((until_ns, clock.now_ns()))

    dues = [START + offset for offset in (7, 3, 3, 12_345_678_901, 5_000)]
    tasks = [asyncio.create_task(sleep(due)) for due in dues]
    await idle()
    clock.pace = 1000
    for _ in range(20):
        wall.pass_s(0.001)
        await idle()
    await asyncio.gather(*tasks)
    assert woken == [(due, due) for due in sorted(dues)]


async def test_it_waits_for_who_is_at_work(clock: SimulationClock, wall: Wall) -> None:
    done = asyncio.Event()

    async def work() -> None:
        await clock.sleep_until(START + NS_PER_S)
        await done.wait()
        await clock.sleep_until(START + 2 * NS_PER_S)

    task = asyncio.create_task(work(), name="worker")
    clock.pace = 100
    wall.pass_s(0.02)
    await until(lambda: clock.monotonic_ns() == NS_PER_S)
    await wall.pass_in_turns(0.9)
    await idle()
    assert clock.monotonic_ns() == NS_PER_S
    assert clock.held_s["worker"] == pytest.approx(0.9)
    done.set()
    await task
    # lost time is not made up for, except a small part
    await until(lambda: clock.monotonic_ns() == 3 * NS_PER_S)
    await idle()
    assert clock.monotonic_ns() == 3 * NS_PER_S
    assert not clock.excused


async def test_nobody_holds_it_for_ever(clock: SimulationClock, wall: Wall) -> None:
    async def hang() -> None:
        await clock.sleep_until(START + NS_PER_S)
        await asyncio.Event().wait()

    task = asyncio.create_task(hang(), name="hung")
    clock.pace = 100
    wall.pass_s(0.02)
    await until(lambda: clock.monotonic_ns() == NS_PER_S)
    await wall.pass_in_turns(1.1)
    await until(lambda: clock.monotonic_ns() > NS_PER_S)
    assert clock.excused == {"hung": 1}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_process_that_gets_no_time_keeps_its_patience(clock: SimulationClock, wall: Wall) -> None:
    done = asyncio.Event()

    async def work() -> None:
        await clock.sleep_until(START + NS_PER_S)
        await done.wait()
        await clock.sleep_until(START + 2 * NS_PER_S)

    clock.brakes["device"] = lambda: None if done.is_set() else START + NS_PER_S
    task = asyncio.create_task(work())
    clock.pace = 100
    wall.pass_s(0.02)
    await until(lambda: clock.monotonic_ns() == NS_PER_S)
    for _ in range(10):  # the whole process is stopped ten times
        wall.pass_s(60)
        await idle()
    assert clock.monotonic_ns() == NS_PER_S
    done.set()
    await task
    assert not clock.excused


async def test_silence_is_measured_while_time_flows(clock: SimulationClock, wall: Wall) -> None:
    allowed = START + NS_PER_S
    clock.brakes["camera"] = lambda: allowed
    timed_out = asyncio.Event()

    async def wait() -> None:
        try:
            async with clock.timeout_at(clock.flowing_s() + 0.05):
                await asyncio.Event().wait()
        except TimeoutError:
            timed_out.set()

    task = asyncio.create_task(wait())
    wall.pass_s(60)
    await idle()
    assert clock.flowing_s() == 0  # before the start
    clock.pace = 100
    await wall.pass_in_turns(0.02)
    await until(lambda: clock.now_ns() == allowed)
    await wall.pass_in_turns(0.5)
    wall.pass_s(60)
    await idle()
    assert 0 < clock.flowing_s() <= 0.02  # and while a part holds it
    assert not timed_out.is_set()
    allowed += 100 * NS_PER_S
    await wall.pass_in_turns(0.1)
    await task
    assert timed_out.is_set()
    assert clock.flowing_s() == pytest.approx(0.12, abs=0.021)


async def test_work_in_time_ends_a_timeout_and_its_own_timeout_passes(clock: SimulationClock) -> None:
    async with clock.timeout_at(0.05):
        pass
    async with clock.timeout_at(None):
        await asyncio.sleep(0)
    with pytest.raises(TimeoutError, match="own"):
        async with clock.timeout_at(0.05):
            raise TimeoutError("own")
    with pytest.raises(TimeoutError):
        async with clock.timeout_at(-1.0):
            await asyncio.Event().wait()


async def test_nobody_loses_patience_while_it_stands(clock: SimulationClock, wall: Wall) -> None:
    done = asyncio.Event()

    async def work() -> None:
        await clock.sleep_until(START + NS_PER_S)
        await done.wait()

    task = asyncio.create_task(work())
    clock.pace = 100
    wall.pass_s(0.02)
    await until(lambda: clock.monotonic_ns() == NS_PER_S)
    clock.pace = 0
    await wall.pass_in_turns(1.2)
    await idle()
    clock.pace = 100
    await wall.pass_in_turns(0.9)
    await idle()
    assert clock.monotonic_ns() == NS_PER_S
    done.set()
    await task
    await until(lambda: clock.monotonic_ns() > NS_PER_S)
    assert not clock.excused


async def test_nor_does_who_never_catches_up(clock: SimulationClock, wall: Wall) -> None:
    async def lag() -> None:
        while True:
            await clock.sleep_until(START)

    task = asyncio.create_task(lag(), name="late")
    clock.pace = 100
    await idle()
    await wall.pass_in_turns(0.9)
    await idle()
    assert clock.now_ns() == START
    await wall.pass_in_turns(0.2)
    await until(lambda: clock.excused == {"late": 1})
    wall.pass_s(0.01)
    await until(lambda: clock.monotonic_ns() >= NS_PER_S)
    assert clock.excused == {"late": 1}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("end", ["returns", "fails", "is cancelled at work", "is cancelled asleep"])
async def test_a_task_that_ends_holds_nothing(clock: SimulationClock, wall: Wall, end: str) -> None:
    at_work = asyncio.Event()

    async def work() -> None:
        await clock.sleep_until(START + NS_PER_S)
        at_work.set()
        if end == "fails":
            raise ValueError
        if end != "returns":
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await idle()
    if end == "is cancelled asleep":
        task.cancel()
    clock.pace = 100
    wall.pass_s(0.02)
    if end == "is cancelled at work":
        await at_work.wait()
        task.cancel()
    await until(lambda: clock.monotonic_ns() == 2 * NS_PER_S)
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled() == end.startswith("is cancelled")


async def test_a_brake_holds_it_and_is_excused_in_the_end(clock: SimulationClock, wall: Wall) -> None:
    allowed = START + NS_PER_S
    clock.brakes["camera"] = lambda: allowed
    clock.pace = 100
    wall.pass_s(0.03)
    await until(lambda: clock.now_ns() == allowed)
    allowed += NS_PER_S
    await until(lambda: clock.now_ns() == allowed)
    await wall.pass_in_turns(0.9)
    await idle()
    assert clock.monotonic_ns() == 2 * NS_PER_S
    await wall.pass_in_turns(0.2)
    await until(lambda: clock.now_ns() > allowed)
    assert clock.excused == {"camera": 1}
    allowed = clock.now_ns() + NS_PER_S  # the brake is back and counts again
    wall.pass_s(0.5)
    await until(lambda: clock.now_ns() == allowed)
    await idle()
    assert clock.now_ns() == allowed


async def test_slack_lets_time_go_on_beside_work(wall: Wall) -> None:
    async with SimulationClock(START, slack_ns=5 * NS_PER_MS, wall_ns=wall) as clock:
        stop = asyncio.Event()

        async def work() -> None:
            await clock.sleep_until(START + NS_PER_S)
            await stop.wait()

        task = asyncio.create_task(work())
        clock.pace = 100
        wall.pass_s(0.02)
        await until(lambda: clock.monotonic_ns() == 1005 * NS_PER_MS)
        wall.pass_s(0.02)
        await idle()
        assert clock.monotonic_ns() == 1005 * NS_PER_MS
        stop.set()
        await task


async def test_the_past_gives_others_a_turn(clock: SimulationClock) -> None:
    turns: list[str] = []

    async def step(name: str) -> None:
        for _ in range(2):
            turns.append(name)
            await clock.sleep_until(START - 1)

    await asyncio.gather(step("a"), step("b"))
    assert turns == ["a", "b", "a", "b"]


async def test_a_thread_waits_in_simulated_seconds(clock: SimulationClock, wall: Wall) -> None:
    event = threading.Event()
    waiting = asyncio.create_task(asyncio.to_thread(clock.wait, event, 3.0))
    clock.pace = 1000
    wall.pass_s(0.01)
    assert not await waiting
    waiting = asyncio.create_task(asyncio.to_thread(clock.wait, event, 1e6))
    event.set()
    assert await waiting


async def test_what_was_sent_inside_the_process_arrives_before_time_moves_on(
    clock: SimulationClock, wall: Wall
) -> None:
    """The receive time equals the send time: therefore runs at different paces give the same data."""
    stamps: list[int] = []

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readexactly(1):
            stamps.append(clock.now_ns())

    server = await asyncio.start_server(receive, "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])

    async def send() -> None:
        for index in range(50):
            await clock.sleep_until(START + index * 20 * NS_PER_MS)
            writer.write(b".")

    sending = asyncio.create_task(send())
    clock.pace = 50
    while not sending.done():
        wall.pass_s(0.005)
        await asyncio.sleep(0)
    await until(lambda: len(stamps) == 50)
    writer.close()
    server.close()
    assert stamps == [START + index * 20 * NS_PER_MS for index in range(50)]


@pytest.mark.parametrize("pace", [-1.0, float("inf"), float("nan")])
async def test_an_impossible_pace_is_refused(clock: SimulationClock, pace: float) -> None:
    with pytest.raises(ValueError, match="pace"):
        clock.pace = pace


async def test_rough_sleepers_wake_together_never_early_and_an_eighth_late_at_most(
    clock: SimulationClock, wall: Wall
) -> None:
    woken: dict[float, int] = {}

    async def sleep(seconds: float) -> None:
        await clock.sleep_roughly(seconds)
        woken[seconds] = clock.monotonic_ns() // NS_PER_MS

    async with asyncio.TaskGroup() as group:
        for seconds in (0.26, 0.36, 0.375, 0.376, 2.0):
            group.create_task(sleep(seconds))
        await asyncio.sleep(0)
        clock.pace = 1
        for _ in range(250):
            wall.pass_s(0.01)
            await asyncio.sleep(0)
            await until(lambda: clock.monotonic_ns() * clock.pace >= min(wall.ns, 2 * NS_PER_S))
    assert woken == {0.26: 375, 0.36: 375, 0.375: 375, 0.376: 500, 2.0: 2000}


async def test_a_pace_may_be_set_before_the_start(wall: Wall) -> None:
    early = SimulationClock(START, wall_ns=wall)
    early.pace = 10
    async with early:
        wall.pass_s(0.02)
        await until(lambda: early.monotonic_ns() == 200 * NS_PER_MS)


async def test_a_thread_waits_while_the_clock_stands(clock: SimulationClock, wall: Wall) -> None:
    waiting = asyncio.create_task(asyncio.to_thread(clock.wait, threading.Event(), 3.0))
    await idle()
    assert not waiting.done()
    clock.pace = 1000
    wall.pass_s(0.01)
    await waiting
    assert clock.monotonic_ns() >= 3 * NS_PER_S


async def test_a_brake_keeps_its_patience_while_the_clock_stands(clock: SimulationClock, wall: Wall) -> None:
    allowed = START + NS_PER_S
    clock.brakes["camera"] = lambda: allowed
    clock.pace = 100
    wall.pass_s(0.02)
    await until(lambda: clock.now_ns() == allowed)
    await wall.pass_in_turns(0.9)
    clock.pace = 0
    clock.pace = 100
    await wall.pass_in_turns(0.9)
    await idle()
    assert (clock.now_ns(), clock.excused) == (allowed, {})


async def test_a_task_that_has_ended_is_forgotten(clock: SimulationClock, wall: Wall) -> None:
    task = asyncio.create_task(clock.sleep_until(START + NS_PER_S))
    clock.pace = 100
    await idle()
    wall.pass_s(0.02)
    await task
    known = weakref.ref(task)
    del task
    await idle()
    gc.collect()
    assert known() is None
