"""`edgebed ledger`: show how many messages are taken, stored, declared lost, missing."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgebed.collector_api import DEFAULT_URL, CollectorApi
from wire.config import did_you_mean
from wire.errors import EdgebedError
from wire.printable import counted, printable

if TYPE_CHECKING:
    from collector.ledger.report import ReportFilter


@click.command(name="ledger")
@click.option(
    "--store",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the store to read.",
)
@click.option("--url", help=f"Running collector to ask; by default {DEFAULT_URL}.")
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the access token for --url.",
)
@click.option("--node", default="", help="tenant/pilot/site/node: only this one.")
@click.option("--pilot", default="", help="tenant/pilot: its nodes, by UTC day and stream.")
@click.option("--day", default="", help="YYYY-MM-DD: only this UTC day, by node and stream.")
@click.option("--stream", default="", help="device/stream: only its rows, by node and UTC day.")
@click.option(
    "--accept", metavar="KEY", help="With --store and --node: trust statements signed with this key."
)
@click.option("--audit", is_flag=True, help="With --store: count every stored message again, one by one.")
@click.option("--against", metavar="URL", help="Compare with the ledger of this running collector.")
@click.option(
    "--against-token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the access token for --against.",
)
@click.option("--json", "as_json", is_flag=True, help="The whole ledger as one JSON object.")
def command(
    store: Path | None,
    url: str | None,
    token_file: Path | None,
    node: str,
    pilot: str,
    day: str,
    stream: str,
    accept: str | None,
    audit: bool,
    against: str | None,
    against_token_file: Path | None,
    as_json: bool,
) -> None:
    """Show how many messages are taken, stored, declared lost or missing.

    Exit code 0 when every message is accounted for; 3 when messages of the selected nodes are missing, also
    on days that are not shown, or when the audit or a signed statement disagrees with the ledger.

    With --against: which messages one collector has and the other lacks. Exit code 3 when they differ.
    """
    if store is not None and url is not None:
        raise click.UsageError("name --store or --url, not both")
    if audit and store is None:
        raise click.UsageError("--audit needs --store")
    asked = {"node": node, "pilot": pilot, "day": day, "stream": stream}
    _check(asked)
    if accept is not None:
        _accept(store, node, accept)
        return
    if against is not None:
        if audit or day or stream:
            raise click.UsageError(
                "--against compares whole outboxes: --audit, --day and --stream do not apply"
            )
        other = CollectorApi(against, against_token_file, "--against")
        _compare(store, url, token_file, other, asked, as_json=as_json)
        return

    def read(asked: Mapping[str, str]) -> dict[str, Any]:
        return _read(store, asked) if store is not None else _ask(url or DEFAULT_URL, token_file, asked)

    ledger = read(asked)
    if (node or pilot) and not (ledger["entries"] or ledger.get("days")):
        whole = read(dict.fromkeys(asked, ""))
        _check_known(node, pilot, {one["node"] for one in whole["entries"]})
    if audit and store is not None:
        ledger["audit"] = _audit(store, ledger["entries"], asked)
    if as_json:
        click.echo(json.dumps(ledger))
    else:
        for line in _by_day(ledger) if pilot or day or stream else _lines(ledger):
            # nodes write the reasons: control characters must not reach the terminal
            click.echo("".join(each if each.isprintable() else "?" for each in line))
    if ledger["totals"]["missing_count"] or ledger.get("audit") or _doubtful(ledger):
        sys.exit(3)


def _check(asked: Mapping[str, str]) -> None:
    for name, parts in (("node", 4), ("pilot", 2), ("stream", 2)):
        if asked[name] and len(asked[name].split("/")) != parts:
            form = {"node": "tenant/pilot/site/node", "pilot": "tenant/pilot", "stream": "device/stream"}[
                name
            ]
            raise click.UsageError(f"--{name} {asked[name]!r} is not {form}")
    if asked["day"]:
        try:
            date.fromisoformat(asked["day"])
        except ValueError as error:
            raise click.UsageError(f"--day {asked['day']!r} is not YYYY-MM-DD") from error


def _check_known(node: str, pilot: str, nodes: Collection[str]) -> None:
    pilots = {"/".join(one.split("/")[:2]) for one in nodes}
    for what, name, known in (("pilot", pilot, pilots), ("node", node, nodes)):
        if name and name not in known:
            raise EdgebedError(
                f"unknown {what} {name}: the ledger has no message of it{did_you_mean(name, known)}"
            )


def _accept(store: Path | None, node: str, key: str) -> None:
    from collector.ledger.accepted_keys import accept
    from collector.state.audit import audited
    from collector.state.state_file import StateFile
    from wire.clock import Clock
    from wire.topics import Address

    if store is None or not node:
        raise click.UsageError("--accept needs --store and --node")
    if len(key) != 16 or set(key) - set("0123456789abcdef"):
        raise click.UsageError(
            f"--accept {key!r} is not a key of 16 hexadecimal digits, as the ledger shows it"
        )
    name = str(Address.parse(node))

    def warn(text: str) -> None:
        click.echo(f"edgebed: {text}", err=True)

    act, clock = f"{name} {key}", Clock()
    with closing(StateFile(store)) as state, audited(state, clock, "accept-key", act, warn, name):
        accept(store, name, key, f"accepted {_time(Clock().now_ms())}")
    click.echo(f"{node}: statements signed with {key} are accepted, beginning with the next one")


def _read(store: Path, asked: Mapping[str, str]) -> dict[str, Any]:
    import msgspec

    from collector.ledger.report import account
    from collector.ledger.saved import saved_ledger

    detailed = any(asked.values())
    found: dict[str, Any] = msgspec.to_builtins(
        account(saved_ledger(store), _filter(asked), detailed=detailed)
    )
    return found


def _audit(store: Path, entries: Sequence[dict[str, Any]], asked: Mapping[str, str]) -> list[str]:
    from collector.ledger.audit import differences
    from collector.store.sqlite_source import SqliteSource

    known = {(one["node"], one["ep"]): one for one in entries}
    with closing(SqliteSource(store)) as source:
        return list(differences(source, known, _filter(asked).node_is))


def _filter(asked: Mapping[str, str]) -> ReportFilter:
    from collector.ledger.report import ReportFilter

    return ReportFilter(asked["pilot"], asked["node"], asked["day"], asked["stream"])


def _ask(url: str, token_file: Path | None, asked: Mapping[str, str]) -> dict[str, Any]:
    api = CollectorApi(url, token_file)
    found = api.ask("ledger", asked)
    if not isinstance(found, dict) or "entries" not in found or "totals" not in found:
        raise EdgebedError(f"{api.url} is not a collector")
    return found


def _compare(
    store: Path | None,
    url: str | None,
    token_file: Path | None,
    other: CollectorApi,
    asked: Mapping[str, str],
    *,
    as_json: bool,
) -> None:
    """Compare a store or a running collector with another collector."""
    from collector.ledger.report import ReportFilter
    from edgebed import against

    wanted = ReportFilter(pilot=asked["pilot"], node=asked["node"])
    if store is not None:
        name, here = str(store), partial(against.of_store, store, wanted)
    else:
        api = CollectorApi(url or DEFAULT_URL, token_file)
        name, here = against.name_of(api), partial(against.of_collector, api, wanted)
    there = partial(against.of_collector, other, wanted)
    compared = against.compare(here, there, (name, against.name_of(other)))
    if as_json:
        click.echo(json.dumps(against.as_json(compared)))
    else:
        for line in against.lines(compared):
            click.echo(printable(line, 2_000))
    if compared.found:
        sys.exit(3)


def _lines(ledger: dict[str, Any]) -> Iterable[str]:
    entries = ledger["entries"]
    for one in entries:
        yield f"{one['node']}  ep {one['ep']}"
        rows = counted(one["rows_stored"], "row")
        yield f"  {share(one['stored'], one['taken'], 'message')} stored ({rows})"
        yield from _pruned(one)
        yield from _exceptions(one)
        for first, last, why in one["gaps"]:
            yield f"  declared lost: {_range(first, last)}: {why}"
        if one["missing_count"]:
            ranges = ", ".join(_range(first, last) for first, last in one["missing"])
            yield f"  MISSING {one['missing_count']:,}: {ranges}"
            yield from _absent(one)
    for one in ledger.get("days", ()):
        if one["statements"] and one["doubt"]:
            yield f"DOUBTFUL {one['node']}  {one['day']}: {one['doubt']}"
    if "days" not in ledger:
        for total in _doubtful(ledger):
            yield f"DOUBTFUL {total['pilot']}  {total['day']}: see `edgebed ledger --pilot {total['pilot']}`"
    yield from _findings(ledger)
    if not entries:
        yield "no node has sent a message yet"
        return
    if len(entries) > 1:
        yield "all nodes"
        yield f"  {share(ledger['totals']['stored'], ledger['totals']['taken'], 'message')} stored"
        yield from _exceptions(ledger["totals"])
        if ledger["totals"]["missing_count"]:
            yield f"  MISSING {ledger['totals']['missing_count']:,}"


def _pruned(one: dict[str, Any]) -> Iterable[str]:
    """Yield what retention removed, a sentence per class."""
    for part in one.get("pruned", ()):
        days = part["first_day"]
        if part["last_day"] != days:
            days += f" to {part['last_day']}"
        messages, rows = counted(part["messages"], f"{part['cls']} message"), counted(part["rows"], "row")
        yield (
            f"  of these, retention removed {messages} ({rows}, numbers "
            f"{_range(part['first'], part['last'])}, received {days})"
        )


def _by_day(ledger: dict[str, Any]) -> Iterable[str]:
    """Yield lines per pilot and UTC day, then per node and stream."""
    days = ledger.get("days", [])
    if not days:
        yield "no message matches"
    for total in reversed(ledger["pilots"]):
        nodes = "node" if total["nodes"] == 1 else "nodes"
        yield f"{total['pilot']}  {total['day'] or 'no signed day'}"
        yield f"  {_shares(total)}; {total['verified']} of {total['nodes']} {nodes} verified"
        for one in days:
            if one["day"] == total["day"] and one["node"].startswith(f"{total['pilot']}/"):
                yield from _of_day(one)
    if others := ledger["totals"]["missing_count"] - sum(one["missing_count"] for one in days):
        yield f"MISSING {others:,} more, on days or of streams that are not shown: edgebed ledger --node NODE"
    for one in ledger["entries"]:
        if one.get("pruned"):
            yield f"{one['node']}  ep {one['ep']}: of what was stored on all days"
            yield from _pruned(one)
    yield from _findings(ledger)


def _of_day(one: dict[str, Any]) -> Iterable[str]:
    yield f"  {one['node']}  ep {one['ep']}"
    yield f"    {_shares(one)}"
    if one["statements"]:
        clock = "" if one["clk"] else ", clock not synchronised"
        verdict = "DOUBTFUL" if one["doubt"] else "verified"
        signed = "all" if one["signed"] == one["taken"] else f"{one['signed']:,} of them"
        yield f"    {signed} in {counted(one['statements'], 'signed statement')}: {verdict}{clock}"
    if one["doubt"]:
        yield f"    {one['doubt']}"
    for line in (
        *_exceptions(one),
        *(f"  declared lost: {_range(a, b)}: {why}" for a, b, why in one["gaps"]),
    ):
        yield f"  {line}"
    if one["missing_count"]:
        yield f"    MISSING {one['missing_count']:,}"
        for line in _absent(one):
            yield f"  {line}"
    for name, stream in one["streams"].items():
        yield f"      {name}  {share(stream['rows_stored'], stream['rows_taken'], 'row')} stored"


def _shares(one: dict[str, Any]) -> str:
    text = f"{share(one['stored'], one['taken'], 'message')} stored"
    if one["rows_taken"]:
        text += f", {share(one['rows_stored'], one['rows_taken'], 'row')}"
    return text


def _absent(one: dict[str, Any]) -> Iterable[str]:
    """Yield since when and why messages are missing; ranges with the same reason share a line."""
    lines: dict[tuple[int, str], list[str]] = {}
    for first, last, since, why in one.get("absent", ()):
        lines.setdefault((since, why), []).append(_range(first, last))
    for (since, why), ranges in lines.items():
        when = f"since {_time(since)}, " if since else ""
        yield f"  missing {', '.join(ranges)}: {when}{why}"


def _doubtful(ledger: dict[str, Any]) -> list[dict[str, Any]]:
    """The signed days on which a node's statements disagree with what is stored."""
    return [one for one in ledger.get("pilots", ()) if one["day"] and one["verified"] < one["nodes"]]


