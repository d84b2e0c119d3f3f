"""The contract suite of adapters, a pytest class: inherit it, give it a device as `rig`, run pytest.

    class TestThermometer(AdapterContract):
        adapter = Thermometer
        good_options = {"url": "tcp://127.0.0.1:4001"}
        bad_options = [({"url": "gopher://x"}, "tcp://")]

        @pytest.fixture
        async def rig(self):
            async with SimulatedThermometer() as device, FaultProxy(device.port) as link:
                options = Thermometer.Options(url=f"tcp://127.0.0.1:{link.port}", read_timeout_s=1)
                yield Rig(lambda: Thermometer(options, Clock()), link)

`read`, `until` and `read_until` are helpers for further tests of the adapter.

`simulators.faults.FaultProxy` is a `LineControl`. An adapter without a connection (a file) gives none, and
the tests of a bad line are skipped. The suite needs pytest and pytest-asyncio; the daemon does not.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import msgspec
import numpy as np
import pytest

from adapters.base import (
    Adapter,
    AdapterError,
    DeviceStalled,
    DeviceUnreachable,
    OptionsError,
    Reading,
)
from adapters.testing.watching import iterating, no_network, read, read_until, still_running, until, watched
from wire.clock import NS_PER_S, Clock
from wire.messages import Field, Quality, Stream
from wire.topics import FIELD, ID

__all__ = ["AdapterContract", "LineControl", "Link", "Rig", "read", "read_until", "until"]

_TYPES: dict[str, tuple[type, ...]] = {
    "f32": (float, int),
    "f64": (float, int),
    "i64": (int,),
    "bool": (bool,),
    "str": (str,),
    "json": (str,),
}
_YEAR_NS = 365 * 86_400 * NS_PER_S


class LineControl(Protocol):
    """The connection between adapter and device, which the suite disturbs."""

    def cut(self, *, reset: bool = True) -> None:
        """End every connection now, with RST or FIN."""

    def black_hole(self, on: bool = True) -> None:
        """Swallow every byte and keep the connections open."""

    def break_after(self, count: int, *, cut: bool) -> None:
        """Let each connection carry `count` bytes each way; then cut it, or swallow what follows."""

    def refuse(self, on: bool = True) -> None:
        """Refuse new connections."""

    def corrupt(self, share: float) -> None:
        """Change a share of the bytes, from 0 to 1."""

    def heal(self) -> None:
        """End every disturbance."""


Link = LineControl  # its earlier name, which tests of other packages import


@dataclass(frozen=True, slots=True)
class Rig:
    """A running device: `make` returns a new adapter for it, connected through `link` where there is one."""

    make: Callable[[], Adapter]
    link: LineControl | None = None

    def bad_line(self) -> LineControl:
        """Return the link; skip the test where there is none."""
        if self.link is None:
            pytest.skip("this adapter has no connection that could fail")
        return self.link


class AdapterContract:
    """Tests of what the agent relies on. Subclasses set the class attributes and the `rig` fixture."""

    pytestmark = pytest.mark.asyncio

    adapter: ClassVar[type[Adapter]]
    good_options: ClassVar[Mapping[str, Any]]  # enough to construct an adapter; no device need be there
    bad_options: ClassVar[Sequence[tuple[Mapping[str, Any], str]]]  # and a part of the error's text
    secrets: ClassVar[Sequence[str]] = ()  # words of the options that no error may contain
    # Limits against hanging, far above what the options of the `rig` allow: a busy machine fails no test.
    opens_within_s: ClassVar[float] = 30.0  # also the time to find out that there is no device
    stalls_within_s: ClassVar[float] = 30.0  # the longest time until silence raises DeviceStalled
    agent_tells_stalls: ClassVar[bool] = False  # True: the agent's watchdog (`stall_s`) finds it instead
    fails_within_s: ClassVar[float] = 30.0  # the longest time until a cut raises an error
    breaks_after: ClassVar[Sequence[int]] = (
        5,
        100,
        700,
    )  # numbers of bytes that arrive before the line breaks
    closes_within_s: ClassVar[float] = 30.0
    readings_to_see: ClassVar[int] = 5

    @pytest.fixture
    def rig(self) -> Rig:
        """A running device; subclasses override it, usually by an async generator."""
        raise NotImplementedError(f"{type(self).__name__} needs a `rig` fixture")

    # --- without a device

    async def test_wrong_options_are_refused_before_any_device_is_asked(self) -> None:
        with no_network():
            for raw, part in [
                *self.bad_options,
                ({**self.good_options, "no_such_option": 1}, "no_such_option"),
            ]:
                with pytest.raises((msgspec.ValidationError, OptionsError)) as caught:
                    self._from_raw(raw)
                assert part in str(caught.value), f"{raw} should be refused with {part!r}: {caught.value}"
                self._check_text(caught.value)

    async def test_streams_are_known_offline(self) -> None:
        with no_network():
            adapter = self._from_raw(self.good_options)
            streams = adapter.streams()
        assert streams, "the adapter declares no stream"
        for name, stream in streams.items():
            assert ID.fullmatch(name), f"stream {name!r} is not an id"
            assert isinstance(stream, Stream)
            assert all(FIELD.fullmatch(field) for field in stream.fields)
            assert stream.kind == "frame" or stream.fields, f"signal stream {name!r} declares no field"

    async def test_close_without_open(self) -> None:
        adapter = self._from_raw(self.good_options)
        await adapter.close()
        await adapter.close()

    # --- with a working device

    async def test_open_read_close_leaves_nothing(self, rig: Rig) -> None:
        async with self._nothing_left():
            adapter = rig.make()
            async with adapter:
                readings = await self._read(adapter)
            await adapter.close()  # a second time
        assert readings

    async def test_readings_match_the_declared_streams(self, rig: Rig) -> None:
        async with self._opened(rig) as adapter:
            streams = adapter.streams()
            for reading in await self._read(adapter):
                assert reading.stream in streams, f"undeclared stream {reading.stream!r}"
                stream = streams[reading.stream]
                if stream.kind == "frame":
                    _check_picture(reading)
                else:
                    _check_values(reading, stream.fields)

    async def test_times_are_sane_and_do_not_go_back(self, rig: Rig) -> None:
        async with self._opened(rig) as adapter:
            readings = await self._read(adapter)
        last: dict[str, Reading] = {}
        for reading in readings:
            assert 30 * _YEAR_NS < reading.at_ns < 130 * _YEAR_NS, "at_ns is Unix nanoseconds"
            before = last.get(reading.stream)
            if before is not None and reading.quality is not Quality.TIME_BACKWARD:
                assert reading.at_ns >= before.at_ns, "at_ns went back, and quality is not TIME_BACKWARD"
            if before is not None and reading.picture is not None:
                assert reading.index > before.index
            last[reading.stream] = reading

    async def test_cancelled_while_reading_it_leaves_nothing(self, rig: Rig) -> None:
        async with self._nothing_left():
            adapter = rig.make()
            async with adapter:
                reading = asyncio.create_task(self._drain(adapter), name="contract-reader")
                await asyncio.sleep(0.05)
                await self._ended(reading)

    async def test_cancelled_while_opening_it_leaves_nothing(self, rig: Rig) -> None:
        async with self._nothing_left():
            adapter = rig.make()
            opening = asyncio.create_task(adapter.open(), name="contract-opener")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await self._ended(opening)
            await adapter.close()

    # --- with a device or a connection that fails

    async def test_a_refused_connection_is_unreachable(self, rig: Rig) -> None:
        link = rig.bad_line()
        link.refuse()
        await self._cannot_open(rig, DeviceUnreachable)
        link.heal()
        await self._works_again(rig)

    async def test_a_silent_line_does_not_hang_open(self, rig: Rig) -> None:
        link = rig.bad_line()
        link.black_hole()
        await self._cannot_open(rig, DeviceUnreachable, DeviceStalled)
        link.heal()
        await self._works_again(rig)

    @pytest.mark.parametrize("reset", [True, False], ids=["rst", "fin"])
    async def test_a_cut_is_reported(self, rig: Rig, reset: bool) -> None:
        link = rig.bad_line()
        error = await self._disturbed(rig, lambda: link.cut(reset=reset), self.fails_within_s)
        assert error is not None, f"a cut raised no error within {self.fails_within_s} s"
        await self._works_again(rig)

    async def test_a_black_hole_is_reported_as_a_stall(self, rig: Rig) -> None:
        link = rig.bad_line()
        error = await self._disturbed(rig, link.black_hole, self.stalls_within_s)
        if not self.agent_tells_stalls:
            assert isinstance(error, DeviceStalled), f"silence ended in {error!r}, not in DeviceStalled"
        link.heal()
        await self._works_again(rig)

    @pytest.mark.parametrize("cut", [True, False], ids=["end", "silence"])
    async def test_half_a_message_is_reported(self, rig: Rig, cut: bool) -> None:
        """A greeting, a message or an answer ends halfway."""
        link = rig.bad_line()
        for count in self.breaks_after if cut else self.breaks_after[1:2]:
            link.break_after(count, cut=cut)
            async with self._nothing_left():
                adapter = rig.make()
                try:
                    async with asyncio.timeout(self.opens_within_s + self.stalls_within_s), adapter:
                        await self._drain(adapter)
                except AdapterError as error:
                    self._check_text(error)
                except TimeoutError:
                    assert self.agent_tells_stalls, f"no error after the line broke at {count} bytes"
            link.heal()
            await self._works_again(rig)

    @pytest.mark.parametrize("share", [0.0005, 0.05])
    async def test_corrupted_bytes_raise_nothing_but_adapter_errors(self, rig: Rig, share: float) -> None:
        link = rig.bad_line()
        await self._disturbed(rig, lambda: link.corrupt(share), 1.0)
        link.heal()
        await self._works_again(rig)

    async def test_corrupted_bytes_while_opening(self, rig: Rig) -> None:
        link = rig.bad_line()
        link.corrupt(0.02)
        async with self._nothing_left():
            adapter = rig.make()
            try:
                async with asyncio.timeout(self.opens_within_s + 1.0), adapter:
                    pass
            except AdapterError as error:
                self._check_text(error)
        link.heal()
        await self._works_again(rig)

    # --- helpers

    def _from_raw(self, raw: Mapping[str, Any]) -> Adapter:
        return self.adapter(msgspec.convert(dict(raw), self.adapter.Options, dec_hook=_path), Clock())

    @contextlib.asynccontextmanager
    async def _opened(self, rig: Rig) -> AsyncIterator[Adapter]:
        adapter = rig.make()
        async with asyncio.timeout(self.opens_within_s):
            await adapter.open()
        try:
            yield adapter
        finally:
            async with asyncio.timeout(self.closes_within_s):
                await adapter.close()

    async def _read(self, adapter: Adapter) -> list[Reading]:
        """Read `readings_to_see` readings; fewer where the device ends."""
        seen: list[Reading] = []
        async with (
            asyncio.timeout(self.opens_within_s + self.stalls_within_s),
            iterating(adapter) as readings,
        ):
            async for reading in readings:
                seen.append(reading)
                if len(seen) >= self.readings_to_see:
                    break
        return seen

    async def _drain(self, adapter: Adapter) -> None:
        async with iterating(adapter) as readings:
            async for _ in readings:
                pass

    async def _ended(self, task: asyncio.Task[None]) -> None:
        """Cancel the task as the agent does: each second again, because a library may lose a cancellation."""
        async with asyncio.timeout(self.closes_within_s):
            while not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=1.0)
        with contextlib.suppress(asyncio.CancelledError):
            task.result()

    async def _cannot_open(self, rig: Rig, *kinds: type[AdapterError]) -> None:
        async with self._nothing_left():
            adapter = rig.make()
            try:
                async with asyncio.timeout(self.opens_within_s + 1.0):
                    with pytest.raises(kinds) as caught:
                        await adapter.open()
            finally:
                await adapter.close()
            self._check_text(caught.value)

    async def _disturbed(self, rig: Rig, disturb: Callable[[], None], within_s: float) -> AdapterError | None:
        """Read, disturb the line, read for `within_s` more: the error that ended it, or None."""
        async with self._nothing_left(), self._opened(rig) as adapter, iterating(adapter) as readings:
            async with asyncio.timeout(self.opens_within_s + self.stalls_within_s):
                await anext(readings)
            disturb()
            try:
                async with asyncio.timeout(within_s):
                    async for _ in readings:
                        pass
            except TimeoutError:
                return None
            except AdapterError as error:
                self._check_text(error)
                return error
        return None

    async def _works_again(self, rig: Rig) -> None:
        for is_last in (False, True):  # twice, as an agent does: what was disturbed may need a moment
            try:
                async with self._nothing_left(), self._opened(rig) as adapter:
                    assert await self._read(adapter)
                return
            except DeviceUnreachable:
                if is_last:
                    raise

    @contextlib.asynccontextmanager
    async def _nothing_left(self) -> AsyncIterator[None]:
        """Fail where a thread or a task of the adapter outlives the block by more than `closes_within_s`."""
        with watched() as started:
            yield
        for _ in range(int(self.closes_within_s / 0.01)):
            if not (left := still_running(started)):
                return
            await asyncio.sleep(0.01)
        pytest.fail(f"left running: {left}")

    def _check_text(self, error: BaseException) -> None:
        text = str(error)
        assert text.strip(), f"{type(error).__name__} has no text"
        chain: BaseException | None = error
        while chain is not None:
            for secret in self.secrets:
                assert secret not in str(chain), f"{type(chain).__name__} contains a secret"
            chain = chain.__cause__


def _path(kind: type, value: Any) -> Any:
    return Path(value) if kind is Path else value  # the config reader does the same


def _check_picture(reading: Reading) -> None:
    picture = reading.picture
    assert picture is not None, "a frame stream yields pictures"
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3, "height x width x 3, BGR"
    assert reading.index >= 0


def _check_values(reading: Reading, fields: Mapping[str, Field]) -> None:
    assert reading.picture is None
    assert reading.values, "a signal reading carries values"
    for name, value in reading.values.items():
        assert name in fields, f"undeclared field {name!r}"
        if value is not None and reading.quality is not Quality.WRONG_TYPE:
            declared = fields[name].t
            assert isinstance(value, _TYPES[declared]), f"{name} is {value!r}, declared {declared}"
            assert declared == "bool" or not isinstance(value, bool), f"{name} is {value!r}"
