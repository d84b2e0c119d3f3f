"""Turns frames into rows: keeps the last value of each signal until the message that makes a row arrives."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from cantools.database.can import Message
from cantools.database.errors import DecodeError

from adapters.base import Adapter, OptionsError, Reading, Value
from adapters.can.frames import Frame
from adapters.can.options import CanOptions, Picking
from adapters.can.signals import Dbc, Picked, pick
from adapters.can.units import conversion, ucum
from adapters.device_time import DeviceClock
from wire.clock import NS_PER_S
from wire.messages import Quality

log = logging.getLogger("edgebed.adapters.can")


class SignalRows:
    """The last value of each field, with its time."""

    def __init__(
        self, dbc: Dbc, picked: Mapping[str, Picked], options: CanOptions, adapter: Adapter[CanOptions]
    ) -> None:
        self._dbc, self._picked, self._options = dbc, picked, options
        self._adapter, self._counters = adapter, adapter.counters
        self._max_age_ns = int(options.max_age_s * NS_PER_S)
        self._clock = _DeviceTime(dbc, options, self._counters) if options.time else None
        names = {one.message for one in picked.values()} | {options.row_on}
        if self._clock is not None:
            names.add(self._clock.message)
        messages = [dbc.message(name) for name in sorted(names)]
        self._messages: dict[tuple[int, bool], Message] = {
            (message.frame_id, message.is_extended_frame): message for message in messages
        }
        self._of = {
            message.name: [(name, one) for name, one in picked.items() if one.message == message.name]
            for message in messages
        }
        self._held: dict[str, _HeldValue] = {}
        self._now_ns = 0
        self._time_quality = Quality.GOOD
        self.seen: set[str] = set()
        self.wrong_lengths: dict[str, tuple[int, int]] = {}

    @property
    def ids(self) -> list[tuple[int, bool]]:
        """The frames that are read, as pairs of id and extended."""
        return list(self._messages)

    def take(self, frame: Frame) -> str | None:
        """Keep the values of a frame; returns the name of its message, None where it cannot be read."""
        message = self._messages[frame.id, frame.extended]
        flexible = message.is_fd or message.length > 8  # CAN FD allows few lengths: frames are padded
        if len(frame.data) < message.length or (not flexible and len(frame.data) != message.length):
            self._wrong_length(message, len(frame.data))
            return None
        try:
            raw = message.decode_simple(frame.data, decode_choices=False, scaling=False)
        except (DecodeError, ValueError, KeyError):
            # a multiplexer value that the DBC file lacks; the message may still time a row
            self._counters["undecodable"] += 1
            raw = {}
        if message.name in self._adapter.unread:
            self._adapter.was_read(message.name)
        self.seen.add(message.name)
        self._stamp(frame, message.name, raw)
        for name, one in self._of[message.name]:
            bits = raw.get(one.signal.name)
            if isinstance(bits, int | float):  # absent where the multiplexer selects other signals
                value, quality = one.value(bits)
                if quality in (Quality.UNCERTAIN, Quality.BAD):
                    self._counters["not_available"] += 1
                self._held[name] = _HeldValue(value, quality, self._now_ns)
                if value is None:
                    self._adapter.why_null[name] = one.why_null(bits)
        return message.name

    def row(self, stream: str) -> Reading:
        """A row of all fields; those that never came or are too old are null."""
        values: dict[str, Value] = {}
        quality = self._time_quality
        for name in self._picked:
            held = self._held.get(name)
            if held is None:
                self._counters["missing"] += 1
                self._adapter.why_null[name] = self._why_missing(name)
            elif self._now_ns - held.at_ns > self._max_age_ns:
                self._counters["stale"] += 1
                age_s = (self._now_ns - held.at_ns) / NS_PER_S
                self._adapter.why_null[name] = f"last came {age_s:.3g} s ago, see `max_age_s`"
            else:
                values[name] = held.value
                quality = quality.worse(held.quality)
                continue
            values[name] = None
            quality = quality.worse(Quality.UNCERTAIN)
        return Reading(stream, self._now_ns, values, quality=quality)

    def _why_missing(self, name: str) -> str:
        message = self._picked[name].message
        if message not in self.seen:
            return f"no {message} on the bus"
        return f"the multiplexer of {message} never selected it"

    def _stamp(self, frame: Frame, message: str, raw: Mapping[str, object]) -> None:
        if self._clock is None:
            self._now_ns = frame.at_ns
        elif message == self._clock.message:
            self._now_ns, self._time_quality = self._clock.read(raw, frame.at_ns)
            self._adapter.times_are(self._clock.ahead)
        elif not self._now_ns:
            self._now_ns, self._time_quality = frame.at_ns, Quality.UNCERTAIN

    def _wrong_length(self, message: Message, length: int) -> None:
        self._counters["wrong_length"] += 1
        if message.name not in self.wrong_lengths:
            log.warning(
                "%s: %s has %d bytes, on %s it has %d: not decoded",
                self._dbc.place(message.name),
                message.name,
                message.length,
                self._options.where,
                length,
            )
        self._adapter.not_read(f"{message.name} has {length} bytes instead of {message.length}", message.name)
        self.wrong_lengths[message.name] = (length, message.length)


class _HeldValue(NamedTuple):
    value: Value
    quality: Quality
    at_ns: int


class _DeviceTime:
    """The device's Unix time, a signal of the bus, where it is plausible."""

    def __init__(self, dbc: Dbc, options: CanOptions, counters: Counter[str]) -> None:
        message, signal = dbc.signal(options.time)
        place = f"{dbc.place(message.name, signal.name)}: {options.time}"
        found = conversion(ucum(signal.unit or ""), "ns")
        if found is None:
            raise OptionsError(
                f"{place} is not a time: its unit is {signal.unit or 'empty'!r}, not s, ms or us"
            )
        if signal.is_multiplexer or signal.multiplexer_ids:
            raise OptionsError(f"{place} is multiplexed and cannot stamp rows")
        self.message = message.name
        self._picked = pick(dbc, "time", Picking(signal=options.time))
        self._whole_ns = round(found[0])
        self._clock = DeviceClock(
            options.where, log, counters, max_past_s=options.max_skew_s, max_ahead_s=options.max_skew_s
        )

    @property
    def ahead(self) -> str:
        """`DeviceClock.ahead`."""
        return self._clock.ahead

    def read(self, raw: Mapping[str, object], receipt_ns: int) -> tuple[int, Quality]:
        """Unix ns and its quality; the time of receipt where the frame carries no time."""
        bits = raw.get(self._picked.signal.name)
        value, _ = self._picked.value(bits) if isinstance(bits, int | float) else (None, Quality.BAD)
        usable = isinstance(value, int | float) and 0 <= value < 2**63 / self._whole_ns
        return self._clock.stamp(int(value * self._whole_ns) if usable else None, receipt_ns)  # type: ignore[operator]
