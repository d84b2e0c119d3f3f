"""Checks the time that a device sends: a plausible time is used, any other is corrected or replaced.

Each corrected or replaced time is counted, and its row is UNCERTAIN.
"""

from __future__ import annotations

import logging
import math
import zoneinfo
from collections.abc import Sequence
from datetime import UTC, tzinfo

from adapters.base import OptionsError
from wire.clock import NS_PER_S
from wire.messages import Quality

AHEAD_S = 300.0  # a time that is further in the future is flagged: no device measures tomorrow
_MAX_WARNINGS = 10  # of one connection: a clock that jumps with every reading would fill the log


def checked_time(
    device_ns: int | None, receipt_ns: int, max_skew_s: float, counters: dict[str, int]
) -> tuple[int, Quality]:
    """The time of a reading: the device's if it is plausible, else the time of receipt.

    Args:
        device_ns: the time from the device, Unix ns; None if it sent no readable time.
        receipt_ns: the time at which the message came, Unix ns.
        max_skew_s: the largest plausible difference of the two.
        counters: `no_time`, `clock_not_believed` and `time_ahead` are counted here.

    A plausible time that is ahead by more than `AHEAD_S` is used, and UNCERTAIN: often a wrong time zone.
    """
    # `get`, because an adapter of another package may have a plain dict, as every adapter had in 0.1.0
    if device_ns is None:
        counters["no_time"] = counters.get("no_time", 0) + 1
        return receipt_ns, Quality.UNCERTAIN
    if abs(device_ns - receipt_ns) > max_skew_s * NS_PER_S:
        counters["clock_not_believed"] = counters.get("clock_not_believed", 0) + 1
        return receipt_ns, Quality.UNCERTAIN
    if device_ns - receipt_ns > AHEAD_S * NS_PER_S:
        counters["time_ahead"] = counters.get("time_ahead", 0) + 1
        return device_ns, Quality.UNCERTAIN
    return device_ns, Quality.GOOD


def why_uncertain(device_ns: int | None, receipt_ns: int, max_skew_s: float) -> str:
    """The end of a sentence about the times of a device that `checked_time` flags; empty for a good time."""
    if device_ns is None:
        return "cannot be read, so the rows have the time of receipt"
    ahead_ns = device_ns - receipt_ns
    hours = ahead_ns / NS_PER_S / 3600
    if abs(ahead_ns) > max_skew_s * NS_PER_S:
        side = "ahead of" if ahead_ns > 0 else "behind"
        return (
            f"are {abs(hours):,.1f} h {side} this machine, more than `max_skew_s`: the rows have the time of"
            " receipt"
        )
    if ahead_ns > AHEAD_S * NS_PER_S:
        return f"are {hours:.1f} h ahead of this machine, so the rows are uncertain"
    return ""


believed = checked_time  # its earlier name, which adapters of other packages import


class DeviceClock:
    """The clock of one device that sends continuously.

    While the clock is implausible, a constant shift is added to its times, so that the steps between them
    stay, and its rows are UNCERTAIN. As soon as the clock is plausible again, its times are used as they are.

    A plausible time that is ahead by more than `AHEAD_S` is used, and UNCERTAIN.

    `counters` counts `no_time`, `clock_not_believed` once for each new shift, and `time_ahead` each time that
    the times begin to be ahead.
    """

    def __init__(
        self,
        where: str,
        log: logging.Logger,
        counters: dict[str, int],
        *,
        max_past_s: float,
        max_ahead_s: float,
        hint: str = "",
    ) -> None:
        self.shift_ns = 0  # added to the times of the device; 0 while they are plausible
        self.ahead = ""  # the end of a sentence about plausible times that are ahead; empty without
        self._where, self._log, self._hint = where, log, hint
        self._counters = counters
        self._past_ns, self._ahead_ns = int(max_past_s * NS_PER_S), int(max_ahead_s * NS_PER_S)
        self._warnings = 0

    @property
    def quality(self) -> Quality:
        """The quality of the device's times now."""
        return Quality.UNCERTAIN if self.shift_ns or self.ahead else Quality.GOOD

    def limits(self, receipt_ns: int) -> tuple[int, int]:
        """The earliest and latest plausible device time, before the shift, of a message received now."""
        now_ns = receipt_ns - self.shift_ns
        return now_ns - self._past_ns, now_ns + self._ahead_ns

    def stamp(self, device_ns: int | None, receipt_ns: int) -> tuple[int, Quality]:
        """The time of a reading in Unix ns, and its quality; the time of receipt if the device sent none."""
        if device_ns is None:
            self._counters["no_time"] = self._counters.get("no_time", 0) + 1
            return receipt_ns, Quality.UNCERTAIN
        self.judge((device_ns,), receipt_ns)
        return device_ns + self.shift_ns, self.quality

    def judge(self, times_ns: Sequence[int], receipt_ns: int) -> None:
        """Update the shift from times received together; one plausible time shows that the clock is right."""
        self._judge_shift(times_ns, receipt_ns)
        if times_ns:
            ahead = "" if self.shift_ns else why_uncertain(min(times_ns), receipt_ns, math.inf)
            if ahead and not self.ahead:
                self._counters["time_ahead"] = self._counters.get("time_ahead", 0) + 1
            self.ahead = ahead

    def _judge_shift(self, times_ns: Sequence[int], receipt_ns: int) -> None:
        first, last = receipt_ns - self._past_ns, receipt_ns + self._ahead_ns
        if not times_ns or any(first <= at_ns <= last for at_ns in times_ns):
            self.shift_ns = 0 if times_ns else self.shift_ns
            return
        shift_ns = self.shift_ns
        if shift_ns and any(first <= at_ns + shift_ns <= last for at_ns in times_ns):
            return
        self.shift_ns = receipt_ns - max(times_ns)
        self._counters["clock_not_believed"] = self._counters.get("clock_not_believed", 0) + 1
        self._warnings += 1
        if self._warnings <= _MAX_WARNINGS:
            self._log.warning(
                "%s: its clock is wrong by %.0f s%s; rows get the agent's time and are uncertain",
                self._where,
                -self.shift_ns / NS_PER_S,
                self._hint,
            )


def time_zone(name: str) -> tzinfo:
    """A time zone by its name.

    Raises:
        OptionsError: this machine does not know it.
    """
    if name == "UTC":
        return UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError) as error:
        raise OptionsError(f"timezone {name!r} is not known on this machine: use e.g. Asia/Seoul") from error
