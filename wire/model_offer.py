"""An offer of another version of a model: its commands, and when the version counts as good."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from wire.errors import WireError
from wire.printable import printable

OFFER, UNDO = "model-offer", "model-undo"  # commands of the node itself
MAX_ATTEMPT = 2**53
SHADOW_S = 7_200.0  # for the shadow runs of an offer that states no time


class Confirm(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """When an offered version counts as good."""

    results: Annotated[int, Meta(ge=1, le=1_000_000, description="Good results on real input.")] = 100
    nan: Annotated[float, Meta(ge=0, le=1, description="Largest share of results that are NaN.")] = 0.001
    errors: Annotated[float, Meta(ge=0, le=1, description="Largest share of runs that fail.")] = 0.01
    p99_ms: Annotated[float, Meta(ge=0, description="99 of 100 results take at most this, 0 = any.")] = 0.0
    soak_s: Annotated[
        float, Meta(gt=0, le=2_592_000, description="Time in which the good results must come.")
    ] = 600.0
    shadow: Annotated[
        int, Meta(ge=0, le=1_000_000, description="Good results before it runs, which act on nothing.")
    ] = 0
    # without it the same as an offer of the first release, which agents of that release refuse to have more
    shadow_s: (
        Annotated[
            float,
            Meta(gt=0, le=2_592_000, description="Time in which those must come; else --timeout, or 7,200."),
        ]
        | UnsetType
    ) = UNSET


_GATE = re.compile(r" *([a-z0-9_]+) *(>=|<=|<|>|=) *([0-9]{1,12}(?:\.[0-9]{1,12})?(?:e-?[0-9]{1,2})?) *")
_WITH_UNIT = re.compile(r" *([a-z0-9_]+) *(>=|<=|<|>|=) *([0-9.]{1,25}) *[a-zA-Z]{1,12} *")
_AT_LEAST = ("results", "shadow")


def read_confirm(text: str) -> Confirm:
    """The gates of `results>=100,nan<0.001,p99_ms<45`; what is not named keeps its default.

    Raises:
        WireError: it is something else; its text names the gate.
    """
    found: dict[str, float] = {}
    for number, part in enumerate(text.split(","), 1):
        at = f"gate {number}, {printable(part.strip(), 40)!r},"
        if not part.strip():
            raise WireError(f"gate {number} is empty: write such as results>=100 between the commas")
        gate = _GATE.fullmatch(part)
        unit = None if gate is not None else _WITH_UNIT.fullmatch(part)
        if unit is not None and unit[1] in Confirm.__struct_fields__:
            raise WireError(f"{at} has a unit: write a number alone, such as {unit[1]}{unit[2]}{unit[3]}")
        if gate is None or gate[1] not in Confirm.__struct_fields__:
            names = ", ".join(Confirm.__struct_fields__)
            raise WireError(f"{at} is not a gate such as results>=100 or nan<0.001 of {names}")
        name, sign = gate[1], gate[2]
        if sign not in ((">=", "=") if name in _AT_LEAST else ("<", "<=", "=")):
            raise WireError(
                f"{at} has the wrong sign: write {name}{'>=' if name in _AT_LEAST else '<'}{gate[3]}"
            )
        if name in found:
            raise WireError(f"{at} names {name} a second time: write it once")
        found[name] = float(gate[3])
        try:
            msgspec.convert({name: found[name]}, Confirm, strict=False)
        except msgspec.ValidationError as error:
            raise WireError(f"{at} has a wrong number: {_wanted(error)}") from error
        if name == "p99_ms" and sign != "=" and not found[name]:
            raise WireError(f"{at} holds for no result: leave it out where any time is good")
    return msgspec.convert(found, Confirm, strict=False)


def _wanted(error: msgspec.ValidationError) -> str:
    """What a number must be, in words."""
    found = str(error).partition(" - at")[0].partition(", got")[0].replace("Expected", "expected")
    return found.replace("`int`", "a whole number").replace("`float`", "a number")
