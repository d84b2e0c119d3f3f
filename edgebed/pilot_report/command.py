"""`edgebed pilot report`: the report of a pilot, made from a store or by a running collector."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from edgebed.collector_api import CollectorApi
from wire.errors import EdgebedError, WireError, unwritable
from wire.printable import counted, printable

if TYPE_CHECKING:
    from collector.pilots.report.document import Report
    from wire.pilot.frozen import Opened

Form = Literal["json", "html", "pdf"]
Lang = Literal["en", "ko"]
_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("file", type=_file, required=False)
@click.option(
    "--after", "older", type=_file, multiple=True, help="An earlier version; repeat it for several."
)
@click.option(
    "--store",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the store to read.",
)
@click.option("--url", help="Running collector: http://host:port.")
@click.option(
    "--token-file", type=_file, help="With --url: file with an API token of a user who sees all nodes."
)
@click.option(
    "--until", "until_text", help="Local time in the zone of the plan, or ms of UTC; by default now."
)
@click.option(
    "--trust", "trusted", type=_file, multiple=True, help="With --store: public key that must have signed."
)
@click.option("--from", "given", type=_file, help="Instead of FILE: a report as JSON that was made before.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the report: .json, .html or .pdf."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "html", "pdf"]),
    help="Form of --out; by default that of its ending, else JSON.",
)
@click.option(
    "--lang",
    type=click.Choice(["en", "ko"]),
    default="en",
    help="Language of HTML and PDF.",
    show_default=True,
)
@click.option("--recompute", type=_file, help="With --store: a report that is made again and compared.")
def report(
    file: Path | None,
    older: tuple[Path, ...],
    store: Path | None,
    url: str | None,
    token_file: Path | None,
    until_text: str | None,
    trusted: tuple[Path, ...],
    given: Path | None,
    out: Path | None,
    form: Form | None,
    lang: Lang,
    recompute: Path | None,
) -> None:
    """Report on the pilot of FILE, a frozen plan: did it work?

    With --store, everything is computed from the stored rows; a collector may be running beside it. With
    --url, the running collector does it. Prints the answer, each KPI, and what a reader must know.

    With --from, a report that was made before is written in another form or language.

    With --recompute, the report is made once more as of the same moment and compared byte for byte.

    Exit code 0 when a report was made, whatever its verdict; 3 when a recomputed report differs.
    """
    if form is not None and out is None:
        raise click.UsageError("--format needs --out: the file to write")
    if given is not None:
        if file or older or store or url or until_text or trusted or recompute:
            raise click.UsageError("--from takes --out, --format and --lang alone")
        _print(_read(given), out, form, lang)
        return
    if file is None:
        raise click.UsageError("name FILE, a frozen plan, or --from")
    if (store is None) is (url is None):
        raise click.UsageError("name --store or --url, one of them")
    if store is None and (recompute is not None or trusted):
        raise click.UsageError(
            "--recompute and --trust need --store: nothing of the collector is believed there"
        )
    if recompute is not None and (out is not None or until_text is not None):
        raise click.UsageError("--recompute takes its moment from the report, and writes none")
    versions = _versions(file, older, trusted)
    if recompute is not None and store is not None:
        _recompute(recompute, store, versions)
        return
    made = (
        _of_collector(url, token_file, versions[-1], until_text)
        if url
        else _made(store, versions, until_text)
    )
    _print(made, out, form, lang)


def _versions(file: Path, older: Sequence[Path], trusted: Sequence[Path]) -> list[Opened]:
    """The versions in their order; a signature by a key of `trusted` is checked."""
    from edgebed.commands.pilot import read_plan

    read = {path: read_plan(path) for path in (*older, file)}
    if trusted:
        from agent.inference import package_files
        from agent.inference.signing.trust import Trust, public_key
        from agent.pilots.signatures import signers

        keys = {
            public_key(package_files.read_file(each, 65_536).decode(errors="replace")): each.stem
            for each in trusted
        }
        for path, each in read.items():
            if not signers(each, Trust(trusted=keys)):
                raise EdgebedError(f"{path} is not signed by a key of --trust")
    return sorted(read.values(), key=lambda each: each.plan.version)


def _made(store: Path | None, versions: Sequence[Opened], until_text: str | None) -> Report:
    from collector.pilots.report.from_store import of_store
    from edgebed.pilot_report.make import until
    from wire.clock import Clock

    assert store is not None  # noqa: S101 - one of --store and --url is there
    return of_store(store, versions, until(until_text, versions[-1], Clock()))


def _of_collector(url: str, token_file: Path | None, newest: Opened, until_text: str | None) -> Report:
    from collector.pilots.report.canonical_report import read_report
    from edgebed.pilot_report.make import until
    from wire.clock import Clock

    plan = newest.plan.plan
    asked = {"hash": newest.hash}  # an earlier version has a report of its own
    if until_text:
        asked["until"] = str(until(until_text, newest, Clock()))
    api = CollectorApi(url, token_file)
    try:
        found = read_report(api.read(f"pilots/{plan.owner}/{plan.pilot}/report", asked))
    except WireError as error:
        raise EdgebedError(f"{api.url}: {error}") from error
    if found.plan_hash != newest.hash:
        raise EdgebedError(
            f"{api.url} has another plan of {plan.pilot}, {found.plan_hash[:12]}; "
            f"this file is {newest.hash[:12]}"
        )
    return found


def _read(given: Path) -> Report:
    from edgebed.pilot_report.make import read_file

    return read_file(given)[1]


def _print(made: Report, out: Path | None, form: Form | None, lang: Lang) -> None:
    from edgebed.pilot_report.answer import lines

    for line in lines(made):
        click.echo(printable(line, 2_000))
    if out is not None:
        try:
            out.write_bytes(_as_file(made, form or _form_of(out), lang))
        except OSError as error:
            raise unwritable(str(out), error) from error
        click.echo(f"{out}: written")


def _form_of(out: Path) -> Form:
    ending = out.suffix.lower()
    return "html" if ending == ".html" else "pdf" if ending == ".pdf" else "json"


def _as_file(made: Report, form: Form, lang: Lang) -> bytes:
    from collector.pilots.report.canonical_report import report_bytes
    from collector.pilots.report.pages import page
    from collector.pilots.report.pages.pdf import pdf

    if form == "json":
        return report_bytes(made)
    html = page(made, lang)
    return pdf(html) if form == "pdf" else html.encode()


def _recompute(given: Path, store: Path, versions: Sequence[Opened]) -> None:
    from collector.pilots.report.from_store import of_store
    from edgebed.pilot_report.make import difference, read_file

    body, found = read_file(given)
    made = of_store(store, versions, found.until_ms)
    if different := difference(body, found, made):
        before, now = (sum(each.stored for each in report.custody) for report in (found, made))
        came = f"; {counted(now - before, 'message')} came since: make the report again"
        text = printable(f"{given}: it differs from the stored data: {different}", 2_000)
        click.echo(text + came if now > before else text)
        sys.exit(3)
    click.echo(f"{given}: equal, byte for byte, to the report that the stored data give")
