"""Threads in which models are opened and run; one that hangs does not keep the process from ending."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

J = TypeVar("J")
R = TypeVar("R")

_STOP_S = 1.0
PREFIX = "model-"  # of the names of these threads


async def in_thread(name: str, work: Callable[[], R]) -> R:
    """The result of `work`, which runs in a thread of its own; a cancelled call leaves the thread behind.

    The threads of the event loop's executor are few, and the process waits for them when it ends.
    """
    answer: Future[R] = Future()
    answer.set_running_or_notify_cancel()  # from now on only `run` ends it

    def run() -> None:
        try:
            answer.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised where the result is awaited
            answer.set_exception(error)

    threading.Thread(target=run, name=PREFIX + name, daemon=True).start()
    return await asyncio.wrap_future(answer)


def at_work() -> bool:
    """Whether a thread of this process still opens or runs a model; one that hangs keeps it."""
    return any(thread.name.startswith(PREFIX) for thread in threading.enumerate())


class ModelThread(Generic[J, R]):
    """One thread that works on jobs in order and passes each answer or failure to the event loop."""

    def __init__(
        self,
        name: str,
        work: Callable[[J], R],
        then: Callable[[J, R | None, Exception | None], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._run, self._then = work, then
        self._stopping = False
        self._jobs: queue.SimpleQueue[J | None] = queue.SimpleQueue()
        # a daemon: a model that hangs must not keep the process from ending
        self._thread = threading.Thread(target=self._work, name=PREFIX + name, daemon=True)
        self._thread.start()

    def put(self, job: J) -> None:
        """Add a job to the end of the queue."""
        self._jobs.put(job)

    async def stop(self) -> None:
        """End after the current job; waits at most a second for it."""
        self._stopping = True
        self._jobs.put(None)
        until_s = self._loop.time() + _STOP_S
        while self._thread.is_alive() and self._loop.time() < until_s:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.005)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None and not self._stopping:
            try:
                answer: R | None = self._run(job)
                failure: Exception | None = None
            except Exception as error:  # noqa: BLE001 - passed to `then`
                answer, failure = None, error
            try:
                self._loop.call_soon_threadsafe(self._then, job, answer, failure)
            except RuntimeError:  # the loop is closed
                return
