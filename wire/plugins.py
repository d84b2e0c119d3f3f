"""What is installed beside us, without paying for importlib.metadata: 50 modules and 2.5 MB."""

from __future__ import annotations

import sys
from collections.abc import Container, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")


def entry_points(group: str) -> Iterable[EntryPoint]:
    """What installed distributions register under `group`."""
    if not any(_mentions(Path(folder), f"[{group}]") for folder in sys.path):
        return ()
    from importlib import metadata  # now there is something to pay for

    return metadata.entry_points(group=group)


def installed(
    group: str, what: str, name: str, built_in: Container[str], base: type[T], error: type[Exception]
) -> type[T] | None:
    """The class a third party registered as `name`; None where it is built in or unknown.

    Raises:
        error: a name clash, with a built-in too, or what is registered is no `base`.
    """
    points = [point for point in entry_points(group) if point.name == name]
    if len(points) + (name in built_in) > 1:
        owners = ", ".join(point.value for point in points)
        raise error(f"{what} {name!r} is defined more than once ({owners}): uninstall one")
    if not points:
        return None
    found = points[0].load()
    if not (isinstance(found, type) and issubclass(found, base)):
        full = f"{base.__module__}.{base.__qualname__}"
        raise error(f"entry point {name!r} names {points[0].value}, which is no {full}")
    return found


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
