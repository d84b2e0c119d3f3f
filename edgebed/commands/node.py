"""`edgebed node`: give nodes of a shared site their certificates, list them, and take them away."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgebed.commands.site import opened, require_extra
from edgebed.number_range import NumberRange
from wire.errors import ConfigError
from wire.printable import counted, printable

if TYPE_CHECKING:
    from datetime import datetime

    from edgebed.site.layout import Layout
    from edgebed.site.node_wire import AddedNode, NodeState
    from edgebed.site.remote_nodes import RemoteNodes

    Where = Path | RemoteNodes

_node = click.argument("node")
_existing = click.Path(exists=True, file_okay=False, path_type=Path)
_site = click.option("--site", "folder", required=True, type=_existing, help="Folder of `edgebed site init`.")


def _where(command: Callable[..., None]) -> Callable[..., None]:
    """The options that name the site: its folder, or its enrolment service."""
    for option in (
        click.option(
            "--token-file",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="With --url: file with a token of `edgebed site admin-token`.",
        ),
        click.option("--url", help="Enrolment service that is asked instead: https://host[:port]."),
        click.option("--site", "folder", type=_existing, help="Folder of `edgebed site init`."),
    ):
        command = option(command)

    @functools.wraps(command)
    def located(folder: Path | None, url: str | None, token_file: Path | None, **options: Any) -> None:
        if (folder is None) is (url is None) or (url is None) is not (token_file is None):
            raise click.UsageError("name --site FOLDER, or --url URL with --token-file FILE")
        command(where=folder or _remote(url or "", token_file), **options)

    return located


def _remote(url: str, token_file: Path | None) -> RemoteNodes:
    require_extra()
    from edgebed.site.certificates import utc
    from edgebed.site.remote_nodes import RemoteNodes
    from wire.clock import Clock

    return RemoteNodes(url, token_file or Path(), utc(Clock().now_ms()))


@click.group(name="node")
def command() -> None:
    """Give nodes of a shared site their certificates, list them, and take them away."""


@command.command()
@_node
@_where
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
def add(node: str, where: Where, out: Path | None, hours: float, request: Path | None, renew: bool) -> None:
    """Print a one-time token for NODE (tenant/pilot/site/node): `edgebed agent enrol` uses it on the device.

    With --out, make the certificate now, and its key too without --request. A certificate is valid for a
    year. mosquitto needs no change for a new node; nats-server is reloaded. With --url, an administrator on
    another machine makes the token.
    """
    from wire.topics import Address

    address = Address.parse(node)
    if request is not None and out is None:
        raise click.UsageError("--request needs --out, for the certificate")
    if not isinstance(where, Path):
        if out is not None:
            raise click.UsageError("--out needs --site: with --url a node gets a token")
        _print_token(where.add(address.text, hours, renew=renew))
        return
    from edgebed.site.credential import write_credential
    from edgebed.site.node_acts import add as give
    from edgebed.site.node_acts import check_new

    with _locked(where, "token" if out is None else "certificate", address.text) as (layout, now):
        if out is None:
            _print_token(give(layout, address, now, hours, renew=renew))
            return
        check_new(layout, address, renew=renew)
        for line in write_credential(layout, address, out, now, request):
            click.echo(line, err=True)
    secret = "".join(f"{each.name} is secret: " for each in sorted(out.glob("*.key")))
    click.echo(f"{out}: made for {address}; {secret}move the folder to the device")


@command.command()
@_where
def ls(where: Where) -> None:
    """List the nodes: when their certificates end, which are removed, and which have an unused token."""
    from edgebed.site.certificates import utc
    from wire.clock import Clock

    now = utc(Clock().now_ms())
    for one in _states(where):
        if one.state == "removed" or one.ends is None:
            text = "removed"
        elif one.state == "token":
            text = f"token until {one.ends:%Y-%m-%d %H:%M} UTC, not used yet"
        else:
            left = counted((one.ends - now).days, "day") if one.ends > now else "ended"
            text = f"until {one.ends:%Y-%m-%d}, {left}"
        click.echo(printable(f"{one.node:64} {text}", 500))


@command.command()
@_node
@_where
def remove(node: str, where: Where) -> None:
    """Take away every certificate and token of NODE: no message passes either way, on an open connection too.

    Exit code 3 if the broker could not be reached: the sentence names what is left to do.
    """
    from wire.topics import Address

    address = Address.parse(node)
    if isinstance(where, Path):
        from edgebed.site.node_acts import remove as take

        with _locked(where, "removal", address.text) as (layout, now):
            done = take(layout, address, now)
    else:
        done = where.remove(address.text)
    if not done.had_certificate:
        click.echo(f"{address}: its token is taken back; it had no certificate")
        return
    click.echo(f"{address}: removed")
    for line in done.left:
        click.echo(printable(line, 2_000), err=True)
    if done.left:
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


def _print_token(made: AddedNode) -> None:
    click.echo(printable(made.token, 500))
    click.echo(f"for {made.node}, until {made.ends:%Y-%m-%d %H:%M} UTC, once", err=True)


def _states(where: Where) -> list[NodeState]:
    if not isinstance(where, Path):
        return where.all()
    from edgebed.site.node_acts import states

    return states(*opened(where))


@contextmanager
def _locked(folder: Path, what: str, subject: str) -> Iterator[tuple[Layout, datetime]]:
    """The site, for one change that its audit notes."""
    layout, now = opened(folder)
    from edgebed.site.files import locked
    from edgebed.site.site_audit import noted

    with locked(layout.folder), noted(layout.folder, what, subject):
        yield layout, now
