"""Ending tasks for good, also those whose library swallows a cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

AGAIN_S = 1.0


async def end(
    tasks: Iterable[asyncio.Task[Any]], within_s: float = float("inf"), *, again_s: float | None = None
) -> set[asyncio.Task[Any]]:
    """Cancel `tasks` until they are done; returns those that were not within `within_s`.

    `again_s` is how long a cancellation may take before it is repeated, `AGAIN_S` without it.

    One cancellation is not enough: `asyncio.wait_for` of Python 3.11, on which MQTT and device libraries
    stand, loses one that comes at the moment its future is done (python/cpython#86296).
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
            task.exception()  # seen: it is over, and whoever wants the failure has the task
    return late
