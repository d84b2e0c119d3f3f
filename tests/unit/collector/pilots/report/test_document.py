"""The form of a report: what is written reads back."""

from __future__ import annotations

import msgspec

from collector.pilots.report.document import Finding, PeriodFound, Refusal
from wire.pilot.canonical import canonical


def test_parts_of_a_report_read_back_from_canonical_json() -> None:
    parts = (
        Finding(code="data-changed", where="acme/p1/s1/n1", periods=(3, 4), args={"rows": 7}),
        PeriodFound(index=1, phase="trial", arm="on", start_ms=1, end_ms=2, status="used", value=0.1 + 0.2),
        Refusal(code="too-few-periods", sentence="no", extras={"pairs": 3, "share": None}),
    )
    for part in parts:
        body = canonical(msgspec.to_builtins(part))
        assert msgspec.json.decode(body, type=type(part)) == part
