"""Entry points of installed packages are found, and a built-in adapter does not load importlib.metadata."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from wire.plugins import entry_points, version

GROUP = "edgebed.test-plugins"


def test_a_built_in_adapter_does_not_load_importlib_metadata() -> None:
    script = (
        "import sys, adapters; adapters.load('replay'); name = 'importlib.metadata'\n"
        "print(name in sys.modules); adapters.names(); print(name in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_versions_of_installed_distributions() -> None:
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
