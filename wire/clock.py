"""The clock that every module takes as a parameter: rate 1 in the field, faster in simulation."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from contextlib import AbstractAsyncContextManager

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000
SLACK_S = 0.125  # what a timer that is not urgent may be late


class Clock:
    """Wall time and monotonic time that run `rate` times as fast as the clock of the machine.

    With `rate == 1` and no `start_ns`, `now_ns` is the clock of the machine, including its steps. Otherwise
    time starts at `start_ns` (Unix nanoseconds, UTC) when the object is created, and never steps.
    """

    def __init__(self, rate: float = 1.0, start_ns: int | None = None) -> None:
        if not rate > 0:
            raise ValueError(f"a clock's rate must be above 0, not {rate}")
        self.rate = rate
        self._real = rate == 1.0 and start_ns is None
        self._origin_ns = time.monotonic_ns()
        self._start_ns = time.time_ns() if start_ns is None else start_ns  # noqa: TID251 - only here

    @property
    def real(self) -> bool:
        """Whether this is the clock of the machine, which a time service has to set."""
        return self._real

    def now_ns(self) -> int:
        """Unix nanoseconds, UTC."""
        if self._real:
            return time.time_ns()  # noqa: TID251 - only this class may read the clock of the machine
        return self._start_ns + self.monotonic_ns()

    def now_ms(self) -> int:
        """Unix milliseconds, UTC: the unit of the wire contract."""
        return self.now_ns() // NS_PER_MS

    def monotonic_ns(self) -> int:
        """Nanoseconds that never step: machine uptime in the field, time since creation when simulated."""
        if self._real:
            return time.monotonic_ns()
        return int((time.monotonic_ns() - self._origin_ns) * self.rate)

    def monotonic(self) -> float:
        """Seconds of `monotonic_ns`."""
        return self.monotonic_ns() / NS_PER_S

    @property
    def can_stand(self) -> bool:
        """Whether time can stand still: then a device sends nothing, and that is not silence."""
        return False

    def flowing_s(self) -> float:
        """Monotonic real seconds while time flows: measure the silence of devices with it, in any thread.

        For requests that are answered even while time stands still, use the time of the event loop.
        """
        return time.monotonic()

    def timeout_at(self, at_s: float | None) -> AbstractAsyncContextManager[object]:
        """Like `asyncio.timeout_at`, for a moment of `flowing_s`."""
        return asyncio.timeout_at(at_s)

    async def sleep(self, seconds: float) -> None:
        """Sleep `seconds` in the time of this clock."""
        await asyncio.sleep(max(0.0, seconds) / self.rate)

    async def sleep_until(self, at_ns: int) -> None:
        """Sleep until `now_ns() >= at_ns`; returns at once for the past."""
        await self.sleep((at_ns - self.now_ns()) / NS_PER_S)

    async def sleep_roughly(self, seconds: float) -> None:
        """Sleep `seconds`, or up to `SLACK_S` longer: sleepers due at nearly the same time wake as one.

        All of them wake at multiples of `SLACK_S`. A processor that wakes less often needs less power.
        """
        now_s = self.monotonic()
        await self.sleep(gathered_s(now_s + seconds) - now_s)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Block a thread until `event` is set or `seconds` in the time of this clock have passed."""
        return event.wait(max(0.0, seconds) / self.rate)


def gathered_s(at_s: float) -> float:
    """The next multiple of `SLACK_S`, from `at_s` on."""
    return math.ceil(at_s / SLACK_S) * SLACK_S
