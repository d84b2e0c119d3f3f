"""Options of the Modbus adapter, and the register map that they name or contain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from adapters.base import Options, OptionsError, allowed_write
from adapters.modbus.reader import RegisterReader
from adapters.modbus.register_map import NamedMap, RegisterMap, mistakes, read_map
from adapters.modbus.session import ModbusConnection
from adapters.modbus.set_point import ModbusSetPoint, ModbusWrite
from adapters.modbus.url import ModbusUrl


class ModbusOptions(Options, RegisterMap, frozen=True, kw_only=True):
    """Either `map` names a file of registers, or the config contains its keys (`registers`, ...)."""

    url: Annotated[
        str,
        Meta(
            max_length=2_000, description="tcp://host:502, rtu+tcp://host:port, rtu:///dev/ttyUSB0?baud=9600"
        ),
    ]
    unit_id: Annotated[int, Meta(ge=0, le=255, description="Unit behind the url; 1 to 247 on RTU.")] = 1
    map: Annotated[Path, Meta(description="File that names the registers.")] | None = None
    stream: Annotated[str, Meta(description="Name of the stream.")] = "signals"
    period_s: Annotated[
        float, Meta(ge=0.001, le=86_400, description="Sample period of the device; a row each.")
    ] = 1.0
    polls: Annotated[
        int,
        Meta(
            ge=1,
            le=10,
            description="Polls a period; 2 for a drifting device clock, with a counter or time.",
        ),
    ] = 1
    timeout_s: Annotated[
        float, Meta(ge=0.01, le=30, description="Seconds that an answer, or connecting, may take.")
    ] = 1.0
    retries: Annotated[int, Meta(ge=0, le=10, description="How often a request is repeated.")] = 2
    data_age_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400,
            description="Seconds without a new sample until stalled; 0 = five periods, at least 5 s.",
        ),
    ] = 0.0
    max_skew_s: Annotated[
        float, Meta(gt=0, description="A device clock that is off by more is not believed.")
    ] = 86_400.0
    allow_write: Annotated[bool, Meta(description="A pilot may set the register of `write`.")] = False
    write: (
        Annotated[ModbusWrite, Meta(description="The register that a pilot may set, and its limits.")] | None
    ) = None


def map_of(options: ModbusOptions) -> NamedMap:
    inline = {name: getattr(options, name) for name in RegisterMap.__struct_fields__}
    own = RegisterMap(**inline)
    if options.map is None:
        wrong = [f"{'.'.join(map(str, path))}: {mistake}" for path, mistake in mistakes(own)]
        if not own.registers:
            raise OptionsError(
                "no registers: set `map: FILE.yaml`, or `registers` with a field name for each"
            )
        if wrong:
            raise OptionsError("; ".join(wrong))
        return NamedMap(map=own, places={})
    for info in msgspec.structs.fields(RegisterMap):
        empty = RegisterMap()
        if getattr(own, info.name) != getattr(empty, info.name):
            raise OptionsError(
                f"`{info.name}` belongs into the map file: set either `map` or the keys of a map"
            )
    return read_map(options.map)


def set_point_of(
    options: ModbusOptions, named: NamedMap, reader: RegisterReader, session: ModbusConnection
) -> ModbusSetPoint | None:
    if (write := allowed_write(options.write, allow_write=options.allow_write)) is None:
        return None
    if not options.unit_id:
        raise OptionsError("unit_id 0 can be every unit behind a gateway: write to one unit")
    return ModbusSetPoint(write, named, reader, session)


def check(options: ModbusOptions, line: ModbusUrl) -> None:
    if line.kind != "tcp" and not 1 <= options.unit_id <= 247:
        raise OptionsError(f"unit_id {options.unit_id} is not a unit of a serial line: set 1 to 247")
    if 0 < options.data_age_s <= options.period_s:
        raise OptionsError(
            f"data_age_s {options.data_age_s:g} is not above period_s {options.period_s:g}: all would be late"
        )
