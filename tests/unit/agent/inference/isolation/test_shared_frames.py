"""Pictures in memory that workers read: one copy for all, and no way to change or shorten it."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from agent.inference.isolation.shared_frames import Part, SharedFrames


def picture(value: int, side: int = 200) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


def seen(part: Part, size: int) -> bytes:
    return os.pread(part.descriptor, size, 0)


@pytest.fixture
def frames() -> SharedFrames:
    return SharedFrames()


def test_a_picture_is_copied_once_for_all_that_read_it(frames: SharedFrames) -> None:
    shared = picture(7)
    first = frames.take(shared, lasting=True)
    assert frames.take(shared, lasting=True) is first
    frames.release(first)
    frames.release(first)
    other = frames.take(picture(8), lasting=True)
    assert other is not first, "the first picture is still in use"
    assert frames.take(shared, lasting=True) is first, "a model that comes later finds it too"
    assert frames.copies == 2
    assert seen(first, shared.nbytes) == shared.tobytes()
    frames.close()


def test_what_may_change_is_copied_each_time(frames: SharedFrames) -> None:
    changing = picture(1)
    part = frames.take(changing, lasting=False)
    frames.release(part)
    changing[:] = 2
    part = frames.take(changing, lasting=False)
    assert frames.copies == 2
    assert seen(part, changing.nbytes) == changing.tobytes()
    frames.close()


def test_a_slice_is_copied_in_its_own_order(frames: SharedFrames) -> None:
    sliced = np.arange(300 * 300 * 3, dtype=np.uint32).astype(np.uint8).reshape(300, 300, 3)[::-2, ::3]
    part = frames.take(sliced, lasting=True)
    assert seen(part, sliced.nbytes) == sliced.tobytes()
    frames.close()


def test_few_parts_are_kept_however_many_sizes_come(frames: SharedFrames) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for side in range(200, 900, 10):
        part = frames.take(picture(1, side), lasting=True)
        frames.release(part)
    assert len(frames._parts) <= 5
    kept = [picture(value) for value in range(40)]
    for each in kept:  # pictures that stay in use, as in a queue
        frames.release(frames.take(each, lasting=True))
    assert len(frames._parts) <= 5
    frames.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_part_that_is_read_is_never_filled_again(frames: SharedFrames) -> None:
    held = [frames.take(picture(value), lasting=False) for value in range(9)]
    assert len({part.number for part in held}) == 9
    assert [seen(part, 1)[0] for part in held] == list(range(9))
    frames.close()


def test_a_worker_cannot_write_or_shorten_what_it_reads(frames: SharedFrames) -> None:
    """A shorter file would end the agent with SIGBUS at its next picture."""
    part = frames.take(picture(5), lasting=True)
    again = os.open(f"/proc/self/fd/{part.descriptor}", os.O_RDWR)  # as a process of the same user can
    try:
        for attempt in (
            lambda: os.ftruncate(again, 10),
            lambda: os.ftruncate(again, 10_000_000),
            lambda: os.pwrite(again, b"x", 0),
            lambda: mmap.mmap(again, 4_096),
        ):
            with pytest.raises(OSError, match="Operation not permitted"):
                attempt()
    finally:
        os.close(again)
    frames.release(part)
    assert seen(frames.take(picture(6), lasting=False), 1) == b"\x06", "the agent can"
    frames.close()
