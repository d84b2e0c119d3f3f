"""The base of every adapter: the reason a user reads, and what packages for an older base use."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator

import pytest

from adapters.base import Adapter, DeviceLied, Options, ProtocolViolation, Reading, why_no_connection
from wire.clock import Clock
from wire.messages import Field, Stream


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 4840)"), "is it on"),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed, [Errno 111] ..."), "is it on"),
        (socket.gaierror(-2, "Name or service not known"), "host name is unknown"),
        (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)), "is it plugged in"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES)), "dialout"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (ValueError("no port"), "no port"),
        (TimeoutError(), "no answer"),
    ],
)
def test_the_reason_names_what_to_check(error: BaseException, said: str) -> None:
    assert said in why_no_connection(error)


async def test_a_closed_port_of_a_host_name_with_several_addresses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(OSError, match="Errno") as caught:
        await asyncio.open_connection("localhost", port)
    assert "nothing listens there" in why_no_connection(caught.value)


class OldOptions(Options, frozen=True, kw_only=True):
    """Options as a package for the older base declares them."""

    limit: int = 3


class OldAdapter(Adapter):
    """An adapter for the older base: no type parameter, counters used as a dict."""

    Options = OldOptions
    kind = "old"

    def __init__(self, options: OldOptions, clock: Clock) -> None:
        super().__init__(options, clock)

    def streams(self) -> dict[str, Stream]:
        return {"numbers": Stream(fields={"number": Field()})}

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def readings(self) -> AsyncIterator[Reading]:
        for number in range(self.options.limit):
            self.counters["numbers"] = self.counters.get("numbers", 0) + 1
            yield Reading("numbers", self.clock.now_ns(), {"number": float(number)})
        raise DeviceLied("no more numbers")


async def test_an_adapter_for_the_older_base_works() -> None:
    async with OldAdapter(OldOptions(limit=2), Clock()) as adapter:
        readings = aiter(adapter)
        assert [(await anext(readings)).values["number"] for _ in range(2)] == [0.0, 1.0]
        with pytest.raises(ProtocolViolation, match="no more numbers"):
            await anext(readings)
    assert adapter.counters == {"numbers": 2}


def test_a_counter_starts_at_0() -> None:
    adapter = OldAdapter(OldOptions(), Clock())
    adapter.counters["dropped"] += 1
    assert adapter.counters == {"dropped": 1}
