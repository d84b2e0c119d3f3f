"""Entry points are found where they are, and importlib.metadata is left alone where there are none."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from wire.plugins import entry_points, version

GROUP = "edgebed.test-plugins"


def test_nothing_registered_costs_nothing() -> None:
    script = (
        "import sys; from wire.plugins import entry_points\n"
        "print(list(entry_points('edgebed.no-such-group')), 'importlib.metadata' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "False"]


def test_versions_are_those_importlib_tells() -> None:
    for name in ("msgspec", "numpy", "edgebed", "onnxruntime"):
        assert version(name) == metadata.version(name)
    assert version("no-such-distribution") == ""


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_what_a_distribution_registers_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    files = {
        "thing-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n",
        "thing-1.0.dist-info/entry_points.txt": f"[{GROUP}]\nmine = json:loads\n",
    }
    place = tmp_path / ("lib.zip" if zipped else "lib")
    if zipped:
        with zipfile.ZipFile(place, "w") as archive:
            for name, text in files.items():
                archive.writestr(name, text)
    else:
        (place / "thing-1.0.dist-info").mkdir(parents=True)
        for name, text in files.items():
            (place / name).write_text(text)
    assert not list(entry_points(GROUP))
    monkeypatch.syspath_prepend(str(place))
    found = list(entry_points(GROUP))
    assert [(point.name, point.value) for point in found] == [("mine", "json:loads")]
