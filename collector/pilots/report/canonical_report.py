"""The bytes of a report: canonical JSON, so that equal reports have equal bytes on every machine."""

from __future__ import annotations

import msgspec

from collector.pilots.report.document import REPORT_FORMAT, Report
from wire.errors import WireError
from wire.pilot.canonical import canonical
from wire.printable import printable

MAX_REPORT = 64_000_000


def report_bytes(report: Report) -> bytes:
    """The canonical JSON of a report (RFC 8785)."""
    return canonical(msgspec.to_builtins(report))


def read_report(body: bytes) -> Report:
    """Read a report from its JSON.

    Raises:
        WireError: it is something else, or of a newer format.
    """
    if len(body) > MAX_REPORT:
        raise WireError(f"the report has {len(body):,} bytes; {MAX_REPORT:,} are allowed")
    try:
        found = msgspec.json.decode(body, type=Report)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise WireError(f"it is not a report of a pilot: {printable(error, 200)}") from error
    if found.format != REPORT_FORMAT:
        raise WireError(
            f"its format is {printable(found.format, 40)}, and this program reads {REPORT_FORMAT}"
        )
    return found
