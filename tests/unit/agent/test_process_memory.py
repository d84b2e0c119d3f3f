"""Process memory: text and freed memory leave the resident size; pictures use the same memory again."""

from __future__ import annotations

import subprocess
import sys

import pytest

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


_PICTURES = """
import ctypes, resource
from collections import deque
from pathlib import Path
from agent.process_memory import keep_memory_of_pictures, return_free_memory, use_one_heap

def resident_kb():
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0])

use_one_heap()
if {keep}:
    keep_memory_of_pictures()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
size, held, faults = 1_300_000, deque(), 0
for picture in range(200):
    held.append(libc.malloc(size))
    ctypes.memset(held[-1], 1, size)
    if len(held) == 6 or picture % 20 == 0:  # six wait for the model, sometimes fewer
        while held:
            libc.free(ctypes.c_void_p(held.popleft()))
    if picture == 100:
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
before = resident_kb()
return_free_memory()
print(before - resident_kb())
"""


@pytest.mark.parametrize(("keep", "page_faults"), [(True, range(100)), (False, range(1_000, 100_000))])
def test_pictures_use_the_same_memory_again(keep: bool, page_faults: range) -> None:
    """Of 99 pictures of 318 pages each; without the setting malloc asks the kernel for other pages."""
    script = _PICTURES.replace("{keep}", str(keep))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    faults, returned_kb = map(int, done.stdout.split())
    assert faults in page_faults
    assert not keep or returned_kb > 5_000, "what is free goes back when it is asked for"
