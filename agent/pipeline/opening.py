"""Opens models in threads of their own, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from agent.pipeline.model_threads import in_thread

_LONG_S = 10.0  # a model that takes longer to open makes room for the next one

T = TypeVar("T")


class OpeningPlaces:
    """Limits how many models are opened at the same time: `many`, and as many more that take long.

    A model that hangs in its gate does not keep the next one from being opened.
    """

    def __init__(self, many: int) -> None:
        self._all, self._new = asyncio.Semaphore(2 * many), asyncio.Semaphore(many)

    async def run(self, name: str, work: Callable[[], T]) -> T:
        """The result of `work`, in a thread of its own."""
        async with self._all:
            async with self._new:
                opening = asyncio.create_task(in_thread(f"opening-{name}", work))
                try:
                    await asyncio.wait([opening], timeout=_LONG_S)
                except asyncio.CancelledError:
                    opening.cancel()
                    raise
            return await opening
