"""What simulated devices share: a pseudo terminal, the error for a port in use, and the end of a task."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tty
from collections.abc import Iterator

from wire.errors import TryAgain
from wire.task_cancellation import end


@contextlib.contextmanager
def listening(device: str, host: str, port: int) -> Iterator[None]:
    """Raise `TryAgain` with the device's name instead of the OSError of a port that cannot be opened."""
    try:
        yield
    except OSError as error:
        raise TryAgain(
            f"{device} cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}; "
            "stop what listens there or use --port"
        ) from error


def pseudo_terminal() -> tuple[int, int, str]:
    """The device's end and the client's end of a new pseudo terminal, and the path that a client opens."""
    device_end, client_end = os.openpty()
    os.set_blocking(device_end, False)
    tty.setraw(client_end)  # no echo, and line ends as they are
    return device_end, client_end, os.ttyname(client_end)


async def stopped(task: asyncio.Task[None] | None) -> None:
    """End a device's task; raises the error that ended the task earlier."""
    if task is None:
        return
    await end([task], again_s=0.2)
    if not task.cancelled():
        task.result()
