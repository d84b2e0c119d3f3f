"""What is installed beside us, without paying for importlib.metadata: 50 modules and 2.5 MB."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


def entry_points(group: str) -> Iterable[EntryPoint]:
    """What installed distributions register under `group`."""
    if not any(_mentions(Path(folder), f"[{group}]") for folder in sys.path):
        return ()
    from importlib import metadata  # now there is something to pay for

    return metadata.entry_points(group=group)


def version(distribution: str) -> str:
    """Of an installed distribution, by the folder of its metadata; "" where there is none."""
    name = distribution.replace("-", "_")
    for folder in sys.path:
        for path in Path(folder).glob(f"{name}-*.dist-info"):
            return path.name[len(name) + 1 : -len(".dist-info")]
    return ""


def _mentions(folder: Path, section: str) -> bool:
    if folder.is_file():
        return True  # a zipped library: let importlib look
    for path in folder.glob("*-info/entry_points.txt"):
        try:
            if section in path.read_text(errors="replace"):
                return True
        except OSError:  # uninstalled meanwhile
            continue
    return False
