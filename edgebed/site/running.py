"""The broker of a site while it runs: it reads its files again, and ends the connection of a removed node."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from edgebed.site.files import read
from edgebed.site.layout import CA, Layout
from wire.broker import Broker
from wire.errors import ConfigError
from wire.mqtt.blocking_client import BlockingClient
from wire.mqtt.connection import Handlers
from wire.mqtt.errors import MqttError
from wire.mqtt.options import ConnectOptions, Login

_CONNECT_S = 5.0
_RELOAD_S = 0.5  # mosquitto looks for signals each 0.1 s


def reload(layout: Layout) -> str:
    """Have the broker of this machine read its files again; returns why not, else ""."""
    try:
        pid = int(read(layout.path(f"broker/data/{layout.site.broker}.pid")) or 0)
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        # the number can belong to another process by now
        if pid > 1 and os.fsencode(layout.path(layout.broker_config)) in words:
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
