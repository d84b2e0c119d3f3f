"""Options of the OBD-II adapter, and their check."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from msgspec import Meta

from adapters.base import OptionsError
from adapters.can.options import BusOptions
from adapters.obd.pids import PIDS


class ObdOptions(BusOptions, frozen=True, kw_only=True):
    """One control unit and the measurements to ask for."""

    pids: Annotated[
        list[str], Meta(min_length=1, max_length=40, description="Measurements by name, see the list below.")
    ]
    period_s: Annotated[
        float, Meta(ge=0.05, le=3_600, description="Seconds between two polls of all measurements.")
    ] = 1.0
    stream: Annotated[str, Meta(description="Name of the stream.")] = "obd"
    extended: Annotated[bool, Meta(description="29-bit ids for request_id and answer_id.")] = False
    request_id: Annotated[
        int, Meta(ge=0, le=0x1FFFFFFF, description="Id of requests: 0x7DF = all units, 0x7E0 = engine or EV.")
    ] = 0x7DF
    answer_id: Annotated[int, Meta(ge=0, le=0x1FFFFFFF, description="Id of the control unit's answers.")] = (
        0x7E8
    )
    answer_s: Annotated[float, Meta(gt=0, le=60, description="Seconds that an answer may take.")] = 1.0
    vin: Annotated[
        str,
        Meta(max_length=80, description="The VIN it must have, or sha256:HEX of it; empty = any."),
    ] = ""
    send_vin: Annotated[
        Literal["no", "hash", "plain"],
        Meta(description="Put the VIN in each row; it is personal data, and its hash a pseudonym."),
    ] = "no"


def check(options: ObdOptions) -> None:
    unknown = [name for name in options.pids if name not in PIDS]
    if unknown:
        raise OptionsError(f"pids: {', '.join(unknown)} is unknown; there are {', '.join(PIDS)}")
    if len(set(options.pids)) != len(options.pids):
        raise OptionsError("pids: each name may be there once")
    if options.extended:
        if options.answer_id >> 8 != 0x18DAF1:
            raise OptionsError("answer_id of 29 bits is 0x18DAF1xx: from a control unit to the tester")
    elif not 0x7E8 <= options.answer_id <= 0x7EF or options.request_id > 0x7FF:
        raise OptionsError("answer_id is 0x7E8 to 0x7EF and request_id at most 0x7FF, or set `extended`")
    sha = re.fullmatch("sha256:[0-9a-fA-F]{64}", options.vin)
    if options.vin and not sha and not re.fullmatch("[A-HJ-NPR-Z0-9]{17}", options.vin):
        raise OptionsError("vin is neither the 17 characters of a VIN nor sha256: and 64 hex digits")
