"""A register map: the register of each field, as in the manual of the device; checked without a device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from adapters.base import OptionsError
from wire import config
from wire.config import Marks, Mistake
from wire.errors import ConfigError
from wire.messages import Field
from wire.topics import FIELD

Kind = Literal["holding", "input", "coil", "discrete"]
Type = Literal["u16", "s16", "u32", "s32", "u64", "s64", "f32", "f64", "bit"]
Order = Literal["abcd", "cdab", "badc", "dcba"]

MAX_REGISTERS = 125  # of one request; MODBUS Application Protocol V1.1b3, 6.3
MAX_BITS = 2_000  # of one request; the same, 6.1
WORDS: dict[str, int] = {
    "u16": 1, "s16": 1, "u32": 2, "s32": 2, "f32": 2, "u64": 4, "s64": 4, "f64": 4, "bit": 1,
}  # fmt: skip


class RegisterPlace(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The registers that hold a number."""

    register: Annotated[int, Meta(ge=0, le=65_536, description="Its number in the manual, see `base`.")]
    kind: Annotated[
        Kind, Meta(description="holding (read by function 3), input (4), coil (1), discrete (2).")
    ] = "holding"
    type: Annotated[
        Type | UnsetType,
        Meta(description="u16, s16, u32, s32, u64, s64, f32, f64 or bit; u16 if unset, bit for a coil."),
    ] = UNSET
    order: Annotated[
        Order | UnsetType,
        Meta(description="Byte order of 32 and 64 bits, see the map's `order`."),
    ] = UNSET

    def __post_init__(self) -> None:
        if self.of_bits and self.type not in (UNSET, "bit"):
            raise ValueError(f"a {self.kind} is one bit, not {self.type}: leave out `type`")

    @property
    def of_bits(self) -> bool:
        """Whether it is a single bit."""
        return self.kind in ("coil", "discrete")

    @property
    def coded(self) -> str:
        """Its type, with the default filled in."""
        return ("bit" if self.of_bits else "u16") if self.type is UNSET else self.type

    @property
    def words(self) -> int:
        """How many registers (or bits) it takes."""
        return WORDS[self.coded]


class Register(RegisterPlace, frozen=True, kw_only=True):
    """One field: value = (raw number) x scale + offset."""

    bit: (
        Annotated[int, Meta(ge=0, le=15, description="type bit: which one, 0 is the lowest.")] | UnsetType
    ) = UNSET
    mask: Annotated[int, Meta(ge=1, le=0xFFFF, description="Only these bits of a u16, shifted down.")] = (
        0xFFFF
    )
    scale: Annotated[float, Meta(description="Value of one step of the raw number.")] = 1.0
    offset: Annotated[float, Meta(description="Added after scaling.")] = 0.0
    invalid: Annotated[
        list[int | float],
        Meta(max_length=16, description="Raw numbers, or raw words such as 0x8000, that mean: no reading."),
    ] = []
    unit: Annotated[str, Meta(max_length=128, description="UCUM code, e.g. deg, N.m, Cel.")] = ""
    dec: Annotated[int, Meta(ge=0, le=12, description="Decimals that travel.")] | UnsetType = UNSET
    min: Annotated[float, Meta(description="Values below are flagged.")] | UnsetType = UNSET
    max: Annotated[float, Meta(description="Values above are flagged.")] | UnsetType = UNSET
    desc: Annotated[str, Meta(max_length=2_000, description="For people.")] = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        as_bit = self.coded == "bit"
        if self.scale == 0:
            raise ValueError("a scale of 0 makes all values equal")
        if as_bit and (self.scale != 1 or self.offset):
            raise ValueError("a bit takes neither scale nor offset")
        if self.bit is not UNSET and (self.of_bits or not as_bit):
            raise ValueError("`bit` goes with `type: bit` of a holding or input register")
        if as_bit and not self.of_bits and self.bit is UNSET:
            raise ValueError("`type: bit` needs `bit`: which of the register's 16, 0 is the lowest")
        if self.mask != 0xFFFF and self.coded != "u16":
            raise ValueError("`mask` goes with `type: u16`")
        if self.min is not UNSET and self.max is not UNSET and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")

    @property
    def scaled(self) -> bool:
        """Whether the value differs from the raw number."""
        return self.scale != 1.0 or self.offset != 0.0

    @property
    def field(self) -> Field:
        """The field as the stream declares it."""
        kind = self.coded
        t: Literal["f32", "f64", "i64", "bool"] = "f64"
        if kind == "bit":
            t = "bool"
        elif not self.scaled:
            t = "f32" if kind == "f32" else "f64" if kind == "f64" else "i64"
        return Field(t=t, unit=self.unit, dec=self.dec, min=self.min, max=self.max, desc=self.desc)


class ExpectedValue(RegisterPlace, frozen=True, kw_only=True):
    """A register that identifies the device."""

    value: Annotated[int, Meta(description="The raw number it must hold.")]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.coded in ("f32", "f64") or (self.coded == "bit" and not self.of_bits):
            raise ValueError(f"an expected value is a whole number, not {self.coded}")


