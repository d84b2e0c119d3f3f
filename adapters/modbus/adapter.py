"""The Modbus adapter (TCP and RTU): polls the registers of a map; each new sample is one row."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import AsyncIterator

from adapters.base import Adapter, DeviceStalled, DeviceUnreachable, Reading, SharedLine
from adapters.device_time import DeviceClock
from adapters.modbus.options import ModbusOptions, check, map_of, set_point_of
from adapters.modbus.reader import RegisterReader, Sample
from adapters.modbus.session import ExceptionResponse, ModbusConnection
from adapters.modbus.set_point import ModbusSetPoint
from adapters.modbus.url import ModbusUrl
from adapters.modbus.values import same
from wire.clock import NS_PER_MS, NS_PER_S, Clock
from wire.messages import Quality, Stream

log = logging.getLogger("edgebed.adapters.modbus")

_NS_OF = {"s": NS_PER_S, "ms": NS_PER_MS, "us": 1_000}
_LEAST_AGE_S = 5.0
_SLOW_S = 1.0  # with a longer period, what opening reads is the first row: the next poll is far
_BUSY_S = 10.0  # a busy device is asked again for at most this time, and nine tenths of the period


class Modbus(Adapter[ModbusOptions]):
    """One unit behind one connection, one signal stream."""

    Options = ModbusOptions
    kind = "modbus"

    def __init__(self, options: ModbusOptions, clock: Clock) -> None:
        super().__init__(options, clock)
        self._line = ModbusUrl.parse(options.url)
        self._named = map_of(options)
        check(options, self._line)
        self._reader = RegisterReader(
            self._named, url=options.url, unit_id=options.unit_id, counters=self.counters
        )
        self._set_point = set_point_of(options, self._named, self._reader, self._connection())
        self._session: ModbusConnection | None = None
        self._first: Sample | None = None
        self._time = DeviceClock(
            options.url, log, self.counters, max_past_s=options.max_skew_s, max_ahead_s=options.max_skew_s
        )
        self._last_ns: int | None = None
        self._newest: Sample | None = None

    @property
    def period_s(self) -> float:
        """The option."""
        return self.options.period_s

    @property
    def silence_s(self) -> float:
        """`data_age_s`, or five periods."""
        return self.options.data_age_s or max(_LEAST_AGE_S, 5 * self.options.period_s)

    @property
    def shared_line(self) -> SharedLine:
        """The serial port or TCP connection, which all units on it share."""
        return self._line.shared

    @property
    def set_point(self) -> ModbusSetPoint | None:
        """The register of `write`, where `allow_write` is true."""
        return self._set_point

    def streams(self) -> dict[str, Stream]:
        """One signal stream."""
        options = self.options
        fields = {name: register.field for name, register in self._named.map.registers.items()}
        return {options.stream: Stream(rate_hz=1.0 / options.period_s, fields=fields)}

    async def open(self) -> None:
        """Connect; check that it is the device of the map, and that each register can be read."""
        options = self.options
        self._session = self._connection()
        try:
            await self._session.open()
            sample = await self._session.alone(self._meet(self._session))
            self._first = sample if options.period_s > _SLOW_S else None
        except ExceptionResponse as error:
            await self.close()
            raise DeviceUnreachable(f"{options.url} is not ready: {error}") from error
        except BaseException:
            await self.close()
            raise

    def _connection(self) -> ModbusConnection:
        options = self.options
        return ModbusConnection(
            self._line,
            options.unit_id,
            clock=self.clock,
            timeout_s=options.timeout_s,
            retries=options.retries,
            counters=self.counters,
        )

    async def close(self) -> None:
        """Close the connection."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def readings(self) -> AsyncIterator[Reading]:
        """Yield a row for each new sample."""
        if self._session is None:
            raise DeviceUnreachable(f"{self.options.url} is not open")
        age = _SampleAge(self.options, self.clock)
        pace = _PollSchedule(self.options, self.clock, self.counters)
        first, self._first = self._first, None
        if first is not None:
            yield self._row(first)
        while True:
            await pace.next()
            try:
                sample = await self._session.alone(self._poll(self._session))
            except ExceptionResponse as error:  # busy, or failing for a while: other codes end in an error
                self.counters[f"exception_{error.code}"] += 1
                age.check(f"refuses: {error}")
                continue
            if self._is_known(sample):
                what = "time" if sample.counter is None else "sample counter"
                age.check(f"answers, but its {what} stays at {sample.marker}")
                continue
            age.fresh()
            yield self._row(sample)

    async def _poll(self, session: ModbusConnection) -> Sample:
        if session.reconnected():  # it may be another device
            return await self._meet(session)
        session.patient(min(_BUSY_S, 0.9 * self.options.period_s / self.options.polls))
        return await self._reader.sample(session)

    async def _meet(self, session: ModbusConnection) -> Sample:
        session.patient(min(_BUSY_S, max(1.0, self.options.period_s)))
        await self._reader.check_identity(session)
        return await self._reader.sample(session)

    # --- a sample

    def _is_known(self, sample: Sample) -> bool:
        """Whether the device has taken no sample since the newest row: the values also stay as they are."""
        newest = self._newest
        if newest is None or sample.marker is None or not same(sample.marker, newest.marker):
            return False
        # a time in whole seconds, or a clock that stands, does not change with each sample
        return all(same(value, newest.values[name]) for name, value in sample.values.items())

    def _row(self, sample: Sample) -> Reading:
        newest, self._newest = self._newest, sample
        if newest is not None and newest.counter is not None and sample.counter is not None:
            self._count_gap(sample.counter, newest.counter)
        at_ns, quality = self.clock.now_ns(), sample.quality
        if sample.time is not None:
            at_ns, believed = self._stamp(sample.time, at_ns)
            quality = quality.worse(believed)
        self._note(sample)
        last_ns, self._last_ns = self._last_ns, at_ns
        if last_ns is not None and at_ns <= last_ns and not quality:
            quality = Quality.TIME_REPEATED if at_ns == last_ns else Quality.TIME_BACKWARD
        return Reading(self.options.stream, at_ns, sample.values, quality=quality)

    def _note(self, sample: Sample) -> None:
        for name, pattern in sample.sentinels.items():
            self.not_read(
                f"{name}: its registers hold {pattern:#x}, which `invalid` lists as no reading", name
            )
        for name in (self.unread.keys() & sample.values.keys()) - sample.sentinels.keys():
            self.was_read(name)

    def _count_gap(self, counter: int, before: int) -> None:
        place = self._named.map.counter
        size = 1 << 16 * (place.words if place else 1)
        grown = (counter - before) % size
        if grown > size // 2:
            self.counters["counter_went_back"] += 1  # the device has restarted its counter
        elif grown > 1:
            self.counters["missed_samples"] += grown - 1

    def _stamp(self, raw: int | float, now_ns: int) -> tuple[int, Quality]:
        """Unix ns: the device's time where it is believed, else shifted by its error."""
        place = self._named.map.time
        usable = place is not None and math.isfinite(raw)
        stamped = self._time.stamp(int(raw * _NS_OF[place.unit]) if place and usable else None, now_ns)
        self.times_are(self._time.ahead)
        return stamped


