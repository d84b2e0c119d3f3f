"""`edgebed drill`: faults on purpose, and the proof that nothing was lost by them."""

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

from edgebed.junit import Case, write
from wire.clock import NS_PER_S, Clock
from wire.config import did_you_mean

if TYPE_CHECKING:
    from edgebed.drill.run import Drill


@click.group(name="drill")
def command() -> None:
    """Faults on purpose: what was taken must be stored once, in order, and the ledger exact."""


@command.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_harms(as_json: bool) -> None:
    """List what can be done to an installation."""
    from edgebed.drill.faults import HARMS

    for harm in HARMS.values():
        if as_json:
            click.echo(json.dumps({"name": harm.name, "does": harm.does, "alone": harm.alone}))
        else:
            click.echo(f"{harm.name:20} {harm.does}")


@command.command()
@click.argument("harms", nargs=-1)
@click.option(
    "--rounds", type=click.IntRange(1, 100_000), default=60, show_default=True, help="On each broker."
)
@click.option("--seed", type=int, help="The same seed draws the same harms; today's date without it.")
@click.option(
    "--broker",
    type=click.Choice(["nats", "mosquitto", "both"]),
    default="nats",
    show_default=True,
    help="Which broker stands in the middle.",
)
@click.option(
    "--against",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A site's own installation instead of one on loopback; see docs/drills.md.",
)
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Keep everything here; else only what failed."
)
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON object.")
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), help="Write a JUnit report.")
def run(
    harms: tuple[str, ...],
    rounds: int,
    seed: int | None,
    broker: str,
    against: Path | None,
    folder: Path | None,
    as_json: bool,
    junit: Path | None,
) -> None:
    """Harm an installation on loopback in ROUNDS of the HARMS named (all without a name) and judge it.

    Exits 0 when the promise was kept, 1 when it was not, 3 when some drills could not be run here.
    """
    from edgebed.broker import KINDS, Kind
    from edgebed.drill import run as drills
    from edgebed.drill.against import load
    from edgebed.drill.faults import HARMS

    for name in harms:
        if name not in HARMS:
            raise click.UsageError(f"no harm {name!r}{did_you_mean(name, HARMS)}; see edgebed drill list")
    if against is None and any(HARMS[name].needs for name in harms or HARMS):
        drills.enter_namespace()
    today = datetime.fromtimestamp(Clock().now_ns() / NS_PER_S, UTC)
    seed = int(today.strftime("%Y%m%d")) if seed is None else seed
    brokers: list[Kind] = list(KINDS) if broker == "both" else [broker]  # type: ignore[list-item]  # a Choice
    place = folder or Path(tempfile.mkdtemp(prefix="edgebed-drill-"))
    say = partial(click.echo, err=True)
    if against is not None:
        site = load(against, frozenset(name for name, harm in HARMS.items() if harm.by_command))
        found = [drills.run_against(place, harms, rounds, site, seed, say)]
    else:
        found = drills.run_all(place, harms, rounds, brokers, seed, say)
    failed = any(each.faults for each in found)
    if failed:
        click.echo(f"what was harmed is kept in {place}", err=True)
    elif folder is None:
        shutil.rmtree(place, ignore_errors=True)
    if junit is not None:
        write(junit, "edgebed drill", [_case(each) for each in found])
    if as_json:
        click.echo(json.dumps(_document(found, seed, today)))
    else:
        for line in map(drills.line, found):
            click.echo(line)
        ran = sum(len(each.rounds) for each in found)
        click.echo(f"{ran:,} rounds, seed {seed}, {today:%Y-%m-%d}: {'BROKEN' if failed else 'kept'}")
    sys.exit(1 if failed else 3 if any(each.skipped for each in found) else 0)


def _case(drill: Drill) -> Case:
    return Case(
        f"{drill.broker}.{drill.name}",
        f"seed {drill.seed}, {len(drill.rounds)} rounds",
        drill.seconds,
        failed="\n".join(drill.faults),
        skipped=drill.skipped,
    )


def _document(found: Sequence[Drill], seed: int, today: datetime) -> dict[str, Any]:
    return {
        "date": f"{today:%Y-%m-%d}",
        "seed": seed,
        "rounds": sum(len(each.rounds) for each in found),
        "kept": not any(each.faults for each in found),
        "drills": [asdict(each) for each in found],
    }
