"""The process that makes a report: a request on stdin, the report or the text of an error on stdout."""

from __future__ import annotations

import errno
import resource
import sys
from pathlib import Path

import msgspec

from collector.pilots.report.canonical_report import report_bytes
from collector.pilots.report.from_store import of_store, values_of_store
from collector.pilots.report.process_wire import (
    ERRORS,
    MAX_MADE,
    NICER,
    ReportRequest,
    Request,
    ValuesRequest,
    named,
)
from wire.child_process import be_first_to_go, become_nicer, end_with
from wire.errors import EdgebedError
from wire.pilot.frozen import read_signed
from wire.pilot.plan import parse


def main() -> int:
    """Run the process; the exit is 0 or one of `ERRORS`."""
    end_with(int(sys.argv[1]))
    be_first_to_go()
    become_nicer(NICER)
    asked = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Request)
    resource.setrlimit(resource.RLIMIT_DATA, (asked.memory, asked.memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        sys.stdout.buffer.write(_made(asked))
    except EdgebedError as error:
        sys.stdout.buffer.write(str(error).encode(errors="replace"))
        return next(status for status, kind in ERRORS.items() if isinstance(error, kind))
    return 0


def _made(asked: Request) -> bytes:
    what, instead = named(asked)
    try:
        made = _report(asked) if isinstance(asked, ReportRequest) else _values(asked)
    except (MemoryError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.ENOMEM:
            raise
        mb = asked.memory / 1e6
        raise EdgebedError(f"{what} needs more than {mb:,.0f} MB of memory: {instead}") from None
    if len(made) > MAX_MADE:
        raise EdgebedError(f"{what} has more than {MAX_MADE / 1e6:.0f} MB: {instead}")
    return made


def _report(asked: ReportRequest) -> bytes:
    versions = [read_signed(each) for each in asked.versions]
    return report_bytes(of_store(Path(asked.store), versions, asked.until_ms))


def _values(asked: ValuesRequest) -> bytes:
    plan = parse(asked.plan, "pilot.yaml")
    return msgspec.json.encode(values_of_store(Path(asked.store), plan, asked.now_ms))


if __name__ == "__main__":
    sys.exit(main())
