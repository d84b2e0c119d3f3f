"""The tool changes behaviour and nothing else, notices what a test notices, and its list is not stale."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.mutants.equivalents import equivalents

ROOT = Path(__file__).parents[2]
SOURCE = textwrap.dedent(
    '''
    """A module."""
    from __future__ import annotations
    import logging
    log = logging.getLogger(__name__)
    Pair = tuple[int, int]

    def most(one: int, other: int | None) -> int:
        """The larger."""
        log.info("asked for %d", one + 1)
        if other is None:
            raise ValueError
        return max(one, other)
    '''
)


@pytest.mark.parametrize("entry", equivalents(), ids=lambda entry: f"{entry.path}:{entry.scope}")
def test_an_entry_of_the_list_fits_the_code_and_has_a_reason(entry: object) -> None:
    assert entry.why  # type: ignore[attr-defined]
    assert entry.after != entry.before  # type: ignore[attr-defined]
    lines = {line.strip() for line in (ROOT / entry.path).read_text().splitlines()}  # type: ignore[attr-defined]
    gone = [line for line in entry.before.splitlines() if line not in lines]  # type: ignore[attr-defined]
    assert not gone, "the code has changed: is the new form equivalent too?"


def test_a_sample_changes_behaviour_alone_and_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    pytest.importorskip("mutmut", reason="mutmut is not installed: pip install 'edgebed[dev]'")
    from tests.mutants.mutations import sample

    (tmp_path / "thing.py").write_text(SOURCE)
    found = sample(tmp_path, ["thing.py"], 100, 1)
    assert {(one.line, one.scope) for one in found} == {(5, ""), (11, "most"), (12, "most"), (13, "most")}
    taken = {(one.before, one.after) for one in sample(tmp_path, ["thing.py"], 2, 1)}
    assert len(taken) == 2
    assert taken == {(one.before, one.after) for one in sample(tmp_path, ["thing.py"], 2, 1)}
    samples = {tuple(one.diff for one in sample(tmp_path, ["thing.py"], 2, seed)) for seed in range(20)}
    assert len(samples) > 1


def test_a_worker_notices_what_the_tests_notice(tmp_path: Path) -> None:
    """It puts the module back, and a mutant that never ends is stopped."""
    (tmp_path / "thing.py").write_text(SOURCE)
    test = "from thing import most\n\ndef test_most():\n    assert most(1, 2) == 2\n"
    (tmp_path / "test_thing.py").write_text(test)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    script = textwrap.dedent(
        """
        from tests.mutants.worker import register_profile, run
        register_profile()
        whole = open("thing.py").read()
        for old, new in (("", ""), ("max", "min"), ("is None", "is ..."), ("return max", "while True: max")):
            source, limit_s = whole.replace(old, new) if old else None, 2 if "while" in new else 60
            print(run("thing.py", source, ["test_thing.py"], limit_s)["status"])
        print(open("thing.py").read() == whole)
        """
    )
    # the tools of this checkout, the code of the folder
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split()[:3] == ["0", "1", "0"]
    assert done.stdout.split()[3:] in (["None", "True"], ["-24", "True"])  # the clock or the CPU limit
