"""Options that describe a field, for adapters whose devices do not describe their fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from adapters.base import OptionsError
from wire.messages import Field, Stream


class FieldOptions(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Base of the structs that describe a field and its source."""

    t: Annotated[Literal["f32", "f64", "i64", "bool", "str"], Meta(description="Type of the field.")] = "f64"
    unit: Annotated[str, Meta(max_length=128, description="UCUM code, e.g. deg, N.m, Cel.")] = ""
    dec: Annotated[int, Meta(ge=0, le=12, description="Decimals that travel.")] | UnsetType = UNSET
    min: Annotated[float, Meta(description="Values below are flagged.")] | UnsetType = UNSET
    max: Annotated[float, Meta(description="Values above are flagged.")] | UnsetType = UNSET
    desc: Annotated[str, Meta(max_length=2_000, description="A description for people.")] = ""


def declared(fields: Mapping[str, FieldOptions]) -> dict[str, Field]:
    """The fields as a stream declares them.

    Raises:
        OptionsError: a name is not allowed by the wire format.
    """
    found = {
        name: Field(t=given.t, unit=given.unit, dec=given.dec, min=given.min, max=given.max, desc=given.desc)
        for name, given in fields.items()
    }
    try:
        Stream(fields=found)  # it checks the names
    except ValueError as error:
        raise OptionsError(str(error)) from error
    return found
