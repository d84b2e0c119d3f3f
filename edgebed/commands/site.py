"""`edgebed site`: make and show the identity of a site: authorities, certificates, broker configuration."""

from __future__ import annotations

import getpass
import importlib.util
import os
import socket
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wire.errors import ConfigError, EdgebedError

if TYPE_CHECKING:
    from edgebed.site.layout import Layout
    from edgebed.site.settings import Site
    from edgebed.site.show import Overview

_folder = click.argument("folder", type=click.Path(file_okay=False, path_type=Path))


@click.group(name="site")
def command() -> None:
    """Make a site that several companies share: certificates, access rules, broker configuration."""


@command.command()
@_folder
@click.option("--name", help="Name of the site, in its certificates.  [default: site]")
@click.option(
    "--host", "hosts", multiple=True,
    help="Name or address of the broker; the first is in the configs of clients.  [default: this machine]",
)  # fmt: skip
@click.option("--listen", help="Address that the broker listens on.  [default: each]")
@click.option("--port", type=click.IntRange(1, 65535), help="For nodes and viewers.  [default: 8883]")
@click.option("--collector-port", type=click.IntRange(1, 65535), help="For collectors.  [default: 8884]")
@click.option("--collector", "collectors", multiple=True, help="Id of a collector.  [default: collector-1]")
@click.option(
    "--viewer", "viewers", multiple=True,
    help="tenant/pilot or tenant/pilot/name: a credential that reads this pilot.",
)  # fmt: skip
@click.option("--broker", type=click.Choice(["mosquitto", "nats"]), help="Its program.  [default: mosquitto]")
@click.option("--tenant", help="The one company that a nats broker serves.")
@click.option("--broker-user", help="User of the broker's process.  [default: mosquitto, or this user]")
@click.option("--admin", help="Make this user the first administrator of the first collector.")
def init(folder: Path, admin: str | None, **given: Any) -> None:
    """Make the site in FOLDER, or complete and renew it.

    The first run writes FOLDER/site.yaml from the options; later, change that file and run this again. Keys
    are kept, certificates are renewed when two thirds of their life have passed, and a file that was changed
    by hand is kept, with its new text beside it.
    """
    require_extra()
    from collector.rights.accounts import check_name
    from edgebed.site.certificates import utc
    from edgebed.site.files import locked, make_folder
    from edgebed.site.layout import Layout
    from edgebed.site.make import make
    from edgebed.site.site_audit import note
    from wire.clock import Clock

    folder = _absolute(folder)
    if admin:
        check_name(admin)
    asked = {key: list(value) if isinstance(value, tuple) else value for key, value in given.items() if value}
    first = _first(asked)
    make_folder(folder, 0o755)
    done: list[str] = []
    with locked(folder):
        site = _settings(folder, first, asked)
        try:
            make(Layout(folder, site), utc(Clock().now_ms()), done.append)
        finally:
            for line in done:
                click.echo(line)
                note(folder, "site init", "*", line)
    if not done and not admin:
        click.echo(f"{folder}: nothing to do")
    if admin:
        _admin(folder, site, admin)
    for line in _next(folder, done, has_admin=bool(admin)):
        click.echo(f"next: {line}", err=True)


@command.command()
@_folder
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def show(folder: Path, as_json: bool) -> None:
    """Show what FOLDER has, what ends when, and which files are secret; exit code 3 if something is to do."""
    layout, now = opened(folder)
    import msgspec

    from edgebed.site.show import overview

    found = overview(layout, now)
    if as_json:
        click.echo(msgspec.json.encode(found))
    else:
        _print(found)
    if found.problems:
        sys.exit(3)


