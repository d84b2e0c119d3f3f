"""Commits the outbox in a worker thread while the event loop appends."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from agent.outbox.outbox import MARK_EVERY_S, Outbox

_RETRY_S = 1.0


async def keep_committing(outbox: Outbox, group_commit_ms: int) -> None:
    """Commit in a worker thread `group_commit_ms` after each first append; runs until it is cancelled."""
    loop, appended = asyncio.get_running_loop(), asyncio.Event()
    outbox.on_append(partial(loop.call_soon_threadsafe, appended.set))
    appended.set()  # messages may have been appended before the callback was set
    thread = ThreadPoolExecutor(1, "commit")  # its own: a job wakes two threads of a pool that has several
    try:
        while True:
            with contextlib.suppress(TimeoutError):  # without an append a commit still writes the marks
                async with asyncio.timeout(MARK_EVERY_S):
                    await appended.wait()
            appended.clear()
            await asyncio.sleep(group_commit_ms / 1000)
            if not await loop.run_in_executor(thread, outbox.commit):
                await asyncio.sleep(_RETRY_S)
                appended.set()
    finally:
        outbox.on_append(_nothing)
        thread.shutdown(wait=False)


def _nothing() -> None:
    pass
