"""Whether anybody sets this machine's clock, asked of the kernel."""

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
_OURS_NS = 5 * NS_PER_S  # a reading is on its way for less
_STEP_S = 0.5  # between two looks; whoever keeps a clock right by slewing it moves it by less


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
    timex = _asked()
    if timex is None:
        return ClockState.UNSYNCED
    if timex.status & _STA_UNSYNC:
        return ClockState.UNSYNCED
    if timex.status & _STA_PPSTIME and timex.status & _STA_PPSSIGNAL:
        return ClockState.PTP
    return ClockState.NTP


def kernel_error_ms() -> float | None:
    """How far from UTC the kernel says that the clock may be, see adjtimex(2); None while nobody sets it."""
    timex = _asked()
    if timex is None or timex.status & _STA_UNSYNC:
        return None
    return float(round(timex.maxerror / 1000, 3))


def _asked() -> _Timex | None:
    timex = _Timex()
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "adjtimex") or libc.adjtimex(ctypes.byref(timex)) < 0:
        return None
    return timex


def offset_ns(clock: Clock) -> int:
    """Wall clock minus monotonic clock: what a step of the wall clock changes."""
    return clock.now_ns() - clock.monotonic_ns()


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


Stamp = tuple[ClockState | None, int | None]  # how far a time can be trusted, and what to correct it from


class Stamps:
    """Whose clock a reading's time is of, and where the wall clock stood when it was taken."""

    def __init__(self, clock: Clock, state: Callable[[], ClockState]) -> None:
        self._clock = clock
        self._state = state
        self._offset_ns: int | None = None  # wall minus monotonic clock at the reading before

    def of(self, at_ns: int) -> Stamp:
        """How far the time of a reading that just came can be trusted, and what to correct it from.

        While this machine's clock was never set, a time far from it is the device's own and must not move
        when the clock is: its state is None. The second is wall minus monotonic clock, None once it was set.
        """
        state = self._state()
        if state is not ClockState.UNSYNCED:
            return state, None
        up_ns, before_ns = self._clock.monotonic_ns(), self._offset_ns
        self._offset_ns = offset_ns(self._clock)
        for each in (self._offset_ns, before_ns):  # it may have been set between the reading and now
            if each is not None and abs(at_ns - up_ns - each) <= _OURS_NS:
                return state, each
        return None, None


class Steps:
    """Notices when the wall clock is set: it then moves against the monotonic one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset_ns = offset_ns(clock)

    def look(self) -> float:
        """By how many seconds it was set forward since the last look; 0.0 when it was not."""
        before, self._offset_ns = self._offset_ns, offset_ns(self._clock)
        step_s = (self._offset_ns - before) / NS_PER_S
        return round(step_s, 3) if abs(step_s) >= _STEP_S else 0.0


def machine_boot() -> int:
    """32 bits that name this run of the machine; random where the kernel does not say, so never shared."""
    try:
        return crc32(_BOOT_ID.read_bytes())
    except OSError:
        return secrets.randbits(32)


def restamp(body: bytes, kind: type[Batch] | type[Event], shift_ns: int, state: ClockState) -> bytes:
    """The same body with its time moved by `shift_ns` and the clock state it has now.

    Only the time and `clk` change: `ep` and `seq` stay, so the message keeps its identity.
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
