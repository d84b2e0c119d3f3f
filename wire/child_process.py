"""What a child process does first: it ends with its parent, and leaves the processor to it."""

from __future__ import annotations

import ctypes
import os
import signal
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>


def end_with(parent: int) -> None:
    """End when the thread of `parent` that started this process ends; the kernel sends SIGKILL."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)


def be_first_to_go() -> None:
    """Where memory is short, the kernel ends this process before its parent."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def become_nicer(by: int) -> None:
    """Become nicer where a child of this process can: a filter of system calls may end who tries."""
    child = os.fork()
    if child == 0:
        with suppress(OSError):
            os.nice(by)
            os._exit(0)
        os._exit(1)
    if os.waitpid(child, 0)[1] == 0:
        os.nice(by)
