"""Finds the files that come with edgebed by name: model packages, register maps, DBC files and a key."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from wire.errors import EdgebedError

PREFIX = "edgebed:"
_PLACES = ("models", "configs/maps", "configs/dbc", "configs/keys")


def folder(kind: str) -> Path:
    """Return the folder of shipped `models` or `configs`: in the checkout, or beside an installed wheel.

    Raises:
        EdgebedError: the folder is missing from the installation.
    """
    checkout = Path(__file__).resolve().parent.parent
    if (checkout / "pyproject.toml").exists() and (checkout / kind).is_dir():
        return checkout / kind
    installed = Path(sysconfig.get_path("data")) / "share" / "edgebed" / kind
    if installed.is_dir():
        return installed
    raise EdgebedError(f"the shipped {kind} are not at {installed}: install edgebed again from its wheel")


def names() -> dict[str, Path]:
    """The shipped files that a config can name as `edgebed:NAME`, and where they are on this machine."""
    found: dict[str, Path] = {}
    for place in _PLACES:
        top, _, rest = place.partition("/")
        for path in sorted((folder(top) / rest).iterdir()):
            if not path.name.startswith((".", "_")):
                found[path.name] = path
    return found
