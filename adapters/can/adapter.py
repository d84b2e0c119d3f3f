"""CAN through a DBC file: the signals of many messages become one row, each time a chosen message arrives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from adapters.base import (
    Adapter,
    AdapterError,
    DeviceLied,
    DeviceStalled,
    DeviceUnreachable,
    OptionsError,
    Reading,
)
from adapters.can.frames import BusOptions, CanBus, check
from adapters.can.rows import Rows
from adapters.can.signals import MAX_FIELDS, Dbc, Picked, Picking, all_signals, pick
from wire.clock import Clock
from wire.messages import Field, Stream

_SNIFF_S = 0.3  # how long a bus without our frames is listened to, to name what is on it


class CanOptions(BusOptions, frozen=True, kw_only=True):
    """One bus and the DBC file that explains it; without `signals`, all of the file's."""

    dbc: Annotated[Path, Meta(description="DBC file that names messages and signals.")]
    encoding: Annotated[
        str, Meta(max_length=40, description="Of the DBC file, e.g. cp949; empty = UTF-8, else cp1252.")
    ] = ""
    row_on: Annotated[
        str,
        Meta(
            min_length=1, max_length=200, description="Message whose arrival makes a row, the cycle's last."
        ),
    ]
    signals: Annotated[
        dict[str, str | Picking],
        Meta(max_length=MAX_FIELDS, description="Field name to Message.Signal, or to signal with unit."),
    ] = msgspec.field(default_factory=dict)
    stream: Annotated[str, Meta(description="Name of the stream.")] = "signals"
    rate_hz: Annotated[
        float, Meta(ge=0, le=10_000, description="How often row_on comes; 0 = as the DBC says.")
    ] = 0.0
    time: Annotated[
        str, Meta(max_length=300, description="Message.Signal of Unix time; empty = time of receipt.")
    ] = ""
    max_skew_s: Annotated[
        float, Meta(gt=0, description="A device clock further off than this is not believed.")
    ] = 86_400.0
    max_age_s: Annotated[
        float, Meta(gt=0, le=86_400, description="A value older than this is left out of a row.")
    ] = 1.0


class Can(Adapter):
    """One CAN bus, one signal stream; it listens and never sends."""

    Options = CanOptions
    kind = "can"

    def __init__(self, options: CanOptions, clock: Clock) -> None:
        super().__init__(options, clock)
        check(options)
        self._dbc = Dbc(options.dbc, options.encoding)
        self._picked = _picked(self._dbc, options)
        self._fields = {name: one.field for name, one in self._picked.items()}
        self._row_on = self._dbc.message(options.row_on).name
        self._rows = Rows(self._dbc, self._picked, options, self.counters)
        self._bus: CanBus | None = None

    def streams(self) -> dict[str, Stream]:
        """One signal stream, its units, limits and descriptions from the DBC file."""
        options: CanOptions = self.options
        cycle_ms = self._dbc.message(options.row_on).cycle_time
        rate = options.rate_hz or (1000 / cycle_ms if cycle_ms else msgspec.UNSET)
        return {options.stream: Stream(rate_hz=rate, fields=self._fields)}

    async def open(self) -> None:
        """Open the bus and wait for a frame of the DBC's: a bus that is open proves nothing."""
        options: CanOptions = self.options
        self._bus = CanBus(options, self.clock, self.counters, wanted=self._rows.ids, sends=False)
        try:
            await self._bus.open()
            until = asyncio.get_running_loop().time() + options.timeout_s / 2
            if not await self._bus.frames(until, peek=True):
                raise await self._silence(options.timeout_s / 2)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Leave the bus."""
        bus, self._bus = self._bus, None
        if bus is not None:
            await bus.close()

    async def readings(self) -> AsyncIterator[Reading]:
        """A row for each arrival of `row_on`, for ever."""
        options: CanOptions = self.options
        bus, loop = self._bus, asyncio.get_running_loop()
        if bus is None:
            raise DeviceUnreachable(f"{options.where} is not open")
        deadline = loop.time() + options.data_age_s
        while True:
            for frame in await bus.frames(deadline):
                if self._rows.take(frame) == self._row_on:
                    deadline = loop.time() + options.data_age_s
                    yield self._rows.row(options.stream)
            if loop.time() >= deadline:
                raise await self._silence(options.data_age_s)

    async def _silence(self, waited_s: float) -> AdapterError:
        """Why there are no rows: told by what is on the bus instead."""
        options: CanOptions = self.options
        where, dbc = options.where, self._dbc
        for name, (is_long, should) in self._rows.wrong_lengths.items():
            if name == self._row_on:
                return DeviceLied(
                    f"{dbc.place(name)}: {name} has {should} bytes, on {where} it has {is_long}:"
                    " another vehicle, or another version of the DBC file"
                )
        if self._rows.seen:
            seen = ", ".join(sorted(self._rows.seen))
            return DeviceStalled(f"{where} sends {seen}, but no {self._row_on} for {waited_s:g} s")
        foreign = await self._bus.foreign(_SNIFF_S) if self._bus else []
        if foreign:
            return DeviceLied(f"{where} carries frames, but none that {dbc.path} names: {', '.join(foreign)}")
        return DeviceStalled(f"{where} is open and silent for {waited_s:g} s: is the vehicle on?")


def _picked(dbc: Dbc, options: CanOptions) -> dict[str, Picked]:
    said = options.signals or all_signals(dbc)
    if len(said) > MAX_FIELDS:
        raise OptionsError(f"signals: {len(said)} are too many for one stream, {MAX_FIELDS} at most")
    picked = {
        name: pick(dbc, name, Picking(signal=one) if isinstance(one, str) else one)
        for name, one in said.items()
    }
    fields: dict[str, Field] = {name: one.field for name, one in picked.items()}
    try:
        Stream(fields=fields)  # the wire's own rule for names
    except ValueError as error:
        raise OptionsError(str(error)) from error
    return picked
