"""Signals of the command line: SIGTERM and Ctrl-C end a command with what it has, SIGHUP ends nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

import click

_ENDING = (signal.SIGINT, signal.SIGTERM)  # a shell may have set SIGINT to ignored for a background job
LIMIT_S = 4.5  # from a SIGTERM to the end of a command that runs no daemon


def install() -> None:
    """Let SIGTERM raise SystemExit(143), and SIGHUP write one line.

    Commands that run an event loop set their own handlers for SIGTERM. A SIGHUP that the parent ignores stays
    ignored, as `nohup` requires.
    """
    signal.signal(signal.SIGTERM, _terminated)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _hung_up)


def run(work: Coroutine[Any, Any, Any], stop: Callable[[], object] | None = None) -> int:
    """Run a coroutine until SIGINT or SIGTERM; returns the exit code 130 or 143 then, else 0.

    A signal calls `stop`, by default it cancels the coroutine.
    """
    got: list[int] = []

    async def main() -> None:
        me = asyncio.current_task()

        def ends(number: int) -> None:
            got.append(number)
            if stop is not None:
                stop()
            elif me is not None:
                me.cancel()

        on_end(ends)
        await work

    try:
        asyncio.run(main())
    except asyncio.CancelledError:
        if not got:
            raise
    return 128 + got[0] if got else 0


def on_end(stop: Callable[[int], object]) -> None:
    """Call `stop` with the number of each SIGINT and SIGTERM; the process ends within 4.5 s of the first."""

    def ends(number: int) -> None:
        limit(number)
        stop(number)

    for number in _ENDING:
        asyncio.get_running_loop().add_signal_handler(number, ends, number)


def limit(number: int) -> None:
    """End the process after 4.5 s whatever it does: a driver or a model may hang in a thread."""
    timer = threading.Timer(LIMIT_S, _end_now, [number])
    timer.daemon = True
    timer.start()


def _end_now(number: int) -> None:
    os.write(2, f"edgebed: a part did not end within {LIMIT_S:g} s and was left behind\n".encode())
    sys.stdout.flush()
    os._exit(128 + number)


def _terminated(number: int, _: FrameType | None) -> None:
    limit(number)
    sys.exit(128 + number)


def _hung_up(_: int, __: FrameType | None) -> None:
    click.echo("edgebed: SIGHUP is ignored: only a running agent reads its config again", err=True)
