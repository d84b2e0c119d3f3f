"""`python -m tests.mutants.worker` runs unit tests on mutants: it imports libraries once and forks for each.

A line of JSON names the mutated module, its source, the tests and the limits. The answer is a line of JSON.
The working folder is a copy of the tree, in which the module is replaced for the time of the run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

# imported before the fork; the packages of this tree are imported after it, with the change
LIBRARIES = (
    "aiomqtt", "cryptography.x509", "hypothesis.strategies", "msgspec", "numpy", "pytest",
    "pytest_asyncio.plugin", "sqlite3", "yaml", "zstandard",
)  # fmt: skip
MEMORY = 4 << 30  # bytes of address space of a process
OUTPUT = Path(".mutants-output")


def main() -> int:
    """Answer each line of stdin."""
    for name in LIBRARIES:
        importlib.import_module(name)
    register_profile()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(run(**json.loads(line))) + "\n")
        sys.stdout.flush()
    return 0


def register_profile() -> None:
    """Examples are the same in each run, and a failure is not shrunk."""
    from hypothesis import Phase, settings

    phases = (Phase.explicit, Phase.generate)
    settings.register_profile("mutants", deadline=None, derandomize=True, database=None, phases=phases)


def run(path: str, source: str | None, tests: list[str], limit_s: float) -> dict[str, Any]:
    """The exit status of `tests`, with `source` as the module at `path`; None if they took too long."""
    module, whole = Path(path), Path(path).read_text(encoding="utf-8")
    began_s = time.monotonic()
    try:
        if source is not None:
            module.write_text(source, encoding="utf-8")
            # a compiled form from the same second may look up to date
            Path(importlib.util.cache_from_source(path)).unlink(missing_ok=True)
        status = _forked(tests, limit_s, keep=source is None)
    finally:
        module.write_text(whole, encoding="utf-8")
        shutil.rmtree(".hypothesis", ignore_errors=True)
    text = OUTPUT.read_bytes()[-3000:].decode(errors="replace")
    return {"status": status, "took_s": time.monotonic() - began_s, "output": text}


def _forked(tests: list[str], limit_s: float, *, keep: bool) -> int | None:
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            status = _tested(tests, limit_s, keep=keep)
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(status)
    pidfd = os.pidfd_open(pid)
    try:
        ended = bool(select.select([pidfd], [], [], limit_s)[0])
    finally:
        os.close(pidfd)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # with the processes that the tests left
        _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) if ended else None


def _tested(tests: list[str], limit_s: float, *, keep: bool) -> int:
    """Run the tests in this process, which is a fork, until the first one fails."""
    os.setpgid(0, 0)
    with OUTPUT.open("wb") as output:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    if not keep:  # what is compiled from a mutant must not be found by the next run
        sys.dont_write_bytecode, os.environ["PYTHONDONTWRITEBYTECODE"] = True, "1"
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    seconds = int(limit_s) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    import pytest

    options = ["-q", "-x", "-m", "not slow", "--tb=short", "--hypothesis-profile=mutants", "--assert=plain"]
    return int(pytest.main([*options, "-p", "no:cacheprovider", "-p", "no:xdist", *tests]))


if __name__ == "__main__":
    sys.exit(main())
