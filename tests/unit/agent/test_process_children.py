"""The CPU time and the memory of worker processes are those of the agent."""

from __future__ import annotations

import os
import subprocess
import sys

from agent import process_children, process_memory
from tests.polling import wait_until

BUSY = "import sys\nx = bytearray(30_000_000)\nsys.stdin.read(1)\nwhile True: sum(range(10_000))"


def test_a_worker_counts_while_it_runs_and_its_cpu_time_stays() -> None:
    before_s = process_children.cpu_s()
    child = subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE)
    process_children.started(child.pid)
    try:
        wait_until(lambda: process_children.private_mb(child.pid) > 30)
        assert process_children.rss_mb() > process_memory.rss_mb() + 25
        child.communicate(b"x", timeout=0.01)
    except subprocess.TimeoutExpired:
        wait_until(lambda: process_children.running_cpu_s() > 0.3)
        assert process_children.cpu_s() - before_s > 0.3
    finally:
        child.kill()
        _, _, used = os.wait4(child.pid, 0)
        child.returncode = -9
        process_children.ended(child.pid, used.ru_utime + used.ru_stime)
    assert process_children.running_cpu_s() == 0
    assert process_children.cpu_s() - before_s > 0.3
    assert process_children.private_mb(child.pid) == 0, "it is gone"
