"""Find the shipped model packages and example configs: in the checkout, or beside an installed wheel."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from wire.errors import EdgebedError


def folder(kind: str) -> Path:
    """Return the folder of shipped `models` or `configs`.

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
