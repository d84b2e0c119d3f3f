"""`python -m tests.fuzz [TARGET ...] [--seconds S]` fuzzes decoders one after the other, `make fuzz` all.

With atheris (the extra `fuzz`) the engine is guided by coverage; without it, inputs are mutated blindly. The
input of an unforeseen exception is kept in test-output/fuzz: commit it to tests/fuzz/found/TARGET and fix it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import random
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

FOUND = Path(__file__).parent / "found"
OUTPUT = Path("test-output/fuzz")


def main() -> int:
    """Run each target in a process of its own; return 1 if one met an unforeseen exception."""
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each target")
    parser.add_argument("--blind", action="store_true", help="do not use atheris")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # the process of one target
    given = parser.parse_args()
    if unknown := set(given.targets) - TARGETS.keys():
        parser.error(f"there is no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    guided = not given.blind and importlib.util.find_spec("atheris") is not None
    if given.one:
        (_guided if guided else _blind)(given.targets[0], given.seconds)
        return 0
    _say(f"{'guided by coverage (atheris)' if guided else 'blind mutation'}, {given.seconds:g} s a target")
    names = given.targets or list(TARGETS)
    failed = [name for name in names if not _run(name, given.seconds, blind=given.blind)]
    _say(f"{len(names) - len(failed)} of {len(names)} targets without an unforeseen exception")
    return 1 if failed else 0


def _run(name: str, seconds: float, *, blind: bool) -> bool:
    command = [sys.executable, "-m", "tests.fuzz", name, "--one", "--seconds", str(seconds)]
    command += ["--blind"] * blind
    began_s = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    text, took_s = done.stdout.decode(errors="replace"), time.monotonic() - began_s
    count = int(found[1]) if (found := re.search(r"number_of_executed_units: (\d+)", text)) else 0
    _say(f"{name:24} {count:>10,} inputs, {count / took_s:>8,.0f}/s: {'FAILED' if done.returncode else 'ok'}")
    if done.returncode:
        _say(text[-6_000:])
    return not done.returncode


def seeds_of(name: str) -> list[bytes]:
    """The inputs that a target starts from: valid ones, and those that once failed."""
    from tests.fuzz.targets import TARGETS

    return [*TARGETS[name].seeds(), *(path.read_bytes() for path in sorted((FOUND / name).glob("*")))]


def _checked(name: str) -> Callable[[bytes], None]:
    """The target as a function that keeps each input with an unforeseen exception, and raises it."""
    from tests.fuzz.targets import TARGETS

    target = TARGETS[name]

    def check(data: bytes) -> None:
        try:
            target.run(data)
        except target.expected:
            return
        except BaseException:
            OUTPUT.mkdir(parents=True, exist_ok=True)
            path = OUTPUT / f"{name}-{hashlib.sha256(data).hexdigest()[:16]}"
            path.write_bytes(data)
            _say(f"unforeseen, with the input {path}:\n{traceback.format_exc()}")
            raise

    return check


def _blind(name: str, seconds: float) -> None:
    from tests.fuzz.mutation import mutated

    check, until_s, count = _checked(name), time.monotonic() + seconds, 0
    for data in mutated(seeds_of(name), random.Random(name)):
        check(data)
        count += 1
        if time.monotonic() > until_s:
            break
    _say(f"number_of_executed_units: {count}")


def _guided(name: str, seconds: float) -> None:
    import atheris

    with (
        tempfile.TemporaryDirectory(prefix="edgebed-fuzz-") as folder,
        atheris.instrument_imports(include=["wire", "adapters", "agent", "collector", "edgebed"]),
    ):
        check = _checked(name)
        for seed in seeds_of(name):
            check(seed)  # imports what the target needs
            (Path(folder) / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
        options = ["-verbosity=0", "-print_final_stats=1", "-max_len=65536", f"-artifact_prefix={folder}/"]
        atheris.Setup([name, *options, f"-max_total_time={max(1, round(seconds))}", folder], check)
        atheris.Fuzz()  # it ends the process


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
