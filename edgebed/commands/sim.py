"""`edgebed sim`: simulated devices that speak the real protocols, in the foreground."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import signal
import sys
from pathlib import Path
from typing import Any

import click

import simulators
from wire.clock import Clock
from wire.errors import EdgebedError


@click.group(name="sim")
def command() -> None:
    """Simulated devices that speak the real protocols."""


@command.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_kinds(as_json: bool) -> None:
    """List the kinds that can run."""
    for kind, (module, name) in simulators.KINDS.items():
        where = f"{module}.{name}"
        click.echo(json.dumps({"kind": kind, "class": where}) if as_json else f"{kind:10} {where}")


@command.command()
@click.argument("kind", type=click.Choice(list(simulators.KINDS)))
@click.option("--seed", default=1, show_default=True, help="Same seed, same data.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, show_default=True, help="0 takes a free one."
)
@click.option("--rate", default=1.0, show_default=True, help="How many times faster than real its time runs.")
@click.option(
    "--fault",
    "faults",
    multiple=True,
    help="opcua: KIND:JOINT[@START[-END]][xSIZE], e.g. friction:3@20-40x1.5 (seconds since the start); kinds "
    "are friction, backlash, spike, stuck-sensor. May be repeated.",
)
@click.option(
    "--clip",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="camera: loop this recorded clip instead of the drawn street.",
)
@click.option("--for", "seconds", type=click.FloatRange(min=0), help="End after so many real seconds.")
@click.option("--json", "as_json", is_flag=True, help="Say where it listens as a JSON object.")
def run(kind: str, rate: float, seconds: float | None, as_json: bool, **options: Any) -> None:
    """Run a simulated device until Ctrl-C.

    The first line of stdout is its URL, for an adapter's `url` option; everything else goes to stderr.
    """
    server = _server(kind, rate, options)
    stopped_by = asyncio.run(_serve(server, kind, seconds, as_json))
    if stopped_by == signal.SIGINT:
        sys.exit(130)


def _server(kind: str, rate: float, options: dict[str, Any]) -> Any:
    try:
        kind_of_server = simulators.load(kind)
    except ModuleNotFoundError as error:
        raise EdgebedError(
            f"{kind} needs {error.name}, which is missing: pip install 'edgebed[sim]'"
        ) from error
    taken = inspect.signature(kind_of_server).parameters
    given = {name: value for name, value in options.items() if value not in (None, ())}
    for name in given:
        if name not in taken:
            raise click.UsageError(f"{kind} takes no --{name.removesuffix('s')}")
    try:
        if "faults" in given:
            given["faults"] = _faults(given["faults"])
        return kind_of_server(clock=Clock(rate), **given)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _faults(texts: tuple[str, ...]) -> list[Any]:
    from simulators.cobot import Fault

    return [Fault.parse(text) for text in texts]


async def _serve(server: Any, kind: str, seconds: float | None, as_json: bool) -> int:
    """The signal that ended it, 0 where time did."""
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[int] = loop.create_future()

    def end(number: int) -> None:
        if not stop.done():
            stop.set_result(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, number)
    async with server:
        gc.collect()
        gc.freeze()  # what is there now stays: going through it again and again would show as jitter
        click.echo(
            json.dumps({"kind": kind, "url": server.url, "port": server.port}) if as_json else server.url
        )
        try:
            async with asyncio.timeout(seconds):
                return await stop
        except TimeoutError:
            return 0
