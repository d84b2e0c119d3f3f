"""Adapters and decoders that other packages register as entry points, and installed versions."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata
from typing import TypeVar

from wire.printable import printable

T = TypeVar("T")


def entry_points(group: str) -> Iterable[metadata.EntryPoint]:
    """The entry points that installed distributions register under `group`."""
    return metadata.entry_points(group=group)


def third_party(group: str, what: str, name: str, base: type[T], error: type[Exception]) -> type[T] | None:
    """The class that another package registers as `name`; None where no package does.

    Raises:
        error: two packages register the name, or the object cannot be imported or is not a `base`.
    """
    points = [point for point in entry_points(group) if point.name == name]
    if len(points) > 1:
        owners = ", ".join(point.value for point in points)
        raise error(f"{what} {name!r} is registered more than once ({owners}): uninstall one package")
    if not points:
        return None
    try:
        found = points[0].load()
    except Exception as problem:  # the code of another package can raise anything
        full = f"{what} {name!r} ({points[0].value})"
        why = printable(problem)
        raise error(f"{full} cannot be imported: {why}; update or uninstall its package") from problem
    if not (isinstance(found, type) and issubclass(found, base)):
        full = f"{base.__module__}.{base.__qualname__}"
        raise error(f"entry point {name!r} names {points[0].value}, which is not a subclass of {full}")
    return found


def version(distribution: str) -> str:
    """The version of an installed distribution; "" where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
