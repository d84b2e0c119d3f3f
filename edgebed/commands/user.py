"""`edgebed user`: who may log in to a collector, and which programs may ask it."""

from __future__ import annotations

import functools
import getpass
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgebed.secret_file import read_secret
from wire.errors import EdgebedError
from wire.printable import counted, printable

if TYPE_CHECKING:
    from collector.rights.accounts import Accounts, Saved
    from collector.rights.user import Grant
    from edgebed.remote_users import RemoteUsers

    Where = Path | RemoteUsers


@click.group(name="user")
def command() -> None:
    """Say who may see and change what on a collector's page and API.

    With --store the commands write the store's state.db, on the collector's machine; a running collector
    follows within a second. With --url they ask the collector, as an administrator who has an API token.
    """


def _where(command: Callable[..., None]) -> Callable[..., None]:
    """The options that name the collector."""
    for option in (
        click.option(
            "--token-file",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="With --url: file with an API token of an administrator.",
        ),
        click.option("--url", help="Running collector that is asked instead: https://host:port."),
        click.option(
            "--store",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            help="Folder of the collector's day files.",
        ),
    ):
        command = option(command)

    @functools.wraps(command)
    def located(
        *arguments: Any, store: Path | None, url: str | None, token_file: Path | None, **options: Any
    ) -> None:
        from edgebed.remote_users import RemoteUsers

        if (store is None) is (url is None):
            raise click.UsageError("name --store FOLDER, or --url URL with --token-file FILE")
        if url is None and token_file is not None:
            raise click.UsageError("--token-file is for --url")
        command(*arguments, where=store or RemoteUsers(url or "", token_file), **options)

    return located


_password_file = click.option(
    "--password-file",
    type=click.Path(path_type=Path),
    help="File whose first line is the password; - reads a line of stdin. Without it you are asked.",
)
_roles = ("viewer", "operator", "admin")


@command.command()
@click.argument("name")
@_where
@click.option("--role", required=True, type=click.Choice(_roles), help="What the user may do.")
@click.option(
    "--prefix",
    "prefixes",
    required=True,
    multiple=True,
    help="On which nodes: '*', 'tenant/*', 'tenant/pilot/*' or one node; may be given again.",
)
@_password_file
def add(name: str, where: Where, role: str, prefixes: tuple[str, ...], password_file: Path | None) -> None:
    """Add the user NAME. From the first user on, the page and the API need a login."""
    from collector.rights.passwords import hashed

    grant = _grant(role, prefixes)
    if not isinstance(where, Path):
        where.add(name, _password(password_file), role, prefixes)
        click.echo(f"{name}: {role} of {' '.join(prefixes)}")
        return
    with _acting(where, "user add", f"{name}: {role} of {' '.join(prefixes)}", grant) as accounts:
        known = accounts.read().accounts
        if name in known:
            raise EdgebedError(f"user {name} exists already: use passwd, or remove it first")
        accounts.add(name, hashed(_password(password_file)), grant)
    click.echo(f"{name}: {role} of {' '.join(prefixes)}")


@command.command()
@click.argument("name")
@_where
@_password_file
def passwd(name: str, where: Where, password_file: Path | None) -> None:
    """Change the password of NAME and end its sessions; its API tokens stay."""
    from collector.rights.passwords import hashed

    if isinstance(where, Path):
        with _acting(where, "user passwd", name, _grant_of(where, name)) as accounts:
            accounts.change_password(name, hashed(_password(password_file)))
    else:
        where.change_password(name, _password(password_file))
    click.echo(f"{name}: new password; its sessions have ended")


@command.command()
@click.argument("name")
@_where
def remove(name: str, where: Where) -> None:
    """Remove the user NAME, its sessions and its API tokens.

    With --url the last administrator of its nodes stays.
    """
    if not isinstance(where, Path):
        where.remove(name)
        click.echo(f"{name}: removed")
        return
    with _acting(where, "user remove", name, _grant_of(where, name)) as accounts:
        accounts.remove(name)
        left = len(accounts.read().accounts)
    click.echo(f"{name}: removed, {counted(left, 'user')} left")
    if not left:
        click.echo("no user is left: a collector on loopback needs no login any more, others refuse all")


