"""Helpers that watch an adapter under test: its readings, its tasks and threads, its connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from adapters.base import Adapter, Reading

_Running = threading.Thread | asyncio.Task[Any]
_inside: ContextVar[bool] = ContextVar("inside an adapter", default=False)


async def read(adapter: Adapter, n: int, *, stream: str = "", within_s: float = 60.0) -> list[Reading]:
    """The next `n` readings of an open adapter, of one `stream` where given; fewer where the device ends.

    Raises:
        TimeoutError: fewer came in time.
        AdapterError: as the adapter does.
    """
    seen: list[Reading] = []
    async with asyncio.timeout(within_s), iterating(adapter) as readings:
        async for reading in readings:
            if stream in ("", reading.stream):
                seen.append(reading)
            if len(seen) == n:
                break
    return seen


async def until(
    adapter: Adapter, found: Callable[[Reading], bool], *, stream: str = "", within_s: float = 60.0
) -> Reading:
    """The next reading for which `found` is true, of one `stream` where given.

    Raises:
        TimeoutError: none came in time.
        AdapterError: as the adapter does.
        AssertionError: the device ended first.
    """
    async with asyncio.timeout(within_s), iterating(adapter) as readings:
        async for reading in readings:
            if stream in ("", reading.stream) and found(reading):
                return reading
    raise AssertionError("the device ended first")


async def read_until(
    adapter: Adapter, done: Callable[[list[Reading]], bool], *, within_s: float = 60.0
) -> list[Reading]:
    """The readings until `done` is true of all read so far; raises as `until` does."""
    seen: list[Reading] = []

    def enough(reading: Reading) -> bool:
        seen.append(reading)
        return done(seen)

    await until(adapter, enough, within_s=within_s)
    return seen


@contextlib.asynccontextmanager
async def iterating(adapter: Adapter) -> AsyncIterator[AsyncIterator[Reading]]:
    """Iterate over the readings; end the iterator here, not when the garbage collector finds it."""
    readings = adapter.readings()
    try:
        yield readings
    finally:
        if isinstance(readings, AsyncGenerator):
            await readings.aclose()


@contextlib.contextmanager
def watched() -> Iterator[list[_Running]]:
    """Collect the threads and tasks that the block starts, without those of the simulated device."""
    started: list[_Running] = []
    start, loop = threading.Thread.start, asyncio.get_running_loop()
    factory = loop.get_task_factory()

    def note_thread(thread: threading.Thread) -> None:
        if _inside.get():
            started.append(thread)
        start(thread)

    def note_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **named: Any) -> asyncio.Future[Any]:
        task = factory(loop, coroutine, **named) if factory else asyncio.Task(coroutine, loop=loop, **named)
        if _inside.get() and isinstance(task, asyncio.Task):
            started.append(task)
        return task

    token = _inside.set(True)  # tasks started here inherit it; those of the device do not have it
    loop.set_task_factory(note_task)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(threading.Thread, "start", note_thread)
            yield started
    finally:
        loop.set_task_factory(factory)
        _inside.reset(token)


def still_running(started: list[_Running]) -> list[str]:
    """The names of the threads and tasks that have not ended."""
    threads = [one for one in started if isinstance(one, threading.Thread) and one.is_alive()]
    tasks = [one for one in started if isinstance(one, asyncio.Task) and not one.done()]
    # the executor of the event loop keeps its threads until the loop ends
    names = [thread.name for thread in threads if not thread.name.startswith("asyncio_")]
    return names + [task.get_name() for task in tasks]


@contextlib.contextmanager
def no_network() -> Iterator[None]:
    """Fail where the block makes a connection or starts a thread."""

    def refuse(*_: object) -> None:
        raise AssertionError("the adapter connected before open()")

    threads = set(threading.enumerate())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket.socket, "connect_ex", refuse)
        yield
    if set(threading.enumerate()) - threads:
        raise AssertionError("a thread was started before open()")
