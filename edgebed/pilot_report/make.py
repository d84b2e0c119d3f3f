"""The moment of a report, and how it differs from an earlier one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from collector.pilots.report.canonical_report import MAX_REPORT, read_report, report_bytes
from collector.pilots.report.document import Report
from wire.clock import Clock
from wire.errors import EdgebedError, WireError
from wire.pilot.frozen import Opened
from wire.pilot.schedule import time_zone, utc_ms


def until(text: str | None, newest: Opened, clock: Clock) -> int:
    """The moment of a report: a time in ms, or a local time in the zone of the plan; without it now.

    Raises:
        WireError: it is neither.
    """
    if text is None:
        return clock.now_ms()
    if text.isascii() and text.isdigit() and len(text) < 16:
        return int(text)
    return utc_ms(text, time_zone(newest.plan.plan.windows.tz))


def read_file(path: Path) -> tuple[bytes, Report]:
    """The bytes of a report, and what they mean.

    Raises:
        EdgebedError: it cannot be read, or is not a report.
    """
    try:
        with path.open("rb") as opened:
            body = opened.read(MAX_REPORT + 1)
        return body, read_report(body)
    except OSError as error:
        raise EdgebedError(f"{path} cannot be read: {error.strerror}") from error
    except WireError as error:
        raise EdgebedError(f"{path}: {error}") from error


def difference(body: bytes, given: Report, made: Report) -> str:
    """The first difference of a report from the one that was made again; "" if the bytes are equal.

    The version of the program does not count.
    """
    again = msgspec.structs.replace(made, software=given.software)
    wanted = report_bytes(again)
    if body.rstrip(b"\n") == wanted:
        return ""
    found = next(_differences("", msgspec.json.decode(body), msgspec.json.decode(wanted)), None)
    if found is None:
        return "the values are equal, and its bytes are not canonical JSON"
    path, old, new = found
    return f"{path or 'the document'} is {_shown(old)}, and from the stored data it is {_shown(new)}"


_ABSENT = object()


def _differences(path: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from _differences(
                f"{path}.{name}" if path else name, old.get(name, _ABSENT), new.get(name, _ABSENT)
            )
    elif isinstance(old, list) and isinstance(new, list):
        for at in range(max(len(old), len(new))):
            mine, other = (each[at] if at < len(each) else _ABSENT for each in (old, new))
            yield from _differences(f"{path}[{at}]", mine, other)
    elif old is _ABSENT or new is _ABSENT or old != new or isinstance(old, bool) is not isinstance(new, bool):
        yield path, old, new


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "not there"
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 120 else f"{text[:117]}..."
