"""`edgebed agent`: run the daemon beside a device, check its config, show its status."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgebed import __version__, progress, signals
from edgebed.commands.site import require_extra as require_certificates
from edgebed.renewal import Renewal
from wire.clock import Clock
from wire.errors import EdgebedError, on_purpose
from wire.printable import counted, printable

if TYPE_CHECKING:
    from agent.pipeline.settings import DevicePlan

CONFIG = click.argument("config", type=click.Path(path_type=Path))
STATE = click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    help="State folder of an agent that ran before: it goes on with its key of signed statements.",
)
LEVELS = ("debug", "info", "warning", "error")

log = logging.getLogger("edgebed.agent")


@click.group(name="agent")
def command() -> None:
    """Run the daemon beside a device: it reads the device, runs models on the data and sends the results."""


@command.command()
@click.argument("url")
@click.argument("token")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("identity"),
    show_default=True,
    help="New folder for key, certificate and config part; the key never leaves it.",
)
@STATE
def enrol(url: str, token: str, out: Path, state: Path | None) -> None:
    """Get the certificate of this device from the enrolment service at URL (https://host[:port]).

    TOKEN is a line of `edgebed node add`; "-" reads it from stdin, where other users of this machine cannot
    see it. A site with another root than the token's is refused.
    """
    require_certificates()
    from edgebed.site.certificates import utc
    from edgebed.site.enrolment import enrol as act

    word = sys.stdin.readline(1_000) if token == "-" else token  # noqa: S105 - where to read it from
    found = act(url, word, out, utc(Clock().now_ms()), state)
    click.echo(f"{out}: enrolled as {found.node}; use {out / 'broker.yaml'} in the agent's config")


@command.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--now", "is_forced", is_flag=True, help="Also before two thirds of its life have passed.")
@STATE
def renew(folder: Path, is_forced: bool, state: Path | None) -> None:
    """Renew the certificate in FOLDER, of `edgebed agent enrol`, when two thirds of its life have passed.

    An agent that runs does this by itself, twice a day. The key stays the same.
    """
    require_certificates()
    from edgebed.site.certificates import utc
    from edgebed.site.enrolment import renew as act

    click.echo(f"{folder}: {act(folder, utc(Clock().now_ms()), is_forced=is_forced, state=state)}")


@command.command()
@CONFIG
@click.option("--log", "level", type=click.Choice(LEVELS), default="info", show_default=True)
@click.option("--clock-file", type=click.Path(path_type=Path), hidden=True)  # for drills: a clock that steps
def run(config: Path, level: str, clock_file: Path | None) -> None:
    """Run the agent of CONFIG until SIGTERM or Ctrl-C."""
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
    for doubt in app.plan.doubts:
        log.warning("%s", doubt)
    renewal = Renewal(app.plan.config.broker.cert_file, state=app.plan.config.state)
    renewal.start()
    with errors_of_a_group():
        try:
            asyncio.run(app.run())
        except asyncio.CancelledError:
            log.warning("ended without waiting: a second signal arrived")
        finally:
            renewal.stop()
    if app.interrupted:
        sys.exit(130)


@command.command()
@CONFIG
@click.option("--seconds", default=10.0, show_default=True, help="How long to wait for devices and models.")
@click.option("--log", "level", type=click.Choice(LEVELS), default="warning", show_default=True)
def once(config: Path, seconds: float, level: str) -> None:
    """Read the devices, run the models, print what the agent would publish; send and store nothing."""
    log_to_stderr(level)
    from agent.config import load
    from agent.offline.once import Once

    clock = Clock()
    plan = load(config, clock, files=True)

    listening = True

    def say(line: str) -> None:
        nonlocal listening
        try:
            if listening:
                click.echo(line)
        except BrokenPipeError:  # `| head` has ended: stop reading the devices
            listening = False
            session.stop()

    session = Once(plan, clock, say)

    async def look() -> None:
        async with progress.shown(session.progress):
            await session.run(seconds)

    with errors_of_a_group():
        code = signals.run(look(), session.stop)
    if not listening:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the exit flushes nothing
        code = code or 1
    sys.exit(code)


@command.command()
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="Print the mistakes as a JSON list.")
def check(config: Path, as_json: bool) -> None:
    """List every mistake in CONFIG and its model packages, with lines; connect to nothing.

    Also prints what of its devices pilots may write, and whether plans of pilots are followed.
    """
    from agent.config import load
    from agent.state_dir import check_node
    from wire.errors import ConfigError

    try:
        plan = load(config, Clock(), files=True)
        check_node(plan.config.state, str(plan.address))
    except ConfigError as error:
        if as_json:
            click.echo(json.dumps({"ok": False, "mistakes": list(error.mistakes)}))
            sys.exit(error.exit_code)
        raise
    devices, models = len(plan.devices), len(plan.config.models)
    remote, points = plan.config.remote, _set_points(plan.devices)
    if as_json:
        found = {"ok": True, "node": str(plan.address), "devices": devices, "models": models}
        found |= {"pilot": remote.pilot, "pilot_signers": remote.pilot_signers, "set_points": points}
        click.echo(json.dumps(found | ({"warnings": plan.doubts} if plan.doubts else {})))
    else:
        for doubt in plan.doubts:
            click.echo(f"warning: {doubt}", err=True)
        click.echo(f"{config} is valid: {plan.address}, devices: {devices}, models: {models}")
        for each in points:
            limits = f"{each['min']:g} to {each['max']:g}, safe {each['safe']:g}"
            click.echo(printable(f"  a pilot may set {each['name']} of {each['device']}: {limits}", 300))
        if remote.pilot:
            keys = ", ".join(path.name for path in plan.config.trust.keys) or "none"
            signers = counted(remote.pilot_signers, "signature")
            click.echo(f"  plans of pilots are followed with {signers} by a key of trust.keys: {keys}")
        elif points:
            click.echo("  no plan of a pilot is followed: remote.pilot is not true")


def _set_points(devices: Mapping[str, DevicePlan]) -> list[dict[str, Any]]:
    """What `allow_write` allows."""
    points = {name: each.set_point for name, each in devices.items() if each.set_point is not None}
    return [
        {
            "device": name,
            "name": each.name,
            **{key: getattr(each.limits, key) for key in ("min", "max", "safe")},
        }
        for name, each in points.items()
    ]


@command.command()
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="Print the whole status file.")
def status(config: Path, as_json: bool) -> None:
    """Show the status of the agent of CONFIG; needs no broker.

    Exits 0 when all is well, 69 when the agent does not run, and 3 when a device, a model or the outbox has a
    problem, the collector refuses messages, or messages wait while the agent is offline.
    """
    from agent.config import state_folder
    from agent.health import is_well, read_status, status_lines

    clock = Clock()
    document = read_status(*state_folder(config), clock)
    if as_json:
        click.echo(json.dumps(document))
    else:
        for line in status_lines(document):
            click.echo(line)
    if not is_well(document):
        sys.exit(3 if document["running"] else 69)


@command.command(name="reload")
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--seconds", default=600.0, show_default=True, help="How long to wait for the result.")
def reload_config(config: Path, as_json: bool, seconds: float) -> None:
    """Have the running agent of CONFIG read it again, and print what became of it.

    Devices and models that did not change go on without a pause. Changed ones run on trial: if they do not
    work within `remote.soak_s`, the agent goes back to the configuration before. Exits 0 when CONFIG is in
    use, 3 when the agent went back, 69 when no agent runs, 75 when there is no result yet, and 78 when CONFIG
    is refused: then nothing was changed.
    """
    from agent.config import state_folder
    from agent.state_dir import check_node, reloading

    state, node = state_folder(config, strict=False)  # the agent reports the mistakes
    check_node(state, node)
    request = secrets.token_hex(8)
    with reloading(state, request):
        found = _result_of(state, node, request, seconds)
    if as_json:
        click.echo(json.dumps(found))
    else:
        click.echo(f"{found['state']}: {found['why'] or found['what']}", err=found["state"] != "applied")
    sys.exit({"applied": 0, "reverted": 3}.get(found["state"], 78))


def _result_of(state: Path, node: str, request: str, seconds: float) -> dict[str, str]:
    """What became of a reload; says on stderr when it begins to run on trial."""
    from agent.health import read_status
    from wire.errors import TryAgain, Unreachable

    clock = Clock()
    end_s, shown = clock.monotonic() + seconds, False
    while clock.monotonic() < end_s:
        document = read_status(state, node, clock)
        if not document["running"]:
            raise Unreachable("the agent has ended before there was a result: see its log")
        found: dict[str, str] = document.get("reload", {})
        if found.get("request") == request and found["state"] != "soaking":
            return found
        if found.get("request") == request and not shown:
            click.echo(f"on trial: {found['what']}", err=True)  # it may end before this is seen
            shown = True
        time.sleep(0.1)
    raise TryAgain(f"no result within {seconds:g} s: `edgebed agent status` shows it later")


@command.command()
@click.option("--adapter", default="", help="Print the options of this adapter instead of the whole config.")
def schema(adapter: str) -> None:
    """Print the JSON Schema of the config, for editors."""
    import adapters
    from agent import config
    from wire.config import schema as schema_of

    found = schema_of(adapters.load(adapter).Options) if adapter else config.schema()
    click.echo(json.dumps(found, indent=2))


def log_to_stderr(level: str) -> None:
    """Log the packages of edgebed to stderr, one line per record."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for package in ("edgebed", "agent", "adapters", "wire"):
        logging.getLogger(package).setLevel(level.upper())


class _OneLine(logging.Formatter):
    """Formats a record as one line, also where a device sent line breaks."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).replace("\n", " | ").replace("\r", " ")


@contextlib.contextmanager
def errors_of_a_group() -> Iterator[None]:
    """Raise the error that ended a task group instead of the group."""
    try:
        yield
    except BaseExceptionGroup as group:
        raise _first(group) from group


def _first(group: BaseExceptionGroup[BaseException]) -> EdgebedError:
    """Return the error to end with: one that was raised on purpose, else a bug, logged with its traceback."""
    if found := on_purpose(group):
        return found
    log.error("a task of the agent ended with an unexpected error", exc_info=group)
    return EdgebedError(
        "a task of the agent ended with an unexpected error, see the log; taken messages are on disk"
    )
