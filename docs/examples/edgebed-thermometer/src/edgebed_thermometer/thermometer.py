"""A thermometer that prints one number a line over TCP."""

import asyncio
from typing import Annotated

from msgspec import Meta

from adapters.base import (
    Adapter,
    DeviceStalled,
    DeviceUnreachable,
    Options,
    ProtocolViolation,
    Reading,
    why_no_connection,
)
from wire.messages import Field, Stream


class ThermometerOptions(Options, frozen=True, kw_only=True):
    host: Annotated[str, Meta(description="Host name or address of the thermometer.")]
    port: Annotated[int, Meta(ge=1, le=65_535, description="Its TCP port.")]
    silence_s: Annotated[float, Meta(gt=0, description="Seconds without a line until it has stalled.")] = 5.0

    def __post_init__(self):
        if "/" in self.host:
            raise ValueError(f"host {self.host!r} is not a host name: leave out the scheme")


class Thermometer(Adapter[ThermometerOptions]):
    Options = ThermometerOptions
    kind = "thermometer"
    _reader = _writer = None

    def streams(self):
        return {"air": Stream(fields={"temperature": Field(unit="Cel", dec=1, min=-40.0, max=85.0)})}

    async def open(self):
        host, port = self.options.host, self.options.port
        try:
            async with asyncio.timeout(self.options.silence_s):
                self._reader, self._writer = await asyncio.open_connection(host, port, limit=1024)
        except (OSError, TimeoutError) as error:
            raise DeviceUnreachable(f"no thermometer at {host}:{port}: {why_no_connection(error)}") from error
        try:
            await self._line()  # an accepted connection proves nothing, and the first line may be half a line
        except BaseException:
            await self.close()
            raise

    async def readings(self):
        while True:
            line = await self._line()
            try:
                value = float(line)
            except ValueError as error:
                raise ProtocolViolation(f"{line[:40]!r} is not a temperature") from error
            yield Reading("air", self.clock.now_ns(), {"temperature": value})

    async def _line(self):
        try:
            async with self.clock.timeout_at(self.clock.flowing_s() + self.options.silence_s):
                return await self._reader.readuntil()
        except TimeoutError as error:
            raise DeviceStalled(f"no line for {self.options.silence_s:g} s") from error
        except (OSError, asyncio.IncompleteReadError) as error:
            raise DeviceUnreachable("the thermometer ended the connection") from error
        except asyncio.LimitOverrunError as error:
            raise ProtocolViolation("a line of more than 1,024 bytes") from error

    async def close(self):
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None
