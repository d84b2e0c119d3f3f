"""`edgebed sim fleet`: runs a fleet and prints what it measured."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from edgebed import signals
from edgebed.broker import KINDS
from edgebed.fleet.figures import Usage
from edgebed.fleet.fleet import Fleet, FleetOptions
from edgebed.fleet.plan import FleetPlan
from edgebed.fleet.report import as_json, as_text, failures
from edgebed.fleet.site import OwnSite, own_site, require_files
from wire.broker import Broker
from wire.clock import Clock
from wire.errors import ConfigError, EdgebedError, WireError, unwritable
from wire.topics import Address


def run(given: dict[str, Any]) -> int:
    """Run a fleet with the options of `edgebed sim fleet`; returns the exit code.

    Raises:
        EdgebedError: the fleet cannot run.
    """
    plan = _plan(given)
    kind = next((kind for kind in KINDS if kind == given["broker"]), None)
    _check(given, own=kind is not None)
    require_files(given["connections"] or plan.nodes)
    if given["json"] is not None:
        _write(given["json"], "")  # a file that cannot be written is an error before the measurement
    with ExitStack() as stack:
        own = None if kind is None else stack.enter_context(own_site(kind))
        pids = own.pids if own is not None else _pids(given)
        options = FleetOptions(
            site=given["site"],
            broker=Broker(url=given["broker"] if own is None else own.broker.url),
            seconds=given["seconds"],
            drain_s=given["drain"],
            heartbeat_s=given["heartbeat"],
            custody_s=given["custody"],
            connections=given["connections"],
        )
        fleet = Fleet(plan, options, {**pids, "generator": os.getpid()}, Clock())
        code = signals.run(fleet.run(), fleet.stop)
        if own is not None and code == 0:  # after a signal there is no time for it
            _check_store(own, fleet)
    click.echo(as_text(plan, options, fleet.figures))
    if given["json"] is not None:
        found = as_json(plan, options, fleet.figures)
        _write(given["json"], json.dumps(found, indent=2) + "\n")
    if code == 0 and (failed := failures(fleet.figures)):
        raise EdgebedError("; ".join(failed))
    return code


def _plan(given: dict[str, Any]) -> FleetPlan:
    names = ("nodes", "rate", "samples", "seed", "drop", "reconnect", "flood")
    try:
        return FleetPlan(**{name: given[name] for name in names})
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _check_broker(url: str) -> None:
    try:
        if Broker(url=url).tls:
            raise click.UsageError(f"--broker {url!r}: a fleet supports only plain mqtt://")
    except ConfigError as error:
        raise click.UsageError(
            f"--broker {url!r} is not {' or '.join(KINDS)}, and not a URL: {error}"
        ) from error


def _check(given: dict[str, Any], *, own: bool) -> None:
    try:
        Address.parse(f"{given['site']}/node-00000")
    except WireError as error:
        raise click.UsageError(f"--site {given['site']!r} is not tenant/pilot/site: {error}") from error
    if not own:
        _check_broker(given["broker"])
    elif given["broker_pid"] or given["collector_pid"]:
        raise click.UsageError(
            "--broker-pid and --collector-pid belong to --broker URL: other processes are known"
        )
    if given["connections"] and (given["drop"] or given["reconnect"]):
        raise click.UsageError(
            "--drop and --reconnect break the connection of one node: leave --connections out"
        )


def _pids(given: dict[str, Any]) -> dict[str, int]:
    named = {"broker": given["broker_pid"], "collector": given["collector_pid"]}
    pids = {role: pid for role, pid in named.items() if pid}
    for role, pid in pids.items():
        if Usage.of(pid) is None:
            raise click.UsageError(f"--{role}-pid {pid}: there is no such process")
    return pids


def _check_store(own: OwnSite, fleet: Fleet) -> None:
    fleet.figures.stored, wrong = own.check(fleet.nodes)
    for sentence in wrong:
        fleet.figures.note_wrong(sentence)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise unwritable(f"--json {path}", error) from error
