"""The centre: MQTT in, every message stored once, acknowledged after commit, shown and proven."""
