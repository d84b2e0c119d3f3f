"""An offer of another version of a model: its commands, and when the version counts as good."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from wire.errors import WireError

OFFER, UNDO = "model-offer", "model-undo"  # commands of the node itself


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


_GATE = re.compile(r"\s*([a-z0-9_]+)\s*(>=|<=|<|=)\s*([0-9.]+)\s*")
_AT_LEAST = ("results", "shadow")


def read_confirm(text: str) -> Confirm:
    """The gates of `results>=100,nan<0.001,p99_ms<45`; what is not named keeps its default.

    Raises:
        WireError: it is something else.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        gate = _GATE.fullmatch(part)
        if gate is None or gate[1] not in Confirm.__struct_fields__ or gate[3].count(".") > 1:
            names = ", ".join(Confirm.__struct_fields__)
            raise WireError(f"{part[:40]!r} is not a gate such as results>=100 or nan<0.001: {names}")
        if (gate[2] == ">=") is not (gate[1] in _AT_LEAST) and gate[2] != "=":
            raise WireError(f"{part[:40]!r}: write {gate[1]}{'>=' if gate[1] in _AT_LEAST else '<'}")
        found[gate[1]] = float(gate[3]) if "." in gate[3] else int(gate[3])
    try:
        return msgspec.convert(found, Confirm)
    except msgspec.ValidationError as error:
        raise WireError(f"{text[:80]!r}: {error}") from error
