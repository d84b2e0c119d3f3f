"""`edgebed agent`: the daemon beside a device, and what can be asked of it and its config."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from edgebed import __version__
from wire.clock import Clock
from wire.errors import EdgebedError, on_purpose

CONFIG = click.argument("config", type=click.Path(path_type=Path))
LEVELS = ("debug", "info", "warning", "error")

log = logging.getLogger("edgebed.agent")


@click.group(name="agent")
def command() -> None:
    """The daemon beside a device: reads it, runs models on what it reads, sends what must not be lost."""


@command.command()
@CONFIG
@click.option("--log", "level", type=click.Choice(LEVELS), default="info", show_default=True)
@click.option("--clock-file", type=click.Path(path_type=Path), hidden=True)  # for drills: a clock that steps
def run(config: Path, level: str, clock_file: Path | None) -> None:
    """Run the agent described by CONFIG until it is told to stop (SIGTERM, Ctrl-C)."""
    log_to_stderr(level)
    import asyncio

    from agent.app import App
    from agent.config import load

    if clock_file is None:
        clock = Clock()
        app = App(load(config, clock), clock, __version__)
    else:
        from edgebed.drill.clock import SteppedClock

        stepped = SteppedClock(clock_file)
        app = App(load(config, stepped), stepped, __version__, stepped.state)
    with errors_of_a_group():
        try:
            asyncio.run(app.run())
        except asyncio.CancelledError:
            log.warning("ended at once, as asked twice")
    if app.interrupted:
        sys.exit(130)


@command.command()
@CONFIG
@click.option("--seconds", default=10.0, show_default=True, help="How long to wait for devices and models.")
@click.option("--log", "level", type=click.Choice(LEVELS), default="warning", show_default=True)
def once(config: Path, seconds: float, level: str) -> None:
    """Read the devices for a moment, run the models, print what would be published; send and keep nothing."""
    log_to_stderr(level)
    import asyncio

    from agent.config import load
    from agent.offline.once import Once

    clock = Clock()
    plan = load(config, clock, files=True)

    listening = True

    async def look() -> None:
        me = asyncio.current_task()

        def say(line: str) -> None:
            nonlocal listening
            try:
                if listening:
                    click.echo(line)
            except BrokenPipeError:  # `| head`: who has seen enough asks no adapter to go on
                listening = False
                if me is not None:
                    me.cancel()

        await Once(plan, clock, say).run(seconds)

    with errors_of_a_group():
        try:
            asyncio.run(look())
        except asyncio.CancelledError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to be flushed
            sys.exit(1)


@command.command()
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="The mistakes as a JSON list.")
def check(config: Path, as_json: bool) -> None:
    """Say every mistake in CONFIG with its line, model packages included; asks no device and no broker."""
    from agent.config import load
    from wire.errors import ConfigError

    try:
        plan = load(config, Clock(), files=True)
    except ConfigError as error:
        if as_json:
            click.echo(json.dumps({"ok": False, "mistakes": list(error.mistakes)}))
            sys.exit(error.exit_code)
        raise
    devices, models = len(plan.devices), len(plan.config.models)
    if as_json:
        click.echo(json.dumps({"ok": True, "node": str(plan.address), "devices": devices, "models": models}))
    else:
        click.echo(f"{config}: fine: {plan.address}, devices: {devices}, models: {models}")


@command.command()
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="Everything it wrote about itself.")
def status(config: Path, as_json: bool) -> None:
    """Say how the agent of CONFIG is, also while its broker is away.

    Exits 0 when all is well, 3 when a device or model is not, 69 when the agent does not run.
    """
    from agent.config import state_folder
    from agent.health import is_well, read_status, status_lines

    clock = Clock()
    document = read_status(state_folder(config), clock)
    if as_json:
        click.echo(json.dumps(document))
    else:
        for line in status_lines(document):
            click.echo(line)
    if not is_well(document):
        sys.exit(3 if document["running"] else 69)


@command.command()
@click.option("--adapter", default="", help="The options of this adapter instead of the whole config.")
def schema(adapter: str) -> None:
    """Print the JSON Schema of the config, for editors."""
    import adapters
    from agent import config
    from wire.config import schema as schema_of

    found = schema_of(adapters.load(adapter).Options) if adapter else config.schema()
    click.echo(json.dumps(found, indent=2))


def log_to_stderr(level: str) -> None:
    """What our packages log goes to stderr, a line each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for ours in ("edgebed", "agent", "adapters", "wire"):
        logging.getLogger(ours).setLevel(level.upper())


class _OneLine(logging.Formatter):
    """A record is a line, whatever a device put into its words."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).replace("\n", " | ").replace("\r", " ")


@contextlib.contextmanager
def errors_of_a_group() -> Iterator[None]:
    """Raise what a task group failed for instead of the group."""
    try:
        yield
    except BaseExceptionGroup as group:
        raise _first(group) from group


def _first(group: BaseExceptionGroup[BaseException]) -> EdgebedError:
    """The error to end with: one that was raised on purpose, else a bug with its traceback."""
    if found := on_purpose(group):
        return found
    log.error("a part of the agent ended by a bug", exc_info=group)
    return EdgebedError("a part of the agent ended by a bug, see above; what was taken is on disk")
