"""Reads from the kernel whether this machine's clock is synchronised; corrects times from before that."""

from __future__ import annotations

import ctypes
import secrets
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import msgspec

from wire.clock import NS_PER_MS, NS_PER_S, Clock
from wire.messages import Batch, ClockState, Event

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MAX_MS = 253_402_300_799_999  # what the contract allows as a time
_STA_PPSTIME = 0x0004
_STA_UNSYNC = 0x0040
_STA_PPSSIGNAL = 0x0100
_POLL_S = 2.0
_NEAR_NS = 5 * NS_PER_S  # a reading takes less than this to arrive
_STEP_S = 0.5  # between two looks; slewing a clock moves it by less


class _Timex(ctypes.Structure):
    """Linux's `struct timex`; only `status` and `maxerror` are read."""

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
    """The kernel's clock state: NTP for any daemon that disciplines the clock, PTP for a hardware pulse.

    If the kernel cannot be asked, the clock counts as unsynchronised.
    """
    timex = _adjtimex()
    if timex is None:
        return ClockState.UNSYNCED
    if timex.status & _STA_UNSYNC:
        return ClockState.UNSYNCED
    if timex.status & _STA_PPSTIME and timex.status & _STA_PPSSIGNAL:
        return ClockState.PTP
    return ClockState.NTP


def kernel_error_ms() -> float | None:
    """The kernel's bound on the clock's error, see adjtimex(2); None while the clock is unsynchronised."""
    timex = _adjtimex()
    if timex is None or timex.status & _STA_UNSYNC:
        return None
    return float(round(timex.maxerror / 1000, 3))


def _adjtimex() -> _Timex | None:
    timex = _Timex()
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "adjtimex") or libc.adjtimex(ctypes.byref(timex)) < 0:
        return None
    return timex


def offset_ns(clock: Clock) -> int:
    """Wall clock minus monotonic clock; only a step of the wall clock changes it."""
    return clock.now_ns() - clock.monotonic_ns()


class TimeSync:
    """Gives the clock's state, read every two seconds; a simulated clock is always synchronised."""

    def __init__(self, clock: Clock, ask: Callable[[], ClockState] = kernel_state) -> None:
        self.clock = clock
        self._ask = ask if clock.real else lambda: ClockState.NTP
        self._state = self._ask()
        self._asked_s = clock.monotonic()

    def state(self) -> ClockState:
        """How far times stamped now can be trusted."""
        now_s = self.clock.monotonic()
        if now_s - self._asked_s >= _POLL_S:
            self._state = self._ask()
            self._asked_s = now_s
        return self._state


Stamp = tuple[ClockState | None, int | None]  # trust in a time, and the offset to correct it from


class Stamps:
    """Determines which clock a reading's time is from, and the offset of the wall clock at that time."""

    def __init__(self, clock: Clock, state: Callable[[], ClockState]) -> None:
        self.clock = clock
        self._state = state
        self._offset_ns: int | None = None  # wall minus monotonic clock at the reading before

    def of(self, at_ns: int) -> Stamp:
        """The trust in the time of a new reading, and the wall clock offset to correct it from.

        While this machine's clock is unsynchronised, a time far from it is from the device's own clock: it
        must not be corrected later, and its state is None. The offset is None when the clock is synchronised.
        """
        state = self._state()
        if state is not ClockState.UNSYNCED:
            return state, None
        up_ns, before_ns = self.clock.monotonic_ns(), self._offset_ns
        self._offset_ns = offset_ns(self.clock)
        for each in (self._offset_ns, before_ns):  # the clock may have been set since the reading
            if each is not None and abs(at_ns - up_ns - each) <= _NEAR_NS:
                return state, each
        return None, None


class Steps:
    """Detects steps of the wall clock against the monotonic clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset_ns = offset_ns(clock)

    def look(self) -> float:
        """The seconds by which the clock was set forward since the last look; 0.0 if it was not."""
        before, self._offset_ns = self._offset_ns, offset_ns(self._clock)
        step_s = (self._offset_ns - before) / NS_PER_S
        return round(step_s, 3) if abs(step_s) >= _STEP_S else 0.0


def machine_boot() -> int:
    """32 bits that identify this run of the machine; random if the kernel gives none, so never shared."""
    try:
        return crc32(_BOOT_ID.read_bytes())
    except OSError:
        return secrets.randbits(32)


def restamp(body: bytes, kind: type[Batch] | type[Event], shift_ns: int, state: ClockState) -> bytes:
    """The body with its time moved by `shift_ns` and its clock state set to `state`.

    `ep` and `seq` stay the same: the message keeps its identity.
    """
    message = msgspec.json.decode(body, type=kind)
    shift_ms = round(shift_ns / NS_PER_MS)
    if isinstance(message, Batch):
        message.t0 = _moved(message.t0, shift_ms)
    else:
        message.ts = _moved(message.ts, shift_ms)
    message.clk = state.value
    return msgspec.json.encode(message)


def _moved(ms: int, shift_ms: int) -> int:
    return min(max(0, ms + shift_ms), _MAX_MS)
