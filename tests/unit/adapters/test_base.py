"""What a user reads when a device is not there: what to look at, not what the operating system calls it."""

from __future__ import annotations

import asyncio
import errno
import os
import socket

import pytest

from adapters.base import why_no_connection


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 4840)"), "is it on"),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed, [Errno 111] ..."), "is it on"),
        (socket.gaierror(-2, "Name or service not known"), "no such host"),
        (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)), "is it plugged in"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES)), "dialout"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (ValueError("no port"), "no port"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_the_reason_says_what_to_look_at(error: BaseException, said: str) -> None:
    assert said in why_no_connection(error)


async def test_a_port_that_nobody_listens_on_under_a_name_with_several_addresses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(OSError, match="Errno") as caught:
        await asyncio.open_connection("localhost", port)
    assert "nothing listens there" in why_no_connection(caught.value)
