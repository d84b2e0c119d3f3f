"""Regression: one number for each named field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

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


class RegressionOptions(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """`output` of a manifest with `decoder: regression`."""

    fields: Annotated[
        dict[str, Quantity],
        Meta(min_length=1, max_length=256, description="Field name to quantity, in the model's order."),
    ]


class Regression(Decoder):
    """The outputs together hold one number per field."""

    Options = RegressionOptions

    def __init__(
        self, options: RegressionOptions, outputs: Sequence[Tensor], _size: tuple[int, int] | None
    ) -> None:
        for name in options.fields:
            if not FIELD.fullmatch(name):
                raise ModelError(f"output.fields: {name!r} is not [a-z][a-z0-9_]*, 48 characters at most")
        sizes = [size_of(output) for output in outputs]
        if -1 not in sizes and sum(sizes) != len(options.fields):
            raise ModelError(
                f"output.fields names {len(options.fields)} numbers, the model gives {sum(sizes)} "
                f"({shown(outputs)})"
            )
        self._quantities = dict(options.fields)

    def fields(self) -> dict[str, Field]:
        """The manifest's fields."""
        return {name: Field(t="f32", unit=q.unit, dec=q.dec) for name, q in self._quantities.items()}

    def decode(self, outputs: Outputs, _placement: Placement | None) -> Result:
        """One value per field; null where the number is not finite."""
        row = joined(outputs)
        if len(row) != len(self._quantities):
            raise ModelError(f"the model gave {len(row)} numbers for {len(self._quantities)} fields")
        values: dict[str, Scalar] = {
            name: number(value * q.scale + q.offset)
            for value, (name, q) in zip(row, self._quantities.items(), strict=True)
        }
        return Result(values)