class _PollSchedule:
    """Polls on a fixed schedule, half a period after the device's samples where its clock is right."""

    def __init__(self, options: ModbusOptions, clock: Clock, counters: Counter[str]) -> None:
        self._clock, self._counters = clock, counters
        self._step_ns = max(1, int(options.period_s * NS_PER_S) // options.polls)
        self._due_ns = self._after(clock.now_ns() + 1)
        self._last_ns = clock.monotonic_ns()

    async def next(self) -> None:
        """Sleep until the next poll is due; polls whose time has passed are skipped and counted."""
        now_ns = self._clock.now_ns()
        if not now_ns - self._step_ns < self._due_ns <= now_ns + self._step_ns:
            self._due_ns = self._after(now_ns)
            # by the monotonic clock: a wall clock that is set makes no missed polls
            since_ns = self._clock.monotonic_ns() - self._last_ns + self._due_ns - now_ns
            missed = round(since_ns / self._step_ns) - 1
            if missed > 0:
                self._counters["missed_polls"] += missed
        await self._clock.sleep_until(self._due_ns)
        self._last_ns = self._clock.monotonic_ns()
        self._due_ns += self._step_ns

    def _after(self, now_ns: int) -> int:
        half = self._step_ns // 2
        return -(-(now_ns - half) // self._step_ns) * self._step_ns + half


class _SampleAge:
    """The time since the last new sample, by the agent's clock."""

    def __init__(self, options: ModbusOptions, clock: Clock) -> None:
        self._url, self._clock = options.url, clock
        self._limit_s = options.data_age_s or max(_LEAST_AGE_S, 5 * options.period_s)
        self._fresh_s = clock.monotonic()

    def fresh(self) -> None:
        """Note that a new sample came."""
        self._fresh_s = self._clock.monotonic()

    def check(self, what: str) -> None:
        """Raise `DeviceStalled` where the last new sample is too old."""
        age_s = self._clock.monotonic() - self._fresh_s
        if age_s >= self._limit_s:
            raise DeviceStalled(f"{self._url} {what}: no new sample for {age_s:.3g} s")
