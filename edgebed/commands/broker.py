"""`edgebed broker`: run a real broker in the foreground, with its data on disk."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click

from edgebed.broker import KINDS, BrokerProcess, Kind, become


@click.command(name="broker")
@click.option("--broker", "kind", type=click.Choice(KINDS), default="nats", show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=1883,
    show_default=True,
    help="MQTT port; 0 takes a free one.",
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("broker-data"),
    show_default=True,
    help="Folder for the broker's messages and its generated configuration.",
)
def command(kind: str, host: str, port: int, data: Path) -> None:
    """Run a real MQTT broker with its data on disk.

    nats (nats-server with its MQTT and JetStream sides, MQTT 3.1.1) comes with edgebed[broker]; mosquitto 2
    must be installed. It accepts every client without a password: keep it on this machine, or see deploy/
    for a site.
    """
    become(BrokerProcess(cast(Kind, kind), data, host=host, port=port))
