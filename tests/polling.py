"""Wait in a test until a condition holds. The deadline guards against hanging; it judges no speed."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

_EVERY_S = 0.005


async def until(condition: Callable[[], Any], what: str = "the condition", within_s: float = 60.0) -> Any:
    """Return the first true result of `condition`, which may be a coroutine function."""
    end_s = time.monotonic() + within_s
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < end_s, f"not within {within_s:g} s: {what}"
        await asyncio.sleep(_EVERY_S)


def wait_until(condition: Callable[[], Any], what: str = "the condition", within_s: float = 60.0) -> Any:
    """Return the first true result of `condition`, for a test without an event loop."""
    end_s = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < end_s, f"not within {within_s:g} s: {what}"
        time.sleep(_EVERY_S)
    return found
