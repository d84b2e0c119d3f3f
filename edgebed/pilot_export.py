"""`edgebed pilot export`: the data of a pilot for people outside."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wire.errors import ConfigError, EdgebedError, WireError
from wire.printable import counted, printable

if TYPE_CHECKING:
    from wire.pilot.frozen import Opened


@click.command()
@click.argument(
    "files",
    metavar="FILE...",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    nargs=-1,
    required=True,
)
@click.option(
    "--store",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the store; a collector may write to it meanwhile.",
)
@click.option("--url", help="Refused: an export is made on the machine of the store, with --store.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The new folder to write.")
@click.option("--license", "licence", default="", help="SPDX id or URL; by default none is granted.")
@click.option("--creator", default="", help="Who made the data; by default the owner of the plan.")
@click.option("--cite", default="", help="How to cite the data, in BibTeX; by default made from the plan.")
@click.option("--page", default="", help="URL of the page of the data set.")
@click.option(
    "--published",
    type=click.DateTime(["%Y-%m-%d"]),
    help="Date in the metadata, YYYY-MM-DD; by default the UTC day of now.",
)
def export(
    files: tuple[Path, ...],
    store: Path | None,
    url: str | None,
    out: Path,
    published: datetime | None,
    **about: str,
) -> None:
    """Write the data of a pilot for others: rows, events, periods and KPIs as Parquet, with Croissant.

    FILE is a frozen plan; name every version of it to have them all in the export. The folder is there when
    it is whole. What was removed before the store, such as names of patients, is not in it; nothing else is
    removed. Exits 3 where data are damaged, were changed or are gone: `export.json` lists them.
    """
    from collector.ledger.saved import saved_ledger
    from collector.pilots.export.croissant import About
    from collector.pilots.export.export import Stored, write
    from collector.store.sqlite_source import SqliteSource
    from collector.store.store import peek
    from edgebed import __version__
    from wire.clock import Clock

    if url is not None:
        raise click.UsageError(
            "a collector gives no export over HTTP: it may have hundreds of millions of rows. Run this on "
            "the machine of the store, with --store, or restore a backup of it here. A report over HTTP is "
            "there: `edgebed pilot report FILE --url URL`"
        )
    if store is None:
        raise click.UsageError("name --store, the folder of the store")
    plans = _plans(files)
    now_ms = Clock().now_ms()
    day = published or datetime.fromtimestamp(now_ms / 1000, UTC)
    with closing(SqliteSource(store)) as source:
        stored = Stored(source, peek(store), partial(saved_ledger, store), now_ms)
        made = write(plans, stored, out, About(published=f"{day:%Y-%m-%d}", **about), __version__)
    for each in made.findings:
        click.echo(printable(f"{each.where}: {each.why}", 2_000), err=True)
    rows = sum(each.rows for each in made.files if each.file.startswith("streams/"))
    click.echo(f"{out}: {counted(len(made.files) + 1, 'file')}, {counted(rows, 'row')} of streams")
    if made.findings:
        sys.exit(3)


def _plans(files: Iterable[Path]) -> dict[bytes, Opened]:
    """The envelopes and what is in them."""
    from wire.pilot.frozen import MAX_SIGNED, read_signed

    found = {}
    for each in files:
        try:
            with each.open("rb") as file:
                body = file.read(MAX_SIGNED + 1)
            found[body] = read_signed(body)
        except OSError as error:
            raise EdgebedError(f"{each} cannot be read: {error.strerror}") from error
        except WireError as error:
            raise ConfigError(f"{each}: {error}") from error
    return found