class DeviceIdentity(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The identity that the device must report; a device that reports another one is not read."""

    vendor: Annotated[str, Meta(max_length=245, description="VendorName, by function 43/14.")] = ""
    product: Annotated[str, Meta(max_length=245, description="ProductCode, by function 43/14.")] = ""
    revision: Annotated[str, Meta(max_length=245, description="MajorMinorRevision, by function 43/14.")] = ""
    registers: Annotated[
        list[ExpectedValue], Meta(max_length=16, description="Registers with the number each must hold.")
    ] = []

    @property
    def objects(self) -> dict[int, str]:
        """By object id of Read Device Identification; MODBUS Application Protocol V1.1b3, 6.21."""
        return {at: text for at, text in enumerate((self.vendor, self.product, self.revision)) if text}


class Counter(RegisterPlace, frozen=True, kw_only=True):
    """A number that grows by one with each sample of the device."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.coded not in ("u16", "u32", "u64"):
            raise ValueError(f"a sample counter is u16, u32 or u64, not {self.coded}")


class Time(RegisterPlace, frozen=True, kw_only=True):
    """The time of the device's sample, counted from 1970-01-01 UTC."""

    unit: Annotated[Literal["s", "ms", "us"], Meta(description="What it counts.")] = "s"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.coded not in ("u32", "u64", "s64", "f64"):
            raise ValueError(f"a time since 1970 is u32, u64, s64 or f64, not {self.coded}")


class RegisterMap(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The registers of one kind of device: the keys of a map file, which a config may contain too."""

    title: Annotated[str, Meta(max_length=200, description="Name of the device, for people.")] = ""
    source: Annotated[str, Meta(max_length=2_000, description="Where these registers are published.")] = ""
    base: Annotated[
        Literal[0, 1], Meta(description="The number the manual gives to the first register: 0 or 1.")
    ] = 0
    order: Annotated[
        Order,
        Meta(
            description="32 bits as they arrive, a the highest byte: abcd, cdab (words swapped), badc, dcba."
        ),
    ] = "abcd"
    max_registers: Annotated[int, Meta(ge=1, le=MAX_REGISTERS, description="Most of one request.")] = (
        MAX_REGISTERS
    )
    gap: Annotated[
        int, Meta(ge=0, le=124, description="Unused registers that one request may read across.")
    ] = 0
    registers: Annotated[
        dict[str, Register], Meta(max_length=1_000, description="Field name to register.")
    ] = msgspec.field(default_factory=dict)
    identity: Annotated[DeviceIdentity, Meta(description="Identity that the device must report.")] | None = (
        None
    )
    counter: (
        Annotated[Counter, Meta(description="Its sample counter: same counter and values, no row.")] | None
    ) = None
    time: (
        Annotated[Time, Meta(description="Its time of the sample: stamps the rows; each new time is a row.")]
        | None
    ) = None


class NamedMap(Struct, frozen=True, kw_only=True):
    """A map without mistakes, and the place of each entry in its file, for errors."""

    map: RegisterMap
    places: dict[str, str]

    def where(self, name: str) -> str:
        """`file:line:col` of a field, `:time`, `:counter` or `:identity`; the option's name in a config."""
        option = f"option {name[1:]}" if name.startswith(":") else f"option registers.{name}"
        return self.places.get(name, option)


def read_map(path: Path) -> NamedMap:
    """A map file.

    Raises:
        OptionsError: it cannot be read, or has mistakes: the text lists all, each with file:line:col.
    """
    places: dict[str, str] = {}

    def check(found: RegisterMap, marks: Marks) -> Iterator[Mistake]:
        places.update({name: marks.at("registers", name) for name in found.registers})
        places.update({f":{name}": marks.at(name) for name in ("identity", "counter", "time")})
        yield from mistakes(found)

    try:
        return NamedMap(map=config.load(path, RegisterMap, check), places=places)
    except ConfigError as error:
        raise OptionsError(f"map {path.name} cannot be used:\n{error}") from error


def mistakes(found: RegisterMap) -> Iterator[Mistake]:
    """The mistakes that types cannot express."""
    if not found.registers:
        yield ("registers",), "is empty: name at least one field and its register"
    for name in found.registers:
        if not FIELD.fullmatch(name):
            yield ("registers", name), f"{name!r} is not a field name (a-z, 0-9 and '_', a letter first)"
    entries: list[tuple[tuple[str | int, ...], RegisterPlace]] = [
        (("registers", name), register) for name, register in found.registers.items()
    ]
    entries += [
        ((name,), place) for name in ("counter", "time") if (place := getattr(found, name)) is not None
    ]
    expected = found.identity.registers if found.identity else []
    entries += [(("identity", "registers", at), place) for at, place in enumerate(expected)]
    for path, place in entries:
        first = place.register - found.base
        if not 0 <= first <= first + place.words - 1 <= 65_535:
            where = f"{place.kind} {place.register} of {place.words}"
            yield path, f"{where} lies outside 0 to 65535 (`base` is {found.base})"
        elif not place.of_bits and place.words > found.max_registers:
            yield path, f"takes {place.words} registers; max_registers is {found.max_registers}"
