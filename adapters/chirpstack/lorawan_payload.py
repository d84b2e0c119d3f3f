"""Reads numbers from the bytes of a LoRaWAN payload by their place and type."""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass

_PLACE = re.compile(r"(\d{1,3}):(u8|i8|[uif](?:16|32|64)|u24|i24|bit[0-7])(le|be)?", re.ASCII)
_CODES = {"f16": "e", "f32": "f", "f64": "d"}
_LONGEST = 242  # bytes of an application payload, LoRaWAN regional parameters


@dataclass(frozen=True, slots=True)
class RawPart:
    """One number of a payload: `size` bytes at `start`, or bit `bit` of the byte at `start`."""

    start: int
    size: int
    kind: str  # u, i, f or bit
    big_endian: bool
    bit: int
    scale: float
    offset: float
    declared: str

    def read(self, data: bytes) -> float | int | bool | None:
        """The value; None if the payload is too short."""
        part = data[self.start : self.start + self.size]
        if len(part) < self.size:
            return None
        if self.kind == "bit":
            bit = bool(part[0] >> self.bit & 1)
            return bit if self.declared == "bool" else int(bit)
        if self.kind == "f":
            number: float = struct.unpack(
                (">" if self.big_endian else "<") + _CODES[f"f{8 * self.size}"], part
            )[0]
        else:
            number = int.from_bytes(part, "big" if self.big_endian else "little", signed=self.kind == "i")
        if self.declared == "bool":
            return bool(number)
        return number if (self.scale, self.offset) == (1.0, 0.0) else number * self.scale + self.offset


def raw_part(text: str, scale: float, offset: float, declared: str) -> RawPart:
    """Parse `BYTE:TYPE`, e.g. `0:u8`, `1:i16`, `4:u32le`, `2:f32`, `0:bit3`; bytes count from 0.

    Raises:
        ValueError: the text has another form, or the number cannot have the declared type.
    """
    found = _PLACE.fullmatch(text)
    if found is None:
        raise ValueError(f"raw {text!r} is not BYTE:TYPE, e.g. 0:u8, 1:i16, 4:u32le, 2:f32 or 0:bit3")
    at, word, order = found.groups()
    kind = "bit" if word.startswith("bit") else word[0]
    size = 1 if kind == "bit" else int(word[1:]) // 8
    if int(at) + size > _LONGEST:
        raise ValueError(f"raw {text!r} is beyond the {_LONGEST} bytes of a LoRaWAN payload")
    if not (math.isfinite(scale) and math.isfinite(offset) and scale):
        raise ValueError(f"scale {scale} and offset {offset} must be finite, and scale not 0")
    scaled = (scale, offset) != (1.0, 0.0)
    if declared == "str" or (declared == "bool" and scaled) or (kind == "bit" and scaled):
        raise ValueError(f"raw {text!r} with these options is not a {declared}")
    return RawPart(
        int(at), size, kind, order != "le", int(word[3:]) if kind == "bit" else 0, scale, offset, declared
    )
