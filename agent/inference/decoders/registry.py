"""The decoders that a manifest can name: the built-in ones, and those of other packages."""

from __future__ import annotations

import importlib
import inspect
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import Struct

from agent.inference.decoders.base import Decoder, ModelError
from wire.plugins import entry_points, third_party

GROUP = "edgebed.decoders"

# word in a manifest -> (module, class); imported on first use
BUILT_IN: dict[str, tuple[str, str]] = {
    "detection": ("agent.inference.decoders.detection", "Detection"),
    "regions": ("agent.inference.decoders.regions", "Regions"),
    "classification": ("agent.inference.decoders.classification", "Classification"),
    "regression": ("agent.inference.decoders.regression", "Regression"),
    "reconstruction": ("agent.inference.decoders.reconstruction", "Reconstruction"),
    "forecast": ("agent.inference.decoders.forecast", "Forecast"),
    "embedding": ("agent.inference.decoders.embedding", "Embedding"),
    "text": ("agent.inference.decoders.text", "Text"),
    "anomaly": ("agent.inference.decoders.anomaly", "Anomaly"),
}


def names() -> list[str]:
    """Every decoder that a manifest can name, sorted."""
    return sorted({*BUILT_IN, *(point.name for point in entry_points(group=GROUP))})


def load(name: str) -> type[Decoder]:
    """The decoder class for a word in a manifest.

    Raises:
        ModelError: the word is unknown, or two packages register it.
    """
    if name in BUILT_IN:
        module, attribute = BUILT_IN[name]
        return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]
    found = third_party(GROUP, "decoder", name, Decoder, ModelError)  # type: ignore[type-abstract]
    if found is None:
        raise ModelError(f"unknown decoder {name!r}; known are {', '.join(names())}")
    options = getattr(found, "Options", None)
    if not (isinstance(options, type) and issubclass(options, Struct)):
        raise ModelError(f"decoder {name!r} has no Options that are a msgspec.Struct; update its package")
    if taken := {"decoder", "tensors"} & {*options.__struct_fields__}:
        raise ModelError(f"decoder {name!r} has an option {min(taken)!r}, which every output has already")
    return found


def installed(name: str) -> list[Any]:
    """What changes when another version of a decoder is installed; [] for a built-in one, part of edgebed."""
    if name in BUILT_IN:
        return []
    points = [point for point in entry_points(group=GROUP) if point.name == name]
    versions = [point.dist.version for point in points if point.dist is not None]
    with suppress(OSError, TypeError):  # a file may be changed in place, as in an editable installation
        at = Path(inspect.getfile(load(name))).stat()
        return [*versions, at.st_size, at.st_mtime_ns]
    return [*versions]
