"""`edgebed rollout`: give a version of a model to nodes stage by stage, through a running collector."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edgebed.collector_api import CollectorApi, Refusal, collector_options
from wire.errors import EdgebedError, WireError
from wire.printable import printable
from wire.topics import ID

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_TIME = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?([smhd])")
_LONGEST_S = 2_592_000
_ALL = {"limit": "500"}


def _options(command: Callable[..., None]) -> Callable[..., None]:
    command = collector_options("", "the nodes")(command)
    return click.option("--json", "as_json", is_flag=True, help="Print the answer of the collector.")(command)


@click.group(name="rollout")
def command() -> None:
    """Give a version of a model to nodes stage by stage; each keeps it only after good results on real input.

    Push the package first (`edgebed model push`). The nodes need versions.url in their config.
    """


def _of_rollout(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option(
            "--max-failed", type=click.IntRange(0), default=0, show_default=True, help="More pause it."
        ),
        click.option("--timeout", default="2h", show_default=True, help="Time of a node: 90s, 2h."),
        click.option(
            "--confirm",
            default="results>=100,nan<0.001",
            show_default=True,
            help="When it is good: results, nan, errors, p99_ms, soak_s, shadow, shadow_s.",
        ),
        click.option(
            "--stages", default="1,25%,100%", show_default=True, help="Numbers or shares of the nodes."
        ),
        click.option(
            "--nodes", required=True, help="Nodes, such as 'acme/trial/*'; those that have the slot."
        ),
        click.option("--slot", required=True, help="Slot of the nodes that gets the version."),
        click.argument("model"),
    ):
        command = option(command)
    return _options(command)


@command.command()
@_of_rollout
def start(model: str, url: str, token_file: Path | None, as_json: bool, **wanted: Any) -> None:
    """Start to roll out MODEL, name@version or sha256:..., and print the id of the rollout."""
    body = _body(model, **wanted)
    _print(CollectorApi(url, token_file).change("POST", f"rollouts/{_tenant(body['nodes'])}", body), as_json)


@command.command()
@_of_rollout
@click.option(
    "--min-n",
    type=click.IntRange(1, 10**9),
    default=1_000,
    show_default=True,
    help="Inputs that both models answered on each node.",
)
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 1),
    default=0.95,
    show_default=True,
    help="Lower end of the 95 % interval of the agreement on each node.",
)
@click.option("--skip-offline", is_flag=True, help="Leave out nodes that are offline, and name them.")
def promote(
    model: str,
    min_n: int,
    min_agreement: float,
    skip_offline: bool,
    url: str,
    token_file: Path | None,
    as_json: bool,
    **wanted: Any,
) -> None:
    """Roll out MODEL, which the nodes try as a second model in shadow, if each has the evidence for it.

    The evidence of a node is about the same files, and its second model works.
    """
    body = _body(model, **wanted)
    body["evidence"] = {"min_n": min_n, "min_agreement": min_agreement}
    body["skip_offline"] = skip_offline
    try:
        made = CollectorApi(url, token_file).change(
            "POST", f"rollouts/{_tenant(body['nodes'])}/promote", body
        )
    except Refusal as error:
        lacks = [f"  {one['node']}: {one['why']}" for one in error.answer.get("lacks", ())]
        raise EdgebedError("\n".join([str(error), *(printable(line, 500) for line in lacks)])) from error
    _print(made, as_json)
    for node in made["skipped"]:
        click.echo(f"  {printable(node, 200)} is offline and left out", err=True)


def _body(model: str, confirm: str, timeout: str, **wanted: Any) -> dict[str, Any]:
    return {"model": model, **wanted, "confirm": _confirm(confirm), "timeout_s": _seconds(timeout)}


@command.command()
@_options
def ls(url: str, token_file: Path | None, as_json: bool) -> None:
    """List the newest rollouts."""
    found = CollectorApi(url, token_file).ask("rollouts", _ALL)["rollouts"]
    if as_json:
        click.echo(json.dumps(found))
        return
    for one in found:
        click.echo(_head(one))


def _shows(name: str, help_text: str) -> None:
    @command.command(name=name, help=help_text)
    @_options
    @click.argument("rollout")
    def show(rollout: str, url: str, token_file: Path | None, as_json: bool) -> None:
        api = CollectorApi(url, token_file)
        _print(api.ask(f"rollouts/{_found(api, rollout)}"), as_json, name == "evidence")


def _acts(name: str, help_text: str) -> None:
    @command.command(name=name, help=help_text)
    @_options
    @click.argument("rollout")
    def act(rollout: str, url: str, token_file: Path | None, as_json: bool) -> None:
        api = CollectorApi(url, token_file)
        _print(api.change("POST", f"rollouts/{_found(api, rollout)}/{name}", {}), as_json)


_shows("status", "Show the stages of ROLLOUT, and what became of each node.")
_shows("evidence", "Show what each node of ROLLOUT runs, since when, after how many results, signed by whom.")
_acts("pause", "Offer ROLLOUT to no more nodes for now.")
_acts("resume", "Go on with ROLLOUT; nodes where it failed get it once more.")
_acts("abort", "End ROLLOUT: nodes that have not confirmed the version give it up.")
_acts("rollback", "Have all nodes of ROLLOUT go back to what they had before.")


def _found(api: CollectorApi, identity: str) -> str:
    """The path of the rollout whose id begins so.

    Raises:
        EdgebedError: none does, or several do.
    """
    found = [
        one for one in api.ask("rollouts", _ALL)["rollouts"] if identity and one["id"].startswith(identity)
    ]
    if len(found) != 1:
        shown = printable(identity, 40)
        raise EdgebedError(f"{len(found)} rollouts begin with {shown}: `edgebed rollout ls` lists them")
    return f"{found[0]['tenant']}/{found[0]['id']}"


def _tenant(nodes: str) -> str:
    tenant, slash, _ = nodes.partition("/")
    if not slash or not ID.fullmatch(tenant):
        shown = printable(nodes, 40)
        raise click.UsageError(f"--nodes {shown!r} does not begin with one company, such as 'acme/*'")
    return tenant


def _seconds(text: str) -> float:
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise click.UsageError(f"--timeout {printable(text, 40)!r} is not a time such as 90s, 15m, 2h or 1d")
    seconds = float(found[1]) * _UNITS[found[2]]
    if not 1 <= seconds <= _LONGEST_S:
        raise click.UsageError(f"--timeout {printable(text, 40)!r} is not from 1s to {_LONGEST_S // 86_400}d")
    return seconds


def _confirm(text: str) -> dict[str, Any]:
    import msgspec

    from wire.model_offer import read_confirm

    try:
        found: dict[str, Any] = msgspec.to_builtins(read_confirm(text))
    except WireError as error:
        raise click.UsageError(f"--confirm: {error}") from error
    return found


def _head(one: dict[str, Any]) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in one["counts"].items())
    stage = f"stage {one['stage'] + 1} of {len(one['stages'])}"
    return printable(f"{one['id']}  {one['ref']} in {one['slot']}: {one['state']}, {stage}: {counts}", 500)


def _print(one: dict[str, Any], as_json: bool, evidence: bool = False) -> None:
    if as_json:
        click.echo(json.dumps(one))
        return
    click.echo(_head(one))
    if one["why"]:
        click.echo(printable(f"  {one['why']}", 2_000))
    for device in one["devices"]:
        why = f": {device['why']}" if device["why"] else ""
        line = f"  {device['node']}: {device['state']}{' (offline)' if device['offline'] else ''}{why}"
        click.echo(printable(line + (_evidence(device) if evidence else ""), 2_000))


def _evidence(device: dict[str, Any]) -> str:
    """What a node runs, what the version gave there, and who signed it."""
    now, slot = device["now"] or {}, device["slot"] or {}
    runs, ran = (now.get("slot") or {}).get("digest", ""), slot.get("ran") or {}
    parts = [f"runs {now.get('ref', 'nothing that is known')}, {runs[:12] or 'that of its config'}"]
    parts.append(f"{slot.get('results', 0)} of {slot.get('of', 0)} results")
    if count := ran.get("n", 0):
        parts.append(f"NaN {ran.get('nan', 0) / count:.3%} of {count:,}, p99 {ran.get('p99_ms', 0):g} ms")
    return f"; {', '.join(parts)}; signed by {device['signed_by'] or 'no trusted key'}"
