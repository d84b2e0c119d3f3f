"""What systemd is told: ready, alive, stopping; silence when nobody listens."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

log = logging.getLogger("edgebed.agent")


class Notifier:
    """Speaks sd_notify over a socket that never blocks; does nothing where NOTIFY_SOCKET names none.

    A full socket loses the word: a watchdog word comes again, READY is sent until it was taken.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self.watchdog_s = _watchdog_s(environment)  # how often systemd wants to hear; 0 for never
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self._socket: socket.socket | None = None
        self._ready_due = False
        if self._address is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    def ready(self, status: str) -> None:
        """Config, outbox, adapters and models are there."""
        self._ready_due = not self._send(f"READY=1\nSTATUS={_line(status)}")

    def alive(self, status: str) -> None:
        """Every critical task moves; also what `systemctl status` shows."""
        word = "READY=1\n" if self._ready_due else ""
        self._ready_due = not self._send(f"{word}WATCHDOG=1\nSTATUS={_line(status)}") and self._ready_due

    def stopping(self) -> None:
        """The daemon ends by itself or was told to."""
        self._send("STOPPING=1\nSTATUS=stopping")

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, text: str) -> bool:
        if self._socket is None or self._address is None:
            return True
        try:
            self._socket.sendto(text.encode(), self._address)
        except OSError as error:  # nobody there, or full: the daemon's work does not depend on it
            log.debug("systemd was not told: %s", error)
            return False
        return True


def _address(name: str) -> str | None:
    if name.startswith("@"):
        return "\0" + name[1:]  # abstract
    return name if name.startswith("/") else None


def _watchdog_s(environment: Mapping[str, str]) -> float:
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0  # meant for a parent of ours
    try:
        return max(0, int(environment.get("WATCHDOG_USEC", "0"))) / 1e6
    except ValueError:
        return 0.0


def _line(text: str) -> str:
    return text.replace("\n", " ")[:200]
