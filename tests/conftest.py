"""Fixtures for all tests: real brokers, recordings, tools, and a check that no thread or process is left."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from edgebed.broker import KINDS, BrokerProcess, Kind, find
from wire.errors import Unreachable

REQUIRE_ALL = os.environ.get("EDGEBED_REQUIRE_ALL") == "1"
# machines are shared: the time of one example does not show an error in the code
settings.register_profile("edgebed", deadline=None)
settings.load_profile("edgebed")

PROGRAMS = {"chromium": ("chromium", "chromium-browser", "google-chrome")}


def pytest_collection() -> None:
    """Do not look for garbage while the tests are collected: they are some 100,000 objects that all stay."""
    gc.disable()


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Leave out of each later search for garbage what was collected."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def require() -> Callable[[str], str]:
    """`require("ffmpeg")` returns a program's path; without it the test is skipped, or fails with
    EDGEBED_REQUIRE_ALL=1."""
    import shutil

    def require(name: str) -> str:
        for program in PROGRAMS.get(name, (name,)):
            found = shutil.which(program, path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")
            if found:
                return found
        return _missing(f"{name} is not installed")

    return require


@pytest.fixture(scope="session")
def field_data() -> Path:
    """Return the folder of real models and recordings, EDGEBED_FIELD_DATA."""
    named = os.environ.get("EDGEBED_FIELD_DATA")
    if not named:
        pytest.skip("EDGEBED_FIELD_DATA is not set")
    folder = Path(named).resolve()
    if not folder.is_dir():
        pytest.fail(f"EDGEBED_FIELD_DATA is {folder}, which is not a folder")
    return folder


@pytest.fixture(scope="session")
def processes_of() -> Callable[[Path], list[str]]:
    """`processes_of(folder)` returns the command lines of running processes that name the folder."""

    def find(folder: Path) -> list[str]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:  # the process has ended
                continue
            if str(folder) in words:
                found.append(words)
        return found

    return find


@pytest.fixture(params=KINDS)
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BrokerProcess]:
    """Yield a running broker of each kind; `kill` and `start` keep its port and data."""
    kind: Kind = request.param
    try:
        find(kind)
    except Unreachable as error:
        _missing(str(error))
    with BrokerProcess(kind, tmp_path / "broker") as running:
        yield running


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Fail a test that leaves a thread or a child process."""
    threads, children = set(threading.enumerate()), _children()
    yield
    deadline = time.monotonic() + 30
    while True:
        left = [t.name for t in threading.enumerate() if t not in threads and t.is_alive() and not _pool(t)]
        orphans = _children() - children
        if not left and not orphans:
            return
        if time.monotonic() > deadline:
            pytest.fail(f"left behind: threads {left}, child processes {sorted(orphans)}")
        time.sleep(0.05)


def _pool(thread: threading.Thread) -> bool:
    # asyncio's default executor and anyio's workers end with their loop, not with the test
    return thread.name.startswith(("asyncio_", "AnyIO worker"))


def _children() -> set[int]:
    pid = os.getpid()
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found.update(map(int, task.read_text().split()))
        except OSError:  # the thread has ended
            continue
    return found


def _missing(why: str) -> str:
    if REQUIRE_ALL:
        pytest.fail(f"{why}, and EDGEBED_REQUIRE_ALL=1 allows no skipping")
    pytest.skip(why)
