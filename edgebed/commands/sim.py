"""`edgebed sim`: run a simulated device in the foreground, or play a scenario."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

import simulators
from edgebed import signals
from edgebed.number_range import NumberRange
from wire.clock import Clock
from wire.errors import EdgebedError
from wire.yaml12 import YamlMistake, compose

_FILE = click.Path(dir_okay=False, path_type=Path)
_OWN = {"clock", "seed", "host", "port", "faults"}  # keywords of every kind; the others are for --option


@click.group(name="sim")
def command() -> None:
    """Run simulated devices that speak the real protocols."""


@command.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def list_kinds(as_json: bool) -> None:
    """List the kinds of devices."""
    width = max(map(len, simulators.KINDS))
    for kind, (module, name) in simulators.KINDS.items():
        where = f"{module}.{name}"
        click.echo(json.dumps({"kind": kind, "class": where}) if as_json else f"{kind:{width}} {where}")


@command.command()
@click.argument("what", metavar="KIND|SCENARIO")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    help="Same seed, same data; default: 1, or the scenario's seed.",
)
@click.option(
    "--rate",
    type=NumberRange(0, 1000, min_open=True),
    help="Simulated seconds per real second; for a scenario, at most.  [default: 1, or the scenario's rate]",
)
@click.option("--host", help="Kind: address to listen on; default: 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65535), help="Kind: TCP port; default: a free one.")
@click.option(
    "--fault",
    "faults",
    multiple=True,
    help="Kind: KIND[:PART][@START[-END]][xSIZE], e.g. friction:3@20-40x1.5 for opcua, in seconds since the "
    "start. The error for an unknown fault lists the known ones. May be repeated.",
)
@click.option(
    "--clip",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Kind camera: loop this recorded clip instead of the drawn street.",
)
@click.option(
    "--option",
    "extra",
    metavar="KEY=VALUE",
    multiple=True,
    help="Kind: an option of this kind. May be repeated.",
)
@click.option("--for", "seconds", type=NumberRange(min=0), help="Kind: end after this many real seconds.")
@click.option(
    "--assert",
    "asserted",
    is_flag=True,
    help="Scenario: exit 1 when an assertion fails, 3 when agents were left out.",
)
@click.option("--junit", type=_FILE, help="Scenario: write JUnit XML, one test case per assertion.")
@click.option(
    "--report", type=_FILE, help="Scenario: write a Markdown report that compares truth and result."
)
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    help="Scenario: keep store, configs and logs in this folder, which must be new or empty.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the address, or the report, as a JSON object.")
def run(what: str, as_json: bool, **options: Any) -> None:
    """Run a simulated device until Ctrl-C, or play a scenario to its end.

    KIND is a word of `edgebed sim list`; the first line of stdout is its URL, for an adapter's `url` option.
    SCENARIO is a name in configs/scenarios/ or a file: broker, collector, agents and devices run in this
    process on one clock, and the collector's data are compared with the truth. Results go to stdout,
    everything else to stderr.
    """
    given = {name: value for name, value in options.items() if value not in (None, (), False)}
    if what in simulators.KINDS:
        _refuse(given, _OF_SCENARIOS, f"{what} is a kind of device")
        _run_kind(what, given, as_json)
    else:
        _refuse(given, _OF_KINDS, f"{what} is a scenario")
        from edgebed.scenario import command as scenario  # it imports all of edgebed: only when needed

        sys.exit(scenario.run(what, given, as_json))


_OF_KINDS = {
    "host": "host",
    "port": "port",
    "faults": "fault",
    "clip": "clip",
    "extra": "option",
    "seconds": "for",
}
_OF_SCENARIOS = {"asserted": "assert", "junit": "junit", "report": "report", "keep": "keep"}


def _refuse(given: dict[str, Any], foreign: dict[str, str], why: str) -> None:
    for name, option in foreign.items():
        if name in given:
            raise click.UsageError(f"{why}: --{option} does not apply")


def _run_kind(kind: str, given: dict[str, Any], as_json: bool) -> None:
    rate, seconds = given.pop("rate", 1.0), given.pop("seconds", None)
    given |= _extra(given.pop("extra", ()))
    if "host" in given:
        _check_host(given["host"])
    given.setdefault("seed", 1)
    server = _server(kind, rate, given)
    stopped_by = asyncio.run(_serve(server, kind, seconds, as_json))
    if stopped_by == signal.SIGINT:
        sys.exit(130)


def _check_host(host: str) -> None:
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        raise click.UsageError(
            f"--host {host!r} is neither an address nor a name that this machine can resolve"
        ) from error


def _extra(texts: Sequence[str]) -> dict[str, Any]:
    found = {}
    for text in texts:
        key, is_pair, value = text.partition("=")
        if not is_pair or not key.isidentifier() or key in _OWN:
            raise click.UsageError(f"--option {text!r} is not KEY=VALUE with an option of this kind")
        try:
            found[key] = compose(value or '""')[0].plain()
        except YamlMistake as mistake:
            raise click.UsageError(f"--option {text!r}: {mistake.sentence}") from mistake
    return found


def _server(kind: str, rate: float, given: dict[str, Any]) -> Any:
    try:
        kind_of_server = simulators.load(kind)
    except ModuleNotFoundError as error:
        raise EdgebedError(
            f"{kind} needs {error.name}, which is missing: pip install 'edgebed[sim]'"
        ) from error
    taken = inspect.signature(kind_of_server).parameters
    for name in given:
        if name not in taken:
            known = ", ".join(sorted(set(taken) - _OWN)) or "none"
            raise click.UsageError(
                f"{kind} does not have --{_OF_KINDS.get(name, f'option {name}')}; it has the options {known}"
            )
    try:
        return kind_of_server(clock=Clock(rate), **given)
    except (ValueError, TypeError) as error:
        raise click.UsageError(str(error)) from error


async def _serve(server: Any, kind: str, seconds: float | None, as_json: bool) -> int:
    """Run the simulator; return the signal that ended it, 0 when `seconds` are over."""
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[int] = loop.create_future()

    def end(number: int) -> None:
        if not stop.done():
            stop.set_result(number)

    signals.on_end(end)
    async with server:
        gc.collect()
        gc.freeze()  # scanning these permanent objects again and again would cause jitter
        click.echo(
            json.dumps({"kind": kind, "url": server.url, "port": server.port}) if as_json else server.url
        )
        try:
            async with asyncio.timeout(seconds):
                return await stop
        except TimeoutError:
            return 0


_SHARE = NumberRange(0, 1)
_PID = click.IntRange(1)


@command.command()
@click.option("--nodes", type=click.IntRange(1, 10_000), default=100, show_default=True)
@click.option(
    "--rate",
    type=NumberRange(0, 1000, min_open=True),
    default=1.0,
    show_default=True,
    help="Messages a second of each node.",
)
@click.option(
    "--samples", type=click.IntRange(1, 1000), default=1, show_default=True, help="Rows in a message."
)
@click.option(
    "--for",
    "seconds",
    type=NumberRange(min=0),
    default=30.0,
    show_default=True,
    help="Seconds of sending.",
)
@click.option(
    "--drain",
    type=NumberRange(min=0),
    default=60.0,
    show_default=True,
    help="Then wait this many seconds at most for acknowledgements.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    default=1,
    show_default=True,
    help="Same seed, same values, schedule and faults.",
)
@click.option(
    "--broker",
    default="mosquitto",
    show_default=True,
    metavar="mosquitto|nats|URL",
    help="Start this broker and a collector on loopback, or use a running one: mqtt://HOST[:PORT].",
)
@click.option("--broker-pid", type=_PID, help="With a URL: show what this process costs as the broker.")
@click.option("--collector-pid", type=_PID, help="With a URL: the same for the collector.")
@click.option(
    "--connections",
    type=click.IntRange(0, 10_000),
    default=0,
    help="Let the nodes share this many connections, without Will.  [default: one for each node]",
)
@click.option("--site", default="sim/fleet/hall", show_default=True, help="tenant/pilot/site of all nodes.")
@click.option(
    "--heartbeat",
    type=NumberRange(min=0),
    default=15.0,
    show_default=True,
    help="Seconds between heartbeats of a node; 0: none.",
)
@click.option(
    "--custody",
    type=NumberRange(min=0),
    default=60.0,
    show_default=True,
    help="Seconds between signed statements of a node; 0: none.",
)
@click.option("--drop", type=_SHARE, default=0.0, help="Share of nodes that are away for 10 s of every 30 s.")
@click.option("--reconnect", type=_SHARE, default=0.0, help="Share of nodes that connect again every 5 s.")
@click.option("--flood", type=_SHARE, default=0.0, help="Share of nodes that send 20 times as often.")
@click.option("--json", type=_FILE, help="Write the figures to this file as JSON.")
def fleet(**given: Any) -> None:
    """Load a broker and a collector with many nodes, and measure up to the acknowledgement.

    Each node has an outbox in memory, status with Will, birth, heartbeats and signed statements, as an agent
    does. Exit 1 when a message is not acknowledged after the drain, is acknowledged wrongly, or, with a
    collector of this command, is not in its store exactly once.
    """
    try:
        from edgebed.fleet import command as fleet_command  # it needs the extras sim and collector
    except ModuleNotFoundError as error:
        raise EdgebedError(
            f"a fleet needs {error.name}, which is missing: pip install 'edgebed[sim,collector]'"
        ) from error
    sys.exit(fleet_command.run(given))