@command.command(name="rotate-ca")
@_folder
@click.option("--finish", "is_finish", is_flag=True, help="Take away the trust in the root before.")
@click.option("--force", is_flag=True, help="With --finish: remove the nodes that are left on the old root.")
def rotate_ca(folder: Path, is_finish: bool, force: bool) -> None:
    """Give the site in FOLDER another root and other authorities, without an interruption.

    The first run makes them; broker and clients then trust both roots. Nodes that are on get the new root and
    a new certificate by themselves; copy the folders of collectors and viewers to their machines. When
    `edgebed site show` lists no node any more, --finish ends the trust in the old root. A run that was killed
    is completed by the next one. Exit code 3 if something is left to do at the broker.
    """
    if force and not is_finish:
        raise click.UsageError("--force is for --finish")
    layout, now = opened(folder)
    from edgebed.site.files import locked
    from edgebed.site.rotation import finish, start
    from edgebed.site.site_audit import noted

    def report(line: str) -> None:
        click.echo(line)

    what = "rotation finished" if is_finish else "rotation"
    with locked(layout.folder), noted(layout.folder, what, "*"):
        left = finish(layout, now, report, is_forced=force) if is_finish else start(layout, now, report)
    if not is_finish:
        click.echo("next: copy collectors/ and viewers/ to their machines, then edgebed site show", err=True)
    for line in left:
        click.echo(line, err=True)
    if left:
        sys.exit(3)


@command.command(name="admin-token")
@_folder
@click.argument("name", required=False)
@click.option(
    "--prefix", "prefixes", multiple=True, help="Nodes to manage: '*', 'tenant/*'; may be given again."
)
@click.option("--days", type=click.IntRange(1, 366), default=30, show_default=True, help="Life of the token.")
@click.option("--remove", "is_gone", is_flag=True, help="Take the token of NAME back.")
def admin_token(folder: Path, name: str | None, prefixes: tuple[str, ...], days: int, is_gone: bool) -> None:
    """Print a token for the administrator NAME: with it `edgebed node --url` works on another machine.

    It is printed once; a newer one of the same name takes it back. Without NAME: list the administrators.
    """
    from collector.rights.user import read_prefix

    layout, now = opened(folder)
    from edgebed.site.admins import give, listed, remove
    from edgebed.site.files import locked
    from edgebed.site.site_audit import noted
    from wire.printable import printable

    if name is None:
        for one in listed(layout):
            text = "ended" if one.ends <= now else "until"
            click.echo(printable(f"{one.name}  {' '.join(one.prefixes)}  {text} {one.ends:%Y-%m-%d}", 500))
        return
    if is_gone is bool(prefixes):
        raise click.UsageError("name --prefix, for the nodes of the administrator, or --remove")
    found = [read_prefix(one) for one in prefixes]
    what = "administrator token taken back" if is_gone else "administrator token"
    with locked(layout.folder), noted(layout.folder, what, f"{name} {' '.join(found)}".strip()):
        if is_gone:
            if not remove(layout, name):
                raise EdgebedError(f"{name} has no token: `edgebed site admin-token {folder}` lists them")
            click.echo(f"{name}: its token is taken back")
            return
        token = give(layout, name, found, now, days)
    click.echo(token.text)
    click.echo(
        f"for {name}, nodes of {' '.join(found)}, until {token.ends:%Y-%m-%d}; shown only now", err=True
    )


@command.command()
@_folder
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def audit(folder: Path, limit: int, as_json: bool) -> None:
    """Show who did what to the site in FOLDER, when, from where, and with which result; the newest first."""
    layout, _ = opened(folder)
    import msgspec

    from edgebed.site.site_audit import newest
    from wire.printable import printable

    for one in newest(layout.folder, limit):
        if as_json:
            click.echo(msgspec.json.encode(one))
            continue
        at = datetime.fromtimestamp(one.at_ms / 1000, UTC)
        text = f"{one.who} from {one.origin}: {one.what} {one.subject}: {one.result}"
        click.echo(f"{at:%Y-%m-%d %H:%M:%S} UTC  {printable(text, 2_000)}")


def opened(folder: Path) -> tuple[Layout, datetime]:
    """A site that exists, and the time now."""
    require_extra()
    from edgebed.site.certificates import utc
    from edgebed.site.layout import Layout
    from edgebed.site.settings import load
    from wire.clock import Clock

    folder = _absolute(folder)
    return Layout(folder, load(folder)), utc(Clock().now_ms())


