"""`edgebed node`: give nodes of a shared site their certificates, list them, and take them away."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wire.errors import EdgebedError
from wire.printable import counted

if TYPE_CHECKING:
    from datetime import datetime

    from edgebed.site.layout import Layout

_node = click.argument("node")
_site = click.option(
    "--site",
    "folder",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of `edgebed site init`.",
)


@click.group(name="node")
def command() -> None:
    """Give nodes of a shared site their certificates, list them, and take them away."""


@command.command()
@_node
@_site
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="New folder to write key, certificate and config part into; carry it to the device.",
)
@click.option(
    "--request",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Certificate request that the device made: its key then stays on the device.",
)
@click.option("--renew", is_flag=True, help="NODE has a certificate: make another; the first stays valid.")
def add(node: str, folder: Path, out: Path, request: Path | None, renew: bool) -> None:
    """Make a certificate for NODE (tenant/pilot/site/node) in a new folder, and its key without --request.

    The certificate is valid for a year. mosquitto needs no change; nats-server is reloaded.
    """
    from edgebed.site.credential import write_credential
    from edgebed.site.nodes import issued, removed_names
    from edgebed.site.running import end_connection
    from wire.topics import Address

    address = Address.parse(node)
    with _locked(folder) as (layout, now):
        before = issued(layout, address)
        if before and not renew:
            end = before[0].not_valid_after_utc
            raise EdgebedError(
                f"{address} has a certificate until {end:%Y-%m-%d}: --renew makes another one, and"
                " `edgebed node remove` takes it away"
            )
        was_removed = address.text in removed_names(layout)
        write_credential(layout, address, out, now, request)
        if layout.site.broker == "nats":  # each node is in its configuration
            for line in _apply(layout, now):
                click.echo(line, err=True)
        elif was_removed:
            why = end_connection(layout, address.text)  # before it gets its rights back
            _apply(layout, now)
            if why:
                click.echo(
                    f"an open connection with an earlier certificate of {address} has its rights back:"
                    f" restart the broker ({why})",
                    err=True,
                )
    secret = "node.key is secret: " if request is None else ""
    click.echo(f"{out}: made for {address}; {secret}move the folder to the device")


@command.command()
@_site
def ls(folder: Path) -> None:
    """List the nodes: when their certificates end, and which are removed."""
    from edgebed.site.nodes import current, removed_names

    layout, now = _opened(folder)
    for name, certificate in current(layout).items():
        end = certificate.not_valid_after_utc
        state = counted((end - now).days, "day") if end > now else "ended"
        click.echo(f"{name:64} until {end:%Y-%m-%d}, {state}")
    for name in removed_names(layout):
        click.echo(f"{name:64} removed")


@command.command()
@_node
@_site
def remove(node: str, folder: Path) -> None:
    """Take away every certificate of NODE: no message passes either way, on an open connection too.

    Exit code 3 if the broker could not be reached: the sentence names what is left to do.
    """
    from edgebed.site.nodes import take_away
    from edgebed.site.running import end_connection
    from wire.topics import Address

    address = Address.parse(node)
    with _locked(folder) as (layout, now):
        take_away(layout, address)
        left = _apply(layout, now)
        # nats-server ends the connections of users that it does not know any more
        if not left and layout.site.broker == "mosquitto" and (why := end_connection(layout, address.text)):
            left = [f"its open connection is not ended, but has no rights: {why}"]
    click.echo(f"{address}: removed")
    for line in left:
        click.echo(line, err=True)
    if left:
        sys.exit(3)


def _apply(layout: Layout, now: datetime) -> list[str]:
    """Write lists and rules, and have the broker read them; returns what is left to do."""
    from edgebed.site.layout import ACL
    from edgebed.site.make import revoke
    from edgebed.site.running import reload

    done: list[str] = []
    revoke(layout, now, done.append)
    news = (f"in {ACL}.new", f"in {layout.broker_config}.new")
    left = [f"{line}: take it over, then reload the broker" for line in done if line.endswith(news)]
    if why := reload(layout):
        left.append(f"{why}: reload the broker where it runs; until then nothing has changed for it")
    return left


@contextmanager
def _locked(folder: Path) -> Iterator[tuple[Layout, datetime]]:
    layout, now = _opened(folder)
    from edgebed.site.files import locked

    with locked(layout.folder):
        yield layout, now


def _opened(folder: Path) -> tuple[Layout, datetime]:
    from edgebed.commands.site import require_extra

    require_extra()
    from edgebed.site.certificates import utc
    from edgebed.site.layout import Layout
    from edgebed.site.settings import load
    from wire.clock import Clock

    folder = folder.absolute()
    return Layout(folder, load(folder)), utc(Clock().now_ms())
