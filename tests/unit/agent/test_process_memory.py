"""Process memory: program text leaves the resident size and comes back when it is needed."""

from __future__ import annotations

import subprocess
import sys

_SCRIPT = """
import gc
from pathlib import Path
import numpy
from agent.process_memory import unmap_program_text, use_one_heap

def resident_file_kb():
    return int(Path("/proc/self/status").read_text().split("RssFile:")[1].split()[0])

use_one_heap()
before = resident_file_kb()
unmap_program_text()
after = resident_file_kb()
assert gc.get_freeze_count() > 0
assert numpy.linalg.inv(numpy.eye(3)).tolist() == numpy.eye(3).tolist()  # the text is mapped again
print(before, after)
"""


def test_unmapped_text_leaves_the_resident_size_and_still_runs() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True)
    before_kb, after_kb = map(int, done.stdout.split())
    assert after_kb < before_kb
