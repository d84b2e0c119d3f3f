"""The broker of a site while it runs: it reads its files again, and ends the connection of a removed node."""

from __future__ import annotations

import os
import signal
import time
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from edgebed.site.files import read
from edgebed.site.layout import ACL, CA, Layout
from edgebed.site.make import revoke
from edgebed.site.nodes import issue, removed_names
from wire.broker import Broker
from wire.errors import ConfigError
from wire.mqtt.blocking_client import BlockingClient
from wire.mqtt.connection import Handlers
from wire.mqtt.errors import MqttError
from wire.mqtt.options import ConnectOptions, Login
from wire.topics import Address

_PROGRAMS = ("mosquitto", "nats-server")
_CONNECT_S = 5.0
_RELOAD_S = 0.5  # mosquitto looks for signals each 0.1 s


def admit(
    layout: Layout, node: Address, key: ec.EllipticCurvePublicKey, now: datetime
) -> tuple[bytes, list[str]]:
    """Give a node a certificate, and have the broker know it; returns it as PEM, and what is left to do.

    Raises:
        ConfigError: see `edgebed.site.nodes.issue`.
    """
    was_removed, left = node.text in removed_names(layout), []
    if was_removed and layout.site.broker == "mosquitto" and (why := end_connection(layout, node.text)):
        # a connection that is open since before the removal would get its rights back
        left = [f"restart the broker: a connection with a removed certificate of {node} may be open ({why})"]
    made = issue(layout, node, key, now)
    if was_removed or layout.site.broker == "nats":
        left += apply(layout, now)
    return made, left


def apply(layout: Layout, now: datetime) -> list[str]:
    """Write lists and rules, and have the broker read them; returns what is left to do."""
    done: list[str] = []
    revoke(layout, now, done.append)
    news = (f"in {ACL}.new", f"in {layout.broker_config}.new")
    left = [f"{line}: take it over, then reload the broker" for line in done if line.endswith(news)]
    if why := reload(layout):
        left.append(f"{why}: reload the broker where it runs; until then nothing has changed for it")
    return left


def reload(layout: Layout) -> str:
    """Have the broker of this machine read its files again; returns why not, else ""."""
    try:
        pid = int(read(layout.path(f"broker/data/{layout.site.broker}.pid")) or 0)
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        # the number can belong to another process by now
        if pid > 1 and Path(os.fsdecode(words[0])).name in _PROGRAMS:
            os.kill(pid, signal.SIGHUP)
            time.sleep(_RELOAD_S)
            return ""
    except (OSError, ValueError, ConfigError) as error:
        if isinstance(error, PermissionError):
            return "this user may not signal the broker"
    return f"no broker with {layout.path(layout.broker_config)} runs on this machine"


def end_connection(layout: Layout, name: str) -> str:
    """End the connection of a client and its session, by taking its client id; returns why not, else "".

    Client ids are free at the port of the collectors, and the site has a collector's certificate.
    """
    folder = layout.path(f"collectors/{layout.site.collectors[0]}")
    broker = Broker(
        url=layout.site.collector_url,
        ca_file=folder / CA,
        cert_file=folder / "collector.pem",
        key_file=folder / "collector.key",
    )
    try:
        options = ConnectOptions(login=Login.read(broker, name), connect_s=_CONNECT_S)
        client = BlockingClient(options, Handlers())
        try:
            client.open()
        finally:
            client.close()
    except (MqttError, ConfigError) as error:
        return str(error)
    return ""
