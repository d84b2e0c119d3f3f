"""The power fails under a real file system: its device is copied as it is, and mounted again."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.powercut.disk import Op
from tests.powercut.volume import Volume
from tests.powercut.write_log import WriteLog, recorded
from wire.errors import EdgebedError

HERE = Path(__file__).parent


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


of_outbox, of_store = _load("test_power_outbox"), _load("test_power_store")


@pytest.fixture
def place() -> Iterator[Path]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


@pytest.fixture
def volume(place: Path) -> Iterator[Volume]:
    with contextlib.ExitStack() as stack:
        try:
            yield stack.enter_context(Volume(place / "image", place / "mounted", megabytes=48))
        except EdgebedError as error:
            pytest.skip(f"no file system can be mounted here: {error}")


def look(volume: Volume, place: Path, kept: Path, check: Callable[[Path], None]) -> None:
    """Mount a copy of the device now and check it. A failing copy goes to `kept`: it may not happen again."""
    with tempfile.TemporaryDirectory(dir=place) as name:  # one folder each: a mount may outlive its end
        image, copy = Path(name) / "image", Path(name) / "copy"
        volume.copy(image)
        shutil.copyfile(image, copy)  # mounting and looking change it
        try:
            with Volume(copy, Path(name) / "after", make=False) as after:
                check(after.folder)
        except AssertionError as error:
            shutil.copyfile(image, kept / "image")
            for words in place.glob("words"):
                shutil.copyfile(words, kept / "words")
            error.add_note(f"what the power cut left is in {kept}")
            raise


def write_some_back(folder: Path, rng: random.Random) -> None:
    """Make the kernel write some of the unflushed pages now, as it may at any time."""
    for path in folder.rglob("*"):
        if path.is_file() and rng.random() < 0.3:
            fd = os.open(path, os.O_RDONLY)
            try:
                at = rng.randrange(max(1, path.stat().st_size)) // 4096 * 4096
                os.posix_fadvise(fd, at, 4096 * rng.choice((1, 8, 1_000)), os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)


class CuttingLog(WriteLog):
    """A write log that sometimes checks the device between two steps."""

    def __init__(self, folder: Path, share: float, rng: random.Random, look: Callable[[], None]) -> None:
        super().__init__(folder)
        self.looked = 0
        self._share, self._rng, self._look = share, rng, look

    def add(self, op: Op) -> None:
        super().add(op)
        if self._rng.random() < self._share:
            write_some_back(self.folder, self._rng)
            self._look()
            self.looked += 1


def cut_outbox(
    volume: Volume, place: Path, kept: Path, seed: int, share: float, skip: tuple[str, ...] = ()
) -> int:
    rng = random.Random(seed)
    known, heard = of_outbox.Known(), 0

    def check(folder: Path) -> None:
        nonlocal heard
        for op in log.ops[heard:]:
            if op.what == "say":
                known.hear(op.said)
        heard = len(log.ops)
        of_outbox.check(folder / "outbox", known)

    log = CuttingLog(volume.folder / "outbox", share, rng, lambda: look(volume, place, kept, check))
    log.folder.mkdir()
    with contextlib.ExitStack() as stack, recorded(log, skip=skip):
        program = of_outbox.Program(log, rng, stack, False)
        program.run(40, {**of_outbox.CALM, "kill": 0})
    return log.looked


def cut_store(volume: Volume, place: Path, kept: Path, seed: int, times: int, sync: str = "") -> int:
    """Check the store while the writer, in its own process, is stopped; return how often."""
    rng, words = random.Random(seed), place / "words"
    command = [sys.executable, str(of_store.WRITER), str(volume.folder / "store"), str(words)]
    errors = (place / "errors").open("w+")
    # its own session: an orphaned process group gets SIGCONT while one of its processes is stopped
    child = subprocess.Popen(
        [*command, str(seed), "1", "100000", sync], stderr=errors, start_new_session=True
    )
    looked, known, heard = 0, of_store.Known(), 0

    try:
        while not words.exists():
            assert child.poll() is None, (place / "errors").read_text()
            time.sleep(0.01)
        while looked < times:
            time.sleep(rng.random() * 0.15)
            assert child.poll() is None, (place / "errors").read_text()
            child.send_signal(signal.SIGSTOP)
            _wait_until_stopped(child.pid)
            said = words.read_text().replace("}{", "}\n{").splitlines()
            for each in said[heard:]:
                known.hear(each)
            heard = len(said)
            write_some_back(volume.folder, rng)
            look(volume, place, kept, lambda folder: of_store.check(folder / "store", known))
            assert _state(child.pid) == "T", "another process continued the writer"
            looked += 1
            child.send_signal(signal.SIGCONT)
    finally:
        child.kill()
        child.wait()
        errors.close()
    return looked


def _wait_until_stopped(pid: int) -> None:
    deadline = time.monotonic() + 30
    while _state(pid) != "T":
        assert time.monotonic() < deadline
        time.sleep(0.001)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_the_outbox_on_ext4(volume: Volume, place: Path, tmp_path: Path) -> None:
    assert cut_outbox(volume, place, tmp_path, 1, 0.08) > 2


def test_the_store_on_ext4(volume: Volume, place: Path, tmp_path: Path) -> None:
    assert cut_store(volume, place, tmp_path, 1, 5) == 5


def test_this_finds_what_is_not_flushed(volume: Volume, place: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"is gone|twice|another|accounts for|new outbox"):
        cut_outbox(volume, place, tmp_path, 2, 0.3, skip=("fdatasync", "fsync"))


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("seed", range(10, 20))
def test_many_cuts_on_ext4(volume: Volume, place: Path, tmp_path: Path, seed: int) -> None:
    assert cut_outbox(volume, place, tmp_path, seed, 0.6) > 30
    assert cut_store(volume, place, tmp_path, seed, 60) == 60
