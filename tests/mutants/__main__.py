"""`python -m tests.mutants` changes the code in one place at a time and shows what no unit test notices.

Each mutant of a seeded sample runs against the unit tests that mirror its module, in a copy of the tree. The
exit code is 1 if they notice less than 85 %. Mutants of equivalent.yaml, which no test can notice, do not
count.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tests.mutants.equivalents import equivalents
from tests.mutants.mutations import Mutant, modules, sample
from tests.unit.test_mirror import suite_of

ROOT = Path(__file__).parents[2]
AREAS = ("wire", "agent/outbox", "collector/ledger")
LEFT_OUT = ROOT / "wire/mqtt"  # its tests talk to brokers: a run of each takes too long; --only takes it
AIM = 0.85


def main() -> int:
    """Run a sample of mutants and print the score and the survivors."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", metavar="PATH", nargs="+", help=f"default: {' '.join(AREAS)}")
    parser.add_argument("--sample", type=int, default=400, help="how many mutants (400)")
    parser.add_argument("--seed", type=int, default=1, help="another seed takes another sample (1)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (one for each CPU)")
    given = parser.parse_args()
    areas = given.only or AREAS
    found = [path for path in modules(ROOT, areas) if given.only or not path.is_relative_to(LEFT_OUT)]
    if not found:
        parser.error(f"no module at {', '.join(areas)}")
    suites = {path.relative_to(ROOT).as_posix(): suite(path) for path in found}
    for name in [name for name, tests in suites.items() if not (ROOT / tests).is_file()]:
        say(f"{name} is left out: {suites.pop(name)} does not exist")
    mutants = sample(ROOT, list(suites), given.sample, given.seed)
    say(f"{len(mutants)} mutants of {len(found)} modules, seed {given.seed}")
    with tempfile.TemporaryDirectory(prefix="edgebed-mutants-") as folder:
        outcomes = tested(mutants, suites, Path(folder), given.jobs)
    return report(outcomes, areas)


def suite(module: Path) -> str:
    """The unit tests that mirror a module."""
    name = ".".join(module.relative_to(ROOT).with_suffix("").parts)
    return suite_of(name).relative_to(ROOT).as_posix()


Outcome = tuple[Mutant, str]  # killed, timeout or survived


def tested(mutants: list[Mutant], suites: dict[str, str], folder: Path, jobs: int) -> list[Outcome]:
    """What became of each mutant."""
    first = folder / "0"
    copy_tree(first)
    with Worker(first) as worker:
        limits = {one: limit(worker, one) for one in sorted({suites[mutant.path] for mutant in mutants})}
    free: SimpleQueue[Worker] = SimpleQueue()
    said = threading.Lock()

    def test(mutant: Mutant) -> Outcome:
        worker = free.get()
        try:
            tests = suites[mutant.path]
            answer = worker.run(mutant.path, mutant.source, [tests], limits[tests])
        finally:
            free.put(worker)
        outcome = {0: "survived", None: "timeout"}.get(answer["status"], "killed")
        if outcome == "survived":
            with said:
                say(f"\nsurvived: {mutant.path}:{mutant.line} {mutant.scope}\n{mutant.diff}")
        return mutant, outcome

    with workers(first, jobs) as every, ThreadPoolExecutor(jobs) as pool:
        for worker in every:
            free.put(worker)
        outcomes: list[Outcome] = []
        for outcome in pool.map(test, mutants):
            outcomes.append(outcome)
            if not len(outcomes) % 50:
                say(f"... {len(outcomes)} of {len(mutants)}")
        return outcomes


def limit(worker: Worker, tests: str) -> float:
    """Seconds for tests of a mutant: several times what they take without one."""
    answer = worker.run("wire/__init__.py", None, [tests], 900)
    if answer["status"] != 0:
        sys.exit(f"{tests} fails without a mutant:\n{answer['output']}")
    return 10 + 3 * float(answer["took_s"])


@contextmanager
def workers(first: Path, jobs: int) -> Iterator[list[Worker]]:
    """`jobs` workers, each with a copy of the tree; with the compiled files of the first copy."""
    for number in range(1, jobs):
        shutil.copytree(first, first.with_name(str(number)), symlinks=True)
    every = [Worker(first.with_name(str(number))) for number in range(jobs)]
    try:
        yield every
    finally:
        for worker in every:
            worker.close()


class Worker:
    """A process that tests mutants in its copy of the tree, one after the other."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.mutants.worker"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder), "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout

    def run(self, path: str, source: str | None, tests: list[str], limit_s: float) -> dict[str, Any]:
        """The answer of `tests.mutants.worker.run`."""
        question = {"path": path, "source": source, "tests": tests, "limit_s": limit_s}
        self._input.write(json.dumps(question) + "\n")
        self._input.flush()
        answer: dict[str, Any] = json.loads(self._output.readline())
        return answer

    def close(self) -> None:
        """End the process."""
        self._input.close()
        self._process.wait()
        self._output.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def copy_tree(folder: Path) -> None:
    """Copy the files of the checkout that git does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def report(outcomes: list[Outcome], areas: Iterable[str]) -> int:
    """Print the score of each area; 1 if that of all is below the aim."""
    listed = {(one.path, one.scope, one.before, one.after) for one in equivalents()}

    def is_listed(mutant: Mutant) -> bool:
        return (mutant.path, mutant.scope, mutant.before, mutant.after) in listed

    for mutant, outcome in outcomes:
        if outcome != "survived" and is_listed(mutant):
            say(f"killed, although equivalent.yaml lists it: {mutant.path}:{mutant.line}\n{mutant.diff}")
    say("\narea | mutants | killed | timeout | survived | equivalent | score\n---|---|---|---|---|---|---")
    score = 1.0
    for area in (*areas, ""):
        those = [one for one in outcomes if one[0].path.startswith(area)]
        equivalent = sum(is_listed(mutant) for mutant, outcome in those if outcome == "survived")
        killed, late, alive = (
            sum(outcome == word for _, outcome in those) for word in ("killed", "timeout", "survived")
        )
        score = (killed + late) / max(1, len(those) - equivalent)
        counts = (len(those), killed, late, alive - equivalent, equivalent)
        say(" | ".join([area or "all", *map(str, counts), f"{score:.1%}"]))
    return int(score < AIM)


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a command line tool


if __name__ == "__main__":
    sys.exit(main())
