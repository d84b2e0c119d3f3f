"""`edgebed record`: a field session into a file."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgebed import __version__
from wire.clock import Clock

if TYPE_CHECKING:
    from agent.offline.record import RecordRun


@click.command(name="record")
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The MCAP file; must not exist."
)
@click.option(
    "--for", "seconds", type=click.FloatRange(min=0, min_open=True), help="End after so many seconds."
)
@click.option(
    "--quality",
    type=click.IntRange(0, 100),
    default=95,
    show_default=True,
    help="Of the JPEG of each picture; 0 makes PNGs, which lose nothing.",
)
@click.option(
    "--max-mb", type=click.IntRange(1, 1_000_000), default=4096, show_default=True, help="End at so many."
)
def command(config: Path, output: Path, seconds: float | None, quality: int, max_mb: int) -> None:
    """Record what the devices of CONFIG say and what its models make of it, until Ctrl-C.

    Nothing is sent, no broker is asked. `edgebed replay` feeds the file through the pipeline again. Pictures
    are recorded as they are, faces and number plates included: see docs/privacy.md.
    """
    from agent.config import load
    from agent.offline.record import RecordRun
    from edgebed.commands.agent import errors_of_a_group, log_to_stderr
    from wire.task_cancellation import end

    log_to_stderr("warning")
    clock = Clock()
    plan = load(config, clock)
    session = RecordRun(plan, clock, output, version=__version__, quality=quality, max_bytes=max_mb * 2**20)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, session.stop)
        until = f"for {seconds:g} s, or until Ctrl-C" if seconds else "until Ctrl-C"
        click.echo(f"recording {', '.join(plan.devices)} into {output} {until} ...", err=True)
        telling = loop.create_task(_tell(session), name="teller")
        try:
            await session.run(seconds)
        finally:
            await end([telling])
            if sys.stderr.isatty():
                click.echo(err=True)

    with errors_of_a_group():
        asyncio.run(run())
    recorder = session.recorder
    if recorder is None:
        return
    if session.ended:
        click.echo(session.ended, err=True)
    click.echo(
        f"{output}: {recorder.rows:,} rows, {recorder.pictures:,} pictures, {recorder.events:,} events"
    )
    silent = [name for name, source in session.sources.items() if not source.readings]
    if silent:
        click.echo(f"nothing was heard of {', '.join(silent)}", err=True)
        sys.exit(3)


async def _tell(session: RecordRun) -> None:
    """On a terminal, a line that replaces itself: how much is recorded."""
    while sys.stderr.isatty():
        await asyncio.sleep(1)
        if found := session.recorder:
            click.echo(f"\r\x1b[K{found.rows:,} rows, {found.pictures:,} pictures", err=True, nl=False)
