"""A child process that ends with its parent, is nicer, and goes first where memory is short."""

from __future__ import annotations

import os
import subprocess
import sys

BEGIN = "import os\nfrom wire.child_process import be_first_to_go, become_nicer, end_with\n"


def run(script: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-c", BEGIN + script], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.strip()


def test_a_child_whose_parent_is_gone_already_ends() -> None:
    assert run(f"end_with({os.getpid()})\nprint('runs')") == (0, "runs")
    assert run(f"end_with({os.getppid()})\nprint('runs')") == (1, "")


def test_a_child_is_nicer_than_its_parent_and_goes_first() -> None:
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    show = "print(os.getpriority(os.PRIO_PROCESS, 0), open('/proc/self/oom_score_adj').read())"
    assert run(f"be_first_to_go()\nbecome_nicer(3)\n{show}") == (0, f"{min(19, mine + 3)} 1000")
