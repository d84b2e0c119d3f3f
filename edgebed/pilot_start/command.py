"""`edgebed pilot demo` and `edgebed pilot draft`: the first steps to a pilot."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import Any

import click

from edgebed.collector_api import CollectorApi, collector_options
from edgebed.number_range import NumberRange
from wire.errors import ConfigError, unwritable

PILOTS = ("eco-driving", "joint-maintenance", "ward-alarms", "crossing-safety")
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("name", metavar="[NAME]", type=click.Choice(PILOTS), default=PILOTS[0])
@click.option(
    "--trust",
    type=_FILE,
    help="Public key that signs your plans; `edgebed key signing acme.key` makes acme.pem.  [required]",
)
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("pilot-demo"),
    show_default=True,
    help="Where data, configs and logs are kept; a folder that is there is continued.",
)
@click.option(
    "--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="Port of the dashboard."
)
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=1, show_default=True, help="Same seed, same chance."
)
@click.option("--no-effect", is_flag=True, help="The change does nothing: a right report shows no effect.")
def demo(name: str, trust: Path | None, folder: Path, port: int, seed: int, no_effect: bool) -> None:
    """Run a simulated site for a pilot until Ctrl-C: a device, a node, a broker and a collector.

    NAME is eco-driving (default), joint-maintenance, ward-alarms or crossing-safety. The node follows plans
    that the key of --trust signed. Go on in another terminal: `edgebed pilot draft`.
    """
    if trust is None:
        raise click.UsageError("make a key with `edgebed key signing acme.key`, then add --trust acme.pem")
    from edgebed import signals
    from edgebed.pilot_start.site import DEMOS, run

    def say(line: str) -> None:
        click.echo(line, err=True)

    work = run(DEMOS[name], folder, trust=trust, port=port, seed=seed, has_effect=not no_effect, say=say)
    sys.exit(signals.run(work))


@click.command()
@click.option(
    "--like",
    metavar="NAME|FILE",
    help=f"Take question, change and KPIs from a ready plan ({', '.join(PILOTS)}) or a `pilot.yaml`; "
    "by default KPIs are proposed from what the node declares.",
)
@click.option("--node", "nodes", multiple=True, help="Address of a node that takes part; may be repeated.")
@click.option("--unit", metavar="LENGTH", help="Length of a period: day, shift, 8h, 30min or 20s.")
@click.option("--periods", type=click.IntRange(12, 500), help="Periods of the trial, an even number.")
@click.option(
    "--baseline",
    type=click.IntRange(1, 500),
    help="Periods of the baseline; default: those of the trial, 20 at least.",
)
@click.option(
    "--washout",
    "washout_s",
    type=NumberRange(0, 1e6),
    help="Seconds until the change acts: cut from each period.",
)
@click.option(
    "--lead",
    default="2min",
    show_default=True,
    help="Time before the trial to plan, freeze and send: 2min, 3d.",
)
@click.option("--tz", help="Zone of the times, such as Asia/Seoul; default: that of --like, else UTC.")
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), help="For the order of on and off; default: drawn now."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The file to write; stdout without it.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
@collector_options("", "the nodes")
def draft(
    output: Path | None,
    force: bool,
    url: str,
    token_file: Path | None,
    lead: str,
    seed: int | None,
    **chosen: Any,
) -> None:
    """Write a `pilot.yaml` for a node that runs, as a switchback whose windows are periods of now.

    The baseline is the newest stored periods; where there are too few it goes on until there are enough. The
    trial begins --lead after it.
    """
    from edgebed.pilot_start.draft import Asked, write
    from edgebed.pilot_start.windows import seconds
    from wire.clock import Clock

    lead_s = seconds(lead)
    if lead_s is None:
        raise click.UsageError(f"--lead {lead!r} is not a time such as 2min, 8h or 3d")
    if output is not None and output.exists() and not force:
        raise ConfigError(f"{output} exists: choose another name, or overwrite it with --force")
    asked = Asked(lead_s=lead_s, seed=secrets.randbelow(2**31) if seed is None else seed, **chosen)
    made = write(CollectorApi(url, token_file), asked, Clock().now_ms(), str(output or "the draft"))
    if output is None:
        click.echo(made.text, nl=False)
        return
    try:
        output.write_text(made.text, encoding="utf-8")
    except OSError as error:
        raise unwritable(str(output), error) from error
    for line in made.lines:
        click.echo(line, err=True)
    click.echo(f"{output} is written; read it, then: edgebed pilot check {output} --url {url}", err=True)
