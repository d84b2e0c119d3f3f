"""Times from before the clock was set are corrected once it is, as long as the machine did not restart."""

from __future__ import annotations

import secrets
from pathlib import Path
from zlib import crc32

import msgspec

from wire.clock import NS_PER_MS, Clock
from wire.messages import Batch, ClockState, Event

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MAX_MS = 253_402_300_799_999  # what the contract allows as a time


def machine_boot() -> int:
    """32 bits that name this run of the machine; random where the kernel does not say, so never shared."""
    try:
        return crc32(_BOOT_ID.read_bytes())
    except OSError:
        return secrets.randbits(32)


def offset_ns(clock: Clock) -> int:
    """Wall clock minus monotonic clock: what a step of the wall clock changes."""
    return clock.now_ns() - clock.monotonic_ns()


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
