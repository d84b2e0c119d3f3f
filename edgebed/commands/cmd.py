"""`edgebed cmd`: request a command of a node from a running collector, and show what became of it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from edgebed.collector_api import CollectorApi, collector_options
from edgebed.number_range import NumberRange
from wire.clock import Clock
from wire.errors import TryAgain, Unreachable
from wire.printable import printable

ENDED = {"done": 0, "failed": 1, "rejected": 78, "expired": 69, "withdrawn": 1}  # state: exit code
WAITS = 75


@click.command(name="cmd")
@click.argument("node")
@click.argument("name", required=False)
@click.option("--arg", "args", metavar="KEY=VALUE", multiple=True, help="Argument; a JSON value, else text.")
@click.option("--device", default="_", help="Device of NODE; by default NODE itself.")
@click.option(
    "--ttl",
    type=NumberRange(0.001, 86_400),
    default=60.0,
    show_default=True,
    help="Seconds in which NODE may start it.",
)
@click.option("--wait", type=NumberRange(0), default=0.0, help="Seconds to wait for its end.")
@click.option("--id", "identity", default="", help="Its id (ULID): the same id never runs twice.")
@click.option("--withdraw", is_flag=True, help="Withdraw the command with --id, if it was not sent yet.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer of the collector.")
@collector_options(" that sends it", "NODE")
def command(
    node: str,
    name: str | None,
    args: tuple[str, ...],
    device: str,
    ttl: float,
    wait: float,
    identity: str,
    withdraw: bool,
    as_json: bool,
    url: str,
    token_file: Path | None,
) -> None:
    """Send the command NAME to NODE (tenant/pilot/site/node). Without NAME: show its newest commands.

    The collector sends it when NODE is online, and again until NODE answers; NODE runs it once. With --wait:
    exits 0 when it is done, 1 when it failed, 69 when NODE did not take it in time, 78 when NODE refused it,
    and 75 when it has not ended yet.
    """
    from wire.topics import Address
    from wire.ulid import new_ulid

    api, path = CollectorApi(url, token_file), f"nodes/{Address.parse(node)}/commands"
    if withdraw:
        if not identity:
            raise click.UsageError("--withdraw needs --id")
        _print(api.change("DELETE", f"{path}/{_quoted(identity)}"), as_json=as_json)
        return
    if name is None:
        _list(api.ask(f"{path}/{_quoted(identity)}" if identity else path), as_json=as_json)
        return
    identity = identity or new_ulid(Clock().now_ms())
    body = {"name": name, "device": device, "args": _args(args), "ttl_ms": round(1000 * ttl), "id": identity}
    try:
        answer = api.change("POST", path, body)
    except (Unreachable, TryAgain) as error:
        raise type(error)(f"{error}; send the same command with --id {identity}: it runs once") from error
    if wait:
        answer = _ended(api, f"{path}/{identity}", answer, wait)
    _print(answer, as_json=as_json)
    if wait:
        sys.exit(ENDED.get(answer["state"], WAITS))


def _args(texts: tuple[str, ...]) -> dict[str, Any]:
    import msgspec

    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise click.UsageError(f"--arg {text!r} is not KEY=VALUE")
        try:
            found[key] = msgspec.json.decode(text.encode()[len(key.encode()) + 1 :])
        except UnicodeEncodeError as error:
            raise click.UsageError(f"--arg {text!r} is not text in UTF-8") from error
        except (ValueError, RecursionError):  # NaN and 1e999 are not JSON either
            found[key] = value
    return found


def _quoted(identity: str) -> str:
    from urllib.parse import quote

    return quote(identity, safe="")


def _ended(api: CollectorApi, path: str, answer: dict[str, Any], wait_s: float) -> dict[str, Any]:
    """The command when it has ended, or as it is when the time is over."""
    clock = Clock()
    end_s = clock.monotonic() + wait_s
    while answer["state"] not in ENDED and clock.monotonic() < end_s:
        time.sleep(0.2)
        answer = api.ask(path)
    return answer


def _list(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(answer))
        return
    for one in answer.get("commands", [answer]):
        _print(one, as_json=False)


def _print(one: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(one))
        return
    answer = one["answer"] or {}
    more = f": {answer['err']}" if answer.get("err") else ""
    if answer.get("result"):
        more += f" {json.dumps(answer['result'])}"
    where = "" if one["device"] == "_" else f"{one['device']}/"
    click.echo(printable(f"{one['id']} {where}{one['name']} by {one['by']}: {one['state']}{more}", 4_000))
