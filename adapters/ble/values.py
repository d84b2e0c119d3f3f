"""Reads the values that BLE devices send: the Heart Rate Measurement, and values of a declared layout.

The layouts are those of the Bluetooth Heart Rate Service 1.0, 3.1, and the GATT Specification Supplement.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adapters.base import OptionsError, Value
from adapters.ble.options import Characteristic, LayoutPart
from wire.clock import NS_PER_S
from wire.messages import Quality

_LAYOUT = frozenset("<bBhHiIqQefd?x0123456789")
_BEHIND_NS = 3 * NS_PER_S  # times this far behind their receipt show that beats were lost


@dataclass(frozen=True, slots=True)
class Measurement:
    """One Heart Rate Measurement (0x2A37); None for what the device does not send."""

    rate: int  # beats a minute
    contact: bool | None
    energy: int | None  # kJ since the last reset
    rr_ms: tuple[float, ...]  # oldest first


def heart_rate(data: bytes) -> Measurement:
    """Parse the value of 0x2A37.

    Raises:
        ValueError: it is shorter than its flags require, or ends within an RR interval.
    """
    try:
        flags = data[0]
        (rate,) = struct.unpack_from("<H" if flags & 0x01 else "<B", data, 1)
        at = 3 if flags & 0x01 else 2
        energy = None
        if flags & 0x08:
            (energy,) = struct.unpack_from("<H", data, at)
            at += 2
        intervals = struct.unpack(f"<{(len(data) - at) // 2}H", data[at:]) if flags & 0x10 else ()
    except (IndexError, struct.error) as error:
        raise ValueError(f"{data[:24].hex()} is not a Heart Rate Measurement") from error
    contact = bool(flags & 0x02) if flags & 0x04 else None
    return Measurement(rate, contact, energy, tuple(ticks * 1000 / 1024 for ticks in intervals))


class BeatTimes:
    """Calculates the times of beats: the device sends no time, but the intervals between the beats.

    The intervals of a notification continue where the last interval ended, and never end later than their
    receipt. The first times are late by the delay of the device; each notification with a shorter delay
    corrects them.
    """

    def __init__(self) -> None:
        self.gaps = 0  # how often beats were lost
        self._end_ns: int | None = None  # of the last interval
        self._last_ns = 0  # the last time that was returned

    def stamp(self, rr_ms: Sequence[float], receipt_ns: int) -> list[int]:
        """The times of the beats at the end of these intervals, in order."""
        steps = [round(interval * 1e6) for interval in rr_ms]
        if receipt_ns < self._last_ns - _BEHIND_NS:  # the agent's clock was set back
            self._end_ns, self._last_ns = None, 0
        end_ns = receipt_ns if self._end_ns is None else self._end_ns + sum(steps)
        if not receipt_ns - _BEHIND_NS <= end_ns <= receipt_ns:
            self.gaps += end_ns < receipt_ns
            end_ns = receipt_ns
        times = [end_ns - sum(steps[n + 1 :]) for n in range(len(steps))]
        for n, at_ns in enumerate(times):
            self._last_ns = times[n] = max(at_ns, self._last_ns + 1)
        self._end_ns = end_ns
        return times

    def now(self, receipt_ns: int) -> int:
        """The time of a row without a beat."""
        if receipt_ns < self._last_ns - _BEHIND_NS:
            self._end_ns, self._last_ns = None, 0
        self._last_ns = max(receipt_ns, self._last_ns + 1)
        return self._last_ns


class Layout:
    """Reads the values of one characteristic."""

    def __init__(self, name: str, given: Characteristic) -> None:
        """Check the layout.

        Raises:
            OptionsError: it is not a layout, or the number of its values is not that of the fields.
        """
        try:
            if not set(given.layout) <= _LAYOUT:
                raise struct.error("use only < b B h H i I q Q e f d ? x and counts")
            self._struct = struct.Struct("<" + given.layout.removeprefix("<"))
            found = 0 if self._struct.size > 512 else len(self._struct.unpack(bytes(self._struct.size)))
        except (struct.error, OverflowError, MemoryError) as error:
            raise OptionsError(f"{name}: layout {given.layout!r} is wrong: {error}") from error
        if found != len(given.fields):
            raise OptionsError(
                f"{name}: layout {given.layout!r} has {found} values in at most 512 bytes, but there are"
                f" {len(given.fields)} fields"
            )
        self._fields: Mapping[str, LayoutPart] = given.fields

    def read(self, data: bytes) -> tuple[dict[str, Value], Quality]:
        """The values by field name; bytes after the layout are ignored.

        Raises:
            ValueError: the data is too short.
        """
        try:
            sent = self._struct.unpack_from(data)
        except struct.error as error:
            raise ValueError(
                f"the layout needs a buffer of {self._struct.size} bytes, but {len(data)} came"
            ) from error
        values: dict[str, Value] = {}
        quality = Quality.GOOD
        for (name, part), number in zip(self._fields.items(), sent, strict=True):
            values[name] = value = _as_declared(number, part)
            if value is None:
                quality = Quality.WRONG_TYPE
        return values, quality


def _as_declared(number: float, part: LayoutPart) -> Value:
    if part.t == "bool":
        return bool(number)
    if part.t == "str":
        return str(number)
    if part.t == "i64":
        whole = number * part.scale + part.offset if (part.scale, part.offset) != (1.0, 0.0) else number
        return int(whole) if whole == whole // 1 else None
    return float(number) * part.scale + part.offset
