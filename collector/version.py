"""The version of the program."""

import importlib.metadata


def installed_version() -> str:
    """The version that is installed; "" where it runs from an unpacked tree."""
    try:
        return importlib.metadata.version("edgebed")
    except importlib.metadata.PackageNotFoundError:
        return ""
