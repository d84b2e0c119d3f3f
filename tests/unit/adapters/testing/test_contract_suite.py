"""The contract suite finds faults: each adapter here breaks one rule of the contract."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

from adapters import base
from adapters.base import Adapter, DeviceStalled, DeviceUnreachable, OptionsError, Reading
from adapters.testing import AdapterContract, Rig
from simulators.faults import FaultProxy
from wire.clock import Clock
from wire.messages import Field, Stream


class Counter(Adapter):
    """Reads one byte at a time from a TCP server."""

    kind = "counter"

    class Options(base.Options, frozen=True, kw_only=True):
        port: int
        timeout_s: float = 2.0

    def __init__(self, options: Any, clock: Clock) -> None:
        super().__init__(options, clock)
        self.writer: asyncio.StreamWriter | None = None
        if not 0 < options.port < 65_536:
            raise OptionsError(f"port {options.port} is not a port")

    def streams(self) -> dict[str, Stream]:
        return {"bytes": Stream(fields={"value": Field(t="i64")})}

    async def open(self) -> None:
        try:
            async with asyncio.timeout(self.options.timeout_s):
                self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.options.port)
                await self.reader.readexactly(1)
        except (OSError, EOFError, TimeoutError) as error:
            await self.close()
            raise DeviceUnreachable("no device at this port") from error

    async def close(self) -> None:
        if self.writer is not None:
            self.writer.close()

    async def readings(self) -> AsyncIterator[Reading]:
        while True:
            try:
                async with asyncio.timeout(self.options.timeout_s):
                    byte = await self.reader.readexactly(1)
            except TimeoutError as error:
                raise DeviceStalled("no byte came") from error
            except (OSError, EOFError) as error:
                raise DeviceUnreachable("the line was cut") from error
            yield self.reading(byte[0])

    def reading(self, value: int) -> Reading:
        return Reading("bytes", self.clock.now_ns(), {"value": value})


class CounterContract(AdapterContract):
    adapter = Counter
    good_options: Mapping[str, Any] = {"port": 1}  # type: ignore[misc]  # read only
    bad_options = (({"port": 0}, "port 0 is not a port"), ({}, "port"))


class Impatient(CounterContract):
    """For adapters that hang or leave something: the waits are short."""

    stalls_within_s = 1.0
    closes_within_s = 0.3


@pytest.fixture
async def link() -> AsyncIterator[FaultProxy]:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.002)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, FaultProxy(server.sockets[0].getsockname()[1]) as proxy:
        yield proxy


class TestAnAdapterThatKeepsIt(CounterContract):
    @pytest.fixture
    async def rig(self, link: FaultProxy) -> Rig:
        return Rig(lambda: Counter(Counter.Options(port=link.port), Clock()), link)


async def test_an_adapter_without_a_line_is_not_tested_for_it(link: FaultProxy) -> None:
    rig = Rig(lambda: Counter(Counter.Options(port=link.port), Clock()))
    with pytest.raises(pytest.skip.Exception, match="no connection that could fail"):
        await CounterContract().test_a_refused_connection_is_unreachable(rig)


class LeavesATask(Counter):
    async def open(self) -> None:
        await super().open()
        self.left = asyncio.create_task(asyncio.sleep(60), name="left-behind")


class LeavesAThread(Counter):
    async def open(self) -> None:
        await super().open()
        threading.Thread(target=threading.Event().wait, args=(3,), name="left-behind").start()


class GoesBackInTime(Counter):
    def reading(self, value: int) -> Reading:
        self.times = getattr(self, "times", 0) + 1
        return Reading("bytes", self.clock.now_ns() - self.times * 10**10, {"value": value})


class CountsSeconds(Counter):
    def reading(self, value: int) -> Reading:
        return Reading("bytes", self.clock.now_ns() // 10**9, {"value": value})


class SaysMore(Counter):
    def reading(self, value: int) -> Reading:
        return Reading("bytes", self.clock.now_ns(), {"value": value, "undeclared": 1})


class SaysText(Counter):
    def reading(self, value: int) -> Reading:
        return Reading("bytes", self.clock.now_ns(), {"value": str(value)})


class SaysAnotherStream(Counter):
    def reading(self, value: int) -> Reading:
        return Reading("octets", self.clock.now_ns(), {"value": value})


class NeverStalls(Counter):
    async def readings(self) -> AsyncIterator[Reading]:
        while True:
            yield self.reading((await self.reader.readexactly(1))[0])


class Stutters(Counter):
    def reading(self, value: int) -> Reading:
        if value != ord("x"):
            raise KeyError(value)
        return super().reading(value)


class HangsInOpen(Counter):
    async def open(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.options.port)
        await self.reader.readexactly(1)


class SaysNothing(Counter):
    async def open(self) -> None:
        try:
            await super().open()
        except DeviceUnreachable as error:
            raise DeviceUnreachable(" ") from error


Check = Callable[[AdapterContract, Rig], Any]


@pytest.mark.parametrize(
    ("broken", "check", "finding"),
    [
        (LeavesATask, AdapterContract.test_open_read_close_leaves_nothing, "left running: .*left-behind"),
        (LeavesAThread, AdapterContract.test_open_read_close_leaves_nothing, "left running: .*left-behind"),
        (GoesBackInTime, AdapterContract.test_times_are_sane_and_do_not_go_back, "at_ns"),
        (CountsSeconds, AdapterContract.test_times_are_sane_and_do_not_go_back, "Unix nanoseconds"),
        (SaysMore, AdapterContract.test_readings_match_the_declared_streams, "undeclared field"),
        (SaysText, AdapterContract.test_readings_match_the_declared_streams, "declared i64"),
        (SaysAnotherStream, AdapterContract.test_readings_match_the_declared_streams, "undeclared stream"),
        (NeverStalls, AdapterContract.test_a_black_hole_is_reported_as_a_stall, "silence ended in None"),
        (SaysNothing, AdapterContract.test_a_refused_connection_is_unreachable, "has no text"),
    ],
)
async def test_a_broken_promise_is_found(
    link: FaultProxy, broken: type[Counter], check: Check, finding: str
) -> None:
    rig = Rig(lambda: broken(Counter.Options(port=link.port), Clock()), link)
    with pytest.raises((AssertionError, pytest.fail.Exception), match=finding):
        await check(Impatient(), rig)


@pytest.mark.parametrize(
    ("broken", "check", "finding"),
    [
        (HangsInOpen, AdapterContract.test_a_silent_line_does_not_hang_open, TimeoutError),
        (HangsInOpen, AdapterContract.test_a_refused_connection_is_unreachable, ConnectionRefusedError),
    ],
)
async def test_a_foreign_error_is_found(
    link: FaultProxy, broken: type[Counter], check: Check, finding: type[Exception]
) -> None:
    rig = Rig(lambda: broken(Counter.Options(port=link.port), Clock()), link)

    class Hurried(CounterContract):
        opens_within_s = 0.5

    with pytest.raises(finding):
        await check(Hurried(), rig)


async def test_another_exception_on_corrupted_bytes_is_found(link: FaultProxy) -> None:
    rig = Rig(lambda: Stutters(Counter.Options(port=link.port), Clock()), link)
    with pytest.raises(KeyError):
        await CounterContract().test_corrupted_bytes_raise_nothing_but_adapter_errors(rig, 0.05)


async def test_asking_a_device_before_open_is_found() -> None:
    class Eager(Counter):
        def __init__(self, options: Any, clock: Clock) -> None:
            super().__init__(options, clock)
            import socket

            with socket.socket() as asked:
                asked.connect(("127.0.0.1", options.port))

    class EagerContract(CounterContract):
        adapter = Eager

    with pytest.raises(AssertionError, match="connected before open"):
        await EagerContract().test_streams_are_known_offline()


async def test_options_that_should_be_refused_are_missed() -> None:
    class Lenient(CounterContract):
        bad_options = (({"port": 5}, "port"),)

    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        await Lenient().test_wrong_options_are_refused_before_any_device_is_asked()
