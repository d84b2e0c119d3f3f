"""Child processes that can be killed and restarted; each ends with its owner."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from wire.errors import TryAgain

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)  # loaded now: code between fork and exec must not take a lock


class Child:
    """One child process; it can be killed and started again any number of times.

    stdout goes to `log` with the suffix `.out`, stderr to `log`; restarts append to both. The kernel ends the
    process when the thread that started it ends: start it from a thread that lives as long.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self.out = log.with_suffix(".out")
        self.process: subprocess.Popen[bytes] | None = None
        self._printed_before = 0  # bytes of `out` from earlier runs

    @property
    def pid(self) -> int:
        """The process id; 0 while it does not run."""
        return self.process.pid if self.process is not None and self.process.poll() is None else 0

    def start(self) -> None:
        """Start the process without waiting for it."""
        with self.log.open("ab") as log, self.out.open("ab") as out:
            self._printed_before = out.tell()
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                preexec_fn=_die_with_owner,  # noqa: PLW1509 - one prctl call, safe between fork and exec
            )

    def kill(self) -> None:
        """Send SIGKILL, as a power cut ends the process."""
        self.end(signal.SIGKILL)

    def stop(self, deadline_s: float = 30.0) -> int:
        """Send SIGTERM, and SIGKILL after `deadline_s`; return the exit status."""
        return self.end(signal.SIGTERM, deadline_s)

    def ask_to_stop(self) -> None:
        """Send SIGTERM without waiting, to end several processes at once; `stop` waits."""
        if self.pid:
            os.kill(self.pid, signal.SIGTERM)

    def end(self, how: signal.Signals, deadline_s: float = 30.0) -> int:
        """Send one signal and wait for the end; return the exit status, 0 when it did not run."""
        if self.process is None:
            return 0
        process, self.process = self.process, None
        if process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(deadline_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        return process.returncode

    def first_line(self, deadline_s: float = 60.0) -> str:
        """Return the first line that the process printed on stdout since its last start.

        Raises:
            TryAgain: it ended or printed nothing; the text holds the end of its log.
        """
        until = time.monotonic() + deadline_s
        while True:
            printed = self.out.read_bytes()[self._printed_before :] if self.out.exists() else b""
            if b"\n" in printed:
                return printed.split(b"\n", 1)[0].decode(errors="replace")
            if self.process is None or self.process.poll() is not None or time.monotonic() > until:
                raise TryAgain(f"{self.name} did not start: {self.tail() or 'its log is empty'}")
            time.sleep(0.02)

    def tail(self, lines: int = 5) -> str:
        """Return the last lines of the log, for an error message."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.strip().splitlines()[-lines:])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def edgebed_command(*arguments: str) -> list[str]:
    """Return the command line of `edgebed ARGUMENTS` in this environment."""
    script = Path(sysconfig.get_path("scripts")) / "edgebed"
    return [sys.executable, str(script), *arguments]


def _die_with_owner() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:  # the owner ended before the call
        os.kill(os.getpid(), signal.SIGKILL)