def _findings(ledger: dict[str, Any]) -> Iterable[str]:
    yield from _unknown_keys(ledger)
    for line in ledger.get("audit", ()):
        yield f"AUDIT {line}"


def _unknown_keys(ledger: dict[str, Any]) -> Iterable[str]:
    for one in ledger.get("strangers", ()):
        yield (
            f"{one['node']}: {counted(one['statements'], 'statement')} since {_time(one['since'])} signed "
            f"with key {one['key']}, which is not accepted: was the device reinstalled?"
        )


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _exceptions(one: dict[str, Any]) -> Iterable[str]:
    parts = [
        counted(one[key], single, many)
        for key, single, many in (
            ("gap_count", "declared lost", "declared lost"),
            ("waiting", "still waits on its node", "still wait on their node"),
            ("duplicates", "duplicate dropped", "duplicates dropped"),
        )
        if one.get(key)
    ]
    if parts:
        yield "  " + ", ".join(parts)


def share(stored: int, taken: int, what: str) -> str:
    """Return `100.000 % of N messages`, rounded down: 100 % means all of them."""
    if not taken:
        return f"0 of {counted(0, what)}"
    thousandths = stored * 100_000 // taken
    return f"{thousandths // 1000}.{thousandths % 1000:03d} % of {counted(taken, what)}"


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"
