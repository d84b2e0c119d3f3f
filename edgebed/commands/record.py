"""`edgebed record`: record the readings of devices in a file."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgebed import __version__, progress, signals
from edgebed.number_range import NumberRange
from wire.clock import Clock
from wire.printable import counted

if TYPE_CHECKING:
    from agent.offline.record import RecordRun


@click.command(name="record")
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The MCAP file; must not exist."
)
@click.option("--for", "seconds", type=NumberRange(min=0, min_open=True), help="End after this many seconds.")
@click.option(
    "--quality",
    type=click.IntRange(0, 100),
    default=95,
    show_default=True,
    help="JPEG quality of pictures; 0 writes PNG, which is lossless.",
)
@click.option(
    "--max-mb",
    type=click.IntRange(1, 1_000_000),
    default=4096,
    show_default=True,
    help="End at this file size.",
)
def command(config: Path, output: Path, seconds: float | None, quality: int, max_mb: int) -> None:
    """Record the readings of the devices in CONFIG and the events of its models, until Ctrl-C.

    Sends nothing and uses no broker. `edgebed replay` runs the file through the pipeline again. Pictures are
    recorded unchanged, with faces and number plates: see docs/privacy.md.
    """
    from agent.config import load
    from agent.offline.record import RecordRun
    from edgebed.commands.agent import errors_of_a_group, log_to_stderr

    log_to_stderr("warning")
    clock = Clock()
    plan = load(config, clock)
    session = RecordRun(plan, clock, output, version=__version__, quality=quality, max_bytes=max_mb * 2**20)

    async def run() -> None:
        signals.on_end(lambda _: session.stop())
        until = f"for {seconds:g} s, or until Ctrl-C" if seconds else "until Ctrl-C"
        click.echo(f"recording {', '.join(plan.devices)} into {output} {until} ...", err=True)
        async with progress.shown(lambda: _counted(session)):
            await session.run(seconds)

    with errors_of_a_group():
        asyncio.run(run())
    recorder = session.recorder
    if recorder is None:
        return
    if session.ended:
        click.echo(session.ended, err=True)
    click.echo(
        f"{output}: {counted(recorder.rows, 'row')}, {counted(recorder.pictures, 'picture')}, "
        f"{counted(recorder.events, 'event')}"
    )
    silent = [name for name, source in session.sources.items() if not source.readings]
    if silent:
        click.echo(f"no readings from {', '.join(silent)}", err=True)
        sys.exit(3)


def _counted(session: RecordRun) -> str:
    found = session.recorder
    return (
        f"{counted(found.rows, 'row')}, {counted(found.pictures, 'picture')}" if found else "no reading yet"
    )
