"""`edgebed pilot`: check the plan of a pilot, freeze and sign it, send it to its nodes, and follow it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
import msgspec

from edgebed.collector_api import LONG_S, CollectorApi, Refusal, collector_options
from edgebed.pilot_export import export
from edgebed.pilot_progress import outline, progress
from edgebed.pilot_report.command import report
from edgebed.pilot_start.command import demo, draft
from wire.errors import EdgebedError, WireError, unwritable
from wire.printable import counted, printable

if TYPE_CHECKING:
    from wire.clock import Clock
    from wire.config import Check
    from wire.pilot.frozen import FrozenPlan, Opened, SignedPlan
    from wire.pilot.plan import Plan

ENDING = ".plan.json"
_ANSWER_S = 10.0  # in which a node answers a plan
_yaml = click.argument("plan", type=click.Path(dir_okay=False, path_type=Path))
_signed = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
_keys = click.option(
    "--key",
    "key_files",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="Private key as PEM, as `edgebed key signing` writes it; repeat it for several signatures.",
)
_out = partial(click.option, "--out", type=click.Path(dir_okay=False, path_type=Path))
_url = click.option("--url", help="Running collector: http://host:port.")
_token = click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="With --url: file with an API token of an operator of the nodes.",
)


@click.group(name="pilot")
def command() -> None:
    """Check the plan of a pilot, freeze and sign it before the trial, and follow it on its nodes."""


command.add_command(demo)
command.add_command(draft)
command.add_command(export)
command.add_command(report)


@command.command()
@_yaml
@_url
@_token
def check(plan: Path, url: str | None, token_file: Path | None) -> None:
    """Check whether PLAN, a `pilot.yaml`, can be frozen; lists every mistake with its line.

    With --url, compare it with a running collector too: streams and events that do not exist, units that
    differ, a baseline that is not stored, and other pilots on the same nodes.
    """
    from wire.pilot.checks import doubts, needs

    found = _load(plan, *_stored(url, token_file))
    for note in (*doubts(found), *needs(found.intervention)):
        click.echo(f"{plan}: note: {note}", err=True)
    click.echo(f"{plan}: ok: {outline(_frozen(plan))}")


@command.command(name="plan")
@_yaml
@click.option(
    "--store",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of a store with the baseline; a collector may run on it.",
)
@_url
@_token
@click.option(
    "--baseline",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the primary KPI of each period: a number a line, or the two sums of a ratio.",
)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON, with the value of each period.")
def plan_command(
    plan: Path,
    store: Path | None,
    url: str | None,
    token_file: Path | None,
    baseline: Path | None,
    as_json: bool,
) -> None:
    """Say what PLAN can show in how many periods, from the values of its baseline.

    A plan that shows its effect in fewer than half of all pilots is refused. Beside each before/after plan
    stands the switchback that shows the same.
    """
    from collector.pilots.planning.outlook import outlook
    from collector.pilots.report.from_store import values_of_store
    from edgebed import pilot_planning
    from wire.clock import Clock

    found = _load(plan)
    if sum(each is not None for each in (store, url, baseline)) != 1:
        raise click.UsageError("name one of --store, --url and --baseline")
    if store is not None:
        values = values_of_store(store, found, Clock().now_ms())
    elif url is not None:
        values = pilot_planning.of_collector(plan.read_text("utf-8"), CollectorApi(url, token_file))
    else:
        values = pilot_planning.of_file(found, cast("Path", baseline))
    made = outlook(found, values)
    if as_json:
        periods = msgspec.to_builtins(values.kpis)
        click.echo(json.dumps({**msgspec.to_builtins(made), "power": made.power, "periods": periods}))
    else:
        for sentence in (*pilot_planning.left_out(found, values), *made.sentences):
            click.echo(printable(sentence, 2_000))
    for note in made.notes:
        click.echo(f"{plan}: note: {printable(note, 2_000)}", err=True)
    if made.is_refused:
        raise EdgebedError(f"{plan} is refused: it would show nothing in {1 - made.power:.0%} of pilots")


@command.command()
@_yaml
@_keys
@_out(help=f"By default NAME{ENDING}.")
@_url
@_token
def freeze(
    plan: Path, key_files: tuple[Path, ...], out: Path | None, url: str | None, token_file: Path | None
) -> None:
    """Freeze PLAN and sign it; with --url, compare it with the collector, and send it to its nodes.

    PLAN is a `pilot.yaml`, or a file that was frozen before: then its signatures stay, and those of --key are
    added. So the company and the operator sign one after the other. It is refused if its schedule is not the
    one that its plan gives.
    """
    from wire.pilot.frozen import require_sound

    if plan.name.endswith(ENDING):
        opened, target = read_plan(plan), out or plan
        require_sound(opened, str(plan))
        payload, signatures = opened.payload, opened.signatures
    else:
        payload, signatures = _frozen(plan, stored=_stored(url, token_file)).payload, ()
        target = out or plan.with_name(plan.name.removesuffix(plan.suffix) + ENDING)
        _keep_other(target, payload)
    _write(target, payload, signatures, key_files)
    if url is not None:
        _send(CollectorApi(url, token_file), target)


@command.command()
@_yaml
@click.option(
    "--after",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help=f"The frozen version that this one replaces: NAME{ENDING}.",
)
@click.option("--reason", required=True, help="Why the plan changes; the report prints it.")
@_keys
@_out(help=f"By default NAME-v2{ENDING}, with the number of the version.")
@_url
@_token
def amend(
    plan: Path,
    after: Path,
    reason: str,
    key_files: tuple[Path, ...],
    out: Path | None,
    url: str | None,
    token_file: Path | None,
) -> None:
    """Freeze PLAN as the next version of a frozen plan, whose hash it names.

    The report lists each amendment with the rows of the trial that were stored before it.
    """
    before = read_plan(after)
    frozen = _frozen(plan, before, reason, stored=_stored(url, token_file, amends=True))
    if frozen.plan.pilot != before.plan.plan.pilot:
        raise EdgebedError(
            f"{after} is the pilot {before.plan.plan.pilot}, and {plan} is {frozen.plan.pilot}"
        )
    if msgspec.structs.replace(before.plan, version=1) == msgspec.structs.replace(
        frozen, version=1, previous=before.plan.previous, reason=before.plan.reason
    ):
        raise EdgebedError(f"{plan} is what {after} has already: nothing to amend")
    name = after.name.removesuffix(ENDING).removesuffix(f"-v{before.plan.version}")
    target = out or after.with_name(f"{name}-v{frozen.version}{ENDING}")
    _keep_other(target, frozen.payload)
    _write(target, frozen.payload, (), key_files)
    if url is not None:
        _send(CollectorApi(url, token_file), target)


@command.command()
@_signed
@_url
@_token
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.option("--follow", is_flag=True, help="Print each switch, until the trial is over.")
def status(file: Path, url: str | None, token_file: Path | None, as_json: bool, follow: bool) -> None:
    """Show a frozen plan, how far its trial is, and with --url what each node has.

    Exits 3 where a node follows another plan.
    """
    from edgebed import pilot_progress, signals
    from wire.clock import Clock

    opened = read_plan(file)
    clock = Clock()
    nodes = [] if url is None else _answers(CollectorApi(url, token_file), opened, clock, follow=follow)
    now_ms = clock.now_ms()
    if as_json:
        shown = {
            "pilot": opened.plan.plan.pilot,
            "hash": opened.hash,
            "version": opened.plan.version,
            "previous": opened.plan.previous,
            "reason": opened.plan.reason,
            "keys": [key for key, _ in opened.signatures],
            "period": msgspec.to_builtins(opened.plan.schedule.at(now_ms)),
            "nodes": nodes,
        }
        click.echo(json.dumps(shown))
    else:
        click.echo(outline(opened.plan))
        click.echo(f"hash {opened.hash}")
        click.echo(f"{counted(len(opened.signatures), 'signature')}")
        if not follow:
            click.echo(f"now: {progress(opened.plan, now_ms)}")
        for each in nodes:
            click.echo(printable(_node_line(each, opened.hash), 2_000))
    if not _follow_it(nodes, opened):
        sys.exit(3)
    if follow:
        sys.exit(signals.run(pilot_progress.follow(opened.plan, clock, click.echo)))


@command.command()
@_signed
@collector_options("", "the nodes")
def withdraw(file: Path, url: str, token_file: Path | None) -> None:
    """End the pilot of FILE on every node that has it; each records that as an event.

    Exits 3 where it does not end on all of them.
    """
    plan = read_plan(file).plan.plan
    answer = CollectorApi(url, token_file).change("DELETE", f"pilots/{plan.owner}/{plan.pilot}", None, LONG_S)
    offline = answer["offline"]
    for node in answer["withdrawn"]:
        later = ": it is offline, and ends the pilot when it connects" if node in offline else ""
        click.echo(printable(f"{node}: withdrawn{later}", 2_000))
    left = dict.fromkeys(answer["refused"], "you may not configure it") | answer["failed"]
    if not answer["hidden"]:
        for node in sorted({*plan.nodes} - {*answer["withdrawn"], *left}):
            click.echo(f"{node}: does not have this pilot")
    for node, why in left.items():
        click.echo(printable(f"{node}: not withdrawn: {why}", 2_000), err=True)
    if answer["hidden"]:
        hidden = counted(answer["hidden"], "more node")
        click.echo(f"{hidden} that you may not see: not withdrawn", err=True)
    if left or answer["hidden"]:
        sys.exit(3)


def _stored(url: str | None, token_file: Path | None, *, amends: bool = False) -> list[Check[Plan]]:
    """The check against a collector, if there is one."""
    from edgebed.pilot_check import against
    from wire.clock import Clock

    return [] if url is None else [against(CollectorApi(url, token_file), Clock().now_ms(), amends=amends)]


def _load(plan: Path, *more: Check[Plan]) -> Plan:
    from wire.pilot.plan import load

    if plan.name.endswith(ENDING):
        raise EdgebedError(f"{plan} is frozen already: name the `pilot.yaml` from which it was made")
    return load(plan, *more)


def _frozen(
    plan: Path, after: Opened | None = None, reason: str = "", stored: Sequence[Check[Plan]] = ()
) -> FrozenPlan:
    from wire.pilot.frozen import freeze

    try:
        return freeze(_load(plan, *stored), after=after, reason=reason)
    except msgspec.ValidationError as error:
        raise EdgebedError(f"{plan}: {error}") from error


def read_plan(file: Path) -> Opened:
    """A frozen plan.

    Raises:
        EdgebedError: it cannot be read, or is something else.
    """
    from wire.pilot.frozen import MAX_SIGNED, read_signed

    try:
        with file.open("rb") as opened:
            return read_signed(opened.read(MAX_SIGNED + 1))
    except OSError as error:
        raise EdgebedError(f"{file} cannot be read: {error.strerror}") from error
    except WireError as error:
        raise EdgebedError(f"{file}: {error}") from error


def _keep_other(target: Path, payload: bytes) -> None:
    """Raise where another frozen plan is at `target`: it may be signed and in use."""
    if target.exists() and read_plan(target).payload != payload:
        raise EdgebedError(
            f"{target} is another frozen plan and stays as it is: use `edgebed pilot amend`, or choose --out"
        )


def _write(
    target: Path, payload: bytes, signatures: tuple[tuple[str, bytes], ...], key_files: tuple[Path, ...]
) -> None:
    from agent.inference import package_files
    from agent.pilots.signatures import sign
    from agent.state_dir import keep
    from wire.clock import Clock
    from wire.pilot.frozen import MAX_SIGNED, envelope, read_signed

    if target.exists() and not signatures:
        signatures = read_plan(target).signatures
    made = dict(signatures)
    for each in key_files:
        key, signature = sign(payload, package_files.read_file(each, 65_536))
        made[key] = signature
        click.echo(f"signed by the key with sha256 {key}")
    body = msgspec.json.format(msgspec.json.encode(envelope(payload, tuple(made.items()))), indent=1) + b"\n"
    if len(body) > MAX_SIGNED:
        raise EdgebedError(
            f"the signed plan has {len(body):,} bytes; {MAX_SIGNED:,} are allowed: use fewer periods"
        )
    try:
        keep(target, body)
    except OSError as error:
        raise unwritable(str(target), error) from error
    opened = read_signed(body)
    click.echo(f"{target}: {outline(opened.plan)}")
    click.echo(f"hash {opened.hash}")
    if opened.plan.schedule.trial_ms[0] <= Clock().now_ms():
        late = "the trial has begun: the report will state that the plan was not fixed before it"
        click.echo(f"{target}: note: {late}; write a later trial into the plan", err=True)


def _send(api: CollectorApi, file: Path) -> None:
    from wire.pilot.frozen import require_signed

    opened, body = read_plan(file), _envelope(file)
    require_signed(opened, str(file))
    nodes, refused = _nodes(opened), 0
    for node in nodes:
        try:
            api.change("PUT", f"nodes/{node}/pilot", msgspec.to_builtins(body))
        except Refusal as error:  # the other nodes get it all the same
            if len(nodes) == 1:
                raise
            refused += 1
            click.echo(printable(f"{node}: not sent: {error}", 2_000), err=True)
        else:
            click.echo(f"{node}: sent")
    if refused:
        raise EdgebedError(
            f"{file} was not sent to {refused} of {len(nodes)} nodes: repair what is named above, and send "
            "it again with `edgebed pilot freeze FILE --url URL`"
        )


def _envelope(file: Path) -> SignedPlan:
    from wire.pilot.frozen import SignedPlan

    return msgspec.json.decode(file.read_bytes(), type=SignedPlan)


def _nodes(opened: Opened) -> tuple[str, ...]:
    return opened.plan.plan.nodes


def _of_node(api: CollectorApi, node: str) -> dict[str, Any]:
    answer: dict[str, Any] = api.ask(f"nodes/{node}/pilot")
    return {"node": node, "desired": answer["pilot"], "reported": answer["reported"]}


def _answers(api: CollectorApi, opened: Opened, clock: Clock, *, follow: bool) -> list[dict[str, Any]]:
    """What each node has; to follow it, wait a little for the answers to a plan that was just sent."""
    until = clock.monotonic() + (_ANSWER_S if follow else 0)
    while True:
        found = [_of_node(api, each) for each in _nodes(opened)]
        if _follow_it(found, opened) or clock.monotonic() >= until:
            return found
        time.sleep(0.2)


def _follow_it(nodes: list[dict[str, Any]], opened: Opened) -> bool:
    return all((each["reported"] or {}).get("active") == opened.hash for each in nodes)


def _node_line(each: dict[str, Any], digest: str) -> str:
    reported = each["reported"]
    if not reported:
        return f"{each['node']}: has reported nothing: is remote.pilot true in its own file?"
    if reported.get("active") == digest:
        return f"{each['node']}: follows it"
    why = f": {reported['err']}" if reported.get("err") else ""
    other = (
        f"follows another plan, {reported['active'][:12]}" if reported.get("active") else "follows no plan"
    )
    return f"{each['node']}: {other}{why}"
