"""Reads Bluetooth Low Energy devices that notify: heart-rate straps (180D), and values of any layout."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator

from adapters.base import (
    Adapter,
    DeviceStalled,
    DeviceUnreachable,
    OptionsError,
    ProtocolViolation,
    Reading,
)
from adapters.ble.options import BATTERY, HEART_RATE, BleOptions, check
from adapters.ble.session import DEVICE_INFORMATION, BleConnection, WantedDevice
from adapters.ble.values import BeatTimes, Layout, heart_rate
from adapters.fields import declared
from wire.clock import Clock
from wire.messages import Field, Quality, Stream
from wire.printable import printable

_KEPT = 1_000  # notifications that wait for a slow reader
_MOST_MALFORMED = 20  # this many malformed values in a row mean another device

_HEART = {
    "heart_rate": Field(unit="/min", dec=0, min=0.0, max=300.0),
    "rr": Field(unit="ms", dec=2, min=200.0, max=3_000.0, desc="Since the beat before; null if not sent."),
    "energy": Field(unit="kJ", dec=0, min=0.0, max=65_535.0, desc="Energy expended since the last reset."),
}
_BATTERY = {"level": Field(t="i64", unit="%", min=0, max=100)}


class Ble(Adapter[BleOptions]):
    """One device; a row for each RR interval, or for each notification without one.

    The heart rate service carries no time. So the time of a beat follows from the intervals since the beats
    before, and is never later than its receipt. Without skin contact, rows are uncertain.
    """

    Options = BleOptions
    kind = "ble"

    def __init__(self, options: BleOptions, clock: Clock) -> None:
        super().__init__(options, clock)
        check(options)
        if options.heart:
            self.may_be_null = {"energy", "rr"}  # many straps send neither
        self._layouts = {name: Layout(name, given) for name, given in options.characteristics.items()}
        self._streams = _streams(options)
        self._names = {given.uuid: name for name, given in options.characteristics.items()}
        self._beats = BeatTimes()
        self._waiting: deque[tuple[str, bytes, int]] = deque(maxlen=_KEPT)
        self._came = asyncio.Event()
        self._session: BleConnection | None = None
        self._malformed = 0

    @property
    def silence_s(self) -> float:
        """The option."""
        return self.options.silence_s

    def streams(self) -> dict[str, Stream]:
        """`heart`, `battery`, and one stream for each of `characteristics`."""
        return self._streams

    async def open(self) -> None:
        """Find the device, connect, check its identity, and subscribe."""
        options = self.options
        wanted = WantedDevice(
            address=options.address,
            name=options.name,
            identity={what: getattr(options, what) for what in DEVICE_INFORMATION},
            notify=((HEART_RATE,) if options.heart else ()) + tuple(self._names),
            optional=(BATTERY,) if options.battery else (),
            long_values=bool(options.characteristics),
        )
        self._session = session = BleConnection(options.hci, wanted, self.clock, self._keep)
        session.lost.add_done_callback(lambda _: self._came.set())
        try:
            await session.open(options.timeout_s)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Disconnect, and release the controller."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def readings(self) -> AsyncIterator[Reading]:
        """Yield the rows of each notification, without end."""
        now_s, silence_s = self.clock.flowing_s, self.options.silence_s
        deadline = now_s() + silence_s
        while True:
            await self._wait(deadline)
            while self._waiting:
                uuid, value, at_ns = self._waiting.popleft()
                for reading in self._rows(uuid, value, at_ns):
                    yield reading
                if uuid != BATTERY or BATTERY in self._names:
                    deadline = now_s() + silence_s
            session = self._session
            if session is None or session.lost.done():
                raise DeviceUnreachable(session.lost.result() if session else "the device is not open")
            if now_s() >= deadline:
                raise DeviceStalled(
                    f"{self._device()} is connected but sent no value for {silence_s:g} s"
                ).coded("device-silent", seconds=silence_s)

    async def _wait(self, deadline: float) -> None:
        try:
            async with self.clock.timeout_at(deadline):
                await self._came.wait()
        except TimeoutError:
            return
        self._came.clear()

    def _keep(self, uuid: str, value: bytes) -> None:
        if len(self._waiting) == _KEPT:
            self.counters["overflow"] += 1
        self._waiting.append((uuid, value, self.clock.now_ns()))
        self._came.set()

    def _rows(self, uuid: str, value: bytes, at_ns: int) -> Iterator[Reading]:
        stream = self._names.get(uuid) or (self.options.stream if uuid == HEART_RATE else "battery")
        try:
            if (name := self._names.get(uuid)) is not None:
                values, quality = self._layouts[name].read(value)
                rows = [Reading(name, at_ns, values, quality=quality)]
            elif uuid == HEART_RATE:
                rows = self._heart(value, at_ns)
            else:
                rows = [Reading("battery", at_ns, {"level": value[0] if value else None})]
        except ValueError as error:
            self.counters["malformed"] += 1
            self.not_read(f"`{stream}` sends {printable(value) or 'no bytes'}: {error}", stream)
            self._malformed += 1
            if self._malformed >= _MOST_MALFORMED:
                raise ProtocolViolation(
                    f"{self._device()} sent {_MOST_MALFORMED} malformed values in a row: {error}:"
                    " is it another device?"
                ) from error
            return
        self._malformed = 0
        self.was_read(stream)
        yield from rows

    def _heart(self, value: bytes, at_ns: int) -> list[Reading]:
        measured = heart_rate(value)
        quality = Quality.UNCERTAIN if measured.contact is False else Quality.GOOD
        shared = {
            "heart_rate": float(measured.rate),
            "energy": None if measured.energy is None else float(measured.energy),
        }
        times = self._beats.stamp(measured.rr_ms, at_ns) if measured.rr_ms else [self._beats.now(at_ns)]
        if self._beats.gaps:
            self.counters["beat_gaps"] = self._beats.gaps
        intervals: tuple[float | None, ...] = measured.rr_ms or (None,)
        return [
            Reading(self.options.stream, at, shared | {"rr": interval}, quality=quality)
            for at, interval in zip(times, intervals, strict=True)
        ]

    def _device(self) -> str:
        return f"device {self.options.address or repr(self.options.name)}"


def _streams(options: BleOptions) -> dict[str, Stream]:
    streams = {options.stream: Stream(fields=_HEART)} if options.heart else {}
    if options.battery:
        streams["battery"] = Stream(fields=_BATTERY)
    for name, given in options.characteristics.items():
        if name in streams:
            raise OptionsError(f"characteristics: there is already a stream {name!r}: choose another name")
        streams[name] = Stream(fields=declared(given.fields))
    return streams
