"""`edgebed replay`: run a recording through the pipeline again, and compare the events."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from edgebed import progress, signals
from edgebed.number_range import NumberRange

if TYPE_CHECKING:
    from agent.offline.regression import Difference
    from agent.offline.replay import ReplayRun


@click.command(name="replay")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Use the models of this config instead of the recorded config.",
)
@click.option(
    "--expect",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Compare the events with this file, one JSON object per line.",
)
@click.option("--update", is_flag=True, help="Write --expect instead of comparing.")
@click.option(
    "--within-ms",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Allowed time shift of an event.",
)
@click.option(
    "--tolerance",
    type=NumberRange(min=0),
    default=0.02,
    show_default=True,
    help="Allowed difference of scores and numbers.",
)
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON object.")
def command(
    file: Path,
    config: Path | None,
    expect: Path | None,
    update: bool,
    within_ms: int,
    tolerance: float,
    as_json: bool,
) -> None:
    """Run FILE, made by `edgebed record`, through the pipeline as fast as the models allow.

    Without --expect the events are printed, one JSON object per line. Exits 1 when they differ from the
    expected events, 3 when a model did not run, or when no event is expected and there are some.
    """
    from agent.offline import regression
    from agent.offline.replay import ReplayRun
    from edgebed.commands.agent import errors_of_a_group, log_to_stderr

    if update and expect is None:
        raise click.UsageError("--update needs --expect, the file to write")
    log_to_stderr("error")
    replay = ReplayRun(file, config)
    began_s = time.monotonic()

    async def run() -> None:
        async with progress.shown(lambda: f"{replay.readings:,} readings, {replay.seconds:,.0f} s recorded"):
            await replay.run()

    with errors_of_a_group():
        ended = signals.run(run())
    took_s = time.monotonic() - began_s
    found = regression.of_events(replay.events)
    difference = None
    empty = False
    if ended:
        click.echo(f"{file} was not replayed to its end: nothing is compared", err=True)
    elif expect is not None and update:
        regression.save(expect, found)
        if not found:
            click.echo(f"{expect} expects no event: the replay gave none", err=True)
    elif expect is not None:
        expected = regression.load(expect)
        empty = bool(found and not expected)
        if empty:
            click.echo(f"{expect} has no event, the replay has {len(found)}: --update writes them", err=True)
        difference = regression.compare(expected, found, within_ms=within_ms, tolerance=tolerance)
    if as_json:
        click.echo(json.dumps(_document(replay, took_s, difference)))
    else:
        if expect is None or ended:
            for each in found:
                click.echo(msgspec.json.encode(each))
        _print(replay, took_s, difference)
    failed = [name for name, state in replay.states.items() if state.state == "failed"]
    sys.exit(ended or (3 if empty else 1 if difference else 3 if failed else 0))


def _print(replay: ReplayRun, took_s: float, difference: Difference | None) -> None:
    from agent.offline.replay import changed_models, int8_note

    if replay.session.recovered:
        click.echo(f"{replay.path} ends early: {replay.session.recovered}", err=True)
    for line in changed_models(replay.session.models, replay.models):
        click.echo(line, err=True)
    for name, state in replay.states.items():
        if state.state == "failed":
            click.echo(f"model {name}: {state.why}", err=True)
    speed = replay.seconds / took_s if took_s > 0 else 0.0
    click.echo(
        f"{replay.readings:,} readings of {replay.seconds:,.1f} s in {took_s:.1f} s (x{speed:,.0f}), "
        f"{len(replay.events):,} events",
        err=True,
    )
    if difference is None:
        return
    for line in difference.lines():
        click.echo(line)
    if note := int8_note(replay.int8, difference):
        click.echo(note, err=True)
    click.echo(
        f"{len(difference.missing)} missing, {len(difference.unexpected)} unexpected, "
        f"{len(difference.changed)} changed"
        if difference
        else "as expected"
    )


def _document(replay: ReplayRun, took_s: float, difference: Difference | None) -> dict[str, Any]:
    from agent.offline.replay import changed_models

    return {
        "file": str(replay.path),
        "recovered": replay.session.recovered,
        "readings": replay.readings,
        "left_out": replay.left_out,
        "recorded_s": round(replay.seconds, 3),
        "took_s": round(took_s, 3),
        "events": len(replay.events),
        "models": replay.models,
        "changed_models": changed_models(replay.session.models, replay.models),
        "int8": replay.int8,
        "states": {name: msgspec.to_builtins(state) for name, state in replay.states.items()},
        "difference": None if difference is None else difference.lines(),
    }
