"""The example package as a third party ships it: built, installed beside edgebed, held to the contract."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from edgebed.processes import edgebed_command

PACKAGE = Path(__file__).parents[2] / "docs/examples/edgebed-thermometer"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package, as somebody takes it."""
    copy = tmp_path_factory.mktemp("third-party") / "edgebed-thermometer"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "dist", ".*"))
    return copy


@pytest.fixture(scope="module")
def installed(source: Path) -> dict[str, str]:
    """An environment in which the built wheel is installed."""
    pytest.importorskip(
        "hatchling", reason="the example's build needs hatchling, which comes with edgebed[dev]"
    )
    done = run([sys.executable, "-m", "hatchling", "build", "-t", "wheel"], source)
    assert done.returncode == 0, done.stderr
    (wheel,) = (source / "dist").glob("*.whl")
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("tests")]
    site = source.parent / "site"
    # deploy/venv.sh makes environments without pip where uv is installed
    uv, pip = shutil.which("uv"), importlib.util.find_spec("pip")
    install = [sys.executable, "-m", "pip", "install"] if pip else [uv or "uv", "pip", "install"]
    options = ["--quiet", "--no-index", "--no-deps", "--target", str(site)]
    done = run([*install, *options, str(wheel)], source)
    assert done.returncode == 0, done.stderr
    return os.environ | {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
async def thermometer() -> AsyncIterator[int]:
    """A thermometer that warms up by a tenth of a degree a line; its port."""
    talks: set[asyncio.Task[None]] = set()

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            for tenths in range(100_000):
                writer.write(f"{20 + tenths % 600 / 10:.1f}\n".encode())
                await writer.drain()
                await asyncio.sleep(0.02)
        writer.transport.abort()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks)


def run(
    command: list[str], folder: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False
    )


def config(folder: Path, **options: object) -> Path:
    """The package's own config with other options."""
    raw = yaml.safe_load((folder / "thermometer.yaml").read_text())
    raw["devices"]["row-1"]["options"].update(options)
    path = folder / f"agent-{len(list(folder.glob('agent-*')))}.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


async def test_an_agent_reads_a_device_that_edgebed_does_not_know(
    source: Path, installed: dict[str, str], thermometer: int
) -> None:
    path = config(source, port=thermometer)
    done = await asyncio.to_thread(run, edgebed_command("agent", "check", str(path)), source, installed)
    assert (done.returncode, done.stderr) == (0, "")
    assert "devices: 1" in done.stdout
    once = edgebed_command("agent", "once", "--seconds", "5", str(path))
    done = await asyncio.to_thread(run, once, source, installed)
    assert (done.returncode, done.stderr) == (0, "")
    sent = [json.loads(line) for line in done.stdout.splitlines()]
    batches = [one["body"] for one in sent if one["topic"].endswith("/data/row-1/air")]
    values = [value for batch in batches for value in batch["f"]["temperature"]]
    assert len(values) > 1
    assert all(later > earlier for earlier, later in pairwise(values))


def test_its_mistakes_have_a_line_too(source: Path, installed: dict[str, str]) -> None:
    for options, said in [
        ({"port": 0}, "devices.row-1.options.port: expected a whole number >= 1"),
        ({"hots": "x"}, "devices.row-1.options.hots: unknown key; did you mean 'host'?"),
        ({"host": "tcp://x"}, "leave out the scheme"),
    ]:
        path = config(source, **options)
        done = run(edgebed_command("agent", "check", str(path)), source, installed)
        assert done.returncode == 78
        assert re.search(rf"{re.escape(str(path))}:\d+:\d+: .*{re.escape(said)}", done.stderr)


def test_without_the_package_the_word_is_unknown(source: Path) -> None:
    path = config(source)
    done = run(edgebed_command("agent", "check", str(path)), source)
    assert done.returncode == 78
    assert "unknown adapter 'thermometer'" in done.stderr


def test_its_own_tests_hold_it_to_the_contract(source: Path, installed: dict[str, str]) -> None:
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    done = run(pytest_command, source, installed)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 15
    assert "skipped" not in done.stdout
