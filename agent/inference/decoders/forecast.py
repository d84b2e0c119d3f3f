"""Forecast: values at later times, each a field that states its time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta, Struct

from agent.inference.decoders.base import (
    Decoder,
    ModelError,
    Outputs,
    Placement,
    Quantity,
    Result,
    Tensor,
    joined,
    number,
    shown,
    size_of,
)
from wire.messages import Field, Scalar
from wire.topics import FIELD

_MOST = 256  # fields of a row
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


class ForecastOptions(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """`output` of a manifest with `decoder: forecast`."""

    fields: Annotated[
        dict[str, Quantity],
        Meta(
            min_length=1,
            max_length=_MOST,
            description="What is forecast, in the model's order; `load` gives load_in_1_h, load_in_2_h, ...",
        ),
    ]
    steps: Annotated[int, Meta(ge=1, le=_MOST, description="Times that are forecast.")]
    step_s: Annotated[
        float, Meta(ge=0.001, le=1e9, description="Seconds from the newest row to the first time, and so on.")
    ]
    layout: Annotated[
        Literal["time-field", "field-time"],
        Meta(description="The outputs have all fields of a time together, or all times of a field."),
    ] = "time-field"


class Forecast(Decoder):
    """The outputs together hold one number for each field and time."""

    Options = ForecastOptions

    def __init__(
        self, options: ForecastOptions, outputs: Sequence[Tensor], _size: tuple[int, int] | None
    ) -> None:
        numbers = options.steps * len(options.fields)
        if numbers > _MOST:
            raise ModelError(f"output.steps: {numbers} fields in a row; {_MOST} are allowed")
        sizes = [size_of(output) for output in outputs]
        if -1 not in sizes and sum(sizes) != numbers:
            raise ModelError(
                f"output.steps and fields make {numbers} numbers, the model gives {sum(sizes)} "
                f"({shown(outputs)})"
            )
        times = [options.step_s * (step + 1) for step in range(options.steps)]
        by_time = options.layout == "time-field"
        order = (
            [(name, after_s) for after_s in times for name in options.fields]
            if by_time
            else [(name, after_s) for name in options.fields for after_s in times]
        )
        self._columns = [
            (f"{name}_in_{span(after_s)}", options.fields[name], f"{after_s:g} s after the row's time")
            for name, after_s in order
        ]
        names = [name for name, _, _ in self._columns]
        for name in names:
            if not FIELD.fullmatch(name) or names.count(name) > 1:
                raise ModelError(f"output.fields: {name!r} is not [a-z][a-z0-9_]*, 48 characters, and once")

    def fields(self) -> dict[str, Field]:
        """One field for each quantity and time; its description has the time in seconds."""
        return {name: Field(t="f32", unit=q.unit, dec=q.dec, desc=when) for name, q, when in self._columns}

    def decode(self, outputs: Outputs, _placement: Placement | None) -> Result:
        """One value per field; null where the number is not finite."""
        row = joined(outputs)
        if len(row) != len(self._columns):
            raise ModelError(f"the model gave {len(row)} numbers for {len(self._columns)} fields")
        values: dict[str, Scalar] = {
            name: number(value * q.scale + q.offset)
            for value, (name, q, _) in zip(row, self._columns, strict=True)
        }
        return Result(values)


def span(seconds: float) -> str:
    """A time as part of a field name: `5_min`, `1_h`, `90_s`, `20_ms`."""
    for size, unit in _UNITS:
        count = seconds / size
        if abs(count - round(count)) < 1e-6 and round(count):
            return f"{round(count)}_{unit}"
    return f"{round(seconds * 1e3)}_ms"
