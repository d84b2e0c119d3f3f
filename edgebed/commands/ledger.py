"""`edgebed ledger`: what was taken, stored, declared lost, is missing; of a store or a running collector."""

from __future__ import annotations

import http.client
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from wire.errors import EdgebedError, Unreachable

DEFAULT_URL = "http://127.0.0.1:8080"
_MAX_ANSWER = 64 * 1024 * 1024  # bytes


@click.command(name="ledger")
@click.option(
    "--store", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder to read."
)
@click.option("--url", help=f"Running collector to ask; {DEFAULT_URL} when nothing is named.")
@click.option("--token-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="For --url.")
@click.option("--node", help="tenant/pilot/site/node: only this one.")
@click.option("--audit", is_flag=True, help="With --store: count every stored message again, one by one.")
@click.option("--json", "as_json", is_flag=True, help="The whole ledger as one JSON object.")
def command(
    store: Path | None, url: str | None, token_file: Path | None, node: str | None, audit: bool, as_json: bool
) -> None:
    """What was taken, stored, declared lost, is missing.

    Exit code 0 when every message is accounted for, 3 when some are missing or the audit found a difference.
    """
    if store is not None and url is not None:
        raise click.UsageError("name --store or --url, not both")
    if audit and store is None:
        raise click.UsageError("--audit needs --store")
    ledger = _read(store, node) if store is not None else _ask(url or DEFAULT_URL, token_file, node)
    if audit and store is not None:
        ledger["audit"] = _audit(store, ledger["entries"], node)
    if as_json:
        click.echo(json.dumps(ledger))
    else:
        for line in _lines(ledger):
            # reasons are written by nodes: nothing of them may steer a terminal
            click.echo("".join(each if each.isprintable() else "?" for each in line))
    if ledger["totals"]["missing_count"] or ledger.get("audit"):
        sys.exit(3)


def _read(store: Path, node: str | None) -> dict[str, Any]:
    import msgspec

    from collector.ledger import Ledger, totals
    from collector.store import peek

    entries = Ledger(peek(store)).entries(node)
    found: dict[str, Any] = msgspec.to_builtins({"entries": entries, "totals": totals(entries)})
    return found


def _audit(store: Path, entries: Sequence[dict[str, Any]], node: str | None) -> list[str]:
    from collector.audit import differences

    return list(differences(store, node, {(one["node"], one["ep"]): one for one in entries}))


def _ask(url: str, token_file: Path | None, node: str | None) -> dict[str, Any]:
    if not url.startswith(("http://", "https://")):
        raise click.UsageError(f"--url {url!r} does not start with http://")
    query = f"?{urllib.parse.urlencode({'node': node})}" if node else ""
    try:
        request = urllib.request.Request(f"{url.rstrip('/')}/api/v1/ledger{query}")  # noqa: S310 - checked above
    except ValueError as error:
        raise click.UsageError(f"--url {url!r}: {error}") from error
    if token_file is not None:
        from collector.config import Http

        request.add_header("Authorization", f"Bearer {Http(token_file=token_file).token()}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - checked above
            found: dict[str, Any] = json.loads(answer.read(_MAX_ANSWER))
    except urllib.error.HTTPError as error:
        error.close()
        raise EdgebedError(f"{url} answers {error.code} {error.reason}") from error
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise Unreachable(f"no collector at {url}: {reason}; start one, or name its --store") from error
    except http.client.InvalidURL as error:
        raise click.UsageError(f"--url {url!r}: {error}") from error
    except (ValueError, http.client.HTTPException) as error:
        raise EdgebedError(f"{url} is no collector: {str(error) or type(error).__name__}") from error
    if not isinstance(found, dict) or "entries" not in found or "totals" not in found:
        raise EdgebedError(f"{url} is no collector")
    return found


def _lines(ledger: dict[str, Any]) -> Iterable[str]:
    entries = ledger["entries"]
    for one in entries:
        yield f"{one['node']}  ep {one['ep']}"
        yield f"  {share(one['stored'], one['taken'])} messages stored ({one['rows_stored']:,} rows)"
        yield from _exceptions(one)
        for first, last, why in one["gaps"]:
            yield f"  declared lost: {_range(first, last)}: {why}"
        if one["missing_count"]:
            ranges = ", ".join(_range(first, last) for first, last in one["missing"])
            yield f"  MISSING {one['missing_count']:,}: {ranges}"
    for line in ledger.get("audit", ()):
        yield f"AUDIT {line}"
    if not entries:
        yield "no node has sent anything yet"
        return
    if len(entries) > 1:
        yield "all nodes"
        yield f"  {share(ledger['totals']['stored'], ledger['totals']['taken'])} messages stored"
        yield from _exceptions(ledger["totals"])
        if ledger["totals"]["missing_count"]:
            yield f"  MISSING {ledger['totals']['missing_count']:,}"


def _exceptions(one: dict[str, Any]) -> Iterable[str]:
    parts = [
        f"{one[key]:,} {text}"
        for key, text in (
            ("gap_count", "declared lost"),
            ("waiting", "still wait on their node"),
            ("duplicates", "duplicates dropped"),
        )
        if one[key]
    ]
    if parts:
        yield "  " + ", ".join(parts)


def share(stored: int, taken: int) -> str:
    """`100.000 % of N`, cut rather than rounded: 100 is said only when it is all."""
    if not taken:
        return "0 of 0"
    thousandths = stored * 100_000 // taken
    return f"{thousandths // 1000}.{thousandths % 1000:03d} % of {taken:,}"


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"
