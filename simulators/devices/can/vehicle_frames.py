"""The CAN messages of the delivery car, packed from this table and not from the DBC file.

id          bytes (little-endian unless >)                                   every 100 ms, in this order
0x100       48 bit Unix ms, 8 bit cycle counter
0x110       > u16 accelerator 0.01 %, > u16 brake 0.01 bar, high nibble gear
0x120       f32 slope %, f32 altitude m
0x18FF50E5  u16 voltage 0.01 V, s16 current 0.02 A, u16 charge 0.01 %
0x130       u8 page; page 0: s16 cells 0.1 Cel; page 1: u16 cell voltage 0.1 mV
0x140       u16 speed 0.01 km/h, s16 acceleration 1 mm/s2, s16 yaw rate 0.01 deg/s
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping

from simulators.devices.can.slcan import BusFrame
from wire.clock import NS_PER_MS

PACK_CELLS = 96  # in series
DRIVE, NEUTRAL = 3, 2
GEARS = {DRIVE: "D", NEUTRAL: "N"}

_U16_ABSENT, _S16_ABSENT = 0xFFFF, 0x7FFF
_TOO_FAST = 30_000  # 300 km/h: more than the car's own description allows


def gear(speed: float, pedal: float) -> int:
    """The gear selected, as the Pedals message numbers it."""
    return DRIVE if speed > 0 or pedal > 0 else NEUTRAL


def frames(index: int, at_ns: int, true: Mapping[str, float], faults: frozenset[str]) -> list[BusFrame]:
    """The frames of one cycle; `true` has the plant's signals by name, `faults` the active faults."""
    absent = "not-available" in faults
    slope = math.nan if "nan" in faults else true["slope"]
    speed = _TOO_FAST if "out-of-range" in faults else _u16(true["speed"], 0.01)
    voltage = true["pack_voltage"]
    selected = gear(true["speed"], true["pedal"])
    pack = struct.pack(
        "<HhH2x",
        _u16(voltage, 0.01),
        _S16_ABSENT if absent else _s16(true["pack_current"], 0.02),
        _U16_ABSENT if absent else _u16(true["soc"], 0.01),
    )
    return [
        BusFrame(0x100, struct.pack("<Q", (at_ns // NS_PER_MS) & 0xFFFF_FFFF_FFFF | (index & 0xFF) << 48)),
        BusFrame(
            0x110,
            struct.pack(
                ">HHB3x", _u16(true["pedal"], 0.01), _u16(true["brake_pressure"], 0.01), selected << 4
            ),
        ),
        BusFrame(0x120, struct.pack("<ff", slope, true["altitude"])),
        BusFrame(0x18FF50E5, pack[:5] if "wrong-dlc" in faults else pack, extended=True),
        BusFrame(0x130, struct.pack("<Bh5x", 0, _s16(true["cell_temperature"], 0.1))),
        BusFrame(0x130, struct.pack("<BH5x", 1, _u16(voltage / PACK_CELLS, 0.0001))),
        BusFrame(
            0x140,
            struct.pack(
                "<Hhh2x",
                speed,
                _s16(true["acceleration"], 0.001),
                _s16(true["yaw_rate"], 0.01),
            ),
        ),
    ]


def _u16(value: float, scale: float) -> int:
    """Saturate as a sensor does: the value for "not available" is never a measurement."""
    return min(max(round(value / scale), 0), _U16_ABSENT - 1)


def _s16(value: float, scale: float) -> int:
    return min(max(round(value / scale), -_S16_ABSENT), _S16_ABSENT - 1)
