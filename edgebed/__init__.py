"""The front door: the `edgebed` command, the demo and the embedded broker."""

__version__ = "0.1.0"
