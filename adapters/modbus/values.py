"""Groups registers into requests, and turns their 16-bit words into values."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from msgspec import UNSET

from adapters.base import Value
from adapters.modbus.register_map import MAX_BITS, NamedMap, Register, RegisterPlace
from wire.messages import Quality

_FORMATS = {
    "u32": ">I", "s32": ">i", "u64": ">Q", "s64": ">q", "f32": ">f", "f64": ">d",
}  # fmt: skip


_NEAR = 1e-9  # relative: as far as the rounding of a scale can be off


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of the map with its address in requests, which counts from 0."""

    name: str
    place: RegisterPlace
    address: int
    order: str

    @classmethod
    def of(cls, name: str, place: RegisterPlace, named: NamedMap) -> Item:
        """`place` with the defaults of its map."""
        order = named.map.order if place.order is UNSET else place.order
        return cls(name, place, place.register - named.map.base, order)

    def pattern(self, words: Sequence[int]) -> int:
        """Its words as one unsigned number: the form in which manuals print a sentinel, such as 0x8000."""
        return int(number(words, f"u{16 * len(words)}", self.order))

    @property
    def end(self) -> int:
        """The address after its last register."""
        return self.address + self.place.words

    def number(self, words: Sequence[int]) -> int | float:
        """The raw number of its 16-bit words, or of its bit."""
        return number(words, self.place.coded, self.order)


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring entries that one request reads: `count` registers or bits from `address`."""

    kind: str
    address: int
    count: int
    items: tuple[Item, ...]

    def words(self, item: Item, answer: Sequence[int]) -> Sequence[int]:
        """The words of the answer that belong to an item."""
        return answer[item.address - self.address : item.end - self.address]


def blocks(items: Iterable[Item], *, most: int, gap: int) -> list[Block]:
    """As few requests as the limits allow, in order of kind and address.

    `most` registers (or `MAX_BITS` bits) fit one request; up to `gap` unused ones between two items are read
    with them.
    """
    found: list[list[Item]] = []
    for item in sorted(items, key=lambda one: (one.place.kind, one.address, one.end)):
        limit = MAX_BITS if item.place.of_bits else most
        last = found[-1] if found else []
        near = last and last[0].place.kind == item.place.kind
        end = max((one.end for one in last), default=0)
        if near and item.address <= end + gap and item.end - last[0].address <= limit:
            last.append(item)
        else:
            found.append([item])
    return [
        Block(
            block[0].place.kind,
            block[0].address,
            max(item.end for item in block) - block[0].address,
            tuple(block),
        )
        for block in found
    ]


def number(words: Sequence[int], coded: str, order: str) -> int | float:
    """The number in registers, given as they arrived.

    `order` names the bytes of 32 bits as they arrive, `a` the highest: `cdab` swaps the words, `badc` the
    bytes within each, `dcba` both; 64 bits follow the same rule. 16 bits are as Modbus sends them.
    """
    if coded in ("bit", "u16"):
        return words[0]
    if coded == "s16":
        return words[0] - ((words[0] & 0x8000) << 1)
    if order in ("cdab", "dcba"):
        words = words[::-1]
    packing = "<" if len(words) > 1 and order in ("badc", "dcba") else ">"
    raw: int | float
    (raw,) = struct.unpack(_FORMATS[coded], struct.pack(f"{packing}{len(words)}H", *words))
    return raw


def words_of(raw: int | float, coded: str, order: str) -> list[int]:
    """The registers that `number` reads as `raw`, or the bit.

    Raises:
        ValueError: they hold no such number.
    """
    if coded == "bit":
        if raw not in (0, 1):
            raise ValueError("a bit is 0 or 1")
        return [int(raw)]
    form = _FORMATS.get(coded, ">H" if coded == "u16" else ">h")
    try:
        body = struct.pack(form, raw)
    except (struct.error, OverflowError) as error:
        raise ValueError(f"it is beyond {coded}") from error
    count = len(body) // 2
    packing = "<" if count > 1 and order in ("badc", "dcba") else ">"
    words = list(struct.unpack(f"{packing}{count}H", body))
    return words[::-1] if count > 1 and order in ("cdab", "dcba") else words


def raw_of(number: float, scale: float, offset: float, *, of_floats: bool) -> int | float:
    """The raw number of a value.

    Raises:
        ValueError: the value is between two steps.
    """
    steps = _steps(scale)
    raw = (number - offset) * steps if steps else (number - offset) / scale
    if of_floats:
        return raw
    if abs(raw - round(raw)) > _NEAR * max(1.0, abs(raw)):
        raise ValueError(f"its steps are {abs(scale):g}")
    return round(raw)


def value(register: Register, raw: int | float, pattern: int | None = None) -> tuple[Value, Quality]:
    """The value of a raw number for its field, and its quality; `pattern` is its words as `Item.pattern`.

    NaN stays as it is: the agent flags it.
    """
    if register.coded == "bit":
        at = 0 if register.bit is UNSET else register.bit
        return bool(int(raw) >> at & 1), Quality.GOOD
    whole = raw
    if register.mask != 0xFFFF:
        lowest = (register.mask & -register.mask).bit_length() - 1
        raw = (int(raw) & register.mask) >> lowest
    if any(same(each, raw) or each in (whole, pattern) for each in register.invalid):
        return None, Quality.BAD
    if not register.scaled:
        return raw, Quality.GOOD
    return _scaled(float(raw), register.scale) + register.offset, Quality.GOOD


def same(one: Value, other: Value) -> bool:
    """Whether two values are equal; NaN equals NaN."""
    nan = isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other)
    return nan or one == other


def _scaled(raw: float, scale: float) -> float:
    """Scale a number; divide where the scale is 1/n: 1234 x 0.01 is then exactly 12.34."""
    steps = _steps(scale)
    return raw / steps if steps else raw * scale


@lru_cache(1_000)
def _steps(scale: float) -> int:
    """The whole number n of a scale 1/n, 0 where the scale has another form."""
    steps = round(1 / scale) if 1e-12 < abs(scale) <= 1 else 0
    return steps if steps and abs(steps * scale - 1) < 1e-9 else 0
