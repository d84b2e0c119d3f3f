"""A task that loses its cancellation once is ended all the same; one that never ends is given back."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from wire import task_cancellation
from wire.task_cancellation import end


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
