"""The end of a client of paho that has a thread of its own."""

from __future__ import annotations

import contextlib

import paho.mqtt.client as mqtt


def end(client: mqtt.Client) -> None:
    """Disconnect, and wait until the thread of `loop_start` has ended."""
    client.disconnect()
    # `loop_stop` looks whether there is a thread, then joins it: paho forgets one that ends between
    with contextlib.suppress(AttributeError):
        client.loop_stop()
