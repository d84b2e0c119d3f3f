"""A device's own clock: believed where it can be true, else moved or replaced, never without saying so."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from wire.clock import NS_PER_S
from wire.messages import Quality

_TOLD = 10  # warnings of one connection: a clock that jumps with every reading would fill the log


def believed(
    device_ns: int | None, receipt_ns: int, max_skew_s: float, counters: Counter[str]
) -> tuple[int, Quality]:
    """The time of a reading: the device's where it says one that can be true, else that of receipt.

    Args:
        device_ns: what the device says, Unix ns; None where it says nothing readable.
        receipt_ns: when the message came.
        max_skew_s: a device clock further off than this is not believed.
        counters: takes `no_time` and `clock_not_believed`.
    """
    if device_ns is None:
        counters["no_time"] += 1
        return receipt_ns, Quality.UNCERTAIN
    if abs(device_ns - receipt_ns) > max_skew_s * NS_PER_S:
        counters["clock_not_believed"] += 1
        return receipt_ns, Quality.UNCERTAIN
    return device_ns, Quality.GOOD


class DeviceClock:
    """The clock of one device that sends steadily. Where it cannot be true, its times are moved by what it is
    off, so that their steps stay, and are UNCERTAIN; as soon as it can be true it is believed again.

    `counters` takes `clock_not_believed`, once for each time that it was found to be off anew, and `no_time`.
    """

    def __init__(
        self,
        where: str,
        log: logging.Logger,
        counters: Counter[str],
        *,
        max_past_s: float,
        max_ahead_s: float,
        hint: str = "",
    ) -> None:
        self.shift_ns = 0  # what is added to its times, 0 where they are believed
        self._where, self._log, self._hint = where, log, hint
        self._counters = counters
        self._past_ns, self._ahead_ns = int(max_past_s * NS_PER_S), int(max_ahead_s * NS_PER_S)
        self._told = 0

    @property
    def doubt(self) -> Quality:
        """What is to be said of its times now."""
        return Quality.UNCERTAIN if self.shift_ns else Quality.GOOD

    def limits(self, receipt_ns: int) -> tuple[int, int]:
        """Between which times of the device, not moved, one that is received now can lie."""
        now_ns = receipt_ns - self.shift_ns
        return now_ns - self._past_ns, now_ns + self._ahead_ns

    def stamp(self, device_ns: int | None, receipt_ns: int) -> tuple[int, Quality]:
        """Unix ns of a reading, and how far it is believed; that of receipt where the device says none."""
        if device_ns is None:
            self._counters["no_time"] += 1
            return receipt_ns, Quality.UNCERTAIN
        self.judge((device_ns,), receipt_ns)
        return device_ns + self.shift_ns, self.doubt

    def judge(self, times_ns: Sequence[int], receipt_ns: int) -> None:
        """See whether the clock is right, from what was received together: one time that can be is enough."""
        first, last = receipt_ns - self._past_ns, receipt_ns + self._ahead_ns
        if not times_ns or any(first <= at_ns <= last for at_ns in times_ns):
            self.shift_ns = 0 if times_ns else self.shift_ns
            return
        shift_ns = self.shift_ns
        if shift_ns and any(first <= at_ns + shift_ns <= last for at_ns in times_ns):
            return
        self.shift_ns = receipt_ns - max(times_ns)
        self._counters["clock_not_believed"] += 1
        self._told += 1
        if self._told <= _TOLD:
            self._log.warning(
                "%s: its clock is off by %.0f s%s; rows are stamped by ours and uncertain",
                self._where,
                -self.shift_ns / NS_PER_S,
                self._hint,
            )
