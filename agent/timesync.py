"""Whether anybody sets this machine's clock, asked of the kernel."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from wire.clock import Clock
from wire.messages import ClockState

_STA_PPSTIME = 0x0004
_STA_UNSYNC = 0x0040
_STA_PPSSIGNAL = 0x0100
_POLL_S = 2.0


class _Timex(ctypes.Structure):
    """Linux's `struct timex`; `status` is what is read of it."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),  # more than the kernel writes
    )


def kernel_state() -> ClockState:
    """What the kernel knows: NTP covers every daemon that disciplines it, PTP a hardware pulse per second.

    Where the kernel cannot be asked, the clock counts as unsynchronised.
    """
    timex = _Timex()
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "adjtimex") or libc.adjtimex(ctypes.byref(timex)) < 0:
        return ClockState.UNSYNCED
    if timex.status & _STA_UNSYNC:
        return ClockState.UNSYNCED
    if timex.status & _STA_PPSTIME and timex.status & _STA_PPSSIGNAL:
        return ClockState.PTP
    return ClockState.NTP


class TimeSync:
    """The clock's state, asked again every two seconds; a simulated clock is always right."""

    def __init__(self, clock: Clock, ask: Callable[[], ClockState] = kernel_state) -> None:
        self._clock = clock
        self._ask = ask if clock.real else lambda: ClockState.NTP
        self._state = self._ask()
        self._asked_s = clock.monotonic()

    def state(self) -> ClockState:
        """How far times stamped now can be trusted."""
        now_s = self._clock.monotonic()
        if now_s - self._asked_s >= _POLL_S:
            self._state = self._ask()
            self._asked_s = now_s
        return self._state
