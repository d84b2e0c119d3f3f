"""Notifies systemd: ready, alive, stopping. Does nothing without a service manager."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

log = logging.getLogger("edgebed.agent")


class Notifier:
    """Sends sd_notify messages over a socket that never blocks; does nothing without NOTIFY_SOCKET.

    A full socket loses a message. WATCHDOG is sent again anyway; READY is repeated until it is accepted.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self.watchdog_s = _watchdog_s(environment)  # systemd expects a message this often; 0: never
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self._socket: socket.socket | None = None
        self._ready_due = False
        if self._address is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    def ready(self, status: str) -> None:
        """Report that config, outbox, adapters and models are ready."""
        self._ready_due = not self._send(f"READY=1\nSTATUS={_line(status)}")

    def alive(self, status: str) -> None:
        """Report that every critical task works; `status` is shown by `systemctl status`."""
        word = "READY=1\n" if self._ready_due else ""
        self._ready_due = not self._send(f"{word}WATCHDOG=1\nSTATUS={_line(status)}") and self._ready_due

    def stopping(self) -> None:
        """Report that the daemon is stopping."""
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
        except OSError as error:  # not there or full: the daemon's work does not depend on it
            log.debug("systemd was not notified: %s", error)
            return False
        return True


def _address(name: str) -> str | None:
    if name.startswith("@"):
        return "\0" + name[1:]  # abstract
    return name if name.startswith("/") else None


def _watchdog_s(environment: Mapping[str, str]) -> float:
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0  # meant for a parent process
    try:
        return max(0, int(environment.get("WATCHDOG_USEC", "0"))) / 1e6
    except ValueError:
        return 0.0


def _line(text: str) -> str:
    return text.replace("\n", " ")[:200]
