"""What the collector and the process of a report send each other."""

from __future__ import annotations

from msgspec import Struct

from wire.errors import ConfigError, EdgebedError, TryAgain, WireError

NICER = 10  # than the collector
MAX_MEMORY = 1_500_000_000  # bytes of data that a report may take
MAX_MADE = 16_000_000  # bytes of a report that a collector keeps and renders
# status of the process -> the error whose text is on stdout
ERRORS: dict[int, type[EdgebedError]] = {3: WireError, 4: TryAgain, 5: ConfigError, 6: EdgebedError}


class ReportRequest(Struct, tag="report"):
    """A report to make.

    `store` is the folder, `versions` are signed plans, and `memory` is the most bytes of data.
    """

    store: str
    versions: list[bytes]
    until_ms: int
    memory: int


class ValuesRequest(Struct, tag="values"):
    """The KPIs of a plan, the text of a `pilot.yaml`, in the periods of its baseline."""

    store: str
    plan: str
    now_ms: int
    memory: int


Request = ReportRequest | ValuesRequest


def named(request: Request) -> tuple[str, str]:
    """What is made, in a sentence, and what to do where this process cannot make it."""
    what, command = (
        ("the report", "report") if isinstance(request, ReportRequest) else ("the baseline", "plan")
    )
    return what, f"use `edgebed pilot {command} --store` on the collector's machine"