def _first(asked: dict[str, Any]) -> Site:
    """The settings that the options give."""
    from edgebed.site.settings import Site, mistakes

    user = "mosquitto" if os.geteuid() == 0 else getpass.getuser()
    hosts = [socket.gethostname(), "localhost", "127.0.0.1"]
    site = Site(**{"hosts": hosts, "broker_user": user, **asked})
    if wrong := [f"{'.'.join(map(str, keys))}: {why}" for keys, why in mistakes(site)]:
        raise click.UsageError("; ".join(wrong))
    return site


def _settings(folder: Path, first: Site, asked: dict[str, Any]) -> Site:
    """The settings in `site.yaml`; the first run writes it."""
    from edgebed.site.files import PUBLIC, write
    from edgebed.site.settings import FILE, load, text

    path = folder / FILE
    if not path.exists():
        write(path, text(first).encode(), PUBLIC)
    site = load(folder)
    for key, value in asked.items():
        if getattr(site, key) != value:
            raise click.UsageError(f"{path} has another value of {key}: change it there and run this again")
    return site


def _admin(folder: Path, site: Site, name: str) -> None:
    """Make the first administrator in the store that the first collector's config names."""
    from collector.config import load
    from edgebed.site.first_admin import add_first_admin
    from wire.clock import Clock

    store = load(folder / f"collectors/{site.collectors[0]}/collector.yaml").store

    def warn(text: str) -> None:
        click.echo(f"edgebed: {text}", err=True)

    password = add_first_admin(store, name, Clock(), warn)
    if not password:
        click.echo(f"{store} has users already: `edgebed user add` makes more", err=True)
        return
    click.echo(f"user {name}, administrator, in {store}; the password is shown only now:", err=True)
    click.echo(password)


def _next(folder: Path, done: list[str], *, has_admin: bool) -> Iterator[str]:
    from edgebed.site.layout import ACL, BROKER_CONFIGS, CRL

    if not has_admin and any(line.startswith("ca.pem: made") for line in done):
        yield "where a collector runs: edgebed user add NAME --store STORE --role admin --prefix '*'"
    changed = {line.partition(":")[0] for line in done if not line.endswith(": made")}
    if BROKER_CONFIGS["mosquitto"] in changed:
        yield "restart the broker"
    elif changed & {ACL, CRL, BROKER_CONFIGS["nats"], "broker/broker.pem"}:
        yield "reload the broker: systemctl reload, or send it SIGHUP"
    yield f"edgebed site show {folder}"


def _absolute(folder: Path) -> Path:
    found = folder.absolute()
    if not str(found).isprintable():
        raise ConfigError(f"{str(folder)!r} has characters that no configuration of a broker can have")
    return found


def _print(found: Overview) -> None:
    click.echo(f"site {found.name} in {found.folder}: nodes {found.url}, ", nl=False)
    click.echo(f"collectors {found.collector_url}")
    click.echo(f"SHA-256 of the root: {found.ca_sha256}\n\ncertificates")
    for one in found.certificates:
        click.echo(f"  {one.file:42} until {one.until}, {one.days:,} days")
    click.echo("\nsecrets: no one else may read these")
    for secret in found.secrets:
        state = "" if not secret.problem else "  WRONG"
        click.echo(f"  {secret.file:42} {secret.mode} {secret.owner:12} {secret.what}{state}")
    if found.removed:
        click.echo(f"\nremoved nodes: {', '.join(found.removed)}")
    click.echo("\nto do" if found.problems else "\nnothing to do")
    for problem in found.problems:
        click.echo(f"  {problem}")


def require_extra() -> None:
    """Check that the library for certificates is installed."""
    if importlib.util.find_spec("cryptography") is None:
        raise EdgebedError("certificates need the library cryptography: pip install 'edgebed[site]'")
