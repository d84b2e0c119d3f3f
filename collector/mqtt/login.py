"""The login of an MQTT client as the config states it."""

from __future__ import annotations

import paho.mqtt.client as mqtt

from wire.broker import Broker


def set_login(client: mqtt.Client, broker: Broker, username: str) -> None:
    """Set name, password and TLS; `username` is used with a password where the config names no user.

    Raises:
        ConfigError: a file of the config cannot be used.
    """
    password = broker.password()
    if broker.username or password:
        client.username_pw_set(broker.username or username, password)
    context = broker.ssl_context()
    if context is not None:
        client.tls_set_context(context)
