"""Progress of a long command: a line on the terminal that replaces itself."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable

import click

from wire.task_cancellation import end


@contextlib.asynccontextmanager
async def shown(text: Callable[[], str], every_s: float = 1.0) -> AsyncIterator[None]:
    """Show `text()` again and again while the block runs, if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    task = asyncio.create_task(_show(text, every_s), name="progress")
    try:
        yield
    finally:
        await end([task])
        click.echo("\r\x1b[K", err=True, nl=False)


async def _show(text: Callable[[], str], every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        click.echo(f"\r\x1b[K{text()}", err=True, nl=False)
