"""`edgebed config`: request another configuration of a node from a running collector."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edgebed.collector_api import CollectorApi, collector_options
from edgebed.number_range import NumberRange
from wire.clock import Clock
from wire.errors import ConfigError
from wire.printable import printable

SECTIONS = ("devices", "models", "publish")
_ENDED = {"applied": 0, "rolled_back": 3, "rejected": 78, "failed": 78}  # state of a report: exit code


def _options(command: Callable[..., None]) -> Callable[..., None]:
    return collector_options(" that asks the node", "NODE")(click.argument("node")(command))


@click.group(name="config")
def command() -> None:
    """Replace devices, models and publish settings of a node (tenant/pilot/site/node) from afar.

    The agent takes this only where its own file has remote.config: true. It checks the document, tries it,
    and goes back by itself if a changed device or model does not work.
    """


@command.command()
@_options
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--wait", type=NumberRange(0), default=0.0, help="Seconds to wait for what becomes of it.")
def push(node: str, file: Path, url: str, token_file: Path | None, wait: float) -> None:
    """Request the devices, models or publish settings of FILE (YAML) from NODE.

    With --wait: exits 0 when NODE uses them, 3 when it went back, 78 when it refused them, and 75 when it has
    not answered yet.
    """
    api = CollectorApi(url, token_file)
    _ended(api, node, api.change("PUT", _path(node), _document(file)), wait)


@command.command()
@_options
@click.option("--wait", type=NumberRange(0), default=0.0, help="Seconds to wait for what becomes of it.")
def withdraw(node: str, url: str, token_file: Path | None, wait: float) -> None:
    """Let NODE use its own file alone again."""
    api = CollectorApi(url, token_file)
    _ended(api, node, api.change("DELETE", _path(node)), wait)


@command.command()
@_options
@click.option("--json", "as_json", is_flag=True, help="Print the answer of the collector.")
def show(node: str, url: str, token_file: Path | None, as_json: bool) -> None:
    """Show what was requested from NODE, and what NODE reports."""
    found = CollectorApi(url, token_file).ask(_path(node))
    if as_json:
        click.echo(json.dumps(found))
        return
    wanted = found["desired"]
    if wanted is None:
        click.echo("requested: nothing")
    else:
        what = ", ".join(wanted["doc"]) or "its own file alone"
        click.echo(printable(f"requested: version {wanted['ver']} by {wanted['by']}: {what}", 500))
    click.echo(_reported(found["reported"]))


def _path(node: str) -> str:
    from wire.topics import Address

    return f"nodes/{Address.parse(node)}/desired"


def _document(file: Path) -> dict[str, Any]:
    """The document in a file.

    Raises:
        ConfigError: it cannot be read, or has other sections.
    """
    from wire import config
    from wire.yaml12 import YamlMistake

    try:
        found = config.plain(config.read(file))
    except YamlMistake as mistake:
        place = f"{file}:{mistake.place.line}:{mistake.place.col}"
        raise ConfigError(f"{place}: {mistake.sentence}") from mistake
    if not isinstance(found, dict) or not found or found.keys() - set(SECTIONS):
        raise ConfigError(f"{file}: a document has {', '.join(SECTIONS)}, one at least, and nothing else")
    return found


def _ended(api: CollectorApi, node: str, answer: dict[str, Any], wait_s: float) -> None:
    """Print what became of a request; ends the command with the exit code of its state."""
    ver, clock = answer["desired"]["ver"], Clock()
    click.echo(f"requested: version {ver}")
    if not wait_s:
        return
    end_s = clock.monotonic() + wait_s
    while True:
        reported = answer["reported"] or {}
        if reported.get("ver") == ver and reported.get("state") in _ENDED:
            click.echo(_reported(reported))
            sys.exit(_ENDED[reported["state"]])
        if clock.monotonic() >= end_s:
            break
        time.sleep(0.5)
        answer = api.ask(_path(node))
    click.echo(_reported(answer["reported"]), err=True)
    sys.exit(75)


def _reported(reported: dict[str, Any] | None) -> str:
    if not reported:
        return "the node has reported nothing: is remote.config true in its own file?"
    why = f": {reported['err']}" if reported.get("err") else ""
    return printable(f"version {reported['ver']}: {reported['state']}{why}", 2_000)