@command.command()
@click.argument("name")
@_where
@click.option("--label", default="", help="What the token is for.")
@click.option("--role", type=click.Choice(_roles), default="viewer", show_default=True, help="At most this.")
@click.option("--prefix", "prefixes", multiple=True, help="At most these nodes; all of the user's if absent.")
@click.option(
    "--days", default=90, show_default=True, type=click.IntRange(1, 3660), help="How long it is valid."
)
@click.option("--remove", "gone", metavar="ID", help="Remove this token instead of making one.")
def token(
    name: str, where: Where, label: str, role: str, prefixes: tuple[str, ...], days: int, gone: str | None
) -> None:
    """Make an API token of the user NAME. It is printed once, on stdout, and cannot be shown again.

    It may do what the user may do at the time, and no more than --role and --prefix say.
    """
    if gone is not None:
        if not gone:
            raise click.UsageError("--remove needs the ID of a token: `edgebed user ls` shows it")
        if isinstance(where, Path):
            with _acting(where, "token remove", f"{name} {gone}", _grant_of(where, name)) as accounts:
                accounts.remove_token(name, gone)
        else:
            where.remove_token(name, gone)
        click.echo(f"{name}: token {gone} is removed")
        return
    if isinstance(where, Path):
        own = _grant_of(where, name)
        grant = _grant(role, prefixes or own.prefixes)
        with _acting(where, "token add", _text(name, grant, days), own) as accounts:
            identity, secret = accounts.add_token(name, label, grant, days)
    else:
        made = where.add_token(name, label, role, prefixes, days)
        identity, secret, grant = made["id"], made["token"], _grant(made["role"], tuple(made["prefixes"]))
    click.echo(f"token {identity} of {_text(name, grant, days)}; it is shown only now:", err=True)
    click.echo(secret)


@command.command()
@_where
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def ls(where: Where, as_json: bool) -> None:
    """List the users with their sessions and API tokens; secrets are not shown."""
    import msgspec

    found = _users(where) if isinstance(where, Path) else where.all()
    if not found:
        click.echo("there is no user: edgebed user add NAME --role admin --prefix '*'", err=True)
    for one in found:
        if as_json:
            click.echo(msgspec.json.encode(one))
            continue
        shown = f"{one['name']}  {_shown(one)}, {counted(one['sessions'], 'session')}"
        click.echo(printable(shown, 20_000))
        for token in one["tokens"]:
            until = datetime.fromtimestamp(token["ends"] / 1000, UTC).strftime("%Y-%m-%d")
            text = f"  token {token['id']}  {_shown({**one, **token})}, until {until}  {token['label']}"
            click.echo(printable(text, 500))


def _users(store: Path) -> list[dict[str, Any]]:
    """The users of a store, as the API lists them."""
    from collector.rights.accounts import listed

    with _opened(store) as accounts:
        saved = accounts.read()
    return [listed(saved.accounts[name], saved) for name in sorted(saved.accounts)]


def _text(name: str, grant: Grant, days: int) -> str:
    return f"{name}: {grant.role} of {' '.join(grant.prefixes)} for {counted(days, 'day')}"


def _shown(one: dict[str, Any]) -> str:
    return f"{one['role']} of {' '.join(one['prefixes'])}"


def _grant(role: str, prefixes: tuple[str, ...]) -> Grant:
    from collector.rights.user import Grant, read_prefix

    return Grant(role, tuple(read_prefix(each) for each in prefixes))


def _grant_of(store: Path, name: str) -> Grant:
    with _opened(store) as accounts:
        return _known(accounts.read(), name)


def _known(saved: Saved, name: str) -> Grant:
    from wire.config import did_you_mean

    if name not in saved.accounts:
        raise EdgebedError(f"there is no user {name[:80]!r}{did_you_mean(name, saved.accounts)}")
    return saved.accounts[name].grant


@contextmanager
def _opened(store: Path) -> Iterator[Accounts]:
    from collector.rights.accounts import Accounts
    from collector.state.state_file import StateFile
    from wire.clock import Clock

    with closing(StateFile(store)) as state:
        yield Accounts(state, Clock())


@contextmanager
def _acting(store: Path, what: str, subject: str, grant: Grant) -> Iterator[Accounts]:
    """The users of a store, for one change that the audit notes."""
    from collector.rights.accounts import Accounts
    from collector.state.audit import EVERYWHERE, audited
    from collector.state.state_file import StateFile
    from wire.clock import Clock

    scope = grant.prefixes[0] if len(grant.prefixes) == 1 else EVERYWHERE

    def warn(text: str) -> None:
        click.echo(f"edgebed: {text}", err=True)

    clock = Clock()
    with closing(StateFile(store)) as state, audited(state, clock, what, subject, warn, scope):
        yield Accounts(state, clock)


def _password(path: Path | None) -> str:
    if path is None:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)
            try:
                asked: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
            except getpass.GetPassWarning as error:
                why = "there is no terminal to ask for the password: name --password-file"
                raise click.UsageError(why) from error
        return asked
    if str(path) == "-":
        return sys.stdin.readline().rstrip("\r\n")
    return read_secret(path, "--password-file", "password")
