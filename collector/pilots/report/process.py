"""Makes a report in a process of its own: it takes nothing from the threads that store messages."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec

from collector.pilots.report.process_wire import (
    ERRORS,
    MAX_MEMORY,
    ReportRequest,
    Request,
    ValuesRequest,
    named,
)
from wire.errors import ConfigError, EdgebedError, TryAgain
from wire.pilot.frozen import Opened, envelope

log = logging.getLogger(__name__)

_CHILD = "collector.pilots.report.process_child"
_LOGGED = 20  # lines of what the child wrote
_ENDED = "the collector stops: ask again when it runs"


class ReportProcess:
    """Makes one report at a time of the store in a folder, or values of a plan, in a process of its own."""

    def __init__(self, store: Path, memory: int = MAX_MEMORY) -> None:
        self._store = store
        self._memory = memory
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._is_closed = False

    @property
    def pid(self) -> int:
        """The process that makes a report; 0 if there is none."""
        child = self._child
        return 0 if child is None else child.pid

    def make(self, versions: Sequence[Opened], until_ms: int, longest_s: float) -> bytes:
        """The report of a pilot as canonical JSON. Blocks; call it from a thread that lives as long.

        Raises:
            TryAgain: it took longer than `longest_s`, or `close` was called.
            EdgebedError: as `assemble`, or it needs too much memory.
        """
        signed = [msgspec.json.encode(envelope(each.payload, each.signatures)) for each in versions]
        return self._made(ReportRequest(str(self._store), signed, until_ms, self._memory), longest_s)

    def values(self, plan: str, now_ms: int, longest_s: float) -> bytes:
        """The values of the baseline of a plan, a `pilot.yaml`, as JSON. Blocks and raises as `make`."""
        return self._made(ValuesRequest(str(self._store), plan, now_ms, self._memory), longest_s)

    def _made(self, request: Request, longest_s: float) -> bytes:
        what, instead = named(request)
        with self._lock:
            if self._is_closed:
                raise TryAgain(_ENDED)
            child = self._child = self._started()
        try:
            made, written = child.communicate(msgspec.msgpack.encode(request), timeout=longest_s)
        except subprocess.TimeoutExpired:
            raise TryAgain(f"{what} was not made within {longest_s:.0f} s: {instead}") from None
        finally:
            with self._lock:
                self._child = None
            child.kill()
            child.communicate()
        lines = written.decode(errors="replace").strip().splitlines()
        return self._body(what, instead, child.returncode, made, lines)

    def close(self) -> None:
        """Kill the process of the report that is being made, and make no more."""
        with self._lock:
            self._is_closed = True
            if self._child is not None:
                self._child.kill()

    @staticmethod
    def _started() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", _CHILD, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )

    def _body(self, what: str, instead: str, status: int, made: bytes, written: Sequence[str]) -> bytes:
        if status == 0:
            for line in written[:_LOGGED]:
                log.warning("%s", line[:1_000])
            return made
        if status in ERRORS:
            text = made.decode(errors="replace")
            kind = ERRORS[status]
            raise kind(*text.split("\n")) if issubclass(kind, ConfigError) else kind(text)
        if self._is_closed:
            raise TryAgain(_ENDED)
        if status < 0:
            why = f"signal {-status} ended its process, perhaps because memory was short: {instead}"
        else:
            why = written[-1][:300] if written else f"its process ended with {status}"
        raise EdgebedError(f"{what} was not made: {why}")
