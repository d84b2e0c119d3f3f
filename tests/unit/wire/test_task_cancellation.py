"""A task that loses its cancellation once is still ended; one that never ends is returned."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from wire import task_cancellation
from wire.task_cancellation import end, run_within


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_cancellation, "AGAIN_S", 0.02)


async def _deaf(times: int) -> None:
    for _ in range(times):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
    await asyncio.sleep(60)


async def test_a_swallowed_cancellation_is_repeated() -> None:
    task = asyncio.create_task(_deaf(3))
    await asyncio.sleep(0)
    assert await end([task]) == set()
    assert task.cancelled()


async def test_what_does_not_end_is_given_back() -> None:
    task = asyncio.create_task(_deaf(10**6))
    await asyncio.sleep(0)
    try:
        assert await end([task], 0.1) == {task}
    finally:
        task.get_coro().close()  # type: ignore[union-attr]
        del task


async def test_a_failure_while_ending_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    async def falls() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise RuntimeError("while ending")

    task = asyncio.create_task(falls())
    await asyncio.sleep(0)
    assert await end([task]) == set()
    assert await end([]) == set()


async def test_work_in_time_gives_its_result_or_its_failure() -> None:
    async def number() -> int:
        return 7

    async def fails() -> int:
        raise RuntimeError("no number")

    assert await run_within(number(), 60.0, name="work") == 7
    with pytest.raises(RuntimeError, match="no number"):
        await run_within(fails(), 60.0, name="work")


async def test_work_that_takes_too_long_is_a_timeout() -> None:
    with pytest.raises(TimeoutError, match=r"work took longer than 0\.05 s"):
        await run_within(_deaf(2), 0.05, name="work")


async def test_a_cancellation_that_the_library_makes_is_a_timeout() -> None:
    class OwnError(asyncio.CancelledError):
        """As wait_for2 has one: `asyncio.timeout` lets it pass."""

    async def work() -> None:
        raise OwnError

    with pytest.raises(TimeoutError):
        await run_within(work(), 60.0, name="work")


async def test_the_cancellation_of_the_caller_ends_the_work_and_goes_on() -> None:
    async def swallows() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)

    caller = asyncio.create_task(run_within(swallows(), 60.0, name="work"))
    await asyncio.sleep(0.01)
    caller.cancel()
    await asyncio.wait({caller})
    assert caller.cancelled()
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "work"]
