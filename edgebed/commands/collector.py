"""`edgebed collector`: run the collector in the foreground, or check its config."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from wire.errors import ConfigError, EdgebedError, TryAgain
from wire.printable import counted, printable

if TYPE_CHECKING:
    from collector.backup.pace import Pace
    from collector.config import CollectorConfig
    from collector.pruning import Planned
    from collector.store.retention import Class, RetentionRule

T = TypeVar("T")


@click.group(name="collector")
def command() -> None:
    """Run the collector: it stores, proves and shows what agents send."""


_config = click.argument("config", required=False, type=click.Path(dir_okay=False, path_type=Path))
_full_speed = click.option("--full-speed", is_flag=True, help="Leave no time to a collector on this store.")
_existing_folder = click.Path(exists=True, file_okay=False, path_type=Path)


@command.command()
@_config
@click.option("--store", type=click.Path(file_okay=False, path_type=Path), help="Folder of the day files.")
@click.option("--broker", help="mqtt://host[:port] or mqtts://host[:port].")
@click.option("--host", help="Address of the page.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the page; 0 takes a free one.")
@click.option("--id", "name", help="The collector's name; also its MQTT client id.")
@click.option("-v", "--verbose", is_flag=True, help="Log more on stderr.")
def run(config: Path | None, verbose: bool, **changes: Any) -> None:
    """Run a collector until Ctrl-C; without CONFIG it needs --store.

    The first line of stdout is the address of its page; everything else goes to stderr. While the broker is
    away the collector keeps trying to connect, and the page works.
    """
    from agent.systemd import Notifier
    from collector import app
    from wire.clock import Clock

    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(levelname)s %(name)s: %(message)s",
    )

    notifier = Notifier()

    def announce(url: str) -> None:
        click.echo(url)
        notifier.ready(f"page at {url}")

    try:
        stopped_by = app.run(_settings(config, changes), Clock(), announce)
    finally:
        notifier.close()
    if stopped_by == signal.SIGINT:
        sys.exit(130)


@command.command()
@_config
def check(config: Path | None) -> None:
    """Check CONFIG and the files that it names; start nothing."""
    found = _settings(config, {})
    found.http.token()
    found.http.tls()
    found.broker.password()
    found.broker.ssl_context()
    click.echo(f"{config}: fine; store {found.store}, broker {found.broker.url}")


@command.command("reset-node")
@click.argument("node")
@click.option("--store", required=True, type=_existing_folder, help="Folder of the day files.")
def reset_node(node: str, store: Path) -> None:
    """Forget what forged or wrong numbers of NODE (tenant/pilot/site/node) left in the ledger and the fleet.

    Its rows, stored numbers and signed statements stay. A collector that runs on the store does it itself.
    """
    _require_extra()
    from collector.reset import reset_node as act
    from wire.clock import Clock
    from wire.topics import Address

    name = str(Address.parse(node))
    with _audited(store, "reset-node", name, scope=name):
        forgotten = act(store, name, Clock())
    for line in forgotten or ["nothing: the store knows no number of it that could be wrong"]:
        click.echo(f"{name}: forgot {line}" if forgotten else f"{name}: {line}")


@command.command()
@click.argument("store", type=_existing_folder)
@click.option(
    "--limit",
    default=50,
    show_default=True,
    type=click.IntRange(1, 100_000),
    help="Show no more than this number.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def audit(store: Path, limit: int, as_json: bool) -> None:
    """Show who did what to STORE, the newest first: time, who, from where, what, to what, result."""
    _require_extra()
    import msgspec

    from collector.state.audit import Audit
    from collector.state.state_file import StateFile

    if not (store / "state.db").exists():
        raise EdgebedError(f"{store} has no state.db: nothing was noted there yet")
    with closing(StateFile(store)) as state:
        found = Audit(state).newest(limit)
    for one in found:
        if as_json:
            click.echo(msgspec.json.encode(one))
            continue
        text = f"{_utc(one.at_ms)}  {one.who}, {one.origin}: {one.what} {one.subject}: {one.result}"
        click.echo(printable(text, 2_000))


@command.command()
@click.argument("store", type=_existing_folder)
@click.argument("dest", type=click.Path(path_type=Path))
@click.option(
    "--base",
    type=_existing_folder,
    help="An earlier backup of STORE: day files that did not change since are linked, not copied.",
)
@_full_speed
def backup(store: Path, dest: Path, base: Path | None, full_speed: bool) -> None:
    """Copy STORE to the new folder DEST and check the copy; its collector may run meanwhile.

    Exit code 3: the backup is whole, but a file of the store was damaged already.
    """
    _require_extra()
    from collector.backup.backup import back_up
    from collector.backup.pace import Pace
    from edgebed import __version__
    from wire.clock import Clock

    pace = Pace(pauses=not full_speed)
    with _audited(store, "backup", str(dest.absolute())):
        made = _worked(pace, lambda: back_up(store, dest, __version__, Clock(), pace, base=base))
    linked = sum((dest / one.name).stat().st_nlink > 1 for one in made.files)
    click.echo(
        f"{dest}: {counted(len(made.days()), 'day file')}{f' ({linked} linked)' if linked else ''}, "
        f"{made.bytes / 1e6:.1f} MB, as of {_utc(made.at_ms)}"
    )
    _report([f"the store was damaged already: {one.damage}" for one in made.files if one.damage])


@command.command()
@click.argument("folder", type=_existing_folder)
@_full_speed
def verify(folder: Path, full_speed: bool) -> None:
    """Read all of FOLDER, a backup or a store, and compare its ledger with its files; change nothing.

    A collector may run on the store. Exit code 3: something is damaged, changed or missing.
    """
    _require_extra()
    from collector.backup import verify as module
    from collector.backup.pace import Pace

    pace = Pace(pauses=not full_speed)
    found = _worked(pace, lambda: module.verify(folder, pace))
    as_of = f", as of {_utc(found.manifest.at_ms)}" if found.manifest else ""
    if found.is_intact:
        click.echo(f"{folder}: {found.sentence()}{as_of}{'' if found.problems else ': sound'}")
    _report(found.problems)


@command.command()
@click.argument("backup", type=_existing_folder)
@click.argument("store", type=click.Path(path_type=Path))
def restore(backup: Path, store: Path) -> None:
    """Check BACKUP, and make the new folder STORE of it; no collector may run on STORE.

    Exit code 3: the store is restored, but it has damage that the backup states.
    """
    _require_extra()
    from collector.backup import restore as module
    from collector.backup.pace import Pace
    from wire.clock import Clock

    pace = Pace(pauses=False)
    found = _worked(pace, lambda: module.restore(backup, store, Clock(), pace, _warn))
    click.echo(f"{store}: {found.sentence()}, as of {_utc(found.manifest.at_ms if found.manifest else 0)}")
    click.echo(
        "it lacks what was acknowledged after that: after the next start of the collector, "
        f"edgebed ledger --store {store} shows it as missing; what still waits on nodes arrives by itself"
    )
    _report(found.problems)


@command.command()
@click.argument("store", type=click.Path(file_okay=False, path_type=Path))
@click.option("--from", "url", required=True, metavar="URL", help="The running collector to fetch from.")
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the access token for --from.",
)
@click.option("--node", default="", help="tenant/pilot/site/node: only this one.")
@click.option("--pilot", default="", help="tenant/pilot: only its nodes.")
def refetch(store: Path, url: str, token_file: Path | None, node: str, pilot: str) -> None:
    """Fill STORE, a restored or a new one, with what another collector has and it lacks.

    No collector may run on STORE. A run that was ended goes on where it was. Exit code 3: something could not
    be fetched.
    """
    _require_extra()
    from collector import refetch as module
    from collector.backup.pace import Pace
    from collector.ledger.report import ReportFilter
    from collector.store.store import SqliteStore
    from edgebed.collector_api import CollectorApi
    from edgebed.twin import HttpTwin
    from wire.clock import Clock

    twin = HttpTwin(CollectorApi(url, token_file, "--from"), ReportFilter(pilot=pilot, node=node))
    store.mkdir(parents=True, exist_ok=True)
    pace = Pace(pauses=False)
    with closing(SqliteStore(store, Clock())) as opened, _audited(store, "refetch", url):
        found = _worked(pace, lambda: module.refetch(opened, twin, Clock(), pace))
    messages, rows = counted(found.messages, "message"), counted(found.rows, "row")
    click.echo(f"{store}: fetched {messages} ({rows}) of {counted(found.outboxes, 'outbox', 'outboxes')}")
    _report(found.problems)


@command.command()
@_config
@click.option("--store", type=_existing_folder, help="Folder of the day files.")
@click.option("--nodes", help="A rule beside those of CONFIG: tenant/pilot, tenant/* or *.")
@click.option("--class", "cls", type=click.Choice(["data", "event", "quarantine"]), help="Its class.")
@click.option("--keep-days", type=click.IntRange(1, 36_500), help="Its days of receipt to keep.")
@click.option("--dry-run", is_flag=True, help="Show what would go; change nothing.")
@_full_speed
def prune(
    config: Path | None,
    store: Path | None,
    nodes: str | None,
    cls: Class | None,
    keep_days: int | None,
    dry_run: bool,
    full_speed: bool,
) -> None:
    """Remove what the rules of CONFIG, or of the options, no longer keep; show tenant, class, day and bytes.

    A collector that runs on the store does it itself, by its own rules. The newest day file stays.
    """
    _require_extra()
    from collector import pruning
    from collector.backup.pace import Pace
    from collector.requests import ask
    from collector.store.retention import Retention, RetentionRule
    from collector.store.store import SqliteStore
    from wire.clock import Clock

    if (nodes is None) != (keep_days is None) or (cls is not None and nodes is None):
        raise click.UsageError("--nodes and --keep-days need each other, and --class needs both")
    found = _settings(config, {"store": store})
    folder, clock, pace = found.store, Clock(), Pace(pauses=not full_speed)
    rules = list(found.retention)
    if nodes is not None and keep_days is not None:
        rules.append(_rule(RetentionRule(nodes=nodes, cls=cls, keep_days=keep_days), rules))
    for rule in Retention(0, rules).unmatched(pruning.nodes_of(folder)):
        _warn(f"no node is known to which the rule for {rule.what} applies")
    if dry_run:
        due = _worked(pace, lambda: pruning.due_now(folder, Retention(found.retention_days, rules), clock))
        _show_pruned(folder, due, "would go")
        return
    try:
        opened = SqliteStore(folder, clock, found.retention_days, rules)
    except TryAgain as error:
        if nodes is not None:
            raise TryAgain(f"{error}; or add the rule to its config") from error
        with _audited(folder, "prune", str(folder.absolute())):
            ask(folder, pruning.PRUNE, "now")
        click.echo(f"{folder}: its collector removes what is due; edgebed ledger --store {folder} shows it")
        return
    with closing(opened), _audited(folder, "prune", str(folder.absolute())):
        pruner = pruning.Pruner(opened, found.quotas)
        done = _worked(pace, lambda: list(iter(lambda: pruner.step(pace.step), None)))
    _show_pruned(folder, done, "removed")
    _report([pruner.problem] if pruner.problem else [])


def _rule(rule: RetentionRule, others: Sequence[RetentionRule]) -> RetentionRule:
    """The rule of the command line.

    Raises:
        UsageError: it cannot apply.
    """
    from collector.store.retention import mistakes

    for _, sentence in mistakes([*others, rule], ()):
        raise click.UsageError(f"--nodes: {sentence}")
    return rule


def _show_pruned(folder: Path, planned: Iterable[Planned], what: str) -> None:
    """Print a line per day, tenant and class, and the sum."""
    total = 0
    for path, gone in planned:
        for (tenant, cls), size in sorted(gone.by_tenant().items()):
            click.echo(printable(f"{path.name[7:17]}  {tenant}  {cls}  {size:,} bytes {what}", 2_000))
            total += size
    click.echo(f"{folder}: {total / 1e6:.1f} MB {what}" if total else f"{folder}: nothing is due")


def _worked(pace: Pace, work: Callable[[], T]) -> T:
    """The result of `work`, done in a thread so that a signal stops it in order; shows how far it is."""
    from collector.store.snapshot import Stopped
    from edgebed import progress, signals

    found: list[T] = []

    async def main() -> None:
        with suppress(Stopped):
            async with progress.shown(pace.text):
                found.append(await asyncio.to_thread(work))

    code = signals.run(main(), pace.stop)
    if not found:
        sys.exit(code)
    return found[0]


def _report(problems: Sequence[str]) -> None:
    for text in problems:
        _warn(printable(text, 2_000))
    if problems:
        sys.exit(3)


def _utc(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(" ", "seconds").removesuffix("+00:00") + " UTC"


@contextmanager
def _audited(store: Path, what: str, subject: str, scope: str = "*") -> Iterator[None]:
    """Note the result of a command in the audit of a store; a folder that is not one stays as it is."""
    from collector.state.audit import audited
    from collector.state.state_file import StateFile
    from collector.store.folder import day_files
    from wire.clock import Clock

    if not day_files(store):
        yield
        return
    with closing(StateFile(store)) as state, audited(state, Clock(), what, subject, _warn, scope):
        yield


def _warn(text: str) -> None:
    click.echo(f"edgebed: {text}", err=True)


def _settings(path: Path | None, changes: dict[str, Any]) -> CollectorConfig:
    """Return the settings of the file, changed by the options of the command line."""
    import msgspec

    _require_extra()
    from collector import config
    from wire.broker import Broker

    if path is None and changes.get("store") is None:
        raise click.UsageError(
            "no folder for the data: give --store FOLDER, or a CONFIG: edgebed init collector -o c.yaml"
        )
    found = config.CollectorConfig(store=changes["store"]) if path is None else config.load(path)
    http = {key: changes[key] for key in ("host", "port") if changes.get(key) is not None}
    changed: dict[str, Any] = {"http": msgspec.structs.replace(found.http, **http)}
    if changes.get("store") is not None:
        changed["store"] = changes["store"]
    if changes.get("name") is not None:
        changed["id"] = changes["name"]
    if changes.get("broker") is not None:
        fields = msgspec.structs.asdict(found.broker)
        changed["broker"] = Broker(**{**fields, "url": changes["broker"]})
    found = msgspec.structs.replace(found, **changed)
    mistakes = [f"{'.'.join(map(str, keys))}: {sentence}" for keys, sentence in config.mistakes(found)]
    if mistakes:
        raise ConfigError(*mistakes)
    return found


def _require_extra() -> None:
    for name in ("starlette", "uvicorn", "zstandard"):
        if importlib.util.find_spec(name) is None:
            raise EdgebedError(
                f"the collector needs {name}, which is missing: pip install 'edgebed[collector]'"
            )
