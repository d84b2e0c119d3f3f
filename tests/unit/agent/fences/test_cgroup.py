"""The limits of the kernel: only in a cgroup that is delegated; the tests make real cgroups of their own."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agent.fences.cgroup import LEAF, ROOT, limits
from agent.fences.settings import FenceSettings

UNIFIED = ROOT / "unified"  # of a machine that has version 1 beside it
MARK = "user.delegate"
ENTER = """
import sys
from pathlib import Path
from agent.fences.cgroup import NotDelegated, enter
from agent.fences.settings import FenceSettings
Path(sys.argv[2], "cgroup.procs").write_text("0")  # as systemd starts a unit
try:
    cgroup = enter(FenceSettings(cpu_pct=int(sys.argv[3]), memory_mb=int(sys.argv[4])), Path(sys.argv[1]))
except NotDelegated as error:
    sys.exit(f"refused: {error}")
until_s = cgroup.cpu_s() + 0.5
while cgroup.cpu_s() < until_s:
    sum(range(10_000))
print(cgroup.folder, (cgroup.folder / "cpu.stat").read_text().split(), cgroup.memory_mb() > 1)
"""


def root() -> Path:
    return UNIFIED if UNIFIED.is_dir() else ROOT


def has_controllers() -> bool:
    try:
        return {"cpu", "memory"} <= {*(root() / "cgroup.subtree_control").read_text().split()}
    except OSError:
        return False


@pytest.fixture
def unit() -> Iterator[Path]:
    """A cgroup like that of a unit; without processes at the end."""
    folder = root() / f"edgebed-test-{secrets.token_hex(4)}"
    try:
        folder.mkdir()
        os.setxattr(folder, "user.test", b"1")
    except OSError as error:
        if folder.is_dir():
            folder.rmdir()
        pytest.skip(f"no cgroup can be made below {root()}: {error.strerror}")
    yield folder
    for each in (folder / LEAF, folder):
        if each.is_dir():
            each.rmdir()


def started(unit: Path, cpu_pct: int = 0, memory_mb: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", ENTER, str(root()), str(unit), str(cpu_pct), str(memory_mb)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_cgroup_that_is_not_delegated_is_left_alone(unit: Path) -> None:
    found = started(unit)
    assert "is not delegated to the agent" in found.stderr
    assert not (unit / LEAF).exists()


def test_a_cgroup_with_other_processes_is_left_alone(unit: Path) -> None:
    os.setxattr(unit, MARK, b"1")
    other = subprocess.Popen(["sleep", "60"])
    try:
        (unit / "cgroup.procs").write_text(str(other.pid))
        found = started(unit)
    finally:
        other.kill()
        other.wait()
    assert "has other processes than the agent" in found.stderr
    assert not (unit / LEAF).exists()


def test_a_delegated_cgroup_without_the_controllers_is_left_alone(unit: Path) -> None:
    if has_controllers():
        pytest.skip("this machine has the controllers: the next test sets limits")
    os.setxattr(unit, MARK, b"1")
    found = started(unit, 50, 200)
    assert "has no controller cpu and no memory" in found.stderr
    assert not (unit / LEAF).exists()


def test_the_agent_moves_into_a_cgroup_of_its_own_and_counts_there(unit: Path) -> None:
    os.setxattr(unit, MARK, b"1")
    found = started(unit)
    assert found.stdout.startswith(str(unit / LEAF)), found.stderr


def test_the_kernel_keeps_the_limits(unit: Path) -> None:
    if not has_controllers():
        pytest.skip(f"{root()} gives its children no controllers cpu and memory")
    os.setxattr(unit, MARK, b"1")
    found = started(unit, 20, 200)
    assert found.stdout.startswith(str(unit / LEAF)), found.stderr
    words = found.stdout.replace("'", "").replace(",", "").split()
    assert int(words[words.index("nr_throttled") + 1]) > 0
    assert (unit / LEAF / "cpu.max").read_text().split() == ["25000", "100000"]
    assert found.stdout.strip().endswith("True")


@pytest.mark.parametrize(
    ("fence", "files"),
    [
        ({}, {}),
        ({"cpu_pct": 1}, {"cpu.max": "1250 100000"}),
        ({"cpu_pct": 400}, {"cpu.max": "500000 100000"}),
        ({"memory_mb": 400}, {"memory.high": "450000000", "memory.max": "500000000"}),
        ({"uplink_kb_per_s": 9, "inferences_per_s": 1}, {}),
    ],
)
def test_the_limits_are_above_the_fence(fence: dict[str, float], files: dict[str, str]) -> None:
    assert limits(msgspec.convert(fence, FenceSettings)) == files
