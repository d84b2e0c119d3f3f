"""A thermometer that prints one number a line over TCP."""

import asyncio
from typing import Annotated

from msgspec import Meta

from adapters.base import (
    Adapter,
    DeviceLied,
    DeviceStalled,
    DeviceUnreachable,
    Options,
    OptionsError,
    Reading,
)
from wire.messages import Field, Stream


class ThermometerOptions(Options, frozen=True, kw_only=True):
    host: Annotated[str, Meta(description="Where it listens.")]
    port: Annotated[int, Meta(ge=1, le=65_535, description="And on which port.")]
    silence_s: Annotated[float, Meta(gt=0, description="No line for so long: stalled.")] = 5.0


class Thermometer(Adapter):
    Options = ThermometerOptions
    kind = "thermometer"

    def __init__(self, options, clock):
        super().__init__(options, clock)
        if "/" in options.host:
            raise OptionsError(f"host {options.host!r} is no host name: leave out the scheme")
        self._reader = self._writer = None

    def streams(self):
        return {"air": Stream(fields={"temperature": Field(unit="Cel", dec=1, min=-40.0, max=85.0)})}

    async def open(self):
        where = f"{self.options.host}:{self.options.port}"
        try:
            async with asyncio.timeout(self.options.silence_s):
                self._reader, self._writer = await asyncio.open_connection(
                    self.options.host, self.options.port, limit=1024
                )
        except (OSError, TimeoutError) as error:
            raise DeviceUnreachable(f"no thermometer at {where}: {error or 'no answer'}") from error
        try:
            await self._line()  # a connection alone proves nothing; it may have begun in mid-line
        except BaseException:
            await self.close()
            raise

    async def readings(self):
        while True:
            line = await self._line()
            try:
                value = float(line)
            except ValueError as error:
                raise DeviceLied(f"{line[:40]!r} is no temperature") from error
            yield Reading("air", self.clock.now_ns(), {"temperature": value})

    async def _line(self):
        try:
            async with asyncio.timeout(self.options.silence_s):
                return await self._reader.readuntil()
        except TimeoutError as error:
            raise DeviceStalled(f"no line for {self.options.silence_s:g} s") from error
        except (OSError, asyncio.IncompleteReadError) as error:
            raise DeviceUnreachable("the thermometer ended the connection") from error
        except asyncio.LimitOverrunError as error:
            raise DeviceLied("a line of more than 1,024 bytes") from error

    async def close(self):
        writer, self._reader, self._writer = self._writer, None, None
        if writer is not None:
            writer.transport.abort()
