"""The CAN adapter: the signals of a DBC file become one row each time a chosen message arrives."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec

from adapters.base import (
    Adapter,
    AdapterError,
    DeviceStalled,
    DeviceUnreachable,
    OptionsError,
    ProtocolViolation,
    Reading,
)
from adapters.can.frames import CanBus
from adapters.can.options import MAX_FIELDS, CanOptions, Picking, check_bus
from adapters.can.rows import SignalRows
from adapters.can.signals import Dbc, Picked, all_signals, pick
from wire.clock import Clock
from wire.messages import Field, Stream

_SNIFF_S = 0.3  # how long to listen for other frames, which the error then names


class Can(Adapter[CanOptions]):
    """One CAN bus, one signal stream. The adapter only listens."""

    Options = CanOptions
    kind = "can"

    def __init__(self, options: CanOptions, clock: Clock) -> None:
        super().__init__(options, clock)
        check_bus(options)
        self._dbc = Dbc(options.dbc, options.encoding)
        self._picked = _picked(self._dbc, options)
        self._fields = {name: one.field for name, one in self._picked.items()}
        if not options.signals:  # no vehicle sends every message of its DBC file
            self.may_be_null = set(self._fields)
        self._row_on = self._dbc.message(options.row_on).name
        self._rows = SignalRows(self._dbc, self._picked, options, self)
        self._bus: CanBus | None = None

    @property
    def silence_s(self) -> float:
        """The option."""
        return self.options.data_age_s

    def streams(self) -> dict[str, Stream]:
        """One signal stream; units, limits and descriptions come from the DBC file."""
        options = self.options
        cycle_ms = self._dbc.message(options.row_on).cycle_time
        rate = options.rate_hz or (1000 / cycle_ms if cycle_ms else msgspec.UNSET)
        return {options.stream: Stream(rate_hz=rate, fields=self._fields)}

    async def open(self) -> None:
        """Open the bus and wait for a frame of the DBC file: an open bus proves nothing."""
        options = self.options
        self._bus = CanBus(
            options,
            self.clock,
            self.counters,
            wanted=self._rows.ids,
            sends=False,
            timeout_at=self.clock.timeout_at,
        )
        try:
            await self._bus.open()
            until = self.clock.flowing_s() + options.timeout_s / 2
            if not await self._bus.frames(until, peek=True):
                raise await self._silence(options.timeout_s / 2)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the bus."""
        bus, self._bus = self._bus, None
        if bus is not None:
            await bus.close()

    async def readings(self) -> AsyncIterator[Reading]:
        """Yield a row each time the message `row_on` arrives."""
        options = self.options
        bus, now_s = self._bus, self.clock.flowing_s
        if bus is None:
            raise DeviceUnreachable(f"{options.where} is not open")
        deadline = now_s() + options.data_age_s
        while True:
            for frame in await bus.frames(deadline):
                if self._rows.take(frame) == self._row_on:
                    deadline = now_s() + options.data_age_s
                    yield self._rows.row(options.stream)
            if now_s() >= deadline:
                raise await self._silence(options.data_age_s)

    async def _silence(self, waited_s: float) -> AdapterError:
        """The error for missing rows; it names the frames that the bus carries instead."""
        where, dbc = self.options.where, self._dbc
        for name, (length, expected) in self._rows.wrong_lengths.items():
            if name == self._row_on:
                return ProtocolViolation(
                    f"{dbc.place(name)}: {name} has {expected} bytes, on {where} it has {length}:"
                    " another vehicle, or another version of the DBC file"
                )
        if self._rows.seen:
            seen = ", ".join(sorted(self._rows.seen))
            return DeviceStalled(f"{where} sends {seen}, but no {self._row_on} for {waited_s:g} s")
        foreign = await self._bus.foreign(_SNIFF_S) if self._bus else []
        if foreign:
            return ProtocolViolation(
                f"{where} carries frames, but none that {dbc.path} names: {', '.join(foreign)}"
            )
        return DeviceStalled(f"{where} is open and silent for {waited_s:g} s: is the vehicle on?").coded(
            "device-silent", seconds=waited_s
        )


def _picked(dbc: Dbc, options: CanOptions) -> dict[str, Picked]:
    signals = options.signals or all_signals(dbc)
    if len(signals) > MAX_FIELDS:
        raise OptionsError(f"signals: {len(signals)} are too many for one stream, {MAX_FIELDS} at most")
    picked = {
        name: pick(dbc, name, Picking(signal=one) if isinstance(one, str) else one)
        for name, one in signals.items()
    }
    fields: dict[str, Field] = {name: one.field for name, one in picked.items()}
    try:
        Stream(fields=fields)  # checks the names by the rule of the wire contract
    except ValueError as error:
        raise OptionsError(str(error)) from error
    return picked
