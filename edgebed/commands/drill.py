"""`edgebed drill`: cause faults and prove that no message was lost."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgebed import signals
from edgebed.junit import Case, write
from wire.clock import NS_PER_S, Clock
from wire.config import did_you_mean

if TYPE_CHECKING:
    from edgebed.drill.run import DrillResult


@click.group(name="drill")
def command() -> None:
    """Cause faults, then check that every message is stored once, in order, and the ledger is exact."""


@command.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_faults(as_json: bool) -> None:
    """List the faults that a drill can cause."""
    from edgebed.drill.faults import FAULTS

    for fault in FAULTS.values():
        if as_json:
            click.echo(json.dumps({"name": fault.name, "does": fault.description, "alone": fault.alone}))
        else:
            click.echo(f"{fault.name:20} {fault.description}")


@command.command()
@click.argument("faults", nargs=-1)
@click.option(
    "--rounds",
    type=click.IntRange(1, 100_000),
    help="On each broker. [default: 60, or one for each of FAULTS if each needs an installation of its own]",
)
@click.option("--seed", type=int, help="The same seed draws the same faults; default: today's date.")
@click.option(
    "--broker",
    type=click.Choice(["nats", "mosquitto", "both"]),
    default="nats",
    show_default=True,
    help="Which broker to use.",
)
@click.option(
    "--against",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A site's own installation instead of one on loopback; see docs/drills.md.",
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="Keep all data here; by default only data of failed drills are kept.",
)
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON object.")
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), help="Write a JUnit report.")
def run(
    faults: tuple[str, ...],
    rounds: int | None,
    seed: int | None,
    broker: str,
    against: Path | None,
    folder: Path | None,
    as_json: bool,
    junit: Path | None,
) -> None:
    """Cause FAULTS in an installation on loopback, one a round, then check its ledger and its store.

    Without FAULTS every fault is used; `edgebed drill list` shows them. Exits 0 when no message was lost
    without a report, 1 when one was, 3 when this machine cannot run some of the drills.
    """
    from edgebed.broker import KINDS, Kind
    from edgebed.drill import run as drills
    from edgebed.drill.against import load
    from edgebed.drill.faults import FAULTS

    for name in faults:
        if name not in FAULTS:
            raise click.UsageError(
                f"unknown fault {name!r}{did_you_mean(name, FAULTS)}; see edgebed drill list"
            )
    if against is None and any(FAULTS[name].needs for name in faults or FAULTS):
        drills.enter_namespace()
    today = datetime.fromtimestamp(Clock().now_ns() / NS_PER_S, UTC)
    seed = int(today.strftime("%Y%m%d")) if seed is None else seed
    if rounds is None:
        rounds = len(faults) if faults and all(FAULTS[name].alone for name in faults) else 60
    brokers: list[Kind] = list(KINDS) if broker == "both" else [broker]  # type: ignore[list-item]  # a Choice
    place = folder or Path(tempfile.mkdtemp(prefix="edgebed-drill-"))
    say = partial(click.echo, err=True)
    found: list[DrillResult] = []

    def done(result: DrillResult) -> None:
        found.append(result)
        click.echo(drills.line(result), err=as_json)

    async def drill() -> None:
        if against is None:
            await drills.run_all(place, faults, rounds, brokers, seed, say=say, done=done)
        else:
            site = load(against, frozenset(name for name, fault in FAULTS.items() if fault.by_command))
            done(await drills.run_against(place, faults, rounds, site, seed, say))

    ended = signals.run(drill())
    failed = any(each.violations for each in found)
    if failed:
        click.echo(f"the data of the failed drills are in {place}", err=True)
    elif folder is None:
        shutil.rmtree(place, ignore_errors=True)
    if junit is not None:
        write(junit, "edgebed drill", [_case(each) for each in found])
    if as_json:
        click.echo(json.dumps(_document(found, seed, today)))
    else:
        ran = sum(len(each.rounds) for each in found)
        verdict = "BROKEN" if failed else "ended before its last round" if ended else "kept"
        click.echo(f"{ran:,} rounds, seed {seed}, {today:%Y-%m-%d}: {verdict}")
    sys.exit(ended or (1 if failed else 3 if any(each.skipped for each in found) else 0))


def _case(drill: DrillResult) -> Case:
    return Case(
        f"{drill.broker}.{drill.name}",
        f"seed {drill.seed}, {len(drill.rounds)} rounds",
        drill.seconds,
        failed="\n".join(drill.violations),
        skipped=drill.skipped,
    )


def _document(found: Sequence[DrillResult], seed: int, today: datetime) -> dict[str, Any]:
    return {
        "date": f"{today:%Y-%m-%d}",
        "seed": seed,
        "rounds": sum(len(each.rounds) for each in found),
        "kept": not any(each.violations for each in found),
        "drills": [_fields(each) for each in found],
    }


def _fields(drill: DrillResult) -> dict[str, Any]:
    """Return a drill as `--json` prints it; the output calls the violations `faults`."""
    fields = asdict(drill)
    fields["faults"] = fields.pop("violations")
    return fields
