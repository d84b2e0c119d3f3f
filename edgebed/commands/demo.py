"""`edgebed demo`: play the demo, in a terminal or in CI."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import cast

import click

from edgebed import signals
from edgebed.broker import KINDS, Kind
from edgebed.demo import Demo, Outcome
from edgebed.number_range import NumberRange
from edgebed.processes import edgebed_command

NEXT = """\
Next steps, with your own device or a simulated one:
  {me} init robot -o my.yaml       write a ready config; also mobility, healthcare, smart-city
  {me} agent check my.yaml         list every mistake in it, with its line
  {me} sim run opcua --port 4840   simulate the robot that this config reads
  {me} agent once my.yaml          read it, run its model, send nothing"""


@click.command(name="demo")
@click.option("--headless", is_flag=True, help="Play the acts and end; exit 0 only when every act passed.")
@click.option(
    "--seconds",
    type=NumberRange(0, 86_400),
    default=60.0,
    show_default=True,
    help="Approximate length of the acts.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON on stdout.")
@click.option("--broker", "kind", type=click.Choice(KINDS), default="nats", show_default=True)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Dashboard port; 0 takes a free one.",
)
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep data, configs and logs in this folder.",
)
def command(headless: bool, seconds: float, as_json: bool, kind: str, port: int, keep: Path | None) -> None:
    """Show a whole installation in a minute, without hardware.

    Four simulated testbeds: a cobot on OPC UA, an electric car on CAN and GNSS, a bedside monitor on HL7, a
    street camera on RTSP with an air sensor on Modbus. Four agents run ONNX models beside them. A broker, a
    collector and a dashboard run on this machine only. Models raise alarms, the link is cut, an agent is
    killed, and at the end every message is accounted for.
    """
    with tempfile.TemporaryDirectory(prefix="edgebed-demo-") as folder:
        try:
            outcome = asyncio.run(
                _run(keep or Path(folder), cast(Kind, kind), port, seconds, headless=headless)
            )
        except asyncio.CancelledError:
            sys.exit(130)
    if as_json:
        click.echo(json.dumps(outcome.document(), indent=2))
    sys.exit(0 if outcome.ok else 1)


async def _run(folder: Path, kind: Kind, port: int, seconds: float, *, headless: bool) -> Outcome:
    me = asyncio.current_task()
    if me is not None:
        signals.on_end(lambda _: me.cancel())
    story = _Story()
    demo = Demo(folder, broker=kind, http_port=port, seconds=seconds, say=story.say, count=story.count)
    story.say(f"edgebed demo: starting a {kind} broker, a collector and four testbeds ...")
    async with demo.installation:
        story.say(f"Dashboard: {demo.installation.url}")
        outcome = await demo.play()
        story.say(f"\n{click.style(outcome.line(), bold=True, fg='green' if outcome.ok else 'red')}\n")
        if not headless:
            await demo.resume()
            story.say(NEXT.format(me=_me()))
            story.say(f"\nThe page stays up: {demo.installation.url}  (Ctrl-C ends everything)")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                story.say("\nstopping ...")
    return outcome


def _me() -> str:
    """Return how a user calls this command here: in a checkout it is not on the PATH."""
    if shutil.which("edgebed"):
        return "edgebed"
    return os.path.relpath(edgebed_command()[1])


class _Story:
    """Prints lines on stderr; counting lines replace each other, and appear only on a terminal."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._counting = False

    def say(self, line: str) -> None:
        if self._counting:
            click.echo(err=True)
        self._counting = False
        click.echo(line, err=True)

    def count(self, line: str) -> None:
        if self._live:
            click.echo(f"\r\x1b[K{line}", err=True, nl=False)
            self._counting = True
