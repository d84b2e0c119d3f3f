"""`edgebed node`: give nodes of a shared site their certificates, list them, and take them away."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgebed.commands.site import opened
from edgebed.number_range import NumberRange
from wire.errors import ConfigError, EdgebedError
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
    type=click.Path(file_okay=False, path_type=Path),
    help="Make a certificate now, in this new folder, and carry it to the device; no token.",
)
@click.option(
    "--hours", type=NumberRange(0.01, 24 * 90), default=24.0, show_default=True, help="Life of the token."
)
@click.option(
    "--request",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Certificate request that the device made: its key then stays on the device.",
)
@click.option("--renew", is_flag=True, help="NODE has a certificate: make another; the first stays valid.")
def add(node: str, folder: Path, out: Path | None, hours: float, request: Path | None, renew: bool) -> None:
    """Print a one-time token for NODE (tenant/pilot/site/node): `edgebed agent enrol` uses it on the device.

    With --out, make the certificate now, and its key too without --request. A certificate is valid for a
    year. mosquitto needs no change for a new node; nats-server is reloaded.
    """
    from edgebed.site.credential import write_credential
    from edgebed.site.nodes import check_name, issued
    from edgebed.site.token_store import give
    from wire.topics import Address

    address = Address.parse(node)
    if request is not None and out is None:
        raise click.UsageError("--request needs --out, for the certificate")
    what = "token" if out is None else "certificate"
    with _locked(folder, what, address.text) as (layout, now):
        before = issued(layout, address)
        if before and not renew:
            end = before[0].not_valid_after_utc
            raise EdgebedError(
                f"{address} has a certificate until {end:%Y-%m-%d}: --renew makes another one, and"
                " `edgebed node remove` takes it away"
            )
        check_name(layout, address)
        if out is None:
            token = give(layout, address, now, hours)
            click.echo(token.text)
            click.echo(f"for {address}, until {token.ends:%Y-%m-%d %H:%M} UTC, once", err=True)
            return
        for line in write_credential(layout, address, out, now, request):
            click.echo(line, err=True)
    secret = "".join(f"{each.name} is secret: " for each in sorted(out.glob("*.key")))
    click.echo(f"{out}: made for {address}; {secret}move the folder to the device")


@command.command()
@_site
def ls(folder: Path) -> None:
    """List the nodes: when their certificates end, which are removed, and which have an unused token."""
    from edgebed.site.nodes import current, removed_names
    from edgebed.site.token_store import waiting

    layout, now = opened(folder)
    for name, certificate in current(layout).items():
        end = certificate.not_valid_after_utc
        state = counted((end - now).days, "day") if end > now else "ended"
        click.echo(f"{name:64} until {end:%Y-%m-%d}, {state}")
    for name in removed_names(layout):
        click.echo(f"{name:64} removed")
    for name, ends in waiting(layout, now).items():
        click.echo(f"{name:64} token until {ends:%Y-%m-%d %H:%M} UTC, not used yet")


@command.command()
@_node
@_site
def remove(node: str, folder: Path) -> None:
    """Take away every certificate and token of NODE: no message passes either way, on an open connection too.

    Exit code 3 if the broker could not be reached: the sentence names what is left to do.
    """
    from edgebed.site.nodes import issued, take_away
    from edgebed.site.running import apply, end_connection
    from edgebed.site.token_store import void
    from wire.topics import Address

    address = Address.parse(node)
    with _locked(folder, "removal", address.text) as (layout, now):
        was_voided = void(layout, address)
        if was_voided and not issued(layout, address):
            click.echo(f"{address}: its token is taken back; it had no certificate")
            return
        take_away(layout, address)
        left = apply(layout, now)
        # nats-server ends the connections of users that it does not know any more
        if not left and layout.site.broker == "mosquitto" and (why := end_connection(layout, address.text)):
            left = [f"its open connection is not ended, but has no rights: {why}"]
    click.echo(f"{address}: removed")
    for line in left:
        click.echo(line, err=True)
    if left:
        sys.exit(3)


@command.command()
@_site
@click.option("--listen", default="0.0.0.0", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8885, show_default=True, help="0 takes a free one."
)
def serve(folder: Path, listen: str, port: int) -> None:
    """Run the enrolment service of a site: devices get and renew their certificates there, over HTTPS.

    It signs with the site's authority: run it as the user that made the site, on the same machine. The first
    line of stdout is its port.
    """
    layout, _ = opened(folder)
    from edgebed.site.enrolment_service import EnrolmentService
    from wire.clock import Clock

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        service = EnrolmentService(layout, listen, port, Clock())
    except OSError as error:
        raise ConfigError(f"cannot listen on {listen} port {port}: {error.strerror or error}") from error
    with service:
        click.echo(service.server_port)
        sys.stdout.flush()
        service.serve_forever(poll_interval=0.2)


@contextmanager
def _locked(folder: Path, what: str, subject: str) -> Iterator[tuple[Layout, datetime]]:
    """The site, for one change that its audit notes."""
    layout, now = opened(folder)
    from edgebed.site.files import locked
    from edgebed.site.site_audit import noted

    with locked(layout.folder), noted(layout.folder, what, subject):
        yield layout, now
