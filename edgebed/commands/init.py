"""`edgebed init`: write the ready config of a testbed or a protocol, to change into your own."""

from __future__ import annotations

import re
from pathlib import Path

import click

from wire.broker import Broker
from wire.config import did_you_mean
from wire.errors import ConfigError, WireError, unwritable
from wire.shipped import PREFIX, folder, names
from wire.topics import Address

_FILE = re.compile(r"(?P<key>\b(?:package|dbc|map):\s*)(?P<path>[\w./-]+)")
_NODE = re.compile(r"^node:.*$", re.MULTILINE)
_STATE = re.compile(r"^state:.*$", re.MULTILINE)
_BROKER = re.compile(r'^broker: \{url: "(?P<url>[^"]*)"\}$', re.MULTILINE)


def testbeds() -> list[str]:
    """Return the names of the ready configs for agents and the collector."""
    return sorted(path.stem for path in folder("configs").glob("*.yaml"))


@click.command(name="init")
@click.argument("testbed", required=False, default="")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The file to write; stdout without it.")
@click.option("--node", default="", help="Address of the agent: tenant/pilot/site/node.")
@click.option("--broker", default="", help="mqtt://host[:port] of your broker.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
def command(testbed: str, output: Path | None, node: str, broker: str, force: bool) -> None:
    """Write the ready config of TESTBED, or of one protocol; without TESTBED, list all."""
    if not testbed:
        for name in testbeds():
            first = (folder("configs") / f"{name}.yaml").read_text(encoding="utf-8").partition("\n")[0]
            click.echo(f"{name:12} {first.removeprefix('# ')}")
        return
    if testbed not in testbeds():
        raise click.UsageError(f"unknown testbed {testbed!r}{did_you_mean(testbed, testbeds())}")
    text = _text(testbed, node, broker)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        with output.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError(f"{output} exists: choose another name, or overwrite it with --force") from error
    except OSError as error:
        raise unwritable(str(output), error) from error
    what = "collector run" if testbed == "collector" else "agent check"
    click.echo(f"{output} is written; change it, then: edgebed {what} {output}", err=True)


def _text(testbed: str, node: str, broker: str) -> str:
    """Return the config with shipped files by name, so that it can move to another machine."""
    text = (folder("configs") / f"{testbed}.yaml").read_text(encoding="utf-8")
    shipped = names()

    def path(found: re.Match[str]) -> str:
        name = Path(found["path"]).name
        return f"{found['key']}{PREFIX}{name}" if name in shipped else found[0]

    text = _FILE.sub(path, text)
    if node:
        try:
            Address.parse(node)
        except WireError as error:
            raise click.UsageError(str(error)) from error
        text = _NODE.sub(f"node: {node}", text, count=1)
        text = _STATE.sub(f"state: ./state/{node}", text, count=1)  # two nodes need two folders
    if broker:
        for _, sentence in Broker(url=broker).mistakes():
            raise click.UsageError(f"--broker: {sentence}")
        text = _with_broker(text, broker)
    return text


def _with_broker(text: str, url: str) -> str:
    """Return the config with another broker, also where a device publishes on the same one."""
    old = _BROKER.search(text)
    text = _BROKER.sub(lambda _: f'broker: {{url: "{url}"}}', text, count=1)
    shared = f'url: "{old["url"]}"' if old else ""
    if shared and shared in text:
        text = text.replace(shared, f'url: "{url}"')
        click.echo(
            f"a device uses the same broker: its url is {url} too; change it if it has its own", err=True
        )
    return text
