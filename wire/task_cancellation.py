"""Cancel tasks until they have ended, including tasks whose library swallows a cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

AGAIN_S = 1.0
T = TypeVar("T")


async def end(
    tasks: Iterable[asyncio.Task[Any]], within_s: float = float("inf"), *, again_s: float | None = None
) -> set[asyncio.Task[Any]]:
    """Cancel `tasks` until they are done; returns those that did not end within `within_s`.

    A cancellation is repeated after `again_s` (default `AGAIN_S`). One is not enough: MQTT and device
    libraries use `asyncio.wait_for`, which on Python 3.11 loses a cancellation that arrives at the moment its
    future is done (python/cpython#86296).
    """
    every = set(tasks)
    loop = asyncio.get_running_loop()
    until_s, late = loop.time() + within_s, {task for task in every if not task.done()}
    while late and loop.time() < until_s:
        for task in late:
            task.cancel()
        _, late = await asyncio.wait(late, timeout=min(again_s or AGAIN_S, until_s - loop.time()))
    for task in every - late:
        if not task.cancelled():
            task.exception()  # marks it as retrieved; a caller that needs the failure has the task
    return late


async def run_within(work: Coroutine[Any, Any, T], seconds: float, *, name: str) -> T:
    """The result of `work`, which runs in a task of its own called `name`.

    Raises:
        TimeoutError: the work took longer than `seconds`, or its library cancelled it.
        Exception: whatever the work raises.
    """
    # `asyncio.timeout` around a library's coroutine is not enough. The library may swallow a cancellation of
    # the caller, or raise a subclass of CancelledError (wait_for2.CancelledWithResultError), which the
    # timeout does not turn into a TimeoutError. In a task of its own neither reaches the caller.
    task = asyncio.create_task(work, name=name)
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        in_time = task.done()
        await end([task], 1.0, again_s=0.1)
    if not in_time or task.cancelled():
        raise TimeoutError(f"{name} took longer than {seconds:g} s")
    return task.result()
