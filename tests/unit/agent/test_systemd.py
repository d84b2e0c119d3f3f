"""The messages to systemd on a real socket: by path, abstract, full, absent."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.systemd import Notifier


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A bound datagram socket and its name as in NOTIFY_SOCKET."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@edgebed-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(name.replace("@", "\0", 1))
        bound.settimeout(60)
        yield bound, name


def test_it_sends_the_messages_systemd_knows(systemd: tuple[socket.socket, str]) -> None:
    bound, name = systemd
    notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "6000000"})
    assert notifier.watchdog_s == 6.0
    notifier.ready("two\nlines")
    notifier.alive("well")
    notifier.stopping()
    notifier.close()
    heard = [bound.recv(4096).decode() for _ in range(3)]
    assert heard == [
        "READY=1\nSTATUS=two lines",
        "WATCHDOG=1\nSTATUS=well",
        "STOPPING=1\nSTATUS=stopping",
    ]
    notifier.alive("closed is silent")
    notifier.close()


def test_a_full_socket_never_blocks_and_ready_is_sent_again(systemd: tuple[socket.socket, str]) -> None:
    bound, name = systemd
    notifier = Notifier({"NOTIFY_SOCKET": name})
    bound.settimeout(0)
    filler = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    filler.setblocking(False)
    with filler, contextlib.suppress(BlockingIOError):
        while True:
            filler.sendto(b"x", name.replace("@", "\0", 1))
    notifier.ready("now")
    with contextlib.suppress(BlockingIOError):
        while True:
            assert bound.recv(4096) == b"x"
    notifier.alive("later")
    assert bound.recv(4096) == b"READY=1\nWATCHDOG=1\nSTATUS=later"
    notifier.alive("later")
    assert bound.recv(4096) == b"WATCHDOG=1\nSTATUS=later"
    notifier.close()


@pytest.mark.parametrize(
    "environment",
    [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "relative"}, {"NOTIFY_SOCKET": "/nonexistent/socket"}],
)
def test_a_missing_socket_changes_nothing(environment: dict[str, str]) -> None:
    notifier = Notifier(environment)
    notifier.ready("a")
    notifier.alive("b")
    notifier.stopping()
    notifier.close()
    assert notifier.watchdog_s == 0.0


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}, 2.0),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({"WATCHDOG_USEC": "-5"}, 0.0),
    ],
)
def test_the_watchdog_is_for_this_process_only(environment: dict[str, str], seconds: float) -> None:
    assert Notifier(environment).watchdog_s == seconds
