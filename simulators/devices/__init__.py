"""The device side of each protocol, as a server that the adapters of edgebed can read."""
